"""Cancelling a broadcast: every partition of core is told, for each goes its own way."""

import asyncio
import contextlib

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from agents import topics
from pipeline.settings import Settings
from pipeline.topics import client_options, partitions
from schemas.kinds import Priority
from schemas.notification import CANCEL_BROADCAST, Signal

SECONDS = 10.0


class NotCancelled(Exception):
    """The broker did not take it; it may be tried again."""


async def cancel(settings: Settings, broadcast: str) -> None:
    """Returns when the broker has the cancel for every partition; repeating it does no harm.

    Raises NotCancelled.
    """
    signal = Signal(kind=CANCEL_BROADCAST, id=broadcast, user_id="").to_json()
    topic = settings.kafka.topic_prefix + topics.NOTIFICATION_LANES[Priority.HIGH]
    producer = AIOKafkaProducer(**client_options(settings), acks="all", enable_idempotence=True)
    try:
        async with asyncio.timeout(SECONDS):
            await producer.start()
            sent = [
                await producer.send(topic, signal, key=broadcast.encode(), partition=number)
                for number in range(partitions(settings, "core"))
            ]
            await asyncio.gather(*sent)
    except (KafkaError, TimeoutError) as error:
        raise NotCancelled(f"the broker did not take it: {error or type(error).__name__}") from None
    finally:
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(SECONDS):
                await producer.stop()
