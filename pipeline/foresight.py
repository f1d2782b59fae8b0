"""The dry run of a replay: reads what would be read again, looks up what is remembered of it, and counts.

What is remembered is read from the role's changelog, for only the running role may open its store. Of it
no more is kept than what concerns the range.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple, Protocol

from aiokafka import TopicPartition

from agents import broadcast, redrive, stops, topics
from agents import plan as planning
from agents import replay as foreseeing
from agents.catalogue import Catalogue
from agents.replay import Foreseen, Prospect
from pipeline.catalogue import CatalogueReader
from pipeline.engine.store import epoch_of
from pipeline.engine.timers import due_in
from pipeline.replay import Plan, figures, places, reading
from pipeline.settings import Settings
from pipeline.topics import DAYS, changelog, partitions
from pipeline.wiring import origin_of
from schemas.base import RecordUnreadable
from schemas.event import Unreadable
from schemas.message import Stop
from schemas.notification import PLAN, FanOut, Signal
from tables import claims, effects
from tables.claims import Claim

MOST = 1_000_000
"""The most notifications or messages that are looked up; what comes after them is only counted."""
MOST_REASONS = 50
TOGETHER = 200
"""Records that are looked at before others of the process may go on."""
STALLED_SECONDS = 30.0
NEWS_SECONDS = 1.0
EVENTS = (topics.EVENTS, topics.EVENTS + topics.EXPRESS)
NOTIFICATIONS = (topics.NOTIFICATIONS, topics.NOTIFICATIONS + topics.EXPRESS)


class Range:
    """What the records of a range would be about: row keys, and a word for each to count it by."""

    def __init__(self) -> None:
        self.wanted: dict[bytes, str] = {}
        #: of what is wanted: that which is not told unless something is remembered of it
        self.old: set[bytes] = set()
        self.unreadable = self.ignored = self.too_many = 0

    def want(self, key: bytes, word: str, *, old: bool = False) -> None:
        """Notes what is to be looked up; the same one may come several times."""
        if old:
            self.old.add(key)
        if len(self.wanted) < MOST or key in self.wanted:
            self.wanted[key] = word
        else:
            self.too_many += 1


class Remembered(Protocol):
    """What a role remembers of the range's keys, as its changelog tells it."""

    def take(self, key: bytes, value: bytes | None, wanted: Mapping[bytes, str]) -> None:
        """Takes a row over where it is of a wanted key."""

    def foresee(self, key: bytes) -> Foreseen:
        """What would come of a key."""


class Claims:
    """Of core: a claim a step."""

    def __init__(self) -> None:
        self.found: dict[bytes, Foreseen] = {}

    def take(self, key: bytes, value: bytes | None, wanted: Mapping[bytes, str]) -> None:
        if key not in wanted:
            return
        if value is None:
            self.found.pop(key, None)
        else:
            self.found[key] = foreseeing.foresee(Row(value).claim(key))

    def foresee(self, key: bytes) -> Foreseen:
        return self.found.get(key) or foreseeing.foresee(None)


class Calls:
    """Of a channel: the last attempt of an effect, its result, and after which one they count.

    `opened`: as a narrowed replay would find it, which opens what has failed.
    """

    def __init__(self, *, opened: bool = False) -> None:
        self.opened = opened
        self.attempted: dict[bytes, int] = {}
        self.results: dict[bytes, effects.Result] = {}
        self.counted_from: dict[bytes, int] = {}

    def take(self, key: bytes, value: bytes | None, wanted: Mapping[bytes, str]) -> None:
        if (found := effect_of(key)) is None or found[0] not in wanted:
            return
        if value is None:  # an effect is forgotten whole
            for remembered in (self.attempted, self.results, self.counted_from):
                remembered.pop(found[0], None)
            return
        effect, n = found
        if key.startswith(effects.ATTEMPTS):
            self.attempted[effect] = max(n, self.attempted.get(effect, 0))
        elif key.startswith(effects.REOPENINGS):
            if (made := effects.reopening(Row(value), effect, n)) is not None:
                self.counted_from[effect] = max(made.n, self.counted_from.get(effect, 0))
        elif (result := effects.result(Row(value), effect, n)) is not None:
            self.results[effect] = result

    def foresee(self, key: bytes) -> Foreseen:
        attempted, result = self.attempted.get(key, 0), self.results.get(key)
        last = result if result and result.n == attempted else None
        return foreseeing.foresee_call(attempted, last, self.counted_from.get(key, 0), opened=self.opened)


_OF_CALLS = (effects.ATTEMPTS, effects.RESULTS, effects.REOPENINGS)


def effect_of(key: bytes) -> tuple[bytes, int] | None:
    """The effect that a row of a channel's ledger is of, and the row's number; None for any other row."""
    effect, _, n = key[2:].rpartition(b"|")
    return (effect + b"|", int(n)) if key.startswith(_OF_CALLS) and n.isdigit() else None


class Row:
    """One row, whatever it is asked for: the tables read their own."""

    def __init__(self, value: bytes) -> None:
        self.value = value

    def claim(self, key: bytes) -> Claim | None:
        return claims.find(self, key)

    def get(self, key: bytes) -> bytes | None:
        return self.value

    def put(self, key: bytes, value: bytes) -> None:
        raise TypeError("read-only")

    def delete(self, key: bytes) -> None:
        raise TypeError("read-only")

    def scan(self, prefix: bytes) -> Any:
        raise TypeError("one row")


class Forecast(NamedTuple):
    """What would come of a replay."""

    plan: Plan
    range: Range
    counted: Counter[Prospect]
    #: why those that are decided afresh failed, and what those are that never were decided
    reasons: Counter[str]
    fresh: Counter[str]

    @property
    def figures(self) -> dict[str, Any]:
        """For programs."""
        return {
            "dry_run": True,
            **figures(self.plan),
            "looked_at": len(self.range.wanted),
            **{str(prospect): self.counted[prospect] for prospect in Prospect},
            "afresh_because": dict(self.reasons),
            "new_of": dict(self.fresh),
            "ignored": self.range.ignored,
            "unreadable": self.range.unreadable,
            "too_many": self.range.too_many,
        }

    @property
    def text(self) -> str:
        """For people."""
        plan, seen, counted = self.plan, self.range, self.counted
        lines = [
            f"{plan.group} would read {plan.again} offsets once more and pass over {plan.left_out}; "
            "nothing was asked of it",
            *places(plan),
        ]
        if plan.role == "status":
            return "\n".join([*lines, "It sends nothing: what it knows already changes no history."])
        lines += prospects(plan.role, counted, self.reasons, self.fresh)
        if seen.ignored:
            lines.append(f"{seen.ignored:>9} events that no workflow wants, as it stands now")
        if seen.unreadable:
            lines.append(f"{seen.unreadable:>9} unreadable: would go to the dead letters again")
        if seen.too_many:
            lines.append(f"{seen.too_many:>9} more than can be looked at; choose a later place")
        return "\n".join(lines)


def prospects(
    role: str, counted: Mapping[Prospect, int], reasons: Counter[str], fresh: Counter[str]
) -> list[str]:
    """What would come of those that are looked at, for people."""
    decided = "decided" if role == "core" else "called"
    lines = [f"{counted[Prospect.NOTHING]:>9} {decided} already: nothing will be sent"]
    lines.append(f"{counted[Prospect.AFRESH]:>9} failed, and would be {decided} afresh")
    lines += [f"{count:>13} {reason}" for reason, count in reasons.most_common()]
    lines.append(f"{counted[Prospect.NEW]:>9} never {decided}: would be now")
    lines += [f"{count:>13} {word}" for word, count in fresh.most_common()]
    if counted[Prospect.TOO_OLD]:
        lines.append(f"{counted[Prospect.TOO_OLD]:>9} too old to tell: nothing will be sent")
    if counted[Prospect.DOUBTFUL]:
        lines.append(
            f"{counted[Prospect.DOUBTFUL]:>9} in doubt: the provider's key settles it, else the policy"
        )
    return lines


def count(
    foreseen: Foreseen, word: str, counted: Counter[Prospect], reasons: Counter[str], fresh: Counter[str]
) -> None:
    """Counts one: by its prospect, by why it failed, or by the word for what was never decided."""
    prospect, reason = foreseen
    counted[prospect] += 1
    if prospect is Prospect.AFRESH:
        reasons[reason if reason in reasons or len(reasons) < MOST_REASONS else "other reasons"] += 1
    elif prospect is Prospect.NEW:
        fresh[word if word in fresh or len(fresh) < MOST_REASONS else "others"] += 1


async def foresee(settings: Settings, plan: Plan, tell: Callable[[str], None]) -> Forecast:
    """Reads from the chosen places to the ends, then the changelog. `tell` gets lines of progress."""
    window = settings.retention.claims if plan.role == "core" else settings.retention.attempts
    oldest = int(time.time() * 1000 - window * DAYS)
    seen, memory = Range(), Claims() if plan.role == "core" else Calls()
    counted, reasons, fresh = Counter[Prospect](), Counter[str](), Counter[str]()
    if plan.role != "status":
        catalogue = await catalogue_of(settings) if plan.role == "core" else Catalogue()
        bounds = {span.part: (span.to, span.end) for span in plan.spans}
        async for record in records_of(settings, bounds, "reading", tell):
            note(record, settings.kafka.topic_prefix, catalogue, seen, oldest)
    if seen.wanted:
        await remember(settings, plan.role, memory, seen.wanted, tell)
        for key, word in seen.wanted.items():
            foreseen = memory.foresee(key)
            if foreseen.prospect is Prospect.NEW and key in seen.old:
                foreseen = Foreseen(Prospect.TOO_OLD)
            count(foreseen, word, counted, reasons, fresh)
    return Forecast(plan, seen, counted, reasons, fresh)


def note(record: Any, prefix: str, catalogue: Catalogue, seen: Range, oldest: int = 0) -> None:
    """Notes what one record would be about; what is from before `oldest` is forgotten."""
    topic = record.topic.removeprefix(prefix)
    try:
        if topic in EVENTS:
            found = foreseeing.notifications(record.value, record.headers, origin_of(record), catalogue)
            seen.ignored += not found
        elif topic in NOTIFICATIONS:
            one = planning.read(record.value)
            if isinstance(one, Signal) or due_in(record) is not None:
                return  # a signal that is heard again does nothing, nor does what waited for its time
            found = [one]
        elif topic.removesuffix(topics.EXPRESS) in topics.MESSAGES.values():
            message = stops.read(record.value)
            if isinstance(message, Stop):
                return  # what is heard again does nothing
            effect = effects.effect(message.id, message.step, message.target_id)
            old = record.timestamp < oldest and redrive.name(record.headers) is None
            seen.want(effect, message.event.type, old=old)
            return
        else:
            return  # people: an older row never replaces a newer one
        for one in found:
            if isinstance(one, FanOut):
                seen.want(claims.key(one.id, broadcast.step(one.n)), one.pattern.workflow)
                continue
            at = one.event_at if one.step == PLAN else record.timestamp
            seen.want(claims.key(one.id, one.step), one.workflow, old=at < oldest)
    except (Unreadable, RecordUnreadable):
        seen.unreadable += 1


async def catalogue_of(settings: Settings) -> Catalogue:
    """Workflows and templates as they are on their topics now."""
    catalogue = Catalogue()
    reader = CatalogueReader(settings, catalogue)
    try:
        await reader.start()
    finally:
        await reader.stop()
    return catalogue


async def remember(
    settings: Settings,
    role: str,
    memory: Remembered,
    wanted: Mapping[bytes, str],
    tell: Callable[[str], None],
) -> None:
    """Takes over what a changelog says of the wanted keys; a zombie's rows count for nothing."""
    name = settings.kafka.topic_prefix + changelog(role)
    parts = [TopicPartition(name, number) for number in range(partitions(settings, role))]
    async with reading(settings, parts) as consumer:
        first, ends = await consumer.beginning_offsets(parts), await consumer.end_offsets(parts)
    epochs: dict[int, int] = {}
    bounds = {part: (first[part], ends[part]) for part in parts}
    async for record in records_of(settings, bounds, "looking up", tell):
        epoch = epoch_of(record)
        if epoch >= epochs.get(record.partition, 0):
            epochs[record.partition] = epoch
            memory.take(record.key, record.value, wanted)


async def records_of(
    settings: Settings,
    bounds: Mapping[TopicPartition, tuple[int, int]],
    what: str,
    tell: Callable[[str], None],
) -> AsyncIterator[Any]:
    """The records of partitions, each from its begin up to its end. Raises TimeoutError where none come."""
    open_parts = {part: end for part, (begin, end) in bounds.items() if begin < end}
    total, told = sum(end - begin for begin, end in bounds.values() if begin < end), time.monotonic()
    if not open_parts:
        return
    async with reading(settings, list(open_parts)) as consumer:
        for part in open_parts:
            consumer.seek(part, bounds[part][0])
        moved, before = time.monotonic(), -1
        while open_parts:
            for part, records in (await consumer.getmany(timeout_ms=200, max_records=5_000)).items():
                for index, record in enumerate(records):
                    if record.offset < bounds[part][1]:
                        yield record
                    if index % TOGETHER == 0:
                        await asyncio.sleep(0)
            at = {part: await consumer.position(part) for part in open_parts}
            for part, position in at.items():
                if position >= open_parts[part]:
                    consumer.pause(part)
                    del open_parts[part]
            left = sum(end - at[part] for part, end in open_parts.items())
            now = time.monotonic()
            if left != before:
                moved, before = now, left
            elif now - moved > STALLED_SECONDS:
                raise TimeoutError(f"{what}: the broker sent nothing for {STALLED_SECONDS:.0f} s")
            if now - told > NEWS_SECONDS:
                told = now
                tell(f"{what}: {total - left} of {total} offsets")
            await asyncio.sleep(0)
