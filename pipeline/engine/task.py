"""The unit of scheduling: all partitions of one number, one unit of work at a time."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaError
from faust.types import TP
from rocksdict import WriteBatch

from pipeline.engine import internals
from pipeline.engine.failpoint import failpoint
from pipeline.engine.marker import Marker
from pipeline.engine.outbox import Batch, RecordTooLarge, send
from pipeline.engine.patience import broken, raised_key
from pipeline.engine.progress import Progress
from pipeline.engine.queues import Queue, ranked
from pipeline.engine.rewinds import NEVER, Place, Rewind
from pipeline.engine.store import (
    EPOCH_HEADER,
    EPOCH_KEY,
    HIDDEN,
    OFFSET_KEY,
    OWN,
    Recent,
    StoreBroken,
    is_corruption,
    read_number,
    scan,
)
from pipeline.engine.sweep import Sweeper
from pipeline.engine.timers import Clock, Timers
from pipeline.engine.unit import Unit

if TYPE_CHECKING:
    from pipeline.engine.consumer import UnitConsumer

CHANGELOG_BATCH_BYTES = 16_000_000
UNIT_CHANGES_BYTES = CHANGELOG_BATCH_BYTES // 2
"""The most that a unit of several records writes; one record alone may write nearly a whole batch."""
ROW_OVERHEAD = 64
FAIR_SHARE = 10
"""A topic of lower rank gets at least one unit in this many."""
REWOUND = OWN + b"rewound|"
"""Before a topic's name: the place of the last request to rewind it that this partition has obeyed."""
IDLE_SECONDS = 0.05
RETRY_SECONDS = 0.1


class Abandoned(Exception):
    """The partition is no longer surely ours: whoever owns it now does the work."""


async def within(seconds: float, *waits: Awaitable[Any]) -> bool:
    """Waits for all of `waits`, for so long at the most; says whether they came to an end."""
    try:
        await asyncio.wait_for(asyncio.gather(*waits), seconds)
    except TimeoutError:
        return False
    return True


def weight(rows: Mapping[bytes, bytes | None]) -> int:
    """About the bytes that rows take in a changelog batch."""
    return sum(len(key) + len(value or b"") for key, value in rows.items()) + ROW_OVERHEAD * len(rows)


def rewound_key(tp: TP) -> bytes:
    """The row that says up to which request a topic was rewound."""
    return REWOUND + str(tp.topic).encode()


class Task:
    """One partition number of an App: decides units, lands them, and knows what it has finished."""

    queue: type[Queue] = Queue

    def __init__(self, consumer: "UnitConsumer", number: int, generation: int) -> None:
        self.consumer, self.app, self.number, self.generation = consumer, consumer.app, number, generation
        self.queues = [self.queue(TP(topic, number)) for topic in self.app.reads]
        self.by_topic = {queue.tp.topic: queue for queue in self.queues}
        self.wake = asyncio.Event()
        #: set while no unit is under way
        self.idle = asyncio.Event()
        self.idle.set()
        self.began: float | None = None
        self.abandoned = self.closed = False
        self.runner: asyncio.Task[None] | None = None
        self.gates: dict[TP, int] = {}
        self.progress: dict[str, Progress] = {}
        self.obeyed: dict[TP, Place] = {}
        #: where the next changelog batch must begin; anything else means that a zombie wrote
        self.next_changelog_offset = 0
        self.epoch = 0
        self.recent: Recent
        self.clock = Clock()
        self.timers: Timers | None = None
        self.sweeper: Sweeper | None = None
        self.marker: Marker
        #: on how many records in a row each stage has raised what nobody expects
        self.raised: dict[str, int] = {}

    @property
    def db(self) -> Any:
        return self.app.store.db(self.number)

    @property
    def runs(self) -> bool:
        """Whether the task was opened and is neither abandoned nor closed."""
        return self.runner is not None and not self.runner.done() and not self.abandoned

    @property
    def may_take(self) -> bool:
        """Whether anything new may be begun."""
        return not (self.abandoned or self.consumer.draining or self.app.gave_up is not None)

    def set_busy(self, busy: bool) -> None:
        """Notes that a unit begins, or that none is under way."""
        if busy:
            self.began = time.monotonic()
            self.idle.clear()
        else:
            self.began = None
            self.idle.set()

    # -- opening

    async def open(self, next_changelog_offset: int, gates: dict[TP, int], ends: dict[TP, int]) -> None:
        """Raises the epoch, writes again what a zombie hid, and begins to work.

        `gates` and `ends` are where the topics that come first, and the others, ended at the assignment.
        """
        db = self.db
        self.recent = Recent(db)
        self.marker = Marker(Path(self.app.conf.datadir) / "deciding" / str(self.number))
        self.next_changelog_offset = next_changelog_offset
        self.epoch = read_number(db, EPOCH_KEY) + 1
        self.gates = gates
        hidden = [key for key, _ in scan(db, HIDDEN)]
        rows: dict[bytes, bytes | None] = {}
        size = 0
        for key in [key.removeprefix(HIDDEN) for key in hidden]:
            rows[key] = db.get(key)
            size += weight({key: rows[key]})
            if size > UNIT_CHANGES_BYTES:
                self.apply(rows, await self.log(rows))
                rows, size = {}, 0
        rows[EPOCH_KEY] = b"%d" % self.epoch  # last: a zombie's own is among the hidden
        self.apply(rows, await self.log(rows), forget=hidden)
        await self.obey()
        self.progress = {queue.tp.topic: Progress(queue.tp.topic, db) for queue in self.queues}
        self.raised = {name: read_number(db, raised_key(name)) for name in set(self.app.stages.values())}
        self.timers = Timers(self, ends)
        self.sweeper = Sweeper(self, self.app.sweeps) if self.app.sweeps else None
        self.runner = asyncio.create_task(self.run(), name=f"{self.app.group}-{self.number}")

    async def obey(self) -> None:
        """Commits the offsets that were asked for since, and notes that; nothing is read before it ends.

        A store without any past has nothing to rewind: it only notes what was asked before its time.
        """
        for queue in self.queues:
            time_, _, offset = (self.db.get(rewound_key(queue.tp)) or b"%d %d" % NEVER).partition(b" ")
            self.obeyed[queue.tp] = int(time_), int(offset)
        due = self.due()
        if not due:
            return
        self.own()
        if self.epoch > 1 and not await self.consumer.commit_rewound(
            {tp: rewind.offset for tp, rewind in due.items()}
        ):
            raise Abandoned("the offsets of a rewind could not be committed")
        rows: dict[bytes, bytes | None] = {rewound_key(tp): b"%d %d" % r.place for tp, r in due.items()}
        self.apply(rows, await self.log(rows))
        self.obeyed |= {tp: rewind.place for tp, rewind in due.items()}

    def due(self) -> dict[TP, Rewind]:
        """Where this task is to begin anew and has not yet."""
        found: dict[TP, Rewind] = self.app.rewinds.due([queue.tp for queue in self.queues], self.obeyed)
        return found

    # -- taking

    def offer(self, tp: TP, records: list[Any]) -> bool:
        """Queues fetched records; says whether the partition should be paused now."""
        queue = self.by_topic[tp.topic]
        queue.offer(records)
        self.wake.set()
        return queue.is_full

    def gate_is_open(self) -> bool:
        """Whether the topics that come first were read as far as they went at the assignment."""
        for tp, end in list(self.gates.items()):
            if self.by_topic[tp.topic] or self.consumer.read.get(tp, -1) < end:
                return False
            del self.gates[tp]
        return True

    def may_serve(self, queue: Queue) -> bool:
        return len(queue) > 0

    def next_queue(self) -> Queue | None:
        """The queue to serve: the highest that has records, but each lower one at least once in ten."""
        waiting = [queue for queue in self.queues if self.may_serve(queue)]
        if waiting and self.gates and not self.gate_is_open():
            first = [queue for queue in waiting if queue.tp.topic in self.app.gates]
            if first or not any(queue and queue.tp in self.gates for queue in self.queues):
                waiting = first  # else one that comes first waits for a slow call: so do not the others
        if not waiting:
            return None
        chosen = waiting[0]
        if len(waiting) > 1:
            # Those passed over longest go first; the n-th of them must get its turn n units from now.
            lower = sorted(waiting[1:], key=lambda queue: -queue.passed_over)
            if any(queue.passed_over + n >= FAIR_SHARE - 1 for n, queue in enumerate(lower)):
                chosen = lower[0]
        for queue in waiting:
            queue.passed_over += 1
        chosen.passed_over = 0
        return chosen

    async def run(self) -> None:
        """Serves the queues until the task is closed."""
        try:
            while True:
                await self.fire()
                await self.sweep()
                queue = self.next_queue() if self.may_take else None
                if queue is None:
                    self.set_busy(False)
                    self.wake.clear()
                    if not await self.woken():
                        await self.when_idle()
                    continue
                self.set_busy(True)
                records = queue.take(max(1, int(self.app.unit_budget(queue.tp.topic) / queue.cost)))
                if queue.is_half_empty:
                    self.consumer.resume(queue.tp)
                await self.unit(queue, records)
        except asyncio.CancelledError:
            raise
        except Abandoned as why:
            await self.abandon(str(why))
        except BaseException as error:
            await self.fail(error)
        finally:
            self.set_busy(False)

    async def fire(self) -> None:
        """Publishes what falls due now."""
        if self.timers is not None and self.timers.are_due and self.may_take:
            self.set_busy(True)
            await self.timers.fire()

    async def sweep(self) -> None:
        """Removes some rows whose window is past, where it is time to."""
        if self.sweeper is not None and self.sweeper.is_due and self.may_take:
            self.set_busy(True)
            await self.sweeper.step()

    async def woken(self, seconds: float = IDLE_SECONDS) -> bool:
        """Waits for work, a moment at most."""
        try:
            await asyncio.wait_for(self.wake.wait(), min(seconds, IDLE_SECONDS))
        except TimeoutError:
            return False
        return True

    # -- one unit

    async def unit(self, queue: Queue, records: list[Any]) -> None:
        """Decide, changelog, outputs, store, offset: each awaited, in this order.

        The records are decided by rank; where the unit begins and ends is by their offsets.
        """
        tp, last = queue.tp, records[-1].offset
        self.own()
        failpoint("unit.before_decide")
        progress = self.progress[tp.topic]
        unit = Unit(
            tp.topic, tp.partition, ranked(records), self.recent, self.app.topic_partitions,
            number=progress.number + 1, mark=progress.mark, generation=self.generation,
            epoch=self.epoch,
            patience=self.app.patience, raised=self.raised[self.app.stages[tp.topic]],
        )  # fmt: skip
        if self.clock.ahead is not None:
            unit.now = self.clock.now()
        first, marker = records[0].offset, self.marker
        if marker.suspects_in(tp.topic, first):
            unit.mark_record = partial(marker.record, tp.topic, first, last)
        marker.unit(tp.topic, first, last)
        try:
            spent = await self.consumer.decide(unit)
        finally:
            marker.clear()
        queue.cost = 0.8 * queue.cost + 0.2 * spent / len(records)
        if unit.broken is not None:
            decided = len(records) - unit.left
            queue.put_back(records[decided:])
            if not decided:
                self.give_up(unit.broken, records[0])
                return
            records, last = records[:decided], records[decided - 1].offset
        if (changes := weight(unit.writes)) > UNIT_CHANGES_BYTES:
            if len(records) > 1:
                half = len(records) // 2
                queue.put_back(records[half:])
                await self.unit(queue, records[:half])
                return
            if changes > CHANGELOG_BATCH_BYTES - ROW_OVERHEAD:
                self.reject_too_large(unit, changes)
        failpoint("unit.after_decide")
        end = None
        unit.writes.update(self.counted(tp.topic, unit.raised))
        if wrote := bool(unit.writes):
            unit.writes.update(progress.rows(last))
            end = await self.log(unit.writes)
        failpoint("unit.after_changelog")
        await self.deliver(unit.outbox.take())
        failpoint("unit.after_outputs")
        self.own()
        if end is not None:
            self.apply(unit.writes, end)
        progress.finished(last, wrote=wrote)
        self.raised[self.app.stages[tp.topic]] = unit.raised
        failpoint("unit.after_store")
        self.consumer.done[tp] = last + 1
        self.app.observer.unit_done(tp.topic, len(records), spent)
        for error in unit.rejected:
            self.app.observer.rejected(tp.topic, error)
        if unit.broken is not None:
            self.give_up(unit.broken, queue.records[0])

    def counted(self, topic: str, raised: int) -> dict[bytes, bytes | None]:
        """The row of how often the stage of a topic has raised in a row, where that has changed."""
        stage = self.app.stages[topic]
        if raised == self.raised[stage]:
            return {}
        return {raised_key(stage): b"%d" % raised if raised else None}

    def give_up(self, error: Exception, record: Any) -> None:
        """Stops the role, as an operator would, for the sake of a stage that raises on everything."""
        stage, place = self.app.stages[record.topic], f"{record.topic}-{record.partition}-{record.offset}"
        self.app.give_up(stage, broken(stage, self.app.patience.most, place, error))

    def reject_too_large(self, unit: Unit, changes: int) -> None:
        """Rejects the unit's one record, whose changes no batch takes."""
        _, reject = self.app.deciders[unit.topic]
        error = RecordTooLarge(f"{changes} bytes of changes, of which a batch takes {CHANGELOG_BATCH_BYTES}")
        unit.writes.clear()
        unit.outbox.clear()
        unit.rejected = [type(error).__name__]
        reject(unit.records[0], error, unit)

    async def log(self, rows: dict[bytes, bytes | None]) -> int:
        """Lands rows in the changelog, whole or not at all; returns the last offset that they took.

        When it returns, the partition was still ours; only then may the rows be applied.
        """
        headers = [(EPOCH_HEADER, b"%d" % self.epoch)]
        while True:
            self.own()
            records = [(key, value, headers) for key, value in rows.items()]
            batch, packed = internals.pack(records, 0, CHANGELOG_BATCH_BYTES)
            if packed < len(records):
                raise RecordTooLarge(f"{weight(rows)} bytes of changes in one batch")
            try:
                failpoint("task.before_log")
                sent = await internals.raw_producer(self.app).send_batch(
                    batch, self.app.changelog, partition=self.number
                )
                landed = await sent
                break
            except KafkaError as error:
                if not internals.is_retriable(error):
                    raise
                await asyncio.sleep(RETRY_SECONDS)
        self.clock.heard(landed)
        if landed.offset != self.next_changelog_offset:
            raise Abandoned("another owner wrote to the changelog")
        self.own()
        self.next_changelog_offset = landed.offset + len(rows)
        return self.next_changelog_offset - 1

    async def deliver(self, batches: list[Batch]) -> None:
        """Sends outputs and waits until the broker has them all."""
        while batches:
            self.own()
            batches = await send(internals.raw_producer(self.app), batches)
            if batches:
                await asyncio.sleep(RETRY_SECONDS)

    def apply(self, rows: dict[bytes, bytes | None], end: int, forget: list[bytes] | None = None) -> None:
        """Writes rows and the changelog offset `end` into RocksDB, in one batch."""
        writes = WriteBatch(raw_mode=True)
        for key, value in rows.items():
            if value is None:
                writes.delete(key)
            else:
                writes.put(key, value)
        for key in forget or ():
            writes.delete(key)
        writes.put(OFFSET_KEY, b"%d" % end)
        try:
            self.db.write(writes)
        except Exception as error:
            raise StoreBroken(str(error)) from error
        self.recent.wrote(rows)
        if self.timers is not None:
            self.timers.wrote(rows)

    async def when_idle(self) -> None:
        """Keeps the marks, so that a restart sends nothing again."""
        if not self.abandoned and not self.consumer.draining and self.moved_marks():
            self.set_busy(True)
            await self.keep_marks()

    def moved_marks(self) -> list[Progress]:
        return [progress for progress in self.progress.values() if progress.mark != progress.kept_mark]

    async def keep_marks(self) -> None:
        """Writes the marks that have moved; nothing else of the task may be under way."""
        moved = self.moved_marks()
        if not moved or not self.runs:
            return
        rows: dict[bytes, bytes | None] = {p.mark_key: b"%d" % p.mark for p in moved}
        self.apply(rows, await self.log(rows))
        for progress in moved:
            progress.kept_mark = progress.mark

    async def last_words(self) -> None:
        """Keeps the marks at the end of a drain, so that whoever comes next has nothing in doubt."""
        with contextlib.suppress(Abandoned):
            await self.keep_marks()

    # -- owning

    def own(self) -> None:
        """Raises Abandoned unless this generation still holds and the heartbeat is fresh."""
        if self.closed or self.abandoned or self.generation != internals.generation(self.app):
            raise Abandoned("the group has a new generation")
        age = time.monotonic() - self.consumer.heartbeat_at()
        if age > self.app.conf.broker_session_timeout / 2:
            raise Abandoned(f"no heartbeat for {age:.1f} s")

    async def abandon(self, why: str) -> None:
        """Drops everything: what was in flight is unknown here, so begin again from the changelog."""
        if self.closed:
            return
        self.abandoned = True
        for queue in self.queues:
            queue.clear()
        self.app.observer.abandoned(why)
        if self.generation == internals.generation(self.app):
            await internals.rejoin(self.consumer)

    async def fail(self, error: BaseException) -> None:
        """Stops the role, which is started again; a broken store is put aside before."""
        if isinstance(error, Exception) and is_corruption(error):
            self.app.store.quarantine(self.number, error)
        await self.app.crash(error)

    async def close(self) -> None:
        """Ends the runner; what it still waits for is not applied any more."""
        self.closed = True
        if self.runner is not None:
            self.runner.cancel()
            await asyncio.gather(self.runner, return_exceptions=True)
            self.marker.close()
