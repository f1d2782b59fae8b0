"""Every private attribute of faust, mode and aiokafka that the engine touches, in one place.

`tests/meta/test_internals.py` fails when an upgrade moves one of them.
"""

import time
from collections.abc import Mapping
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

#: What the fetcher is asked for when every partition is paused: polling must go on (an empty set
#: means "all" to aiokafka), or the member would be thrown out of its group.
NOTHING = frozenset({TopicPartition("__nothing__", 0)})


def record_batch(size: int) -> Any:
    """An empty record batch of at most `size` bytes; the first record may be larger."""
    return BatchBuilder(size, 0)


def raw_producer(app: Any) -> Any:
    """aiokafka's producer behind Faust's."""
    return app.producer._producer


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
    """Makes the coordinator note the time of its last good heartbeat; returns the coordinator."""
    coordinator = raw_consumer(consumer)._coordinator
    if not hasattr(coordinator, "last_heartbeat"):
        coordinator.last_heartbeat, heartbeat = time.monotonic(), coordinator._do_heartbeat

        async def noted() -> bool:
            if ok := await heartbeat():
                coordinator.last_heartbeat = time.monotonic()
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
    stands, which loses what was fetched and dropped before.
    """

    async def in_thread() -> dict[TP, int]:
        raw = raw_consumer(consumer)
        parts = [TopicPartition(*tp) for tp in tps]
        found = {tp: meta.offset for tp, meta in (await raw._coordinator.fetch_committed_offsets(parts)).items()}
        if fresh := [tp for tp in parts if found.get(tp, -1) < 0]:
            found.update(await raw.beginning_offsets(fresh))
        for tp in parts:
            raw.seek(tp, found[tp])
        return {TP(*tp): offset for tp, offset in found.items()}

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


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's consumer thread with a fetch wait that does not hold up seeks and new partitions."""

    fetch_wait_ms = 50

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = self.fetch_wait_ms
        return consumer
