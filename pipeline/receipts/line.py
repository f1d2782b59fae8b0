"""To the broker, for whoever answers requests: one producer, started when it is first needed."""

import asyncio
import contextlib
from collections.abc import Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from agents.sending import Send
from pipeline.settings import Settings
from pipeline.topics import client_options, counts
from schemas.ids import partition_of

SECONDS = 5.0
SIDE_BY_SIDE = 64
"""Requests whose records are on their way; the others wait."""


class BrokerAway(Exception):
    """The broker did not take it; whoever asked should ask again."""


class Line:
    """Records to topics of ours."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._partitions = settings, counts(settings)
        self._producer: AIOKafkaProducer | None = None
        self._starting, self._turn = asyncio.Lock(), asyncio.Semaphore(SIDE_BY_SIDE)

    async def send(self, sends: Sequence[Send]) -> None:
        """Returns when the broker has every record. Raises BrokerAway; then some may be there."""
        try:
            async with asyncio.timeout(SECONDS), self._turn:
                producer = await self._ready()
                waiting = [
                    await producer.send(
                        self._settings.kafka.topic_prefix + one.topic, one.value, key=one.key,
                        partition=partition, headers=one.headers or (),
                    )
                    for one in sends
                    for partition in self._places(one)
                ]  # fmt: skip
                await asyncio.gather(*waiting)
        except (KafkaError, TimeoutError) as error:
            raise BrokerAway(f"the broker did not take it: {type(error).__name__}") from None

    def _places(self, send: Send) -> Sequence[int | None]:
        count = self._partitions[send.topic]
        if send.everywhere:
            return range(count)
        return [None if send.hashed is None else partition_of(send.hashed, count)]

    async def _ready(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                options = client_options(self._settings)
                producer = AIOKafkaProducer(**options, acks="all", enable_idempotence=True)
                try:
                    await producer.start()
                except BaseException:
                    with contextlib.suppress(KafkaError):
                        await producer.stop()
                    raise
                self._producer = producer
            return self._producer

    async def close(self) -> None:
        """Lets what is on its way arrive, for a moment. Safe to repeat."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(SECONDS):
                    await producer.stop()
