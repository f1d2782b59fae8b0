"""The limit: the same bytes in and out, with the same clients and nothing else."""

import asyncio
from typing import Any

import aiokafka

from benchmarks.worker import Stopwatch, order, report

IN_FLIGHT = 16


async def main() -> None:
    """Measures one run."""
    told, watch, done = order(), Stopwatch(), 0
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=told.bootstrap_servers,
        group_id=None,
        auto_offset_reset="earliest",
        max_poll_records=4000,
    )
    producer = aiokafka.AIOKafkaProducer(
        bootstrap_servers=told.bootstrap_servers,
        acks="all",
        max_batch_size=1_000_000,
        max_request_size=20_000_000,
    )
    await consumer.start()
    await producer.start()
    consumer.assign([aiokafka.TopicPartition(told.source, number) for number in range(told.partitions)])
    waiting: list[Any] = []
    while done < told.events:
        for part, records in (await consumer.getmany(timeout_ms=100)).items():
            watch.start()
            for topic in told.outputs.values():
                waiting += [
                    await producer.send_batch(batch, topic, partition=part.partition)
                    for batch in batches(producer, records)
                ]
            done += len(records)
        if len(waiting) > IN_FLIGHT:
            await asyncio.gather(*waiting)
            waiting = []
    await asyncio.gather(*waiting)
    watch.stop()
    report(watch)
    await consumer.stop()
    await producer.stop()


def batches(producer: Any, records: list[Any]) -> list[Any]:
    """The records as full batches."""
    batch = producer.create_batch()
    found = [batch]
    for record in records:
        if batch.append(key=record.key, value=record.value, timestamp=None) is None:
            batch = producer.create_batch()
            found.append(batch)
            batch.append(key=record.key, value=record.value, timestamp=None)
    return found


if __name__ == "__main__":
    asyncio.run(main())
