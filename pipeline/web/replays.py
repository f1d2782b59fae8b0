"""Replays for pages and programs: resolved to offsets, foreseen in a bounded time, then asked for."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from aiokafka import TopicPartition

from pipeline import foresight, replay
from pipeline.replay import Asked, Misused, Plan, Span, Wanted
from pipeline.settings import Settings
from pipeline.web.apart import Apart, Late

RESOLVE_SECONDS = 20.0
FORESEE_SECONDS = 30.0
_OPTION = re.compile(r"--([a-z]+)(?: .*?)?: (.*)", re.DOTALL)
_AS_OPTION = re.compile(r"--(?=[a-z])")


class Forecast(Protocol):
    """What would come of a replay."""

    @property
    def plan(self) -> Plan: ...

    @property
    def figures(self) -> dict[str, Any]:
        """It, for programs."""


class Source(Protocol):
    """The groups that are to begin anew, and what they would read."""

    async def resolve(self, wanted: Wanted) -> Plan:
        """Offsets, one a partition. Raises Misused."""

    async def foresee(self, plan: Plan, tell: Callable[[str], None]) -> Forecast:
        """What would come of it."""

    async def ask(self, plan: Plan) -> str:
        """Asks the group; returns the request's id."""


class OnKafka:
    """The groups of the pipeline that settings name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def resolve(self, wanted: Wanted) -> Plan:
        return await replay.resolve(self._settings, wanted)

    async def foresee(self, plan: Plan, tell: Callable[[str], None]) -> Forecast:
        return await foresight.foresee(self._settings, plan, tell)

    async def ask(self, plan: Plan) -> str:
        return await replay.ask(self._settings, plan)


class Replays:
    """Replays of the groups of a pipeline."""

    def __init__(self, settings: Settings, source: Source, apart: Apart) -> None:
        self._settings, self._source, self._apart = settings, source, apart

    def of_group(self, group: str, to: str) -> Wanted:
        """Everything that a role reads. Raises Misused."""
        return replay.of_group(self._settings, group, to)

    def of_partition(self, topic: str, partition: int, to: str) -> Wanted:
        """One partition of one topic. Raises Misused."""
        return replay.of_partition(self._settings, topic, partition, to)

    async def resolve(self, wanted: Wanted) -> Plan:
        """Where each partition would begin. Raises Misused."""
        return await self._apart.run(lambda: self._source.resolve(wanted), RESOLVE_SECONDS)

    async def foresee(self, plan: Plan) -> Forecast:
        """What would come of it; asks nothing of anybody. Raises Late, which says how far it came."""
        told = ["it had not begun to read"]

        async def work() -> Forecast:
            return await self._source.foresee(plan, lambda line: told.__setitem__(0, line))

        try:
            return await self._apart.run(work, FORESEE_SECONDS)
        except Late:
            raise Late(
                f"the dry run did not end within {FORESEE_SECONDS:.0f} s ({told[0]}); nothing was asked for. "
                "Choose a later place, or wait for `carillon replay --dry-run`"
            ) from None

    async def ask(self, plan: Plan) -> Asked:
        """Asks the group to begin there."""

        async def work() -> Asked:
            return Asked(plan, await self._source.ask(plan))

        return await self._apart.run(work, RESOLVE_SECONDS)


def blamed(error: Misused) -> tuple[str, str]:
    """The field that is to blame, and what is wrong with it: the message names the command's option."""
    found = _OPTION.fullmatch(str(error))
    return (found[1], _AS_OPTION.sub("", found[2])) if found else ("to", str(error))


def packed(plan: Plan) -> dict[str, Any]:
    """A plan as a form carries it, so that what was foreseen is what is asked for."""
    return {"group": plan.group, "role": plan.role, "spans": [[*s.part, *s[1:]] for s in plan.spans]}


def unpacked(found: Mapping[str, Any]) -> Plan:
    """The plan of `packed`."""
    spans = [Span(TopicPartition(topic, n), *offsets) for topic, n, *offsets in found["spans"]]
    return Plan(found["group"], found["role"], spans)
