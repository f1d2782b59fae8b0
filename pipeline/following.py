"""Topics that a process reads whole, without a group, and then follows."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from pipeline.settings import Settings
from pipeline.topics import client_options

log = logging.getLogger(__name__)
READ_SECONDS = 60.0
PAUSE_SECONDS = 1.0
FETCH_BYTES = 8 << 20


class Follower:
    """Hands every record of some topics of one partition to `take`: what is there at the start, then each."""

    def __init__(self, settings: Settings, topics: Sequence[str], take: Callable[[Any], None]) -> None:
        self.settings, self.topics, self.take = settings, topics, take
        self._consumer: Any = None
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Reads the topics to their ends, then follows them in the background."""
        consumer = self._consumer = AIOKafkaConsumer(
            **client_options(self.settings), group_id=None, auto_offset_reset="earliest",
            enable_auto_commit=False, fetch_max_wait_ms=50, max_partition_fetch_bytes=FETCH_BYTES,
        )  # fmt: skip
        await consumer.start()
        parts = [TopicPartition(self.settings.kafka.topic_prefix + topic, 0) for topic in self.topics]
        consumer.assign(parts)
        await consumer.seek_to_beginning(*parts)
        ends = await consumer.end_offsets(parts)
        async with asyncio.timeout(READ_SECONDS):
            while any([await consumer.position(part) < ends[part] for part in parts]):
                self._hand_over(await consumer.getmany(timeout_ms=50))
        self._following = asyncio.create_task(self._follow(), name="-".join(self.topics))

    async def stop(self) -> None:
        """Stops following."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        if self._consumer is not None:
            await self._consumer.stop()

    async def _follow(self) -> None:
        while True:
            try:
                self._hand_over(await self._consumer.getmany(timeout_ms=500))
            except KafkaError as error:
                log.error("%s could not be read: %s", ", ".join(self.topics), error)
                await asyncio.sleep(PAUSE_SECONDS)

    def _hand_over(self, fetched: dict[Any, list[Any]]) -> None:
        for records in fetched.values():
            for record in records:
                self.take(record)
