"""Cancelling a notification: asking core to, on the express lane of `notifications`."""

from aiokafka import AIOKafkaProducer

from agents import topics
from pipeline.settings import Settings
from pipeline.topics import client_options
from schemas.ids import hash_in, partition_of
from schemas.kinds import Priority
from schemas.notification import CANCEL, EventRef, Signal

TOPIC = topics.NOTIFICATION_LANES[Priority.CRITICAL]


async def cancel(settings: Settings, id: str, user_id: str = "", event: EventRef | None = None) -> None:
    """Returns when the broker has the request; core decides whether it came in time, and says so.

    The user and the event are for the status alone. Raises ValueError for what is no notification id.
    """
    hashed = hash_in(id)
    topic = settings.kafka.topic_prefix + TOPIC
    signal = Signal(kind=CANCEL, id=id, user_id=user_id, event=event)
    producer = AIOKafkaProducer(**client_options(settings), acks="all", enable_idempotence=True)
    try:
        await producer.start()
        partition = partition_of(hashed, len(await producer.partitions_for(topic)))
        await producer.send_and_wait(topic, signal.to_json(), key=user_id.encode(), partition=partition)
    finally:
        await producer.stop()
