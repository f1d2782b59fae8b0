"""Dead letters on Kafka: reading them without a group, putting them back, deleting them."""

import asyncio
import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError

from agents import letters, redrive, topics
from agents.letters import Letter, Said
from agents.redrive import NotRedrivable, Redriven, To
from pipeline.settings import Settings
from pipeline.topics import DEAD_LETTER_BYTES, all_topics, client_options

STALLED_SECONDS = 20.0
"""A read that hears nothing for so long, though there is more to hear, is given up."""
POLL_MS = 200
TOGETHER = 500
TOGETHER_BYTES = 16 << 20
"""What is on its way back to the broker at a time."""
_NOT_READ = ("dlq-", "carillon-")


class DeadLetterError(Exception):
    """What was asked for cannot be done; the message says why, in one line."""


class UnknownProvider(DeadLetterError):
    """No channel of those that are meant has a provider of that name; the message says which there are."""


class Redrive(NamedTuple):
    """What became of a letter: `to` where it went (or would go), else `why` it did not."""

    letter: str
    to: str | None
    why: str | None = None


class Span(NamedTuple):
    """The offsets of a partition from `begin` up to `end`."""

    begin: int
    end: int


class Purge(NamedTuple):
    """The records of a partition from `first` up to `before`, which go."""

    topic: str
    partition: int
    first: int
    before: int


def names(settings: Settings, topic: str | None = None) -> list[str]:
    """The broker's names of the topics of dead letters, or of the one that is meant, with prefix or without.

    Raises KeyError for what is none.
    """
    prefix = settings.kafka.topic_prefix
    if topic is None:
        return [prefix + plain for plain in letters.DEAD]
    plain = topic if topic in letters.DEAD else topic.removeprefix(prefix)
    if plain not in letters.DEAD:
        raise KeyError(topic)
    return [prefix + plain]


def sources(settings: Settings) -> dict[str, int]:
    """The topics that a letter can go back to, with their partitions."""
    return {
        settings.kafka.topic_prefix + topic.name: topic.partitions
        for topic in all_topics(settings)
        if not topic.name.startswith(_NOT_READ)
    }


def to(settings: Settings, provider: str | None, wanted: Sequence[str]) -> To | None:
    """Who is to send what goes back of these topics (the broker's names); None where nobody was named.

    Raises UnknownProvider, with the providers that there are, where none of their channels has it.
    """
    if provider is None:
        return None
    known = _providers(settings, wanted)
    having = frozenset(dead for dead, names in known.items() if provider in names)
    if having:
        return To(provider, having)
    there_are = "; ".join(f"{dead} {', '.join(names)}" for dead, names in known.items() if names)
    raise UnknownProvider(
        f"there is no provider {provider!r}; there are {there_are}"
        if there_are
        else f"there is no provider {provider!r}: these are no letters of a channel that has one"
    )


def providers(settings: Settings, wanted: Sequence[str]) -> list[str]:
    """The providers that can send what goes back of these topics (the broker's names)."""
    return list(dict.fromkeys(name for names in _providers(settings, wanted).values() for name in names))


def _providers(settings: Settings, wanted: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The providers of each channel's topic among these, in their order."""
    prefix, found = settings.kafka.topic_prefix, dict[str, tuple[str, ...]]()
    for channel, dead in topics.DEAD_MESSAGES.items():
        if prefix + dead in wanted and channel in settings.channels:
            of_channel = settings.channels[channel]
            found[dead] = of_channel.order or tuple(of_channel.providers)
    return found


# -- reading


@asynccontextmanager
async def _consumer(settings: Settings) -> AsyncIterator[Any]:
    consumer = AIOKafkaConsumer(
        **client_options(settings), group_id=None, enable_auto_commit=False, auto_offset_reset="earliest",
        fetch_max_wait_ms=100, max_partition_fetch_bytes=DEAD_LETTER_BYTES,
    )  # fmt: skip
    try:
        await consumer.start()
        yield consumer
    finally:
        await consumer.stop()


@asynccontextmanager
async def _admin(settings: Settings) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


async def _parts(settings: Settings, wanted: Iterable[str]) -> list[TopicPartition]:
    """The partitions of those topics that there are."""
    async with _admin(settings) as admin:
        known = set(await admin.list_topics())
        found = [topic for topic in wanted if topic in known]
        described = await admin.describe_topics(found) if found else []
    return sorted(
        TopicPartition(topic["topic"], one["partition"]) for topic in described for one in topic["partitions"]
    )


class Reader:
    """Reads dead letters over one connection, a span of offsets at a time."""

    def __init__(self, settings: Settings, consumer: Any) -> None:
        self._settings, self._consumer = settings, consumer

    async def spans(
        self, wanted: Sequence[str], since: int | None = None, until: int | None = None
    ) -> dict[TopicPartition, Span]:
        """What those topics hold now, of it what came from `since` on, before `until` (broker's time in ms).

        Partitions that hold none of it are left out.
        """
        parts = await _parts(self._settings, wanted)
        if not parts:
            return {}
        consumer = self._consumer
        consumer.assign(parts)
        firsts, ends = await consumer.beginning_offsets(parts), await consumer.end_offsets(parts)
        begins = firsts if since is None else await self._from(since, parts, ends)
        befores = ends if until is None else await self._from(until, parts, ends)
        found = {part: Span(max(firsts[part], begins[part]), befores[part]) for part in parts}
        return {part: span for part, span in found.items() if span.begin < span.end}

    async def _from(
        self, at: int, parts: Sequence[TopicPartition], ends: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        """The first offset of each partition that came at that time or later."""
        times = await self._consumer.offsets_for_times(dict.fromkeys(parts, at))
        return {part: found.offset if (found := times.get(part)) else ends[part] for part in parts}

    async def read(self, spans: Mapping[TopicPartition, Span]) -> AsyncGenerator[Letter, None]:
        """The letters of these spans; each partition's in order.

        Raises TimeoutError where the broker falls silent.
        """
        consumer, prefix = self._consumer, self._settings.kafka.topic_prefix
        open_ones = {part for part, span in spans.items() if span.begin < span.end}
        if not open_ones:
            return
        consumer.assign(sorted(open_ones))
        for part in open_ones:
            consumer.seek(part, spans[part].begin)
        loop = asyncio.get_running_loop()
        heard = loop.time()
        while open_ones:
            fetched = await consumer.getmany(*open_ones, timeout_ms=POLL_MS)
            for part, records in fetched.items():
                for record in records:
                    if record.offset < spans[part].end:
                        yield _letter(record, prefix)
            before = len(open_ones)
            for part in list(open_ones):
                if await consumer.position(part) >= spans[part].end:
                    open_ones.discard(part)
                    consumer.pause(part)
            if fetched or len(open_ones) < before:
                heard = loop.time()
            elif loop.time() - heard > STALLED_SECONDS:
                raise TimeoutError(f"the broker did not send the rest of {next(iter(open_ones)).topic}")

    async def find(self, topic: str, partition: int, offset: int) -> Letter:
        """The letter at a place. Raises DeadLetterError where there is none."""
        part, consumer = TopicPartition(topic, partition), self._consumer
        if part not in await _parts(self._settings, [topic]):
            raise DeadLetterError(f"{topic} has no partition {partition}")
        consumer.assign([part])
        ends, firsts = await consumer.end_offsets([part]), await consumer.beginning_offsets([part])
        if firsts[part] <= offset < ends[part]:
            consumer.seek(part, offset)
            async with asyncio.timeout(STALLED_SECONDS):
                record = await consumer.getone(part)
            if record.offset == offset:
                return _letter(record, self._settings.kafka.topic_prefix)
        held = f"it holds {firsts[part]} to {ends[part] - 1}" if firsts[part] < ends[part] else "it is empty"
        raise DeadLetterError(f"{topic}-{partition}-{offset}: no such record; {held}")


@asynccontextmanager
async def reading(settings: Settings) -> AsyncIterator[Reader]:
    """A connection to read letters over."""
    async with _consumer(settings) as consumer:
        yield Reader(settings, consumer)


async def read(
    settings: Settings, wanted: Sequence[str], *, newest: int | None = None
) -> AsyncIterator[Letter]:
    """Every letter of these topics up to their ends as they are now; each partition's in order.

    `newest`: no more of each partition than its last so many. Raises TimeoutError where the broker falls
    silent.
    """
    async with reading(settings) as reader:
        spans = await reader.spans(wanted)
        if newest is not None:
            spans = {part: Span(max(begin, end - newest), end) for part, (begin, end) in spans.items()}
        async for letter in reader.read(spans):
            yield letter


def _letter(record: Any, prefix: str) -> Letter:
    return Letter(
        record.topic, record.topic.removeprefix(prefix), record.partition, record.offset, record.timestamp,
        record.key, record.value, tuple(record.headers),
    )  # fmt: skip


async def newest(settings: Settings, wanted: Sequence[str], said: Said, limit: int) -> list[dict[str, Any]]:
    """Summaries of the newest letters that say so, the newest first, `limit` of them."""
    kept: list[tuple[tuple[int, str, int, int], dict[str, Any]]] = []
    async for letter in read(settings, wanted, newest=None if said.asks else limit):
        if not said.fits(letter):
            continue
        place = letter.at, letter.topic, letter.partition, letter.offset
        if len(kept) < limit:
            heapq.heappush(kept, (place, letters.summary(letter)))
        elif place > kept[0][0]:
            heapq.heapreplace(kept, (place, letters.summary(letter)))
    return [told for _, told in sorted(kept, key=lambda one: one[0], reverse=True)]


async def find(settings: Settings, topic: str, partition: int, offset: int) -> Letter:
    """The letter at a place. Raises DeadLetterError where there is none."""
    async with reading(settings) as reader:
        return await reader.find(topic, partition, offset)


# -- putting back


async def put_back(
    settings: Settings,
    found: AsyncIterator[Letter],
    *,
    dry_run: bool,
    tell: Callable[[Redrive], None],
    to: To | None = None,
) -> None:
    """Puts letters back on the topics that they came from; says of each what became of it.

    `to`: the provider that is to send them now.
    """
    known = sources(settings)
    async with _producer(settings, dry_run=dry_run) as producer:
        waiting: list[tuple[Letter, Any]] = []
        size = 0
        async for letter in found:
            try:
                record = redrive.back(letter, known, to)
            except NotRedrivable as error:
                tell(Redrive(letter.name, None, str(error)))
                continue
            if producer is None:
                tell(Redrive(letter.name, _to(record)))
                continue
            waiting.append((letter, await _send(producer, record)))
            size += len(record.value or b"")
            if len(waiting) >= TOGETHER or size >= TOGETHER_BYTES:
                await _landed(waiting, tell)
                size = 0
        await _landed(waiting, tell)


@asynccontextmanager
async def _producer(settings: Settings, *, dry_run: bool) -> AsyncIterator[Any]:
    if dry_run:
        yield None
        return
    producer = AIOKafkaProducer(
        **client_options(settings), acks="all", enable_idempotence=True, max_request_size=DEAD_LETTER_BYTES
    )
    try:
        await producer.start()
        yield producer
    finally:
        await producer.stop()


async def _send(producer: Any, record: Redriven) -> Any:
    """A future of the sending; what fails at once is one that has failed."""
    try:
        return await producer.send(
            record.topic, record.value, key=record.key, partition=record.partition, headers=record.headers
        )
    except KafkaError as error:
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(error)
        return failed


async def _landed(waiting: list[tuple[Letter, Any]], tell: Callable[[Redrive], None]) -> None:
    results = await asyncio.gather(*(future for _, future in waiting), return_exceptions=True)
    for (letter, _), result in zip(waiting, results, strict=True):
        if isinstance(result, KafkaError):
            tell(Redrive(letter.name, None, f"{type(result).__name__}: {result}"))
        elif isinstance(result, BaseException):
            raise result
        else:
            tell(Redrive(letter.name, f"{result.topic}-{result.partition}-{result.offset}"))
    waiting.clear()


def _to(record: Redriven) -> str:
    return record.topic if record.partition is None else f"{record.topic}-{record.partition}"


async def chosen(settings: Settings, wanted: Sequence[str], said: Said) -> AsyncIterator[Letter]:
    """The letters of these topics that say so."""
    async for letter in read(settings, wanted):
        if said.fits(letter):
            yield letter


async def one(letter: Letter) -> AsyncIterator[Letter]:
    """A single letter, where several could stand."""
    yield letter


# -- deleting


async def purges(settings: Settings, wanted: Sequence[str], before: int | None) -> list[Purge]:
    """What there is to delete: everything up to now, or what is older than `before` (broker's time in ms)."""
    parts = await _parts(settings, wanted)
    if not parts:
        return []
    async with _consumer(settings) as consumer:
        ends, firsts = await consumer.end_offsets(parts), await consumer.beginning_offsets(parts)
        upto: Mapping[Any, int] = ends
        if before is not None:
            times = await consumer.offsets_for_times(dict.fromkeys(parts, before))
            upto = {
                part: min(ends[part], found.offset) if (found := times.get(part)) else ends[part]
                for part in parts
            }
        return [
            Purge(part.topic, part.partition, firsts[part], upto[part])
            for part in parts
            if firsts[part] < upto[part]
        ]


async def purge(settings: Settings, found: Sequence[Purge]) -> None:
    """Deletes them for good."""
    upto = {TopicPartition(one.topic, one.partition): RecordsToDelete(one.before) for one in found}
    async with _admin(settings) as admin:
        await admin.delete_records(upto)
