"""A narrowed replay: the chosen records of a range are copied to where they stand; no group is moved.

Nothing but what is chosen is kept in memory, and of that no bytes: the range is read to choose, the
changelog to know what is remembered, and the range once more to copy.
"""

import asyncio
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer, TopicPartition

from agents import narrow, redrive, stops, topics
from agents import replay as foreseeing
from agents.catalogue import Catalogue
from agents.narrow import Narrowing
from agents.replay import Foreseen, Prospect
from pipeline.foresight import (
    EVENTS,
    Calls,
    Claims,
    Remembered,
    Row,
    catalogue_of,
    count,
    effect_of,
    prospects,
    records_of,
    remember,
)
from pipeline.replay import Misused, Plan, Wanted
from pipeline.settings import Settings
from pipeline.topics import MESSAGE_BYTES, client_options
from pipeline.wiring import origin_of
from schemas.base import RecordUnreadable
from schemas.event import Unreadable
from schemas.ids import hash_in
from schemas.kinds import Reason
from schemas.message import Stop
from schemas.notification import FanOut, Notification
from tables import claims, effects

MOST = 100_000
"""The most that are chosen at a time, and the most that give the reasons asked for."""
MOST_NAMED = 10_000
MOST_GENERATION = 10**15
COPY_BYTES = 3 * MESSAGE_BYTES
TOGETHER = 500
TOGETHER_BYTES = 16 << 20
"""What is on its way to the broker at a time."""
MESSAGES = frozenset(name + lane for name in topics.MESSAGES.values() for lane in ("", topics.EXPRESS))

Tell = Callable[[str], None]


def check(settings: Settings, wanted: Wanted, narrowing: Narrowing, *, anew: bool) -> Wanted:
    """What there is to choose from: of core the events, of a channel its messages. Raises Misused."""
    if wanted.role == "status":
        raise Misused("--group status: it sends nothing, so there is nothing to narrow")
    if anew and wanted.role != "core":
        raise Misused("--resend: of core alone, which decides what is sent")
    if narrowing.given > MOST_NAMED:
        raise Misused(
            f"--event, --id, --user and --reason name {narrowing.given}; at most {MOST_NAMED} at a time"
        )
    for one in narrowing.ids:
        try:
            hash_in(one)
        except ValueError:
            raise Misused(f"--id {one}: no notification id") from None
    if wanted.role == "core":
        remembered = sorted(set(Reason) - narrow.NEVER_CLAIMED)
        for reason in narrowing.reasons - set(remembered):
            raise Misused(f"--reason {reason}: core remembers none by it; there are {', '.join(remembered)}")
    prefix = settings.kafka.topic_prefix
    chosen_from = EVENTS if wanted.role == "core" else MESSAGES
    parts = [part for part in wanted.parts if part.topic.removeprefix(prefix) in chosen_from]
    if not parts:
        readable = ", ".join(EVENTS if wanted.role == "core" else sorted(MESSAGES))
        raise Misused(f"--topic: what is narrowed is chosen from {readable}")
    return wanted._replace(parts=parts)


class Pick(NamedTuple):
    """One that is chosen: what it is remembered by, its id, its record, and a word to count it by."""

    remembered: bytes
    id: str
    part: TopicPartition
    offset: int
    word: str
    expired: bool = False


class Chosen:
    """What is chosen, by the key of the claim or effect that it would come to; each once."""

    def __init__(self) -> None:
        self.picks: dict[bytes, Pick] = {}
        self.unreadable = 0

    def add(self, key: bytes, pick: Pick) -> None:
        """Adds one; the same may stand in several records, and the first counts. Raises Misused."""
        if key in self.picks:
            return
        if len(self.picks) >= MOST:
            raise Misused(f"more than {MOST} would be chosen; choose a later --to, or narrow it further")
        self.picks[key] = pick


class Reasoned:
    """Which claims, or effects of a channel, give one of some reasons: of those wanted, or of all."""

    def __init__(self, role: str, reasons: frozenset[str]) -> None:
        self.core, self.reasons = role == "core", reasons
        self.found: dict[bytes, int] = {}

    def take(self, key: bytes, value: bytes | None, wanted: Mapping[bytes, str]) -> None:
        """Takes a row over. Raises Misused where there are too many."""
        if self.core:
            if not key.startswith(claims.PREFIX):
                return
            name, n = key, 0
            if wanted and name not in wanted:
                return
            claim = Row(value).claim(key) if value is not None else None
            told = narrow.reasons_of(claim) if claim is not None else set()
        elif key.startswith(effects.RESULTS) and value is not None and (of := effect_of(key)) is not None:
            name, n = of
            result = effects.result(Row(value), name, n)
            if n < self.found.get(name, 0) or (wanted and name not in wanted):
                return
            told = narrow.reasons_of_call(result) if result is not None else set()
        else:
            return
        if not told & self.reasons:
            self.found.pop(name, None)
        elif len(self.found) < MOST or name in self.found:
            self.found[name] = n
        else:
            raise Misused(f"more than {MOST} are remembered with that reason; replay them by --to alone")

    def foresee(self, key: bytes) -> Foreseen:
        """Nothing: it only finds."""
        return foreseeing.NOTHING


class Narrowed(NamedTuple):
    """What a narrowed replay chose, and what came of it, or would come."""

    plan: Plan
    #: None in a dry run
    request: str | None
    generation: int
    chosen: int
    counted: Counter[Prospect]
    reasons: Counter[str]
    fresh: Counter[str]
    #: how many of those that are chosen come up again, in how many copies
    again: int
    copies: int
    expired: int
    unreadable: int

    @property
    def figures(self) -> dict[str, Any]:
        """For programs."""
        return {
            "dry_run": self.request is None,
            "request_id": self.request,
            "group": self.plan.group,
            "partitions": [
                {"topic": span.part.topic, "partition": span.part.partition, "from": span.to, "to": span.now}
                for span in self.plan.spans
            ],
            "chosen": self.chosen,
            **{str(prospect): self.counted[prospect] for prospect in Prospect},
            "afresh_because": dict(self.reasons),
            "new_of": dict(self.fresh),
            "expired": self.expired,
            "again": self.again,
            "copies": self.copies,
            **({"generation": self.generation, "anew": self.again} if self.generation else {}),
            "unreadable": self.unreadable,
        }

    @property
    def text(self) -> str:
        """For people."""
        dry, what = self.request is None, "notifications" if self.plan.role == "core" else "messages"
        said = "nothing was copied" if dry else f"request {self.request}"
        lines = [f"{self.plan.group}: {self.chosen} {what} chosen; {said}"]
        if self.generation:
            for prospect, was in _WERE.items():
                lines.append(f"{self.counted[prospect]:>9} {was}")
        else:
            lines += prospects(self.plan.role, self.counted, self.reasons, self.fresh)
        if self.expired:
            lines.append(f"{self.expired:>9} have expired: nothing will be sent")
        would = "would be" if dry else "are"
        if self.generation:
            lines.append(f"{self.again:>9} {would} decided anew, as generation {self.generation}")
        else:
            lines.append(f"{self.again:>9} {would} given to {self.plan.role} again")
        lines[-1] += f", in {self.copies} copies"
        if self.unreadable:
            lines.append(f"{self.unreadable:>9} unreadable, and not looked at")
        return "\n".join(lines)


_WERE = {
    Prospect.NOTHING: "were decided",
    Prospect.AFRESH: "had failed for what may be mended",
    Prospect.NEW: "were never decided",
}


async def replay(
    settings: Settings,
    plan: Plan,
    narrowing: Narrowing,
    *,
    request: str,
    generation: int,
    dry_run: bool,
    tell: Tell,
) -> Narrowed:
    """Chooses, looks up what is remembered, and copies what something will come of.

    `generation` 0: what was sent stays sent; any other: the chosen ones go out as that generation, each once
    however often this is called. By `request`, the name of it, a channel opens what it has failed once,
    however often. Raises Misused where too many are chosen.
    """
    chosen = await _choose(settings, plan, narrowing, generation, request, tell)
    memory = await _look_up(settings, plan.role, chosen, tell)
    counted, reasons, fresh = Counter[Prospect](), Counter[str](), Counter[str]()
    ids: defaultdict[tuple[TopicPartition, int], list[str]] = defaultdict(list)
    expired = 0
    for key, pick in chosen.picks.items():
        count(memory.foresee(pick.remembered), pick.word, counted, reasons, fresh)
        if memory.foresee(key).prospect is Prospect.NOTHING:
            continue
        if pick.expired:
            expired += 1
        else:
            ids[pick.part, pick.offset].append(pick.id)
    copies = sum(-(-len(some) // redrive.MOST_ONLY) for some in ids.values())
    if not dry_run:
        await _copy(settings, plan.role, ids, generation, request, tell)
    return Narrowed(
        plan, None if dry_run else request, generation, len(chosen.picks), counted, reasons, fresh,
        sum(map(len, ids.values())), copies, expired, chosen.unreadable,
    )  # fmt: skip


def new_request() -> str:
    """The name of a request that was never made."""
    return uuid.uuid4().hex


def new_generation() -> int:
    """A generation that was never asked for: the time in ms."""
    return time.time_ns() // 1_000_000


# -- choosing


async def _choose(
    settings: Settings, plan: Plan, narrowing: Narrowing, generation: int, request: str, tell: Tell
) -> Chosen:
    """The chosen ones of the range.

    Where nothing but reasons are given, those that give one are looked up first: they are fewer than the
    range. Else the reasons are looked up of what is chosen, for many may give the same.
    """
    chosen, reasoned = Chosen(), Reasoned(plan.role, narrowing.reasons)
    with_reason: Mapping[bytes, int] | None = None
    if narrowing.given == len(narrowing.reasons):
        await remember(settings, plan.role, reasoned, {}, tell)
        if not (with_reason := reasoned.found):
            return chosen
    core, now = plan.role == "core", time.time_ns() // 1_000_000
    catalogue = await catalogue_of(settings) if core else Catalogue()
    bounds = {span.part: (span.to, span.now) for span in plan.spans}
    async for record in records_of(settings, bounds, "choosing", tell):
        try:
            found = (
                events_of(record, narrowing, catalogue, generation, request)
                if core
                else message_of(record, narrowing, now)
            )
            for key, pick in found:
                if with_reason is None or pick.remembered in with_reason:
                    chosen.add(key, pick)
        except (Unreadable, RecordUnreadable):
            chosen.unreadable += 1
    if narrowing.reasons and with_reason is None and chosen.picks:
        wanted = {pick.remembered: "" for pick in chosen.picks.values()}
        await remember(settings, plan.role, reasoned, wanted, tell)
        picks = chosen.picks.items()
        chosen.picks = {key: pick for key, pick in picks if pick.remembered in reasoned.found}
    return chosen


def events_of(
    record: Any, narrowing: Narrowing, catalogue: Catalogue, generation: int, request: str
) -> list[tuple[bytes, Pick]]:
    """The notifications of an event that are chosen, as far as what is remembered does not matter.

    Raises Unreadable.
    """
    here, headers = origin_of(record), record.headers
    made = _of_users(foreseeing.notifications(record.value, headers, here, catalogue))
    wanted = [one for one in made if narrowing.wants(one.id, one.user_id, one.event)]
    if not wanted:
        return []
    ids = {(one.user_id, one.workflow): one.id for one in made}
    if generation:  # the ids that intake gives to those of the copy
        copied = narrow.of_event(headers, here, request, generation)
        anew = _of_users(foreseeing.notifications(record.value, copied, here, catalogue))
        ids = {(one.user_id, one.workflow): one.id for one in anew}
    part, found = TopicPartition(record.topic, record.partition), []
    for one in wanted:
        id_ = ids[one.user_id, one.workflow]
        pick = Pick(claims.key(one.id, one.step), id_, part, record.offset, one.workflow)
        found.append((claims.key(id_, one.step), pick))
    return found


def _of_users(made: Iterable[Notification | FanOut]) -> list[Notification]:
    """Those that are of one user each: who else a segment holds is not known here."""
    return [one for one in made if isinstance(one, Notification)]


def message_of(record: Any, narrowing: Narrowing, now: int) -> list[tuple[bytes, Pick]]:
    """The message of a record, if it is chosen as far as its result does not matter; `now` in ms.

    Raises RecordUnreadable.
    """
    message = stops.read(record.value)
    if isinstance(message, Stop) or not narrowing.wants(message.id, message.user_id, message.event):
        return []
    effect = effects.effect(message.id, message.step, message.target_id)
    expired = message.expires_at is not None and now >= message.expires_at
    part = TopicPartition(record.topic, record.partition)
    return [(effect, Pick(effect, message.id, part, record.offset, message.event.type, expired))]


async def _look_up(settings: Settings, role: str, chosen: Chosen, tell: Tell) -> Remembered:
    """What is remembered of those that are chosen, and of those that they would become."""
    memory: Remembered = Claims() if role == "core" else Calls(opened=True)
    wanted = {key: "" for one, pick in chosen.picks.items() for key in (one, pick.remembered)}
    if wanted:
        await remember(settings, role, memory, wanted, tell)
    return memory


# -- copying


class Copy(NamedTuple):
    """A record to be written where another stands."""

    part: TopicPartition
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


def copies_of(record: Any, role: str, ids: Sequence[str], generation: int, request: str) -> Iterator[Copy]:
    """The copies of a record for those of it that are chosen. Raises Unreadable."""
    part, here = TopicPartition(record.topic, record.partition), origin_of(record)
    if role == "core":
        whole = narrow.of_event(record.headers, here, request, generation)
        every: Iterable[list[tuple[str, bytes]]] = narrow.for_some(whole, ids)
    else:
        every = [narrow.of_message(record.headers, here, request)]
    for headers in every:
        yield Copy(part, record.key, record.value, headers)


async def _copy(
    settings: Settings,
    role: str,
    ids: Mapping[tuple[TopicPartition, int], Sequence[str]],
    generation: int,
    request: str,
    tell: Tell,
) -> None:
    """Writes the copies; returns when the broker has them all."""
    if not ids:
        return
    bounds: dict[TopicPartition, tuple[int, int]] = {}
    for part, offset in ids:
        begin, end = bounds.get(part, (offset, offset + 1))
        bounds[part] = min(begin, offset), max(end, offset + 1)
    producer: Any = AIOKafkaProducer(
        **client_options(settings), acks="all", enable_idempotence=True, linger_ms=5,
        max_request_size=COPY_BYTES,
    )  # fmt: skip
    waiting: list[Any] = []
    size = 0
    try:
        await producer.start()
        async for record in records_of(settings, bounds, "copying", tell):
            some = ids.get((TopicPartition(record.topic, record.partition), record.offset))
            for one in copies_of(record, role, some, generation, request) if some else ():
                sent = await producer.send(
                    one.part.topic, one.value, key=one.key, partition=one.part.partition, headers=one.headers
                )
                waiting.append(sent)
                size += len(one.value or b"")
                if len(waiting) >= TOGETHER or size >= TOGETHER_BYTES:
                    await asyncio.gather(*waiting)
                    waiting.clear()
                    size = 0
        await asyncio.gather(*waiting)
    finally:
        await producer.stop()
