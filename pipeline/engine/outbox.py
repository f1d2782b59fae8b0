"""The records that a unit sends, packed into record batches and awaited."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

from aiokafka.partitioner import murmur2

from pipeline.engine.internals import is_retriable, pack

BATCH_BYTES = 900_000
RECORD_BYTES = 950_000
"""The largest record that a stage may send; Kafka's own default limit is 1 MiB a batch."""

Headers = list[tuple[str, bytes]]
NO_HEADERS: Headers = []
Item = tuple[bytes | None, bytes | None, Headers]


_POSITIVE = 0x7FFFFFFF
Target = tuple[str, int, int]
"""A topic's name, its partitions, and the bytes that a record of it may have."""


class Outgoing(Protocol):
    """What is to be sent: `hashed` is the murmur2 of the key, if it is known.

    What goes `everywhere` has none, and is sent to each partition.
    """

    @property
    def topic(self) -> str: ...
    @property
    def key(self) -> bytes: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def hashed(self) -> int | None: ...
    @property
    def headers(self) -> Headers | None: ...
    @property
    def everywhere(self) -> bool: ...


class RecordTooLarge(ValueError):
    """A record that no topic of ours takes."""

    reason = "too_large"


@lru_cache(maxsize=16_384)
def key_hash(key: bytes) -> int:
    """The 31 bits by which Kafka's default partitioner places a key (KIP-480 keeps them)."""
    return int(murmur2(key)) & _POSITIVE


class Batch:
    """One record batch on its way to one partition; it can be built again for a second try."""

    __slots__ = ("builder", "partition", "records", "topic")

    def __init__(self, topic: str, partition: int, records: list[Item], builder: Any) -> None:
        self.topic, self.partition, self.records, self.builder = topic, partition, records, builder

    def rebuild(self) -> None:
        """Makes the batch anew: a builder can be sent once."""
        self.builder, _ = pack(self.records, 0, BATCH_BYTES)


class Outbox:
    """Collects what one unit sends.

    `partitions` names every topic that may be sent to, with its number of partitions.
    """

    __slots__ = ("open", "partitions")

    def __init__(self, partitions: Mapping[str, int]) -> None:
        self.partitions = partitions
        self.open: defaultdict[tuple[str, int], list[Item]] = defaultdict(list)

    def add(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = NO_HEADERS,
        *,
        hashed: int | None = None,
        partition: int | None = None,
        room: int = RECORD_BYTES,
    ) -> None:
        """Adds a record, to `partition`, else to where the key's murmur2 (`hashed`, if known) puts it.

        Raises RecordTooLarge where key and value take more than `room` bytes, KeyError for a topic that
        was not declared.
        """
        if partition is None:
            if hashed is None:
                hashed = key_hash(key or b"")
            partition = hashed % self.partitions[topic]
        size = (len(value) if value else 0) + (len(key) if key else 0)
        if size > room:
            raise RecordTooLarge(f"{size} bytes for {topic}, which takes {room}")
        self.open[topic, partition].append((key, value, headers))

    def extend(self, sends: Iterable[Outgoing], targets: Mapping[str, Target]) -> None:
        """Adds records, all at once: this is most of what a unit adds.

        Raises RecordTooLarge, and KeyError for a topic that `targets` does not hold.
        """
        batches = self.open
        for send in sends:
            topic, partitions, room = targets[send.topic]
            key, value, hashed = send.key, send.value, send.hashed
            size = len(key) + (len(value) if value else 0)
            if size > room:
                raise RecordTooLarge(f"{size} bytes for {topic}, which takes {room}")
            if hashed is None:
                if send.everywhere:
                    for number in range(partitions):
                        batches[topic, number].append((key, value, send.headers or NO_HEADERS))
                    continue
                hashed = key_hash(key)
            place = topic, (hashed & _POSITIVE) % partitions
            batches[place].append((key, value, send.headers or NO_HEADERS))

    def clear(self) -> None:
        """Forgets what was added."""
        self.open.clear()

    def __bool__(self) -> bool:
        return bool(self.open)

    def take(self) -> list[Batch]:
        """Hands over the batches, each partition's in the order of their adding."""
        batches = []
        for (topic, partition), records in self.open.items():
            start = 0
            while start < len(records):
                builder, end = pack(records, start, BATCH_BYTES)
                batches.append(Batch(topic, partition, records[start:end], builder))
                start = end
        self.clear()
        return batches


async def send(producer: Any, batches: Sequence[Batch]) -> list[Batch]:
    """Sends batches and waits until the broker has them; returns those that may be tried again.

    Raises the first error that is not retriable.
    """
    if not batches:
        return []
    failed: list[Batch] = []
    waits = []
    for batch in batches:
        try:
            waits.append(await producer.send_batch(batch.builder, batch.topic, partition=batch.partition))
        except Exception as error:
            waits.append(_failed(error))
    results = await asyncio.gather(*waits, return_exceptions=True)
    for batch, result in zip(batches, results, strict=True):
        if isinstance(result, BaseException):
            if not is_retriable(result):
                raise result
            batch.rebuild()
            failed.append(batch)
    return failed


def _failed(error: Exception) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future
