"""What a unit sends: placed as Kafka's own partitioner does, in order, tried again only where it may be."""

import asyncio
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError, NotLeaderForPartitionError
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from agents.sending import Send
from pipeline.engine.outbox import BATCH_BYTES, RECORD_BYTES, Batch, Outbox, RecordTooLarge, send


@given(st.binary(min_size=1, max_size=40), st.integers(1, 24))
def test_a_key_lands_where_the_default_partitioner_puts_it(key: bytes, partitions: int) -> None:
    outbox = Outbox({"out": partitions})
    outbox.add("out", key, b"value")
    (batch,) = outbox.take()
    everywhere = list(range(partitions))
    assert batch.partition == DefaultPartitioner()(key, everywhere, everywhere)


def test_the_batches_of_a_partition_keep_the_order_of_adding() -> None:
    outbox = Outbox({"out": 1, "other": 1})
    for n in range(40):
        outbox.add("out", b"k", b"%d|" % n + bytes(100_000))
        outbox.add("other", b"k", b"%d" % n)
    batches = outbox.take()
    sent = [
        value.partition(b"|")[0] for b in batches if b.topic == "out" for _, value, _ in b.records if value
    ]
    assert sent == [b"%d" % n for n in range(40)]
    assert max(b.builder.size() for b in batches) <= BATCH_BYTES
    assert len([b for b in batches if b.topic == "out"]) > 1
    assert not outbox
    assert outbox.take() == []


def test_a_record_that_no_topic_takes_is_refused_with_its_key_counted() -> None:
    outbox = Outbox({"out": 1})
    outbox.add("out", b"", bytes(RECORD_BYTES))
    with pytest.raises(RecordTooLarge, match="which takes"):
        outbox.add("out", b"k", bytes(RECORD_BYTES))
    outbox.add("out", b"k", bytes(RECORD_BYTES), room=2 * RECORD_BYTES)
    with pytest.raises(KeyError):
        outbox.add("undeclared", b"k", b"v")


def test_what_goes_everywhere_goes_to_each_partition_once() -> None:
    outbox = Outbox({"p-out": 3})
    targets = {"out": ("p-out", 3, RECORD_BYTES)}
    outbox.extend([Send("out", b"k", b"all", everywhere=True), Send("out", b"k", b"one")], targets)
    sent = {batch.partition: [value for _, value, _ in batch.records] for batch in outbox.take()}
    assert set(sent) == {0, 1, 2}
    assert sorted(map(len, sent.values())) == [1, 1, 2]
    assert all(values[0] == b"all" for values in sent.values())


class FakeProducer:
    """A broker that answers each batch with what stands in its script."""

    def __init__(self, *script: Exception | None) -> None:
        self.script, self.sent = list(script), list[list[bytes | None]]()

    async def send_batch(self, builder: Any, topic: str, *, partition: int) -> asyncio.Future[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.sent.append([topic.encode(), b"%d" % builder.record_count()])
        match self.script.pop(0):
            case KafkaTimeoutError() as error:
                raise error
            case None:
                future.set_result(0)
            case error:
                future.set_exception(error)
        return future


def batches(count: int) -> list[Batch]:
    outbox = Outbox({"out": count})
    for number in range(count):
        outbox.add("out", b"k", b"v", partition=number)
    return outbox.take()


async def test_only_what_may_be_tried_again_comes_back_and_is_whole() -> None:
    producer = FakeProducer(None, NotLeaderForPartitionError(), KafkaTimeoutError(), None)
    failed = await send(producer, batches(4))
    assert [batch.partition for batch in failed] == [1, 2]
    again = FakeProducer(None, None)
    assert await send(again, failed) == []
    assert again.sent == [[b"out", b"1"]] * 2


async def test_an_error_that_will_not_pass_is_raised() -> None:
    with pytest.raises(MessageSizeTooLargeError):
        await send(FakeProducer(None, MessageSizeTooLargeError()), batches(2))
