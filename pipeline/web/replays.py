"""Replays for pages and programs: checked and resolved, foreseen in a bounded time, then done."""

import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from aiokafka import TopicPartition

from agents.narrow import Narrowing
from pipeline import replays
from pipeline.foresight import Forecast
from pipeline.narrowed import Narrowed
from pipeline.replay import Asked, Misused, Plan, Span
from pipeline.replays import Request, Resolved
from pipeline.settings import Settings
from pipeline.web.apart import Apart, Away, Late

RESOLVE_SECONDS = 20.0
FORESEE_SECONDS = 30.0
COPY_SECONDS = 60.0
T = TypeVar("T")
Tell = Callable[[str], None]
_OPTION = re.compile(r"--([a-z]+)(?: (.*?))?: (.*)", re.DOTALL)
_NAMED = re.compile(r"--([a-z]+)")
_FIELDS = {"id": "ids", "user": "users", "reason": "reasons"}
"""The command's options that have another name as fields; the others have the same."""


class Source(Protocol):
    """The groups that are to begin anew, and what they would read."""

    async def resolve(self, request: Request) -> Resolved:
        """Fixes what a request leaves open. Raises Misused."""

    async def foresee(self, resolved: Resolved, tell: Tell) -> Forecast | Narrowed:
        """What would come of it. Raises Misused."""

    async def do(self, resolved: Resolved, tell: Tell) -> Asked | Narrowed:
        """Does it. Raises Misused."""


class OnKafka:
    """The groups of the pipeline that settings name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def resolve(self, request: Request) -> Resolved:
        return await replays.resolve(self._settings, request)

    async def foresee(self, resolved: Resolved, tell: Tell) -> Forecast | Narrowed:
        return await replays.foresee(self._settings, resolved, tell)

    async def do(self, resolved: Resolved, tell: Tell) -> Asked | Narrowed:
        return await replays.do(self._settings, resolved, tell)


class Replays:
    """Replays of the groups of a pipeline."""

    def __init__(self, settings: Settings, source: Source, apart: Apart) -> None:
        self._settings, self._source, self._apart = settings, source, apart

    async def resolve(self, request: Request) -> Resolved:
        """What a request means, with nothing left open. Raises Misused."""
        replays.check(self._settings, request)  # what is wrong with it needs no broker
        return await self._apart.run(lambda: self._source.resolve(request), RESOLVE_SECONDS)

    async def foresee(self, resolved: Resolved) -> Forecast | Narrowed:
        """What would come of it; asks nothing of anybody. Raises Misused, and Late, which says how far it
        came."""
        try:
            return await self._told(lambda tell: self._source.foresee(resolved, tell), FORESEE_SECONDS)
        except Late as error:
            raise Late(
                f"the dry run did not end within {FORESEE_SECONDS:.0f} s ({error}); nothing was asked for. "
                "Choose a later place, or wait for `carillon replay --dry-run`"
            ) from None

    async def do(self, resolved: Resolved) -> Asked | Narrowed:
        """Lets the group begin there, or copies what was chosen. Raises Misused; Away and Late say how to go
        on with what is sent anew, so that nothing goes out twice."""
        if not resolved.narrowing.given:
            return await self._apart.run(lambda: self._source.do(resolved, lambda _: None), RESOLVE_SECONDS)
        try:
            return await self._told(lambda tell: self._source.do(resolved, tell), COPY_SECONDS)
        except Late as error:
            raise Late(f"it did not end within {COPY_SECONDS:.0f} s ({error}). {_go_on(resolved)}") from None
        except Away as error:
            raise Away(f"{error}. {_go_on(resolved)}") from None

    async def _told(self, work: Callable[[Tell], Coroutine[Any, Any, T]], seconds: float) -> T:
        """What the work returns. Raises Late with the last that it told."""
        told = ["it had not begun to read"]
        try:
            return await self._apart.run(lambda: work(lambda line: told.__setitem__(0, line)), seconds)
        except Late:
            raise Late(told[0]) from None


def _go_on(resolved: Resolved) -> str:
    same = f" with generation {resolved.generation}" if resolved.generation else ""
    return f"What was copied stays; ask for the same again{same} to go on, and nothing is sent twice"


class Blame(NamedTuple):
    """What is wrong with a request: the fields that are to blame, and the value if one is."""

    fields: tuple[str, ...]
    detail: str
    value: str | None = None


def blamed(error: Misused) -> Blame:
    """Whom a message blames: it names the command's options, which are our fields."""
    if found := _OPTION.fullmatch(str(error)):
        return Blame((field_of(found[1]),), _as_fields(found[3]), found[2])
    named = tuple(dict.fromkeys(field_of(option) for option in _NAMED.findall(str(error))))
    return Blame(named or ("to",), _as_fields(str(error)))


def field_of(option: str) -> str:
    """The field that is the same as an option of the command."""
    return _FIELDS.get(option, option)


def _as_fields(text: str) -> str:
    return _NAMED.sub(lambda found: field_of(found[1]), text)


def packed(resolved: Resolved) -> dict[str, Any]:
    """A resolved request as a form carries it, so that what was foreseen is what is done."""
    plan = resolved.plan
    return {
        "group": plan.group, "role": plan.role, "spans": [[*s.part, *s[1:]] for s in plan.spans],
        "narrowing": [sorted(some) for some in resolved.narrowing], "generation": resolved.generation,
        "id": resolved.id,
    }  # fmt: skip


def unpacked(found: Mapping[str, Any]) -> Resolved:
    """The request of `packed`."""
    spans = [Span(TopicPartition(topic, n), *offsets) for topic, n, *offsets in found["spans"]]
    events, *others = found["narrowing"]
    narrowing = Narrowing(frozenset((source, id_) for source, id_ in events), *map(frozenset, others))
    return Resolved(Plan(found["group"], found["role"], spans), narrowing, found["generation"], found["id"])
