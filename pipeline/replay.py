"""Replay: where a group is to begin anew, as offsets, and asking it to on `control`."""

import asyncio
import contextlib
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from agents import topics
from pipeline.settings import Settings, SettingsError
from pipeline.topics import CHANGELOG_BYTES, client_options, group, partitions
from schemas.control import Place, Replay
from schemas.kinds import Channel
from schemas.times import typed_time

GATES = (topics.USERS, topics.PREFERENCES, topics.DEVICES)
"""Read to their end before the others open; rewound only where one is asked for by its name."""
READS: dict[str, tuple[str, ...]] = {
    "core": (topics.NOTIFICATIONS + topics.EXPRESS, topics.EVENTS + topics.EXPRESS, topics.NOTIFICATIONS,
             topics.EVENTS),
    **{str(channel): (topics.MESSAGES[channel] + topics.EXPRESS, topics.MESSAGES[channel])
       for channel in Channel},
    "status": (topics.CONTENTS, topics.DELIVERY_STATUS),
}  # fmt: skip
"""What the group of each role reads, gates left out."""
MAX_DIGITS = 19
MOST_OFFSET = 2**63 - 1
COORDINATOR_SECONDS = 8.0
COORDINATOR_PAUSE = 0.1


class Misused(ValueError):
    """What was asked for cannot be; the message names the option."""


class Span(NamedTuple):
    """One partition's part of a replay; `committed` is None where the group has not begun there."""

    part: TopicPartition
    first: int
    committed: int | None
    to: int
    end: int

    @property
    def now(self) -> int:
        """Where the group would go on if nothing were asked of it."""
        return max(self.committed or 0, self.first)


class Wanted(NamedTuple):
    """Which partitions of which role are to begin where: `to` is earliest, latest, a time or an offset."""

    role: str
    parts: Sequence[TopicPartition]
    to: str


def of_group(settings: Settings, role: str, to: str) -> Wanted:
    """Everything that a role reads but gates. Raises Misused."""
    if is_offset(to):
        raise Misused("--to: an offset is one partition's; name it with --topic and --partition")
    prefix, count = settings.kafka.topic_prefix, partitions(settings, role)
    parts = [TopicPartition(prefix + name, number) for name in READS[role] for number in range(count)]
    return Wanted(role, parts, _checked(to))


def of_partition(settings: Settings, topic: str, partition: int, to: str) -> Wanted:
    """One partition of one topic, which may be a gate. Raises Misused."""
    prefix = settings.kafka.topic_prefix
    plain = topic.removeprefix(prefix)
    role = "core" if plain in GATES else next((r for r, names in READS.items() if plain in names), None)
    if role is None:
        readable = ", ".join([*GATES, *(name for names in READS.values() for name in names)])
        raise Misused(f"--topic {topic}: no group of ours reads it; there are {readable}")
    if not 0 <= partition < (count := partitions(settings, role)):
        raise Misused(f"--partition {partition}: {plain} has {count}, from 0 on")
    if not is_offset(to):
        if _is_number(to):
            raise Misused(f"--to {to}: an offset is a number from 0 to {MOST_OFFSET}")
        _checked(to, "earliest, latest, an offset or a time")
    return Wanted(role, [TopicPartition(prefix + plain, partition)], to)


def _checked(to: str, allowed: str = "earliest, latest or a time") -> str:
    if to not in ("earliest", "latest"):
        moment(to, allowed)
    return to


_is_number = re.compile(r"[+-]?\d+(\.\d*)?").fullmatch


def is_offset(to: str) -> bool:
    """Whether a place is an offset: in ASCII, for int() does not read every digit that there is."""
    return to.isascii() and to.isdigit() and len(to) <= MAX_DIGITS and int(to) <= MOST_OFFSET


def moment(text: str, allowed: str = "earliest, latest or a time") -> int:
    """A time that was typed, as milliseconds since the epoch. Raises Misused."""
    try:
        found = typed_time(text)
    except ValueError:
        found = None
    if found is None or found < _EPOCH:
        raise Misused(f"--to {text}: not {allowed} such as 2026-01-31T12:00:00Z")
    return (found - _EPOCH) // timedelta(milliseconds=1)


_EPOCH = datetime.fromtimestamp(0, UTC)


class Plan(NamedTuple):
    """A replay as it would be asked for."""

    group: str
    role: str
    spans: Sequence[Span]

    @property
    def again(self) -> int:
        """How many offsets that the group is through with it would read once more."""
        return sum(max(0, span.now - span.to) for span in self.spans)

    @property
    def left_out(self) -> int:
        """How many offsets that the group has not come to it would pass over."""
        return sum(max(0, span.to - span.now) for span in self.spans)


async def resolve(settings: Settings, wanted: Wanted) -> Plan:
    """Turns what is wanted into offsets, one a partition. Raises Misused."""
    name, parts = group(settings, wanted.role), list(wanted.parts)
    async with reading(settings, parts) as consumer:
        first, ends = await consumer.beginning_offsets(parts), await consumer.end_offsets(parts)
        if wanted.to == "earliest":
            to = first
        elif wanted.to == "latest":
            to = ends
        elif is_offset(wanted.to):
            to = dict.fromkeys(parts, int(wanted.to))
            for part in parts:
                if not first[part] <= to[part] <= ends[part]:
                    raise Misused(
                        f"--to {wanted.to}: {part.topic}-{part.partition} holds {first[part]} to {ends[part]}"
                    )
        else:
            found = await consumer.offsets_for_times(dict.fromkeys(parts, moment(wanted.to)))
            to = {part: found[part].offset if found.get(part) else ends[part] for part in parts}
    committed = await _committed(settings, name)
    return Plan(name, wanted.role, [Span(p, first[p], committed.get(p), to[p], ends[p]) for p in parts])


async def ask(settings: Settings, plan: Plan) -> str:
    """Puts the request on `control`; returns its id."""
    places = tuple(
        Place(topic=span.part.topic, partition=span.part.partition, offset=span.to) for span in plan.spans
    )
    replay = Replay(id=uuid.uuid4().hex, group=plan.group, places=places)
    producer = AIOKafkaProducer(**client_options(settings), acks="all", enable_idempotence=True)
    try:
        await producer.start()
        topic = settings.kafka.topic_prefix + topics.CONTROL
        await producer.send_and_wait(topic, replay.to_json(), key=plan.group.encode(), partition=0)
    finally:
        await producer.stop()
    return replay.id


@contextlib.asynccontextmanager
async def reading(settings: Settings, parts: Sequence[TopicPartition]) -> AsyncIterator[Any]:
    """A consumer without a group over partitions. Raises SettingsError where there is no such topic."""
    consumer = AIOKafkaConsumer(
        **client_options(settings), group_id=None, auto_offset_reset="earliest", enable_auto_commit=False,
        fetch_max_wait_ms=50, max_partition_fetch_bytes=CHANGELOG_BYTES,
    )  # fmt: skip
    try:
        await consumer.start()
        known = await consumer.topics()
        if missing := sorted({part.topic for part in parts} - known):
            raise SettingsError(f"there is no topic {missing[0]}; `carillon topics` creates it")
        consumer.assign(parts)
        yield consumer
    finally:
        await consumer.stop()


async def _committed(settings: Settings, name: str) -> dict[TopicPartition, int]:
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await admin.start()
        found = await coordinated(lambda: admin.list_consumer_group_offsets(name))
    finally:
        await admin.close()
    return {part: meta.offset for part, meta in found.items() if meta.offset >= 0}


async def coordinated(ask: Callable[[], Awaitable[Any]]) -> Any:
    """What a group's coordinator answers, asked for COORDINATOR_SECONDS while it can be had any moment: for
    the first group that it hears of a broker makes the topic of their offsets.
    """
    until = time.monotonic() + COORDINATOR_SECONDS
    while True:
        try:
            return await ask()
        except KafkaError as error:
            if not error.retriable or time.monotonic() >= until:
                raise
        await asyncio.sleep(COORDINATOR_PAUSE)


class Asked(NamedTuple):
    """A replay that was asked for."""

    plan: Plan
    id: str

    @property
    def figures(self) -> dict[str, Any]:
        """For programs."""
        return {"request_id": self.id, **figures(self.plan)}

    @property
    def text(self) -> str:
        """For people."""
        lines = [
            f"{self.plan.group} is asked to begin anew: {self.plan.again} offsets once more, "
            f"{self.plan.left_out} passed over (request {self.id})",
            *places(self.plan),
            "Its members drain, go to these places and work on; where none runs, the next to start does so.",
        ]
        return "\n".join(lines)


def figures(plan: Plan) -> dict[str, Any]:
    """A replay for programs."""
    return {
        "group": plan.group,
        "again": plan.again,
        "left_out": plan.left_out,
        "partitions": [
            {
                "topic": span.part.topic, "partition": span.part.partition, "committed": span.committed,
                "to": span.to, "end": span.end,
            }
            for span in plan.spans
        ],
    }  # fmt: skip


def places(plan: Plan) -> list[str]:
    """The partitions that a replay would move, for people."""
    return [
        f"  {span.part.topic}-{span.part.partition}: from {span.now} to {span.to} of {span.end}"
        for span in plan.spans
        if span.to != span.now
    ]
