"""Every private attribute of faust, mode and aiokafka that the engine touches, in one place.

`tests/meta/test_internals.py` fails when an upgrade moves one of them.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    KafkaTimeoutError,
    ProducerClosed,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import OffsetAndMetadata
from faust.tables import recovery as faust_recovery
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

#: What the fetcher is asked for when every partition is paused: polling must go on (an empty set
#: means "all" to aiokafka), or the member would be thrown out of its group.
NOTHING = frozenset({TopicPartition("__nothing__", 0)})

LEAVE_SECONDS = 5.0
"""How long a stop waits for a joining to end, so that the group can be left properly."""


def pack(records: Sequence[Any], start: int, size: int) -> tuple[Any, int]:
    """Packs (key, value, headers) from index `start` on into a record batch of at most `size` bytes.

    Returns the batch and the index of the first that found no room; the first one always finds it.
    aiokafka's own `append` looks for serializers at each record, and costs twice as much.
    """
    batch = BatchBuilder(size, 0)
    append, count, now = batch._builder.append, 0, time.time_ns() // 1_000_000
    for key, value, headers in islice(records, start, None) if start else records:
        if append(count, now, key, value, headers) is None:
            break
        count += 1
    batch._relative_offset = count
    return batch, start + count


class Fetched(msgspec.Struct, frozen=True, gc=False):
    """A record as it was fetched (pipeline/engine/record.py)."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


def _fetched(_: Any, tp: TopicPartition, record: Any) -> Fetched:
    return Fetched(
        tp.topic, tp.partition, record.offset, record.timestamp, record.timestamp_type, record.key,
        record.value, tuple(record.headers),
    )  # fmt: skip


# aiokafka's own record is a dataclass of eleven fields, handed through two iterators: that costs more than
# reading it from its batch. Nobody in this process needs the other three.
fetcher.PartitionRecords._consumer_record = _fetched
fetcher.PartitionRecords.__iter__ = lambda records: records._records_iterator


def raw_producer(app: Any) -> Any:
    """aiokafka's producer behind Faust's."""
    return app.producer._producer


def is_retriable(error: BaseException) -> bool:
    """Whether the same request may succeed later; aiokafka does not say so of a full send buffer."""
    return isinstance(error, KafkaTimeoutError) or bool(getattr(error, "retriable", False))


def give_up_sending(producer: Any) -> None:
    """Ends what sends the batches; the idempotent producer itself would try for ever."""
    producer._sender.sender_task.cancel()


def fail_batches(producer: Any) -> None:
    """Lets go whoever waits for batches that were given up."""
    producer._message_accumulator.fail_all(ProducerClosed())


def raw_consumer(consumer: Any) -> Any:
    """aiokafka's consumer behind Faust's thread."""
    return consumer._thread._consumer


def generation(app: Any) -> int:
    """The group's generation that this member belongs to."""
    return int(app.consumer_generation_id)


def position(consumer: Any, tp: TP) -> int | None:
    """The offset that will be fetched next, or None while it is unknown."""
    assignment = raw_consumer(consumer)._subscription.subscription.assignment
    if assignment is None:
        return None
    state = assignment.state_value(TopicPartition(*tp))
    return state._position if state is not None and state._position is not None else None


def watch_heartbeat(consumer: Any) -> Any:
    """Makes the coordinator note when it sent its last good heartbeat; returns the coordinator.

    The sending counts, not the answer: a process that was frozen in between finds an old answer.
    """
    coordinator = raw_consumer(consumer)._coordinator
    if not hasattr(coordinator, "last_heartbeat"):
        coordinator.last_heartbeat, heartbeat = time.monotonic(), coordinator._do_heartbeat

        async def noted() -> bool:
            sent = time.monotonic()
            if ok := await heartbeat():
                coordinator.last_heartbeat = sent
            return bool(ok)

        coordinator._do_heartbeat = noted
    return coordinator


async def rejoin(consumer: Any) -> None:
    """Starts a rebalance: the way to begin again from the changelog and the committed offset."""

    async def request() -> None:
        raw_consumer(consumer)._coordinator.request_rejoin()

    await consumer._thread.call_thread(request)


async def commit(consumer: Any, offsets: Mapping[TP, int]) -> bool:
    """Commits offsets; False where the group has moved on or the coordinator is away."""

    async def in_thread() -> bool:
        try:
            await raw_consumer(consumer).commit(
                {TopicPartition(*tp): OffsetAndMetadata(offset, "") for tp, offset in offsets.items()}
            )
        except (CommitFailedError, IllegalStateError):
            return False
        except KafkaError as error:
            if error.retriable:
                return False
            raise
        return True

    return bool(await consumer._thread.call_thread(in_thread))


async def seek_to_start(consumer: Any, tps: set[TP]) -> dict[TP, int]:
    """Puts partitions to their committed offsets, or to their beginnings; returns where each begins.

    aiokafka's own `seek_to_committed` leaves a partition without a commit (or with offset 0) where it
    stands, which loses what was fetched and dropped before. A committed offset that the partition does
    not hold (it was emptied, or made anew) counts as none.
    """

    async def in_thread() -> dict[TP, int]:
        raw = raw_consumer(consumer)
        parts = [TopicPartition(*tp) for tp in tps]
        found = await raw._coordinator.fetch_committed_offsets(parts)
        first, behind = await asyncio.gather(raw.beginning_offsets(parts), raw.end_offsets(parts))
        begins = {}
        for tp in parts:
            committed = found[tp].offset if tp in found else -1
            begins[TP(*tp)] = committed if first[tp] <= committed <= behind[tp] else first[tp]
            raw.seek(tp, begins[TP(*tp)])
        return begins

    return dict(await consumer._thread.call_thread(in_thread))


async def end_offsets(consumer: Any, tps: set[TP]) -> dict[TP, int]:
    """The offset behind the last record of each partition."""
    if not tps:
        return {}

    async def in_thread() -> dict[TP, int]:
        ends = await raw_consumer(consumer).end_offsets([TopicPartition(*tp) for tp in tps])
        return {TP(*tp): offset for tp, offset in ends.items()}

    return dict(await consumer._thread.call_thread(in_thread))


def forget_acks(consumer: Any) -> None:
    """Drops Faust's own bookkeeping of acks, one entry a unit: ours is exact and its would only grow."""
    consumer._acked.clear()
    consumer._acked_index.clear()


def note_restored(recovery: Any, tp: TP, offset: int) -> None:
    """Tells Faust's recovery how far a changelog was read, and ends it when all are read."""
    recovery.active_offsets[tp] = offset
    if recovery.in_recovery and not recovery.need_recovery():
        recovery._set_recovery_ended()
        recovery.signal_recovery_end.set()


def note_emptiness(consumer: Any, recovery: Any) -> None:
    """Counts a changelog as read whose end holds no records (markers, batches that compaction emptied).

    To be called when all that was fetched has been restored.
    """
    for tp, highwater in list(recovery.active_highwaters.items()):
        if (recovery.active_offsets.get(tp) or 0) < highwater < (position(consumer, tp) or 0):
            note_restored(recovery, tp, highwater)


class Recovery(faust_recovery.Recovery):  # type: ignore[misc]
    """Faust's recovery, made to notice when it is overtaken by a rebalance or gets no answer."""

    def _set_recovery_started(self) -> None:
        self.signal_recovery_end.clear()  # Faust clears it within five seconds: this one may come sooner
        super()._set_recovery_started()

    async def _wait(self, coro: Any, timeout: Any = None) -> None:  # noqa: ASYNC109 (Faust's signature)
        try:
            await super()._wait(coro, timeout=timeout)
        except faust_recovery.ServiceStopped:
            if self.should_stop:
                raise
            # Faust takes a time-out for a stop: the app would live on without ever working again.
            raise TimeoutError(f"the broker did not answer a recovery within {timeout} s") from None

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        """Opens the tasks, unless a rebalance has come in between (which Faust lets pass here)."""
        if self.signal_recovery_start.is_set() or generation_id != generation(self.app):
            raise faust_recovery.RebalanceAgain
        await self.app.consumer.open_tasks({tp.partition for tp in self.active_tps}, generation_id)
        if self.app.consumer.opened != generation_id:
            raise faust_recovery.RebalanceAgain
        await super().on_recovery_completed(generation_id)


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's consumer thread with a fetch wait that does not hold up seeks and new partitions."""

    fetch_wait_ms = 50

    async def on_thread_stop(self) -> None:
        """Leaves the group and closes the connections, in seconds, whatever aiokafka is in the midst of.

        It may wait for a joining that others hold up, and it trips over a fetch that it cancels itself:
        either would end this thread without a word, and Faust waits for that word for a minute.
        """
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await super().on_thread_stop()
        except (asyncio.CancelledError, TimeoutError):
            with contextlib.suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(1):
                    await self._consumer._coordinator._maybe_leave_group()
            await self._consumer._client.close()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Counts the joining as a heartbeat: there were none while the others were waited for."""
        watch_heartbeat(self.consumer).last_heartbeat = time.monotonic()
        await super().on_partitions_assigned(assigned, generation_id)

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = self.fetch_wait_ms
        return consumer
