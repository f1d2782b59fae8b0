"""What a benchmark needs of the broker: topics, filling them, reading them back, committed offsets."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import aiokafka
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from pipeline.engine.outbox import Outbox, send

FILL_RECORDS = 20_000
READ_SECONDS = 120.0
METADATA_SECONDS = 30.0
CHANGELOG = {"cleanup.policy": "compact", "max.message.bytes": "20000000"}


class Tally:
    """A multiset of (key, value), in one number: equal ones tally equally, in whatever order they came."""

    def __init__(self) -> None:
        self.count = self.sum = 0

    def add(self, key: bytes, value: bytes) -> None:
        """Counts a record."""
        digest = hashlib.blake2b(
            value, key=hashlib.blake2b(key, digest_size=32).digest(), digest_size=16
        ).digest()
        self.sum = (self.sum + int.from_bytes(digest)) % (1 << 128)
        self.count += 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tally) and (self.count, self.sum) == (other.count, other.sum)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{self.count} records, {self.sum:032x}"


class Desk:
    """Stands between a benchmark and the embedded Kafka."""

    def __init__(self, bootstrap_servers: str, partitions: int) -> None:
        self.bootstrap_servers, self.partitions = bootstrap_servers, partitions
        self._admin: Any = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)

    async def __aenter__(self) -> "Desk":
        await self._admin.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._admin.close()

    async def create(self, names: Iterable[str], changelogs: Iterable[str] = ()) -> None:
        """Creates topics, all with the same partitions, and waits until they have their leaders."""
        new = [NewTopic(name, self.partitions, 1) for name in names]
        new += [NewTopic(name, self.partitions, 1, topic_configs=CHANGELOG) for name in changelogs]
        await self._admin.create_topics(new)
        async with asyncio.timeout(METADATA_SECONDS):
            while not await self._led([topic.name for topic in new]):
                await asyncio.sleep(0.02)

    async def _led(self, names: list[str]) -> bool:
        """Whether every partition has its leader."""
        described = await self._admin.describe_topics(names)
        return all(
            topic["error_code"] == 0
            and len(topic["partitions"]) == self.partitions
            and all(part["leader"] >= 0 for part in topic["partitions"])
            for topic in described
        )

    async def remove(self, prefix: str) -> None:
        """Removes every topic whose name begins so."""
        names = [name for name in await self._admin.list_topics() if name.startswith(prefix)]
        if names:
            await self._admin.delete_topics(names)

    async def fill(self, records: Iterable[tuple[str, bytes, bytes]]) -> None:
        """Puts (topic, key, value) on topics, each key where Kafka's default partitioner puts it."""
        outbox = Outbox(_All(self.partitions))
        producer: Any = aiokafka.AIOKafkaProducer(
            bootstrap_servers=self.bootstrap_servers,
            acks="all",
            max_batch_size=1_000_000,
            max_request_size=20_000_000,
        )
        async with producer:
            for number, (topic, key, value) in enumerate(records, 1):
                outbox.add(topic, key, value)
                if number % FILL_RECORDS == 0:
                    await _flush(producer, outbox)
            await _flush(producer, outbox)

    async def read(self, topic: str) -> AsyncIterator[tuple[bytes, bytes]]:
        """Keys and values of all that a topic holds now."""
        async for record in self.records(topic):
            yield record.key, record.value

    async def records(self, topic: str) -> AsyncIterator[Any]:
        """The records of all that a topic holds now."""
        consumer: Any = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap_servers, group_id=None, auto_offset_reset="earliest",
            max_poll_records=10_000, max_partition_fetch_bytes=4 << 20,
        )  # fmt: skip
        await consumer.start()
        try:
            parts = [aiokafka.TopicPartition(topic, number) for number in range(self.partitions)]
            consumer.assign(parts)
            ends = await consumer.end_offsets(parts)
            async with asyncio.timeout(READ_SECONDS):
                while any([await consumer.position(part) < ends[part] for part in parts]):
                    for records in (await consumer.getmany(timeout_ms=100)).values():
                        for record in records:
                            yield record
        finally:
            await consumer.stop()

    async def tally(self, topic: str) -> Tally:
        """What a topic holds."""
        found = Tally()
        async for key, value in self.read(topic):
            found.add(key, value)
        return found

    async def count(self, topic: str) -> int:
        """How many records a topic has taken."""
        consumer: Any = aiokafka.AIOKafkaConsumer(bootstrap_servers=self.bootstrap_servers)
        async with consumer:
            parts = [aiokafka.TopicPartition(topic, number) for number in range(self.partitions)]
            return sum((await consumer.end_offsets(parts)).values())

    async def committed(self, group: str, topic: str) -> int:
        """How many records of a topic the group has committed."""
        return sum(await self.committed_each(group, topic))

    async def committed_each(self, group: str, topic: str) -> list[int]:
        """The same for each partition of which the group has committed anything."""
        offsets = await self._admin.list_consumer_group_offsets(group)
        return [meta.offset for part, meta in offsets.items() if part.topic == topic and meta.offset > 0]


async def _flush(producer: Any, outbox: Outbox) -> None:
    batches = outbox.take()
    while batches:
        batches = await send(producer, batches)


class _All(dict[str, int]):
    """Every topic has the same partitions."""

    def __init__(self, partitions: int) -> None:
        super().__init__()
        self.partitions = partitions

    def __missing__(self, topic: str) -> int:
        return self.partitions
