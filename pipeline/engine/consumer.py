"""Faust's consumer, extended: fetched batches go straight to tasks, offsets are committed exactly."""

import asyncio
import time
from typing import Any

from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from pipeline.engine import internals
from pipeline.engine.effects import EffectTask
from pipeline.engine.failpoint import failpoint
from pipeline.engine.heap import settle
from pipeline.engine.store import is_corruption, restore
from pipeline.engine.task import Abandoned, Task, within
from pipeline.engine.unit import Unit

POLL_SECONDS = 0.05
DRAIN_SECONDS = 2.0
LAST_WORDS_SECONDS = 2.0
"""How long a drain waits for the marks, and for the commit, after the last unit."""
SLACK_SECONDS = 10.0
"""How long a commit, or a unit, may take before this worker counts as not ready."""


class PartitionCountsDiffer(Exception):
    """Topics of one App have different partition counts: nothing is taken, or keys would part ways."""


class UnitConsumer(driver.Consumer):  # type: ignore[misc]
    """Feeds the tasks of one App and commits what they have finished."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tasks: dict[int, Task] = {}
        self.done: dict[TP, int] = {}
        self.kept: dict[TP, int] = {}
        self.taken: dict[TP, int] = {}
        self.full: set[TP] = set()
        #: how far gate topics were read, those offsets included that hold no record
        self.read: dict[TP, int] = {}
        #: the generation that assigned what we have, and the one whose tasks are open
        self.assigned: int | None = None
        self.opened: int | None = None
        self.draining = self.stopping = False
        self.seeking, self.committing, self.drained = asyncio.Lock(), asyncio.Lock(), asyncio.Lock()
        self.behind_since: float | None = None
        #: how much was heard of rewinds, and in which generation, when that was last looked at
        self.heeded: tuple[int, int] | None = None

    def _new_consumer_thread(self) -> Any:
        return internals.ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # -- fetching: polling never stops, whatever the tasks do

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self.should_stop or fetcher.should_stop):
                if not self.flow_active:
                    await self.wait(self.can_resume_flow)
                    continue
                async with self.seeking:
                    await self.poll()
                await self.heed()
                await asyncio.sleep(0)
        except (*self.consumer_stopped_errors, asyncio.CancelledError):
            if not self.app.should_stop:  # else Faust would take the end of a stop for a crash
                raise

    async def poll(self) -> None:
        """Fetches once, and notes how far that went where the last offsets may hold no records."""
        active = {tp for tp in self._active_partitions or () if tp not in self.full}
        fetched = await self._getmany(active_partitions=active or internals.NOTHING, timeout=POLL_SECONDS)
        if not self.flow_active:
            return
        for tp, records in (fetched or {}).items():
            self.take(TP(*tp), records)
        for task in self.tasks.values():
            for tp in task.gates:
                self.read[tp] = internals.position(self, tp) or 0
        recovery = self.app.tables.recovery
        if recovery.in_recovery:
            internals.note_emptiness(self, recovery)

    def take(self, tp: TP, records: list[Any]) -> None:
        """Gives a fetched batch to the changelog's restore or to the task of its number."""
        if self._is_changelog_tp(tp):
            recovery = self.app.tables.recovery
            known = recovery.active_offsets.get(tp)
            fresh = [r for r in records if known is None or r.offset > known]
            if fresh and recovery.in_recovery and tp in recovery.tp_to_table:
                restore(recovery, tp, fresh, self.app.observer.zombie_rows)
            return
        begin, task = self.taken.get(tp), self.tasks.get(tp.partition)
        if begin is None or task is None or self.draining:
            return  # fetched before the seek to the committed offset; it comes again
        fresh = [r for r in records if r.offset >= begin] if records[0].offset < begin else records
        if fresh:
            self.taken[tp] = fresh[-1].offset + 1
            if task.offer(tp, fresh):
                self.full.add(tp)

    def resume(self, tp: TP) -> None:
        """Fetches from a partition again whose queue has emptied."""
        self.full.discard(tp)

    async def perform_seek(self) -> None:
        """Puts every stream partition to its committed offset; only what is fetched after this counts."""
        async with self.seeking:
            tps = {tp for tp in self.assignment() if not self._is_changelog_tp(tp)}
            begins = await internals.seek_to_start(self, tps)
            self.kept, self.taken, self.read = dict(begins), dict(begins), {}

    async def heed(self) -> None:
        """Starts a rebalance where a task was told to begin anew: it drains, and opening it obeys."""
        if self.opened is None or self.heeded == (now := (self.app.rewinds.heard, self.opened)):
            return
        self.heeded = now
        if any(task.runs and task.due() for task in self.tasks.values()):
            await internals.rejoin(self)

    async def decide(self, unit: Unit) -> float:
        """Hands a unit to its agent; returns the seconds that deciding took."""
        unit.decided = asyncio.get_running_loop().create_future()
        tp = TP(unit.topic, unit.partition)
        message = ConsumerMessage(
            tp.topic, tp.partition, 0, 0.0, 1, {}, None, unit, None, 0, 0, tp,
            generation_id=unit.generation,
        )  # fmt: skip
        await self.callback(message)
        return await unit.decided

    # -- opening and giving up partitions

    async def open_tasks(self, numbers: set[int], generation: int) -> None:
        """Called when the store is restored: raises the epochs and lets the tasks begin.

        Opens nothing, and leaves `opened` as it is, where the next rebalance has begun.
        """
        self.check_partition_counts()
        ends = await internals.end_offsets(self, {TP(topic, n) for n in numbers for topic in self.app.reads})
        if self.stopping or generation != self.assigned:
            return
        make = Task if self.app.effects is None else EffectTask
        # A drain must find them from now on: it may come while they are being opened.
        self.tasks = {number: make(self, number, generation) for number in numbers}
        self.draining = False
        if self.app.effects is not None:
            windows = [task.window for task in self.tasks.values() if isinstance(task, EffectTask)]
            self.app.effects.assigned(len(numbers) / self.app.partitions, min(windows, default=1))
        settle(self.app.group)
        await asyncio.gather(*[self.open_task(task, ends) for task in self.tasks.values()])
        if not self.draining:
            self.opened = generation
            self.app.observer.restored(len(numbers))

    async def open_task(self, task: Task, ends: dict[TP, int]) -> None:
        """Opens one task, or abandons it where someone else was quicker."""
        recovery, changelog = self.app.tables.recovery, TP(self.app.changelog, task.number)
        restored = recovery.active_offsets[changelog]
        if restored < recovery.active_highwaters[changelog]:
            raise RuntimeError(f"{changelog} was restored up to {restored} only")
        try:
            own = {tp: end for tp, end in ends.items() if tp.partition == task.number}
            gates = {tp: end for tp, end in own.items() if tp.topic in self.app.gates}
            # what falls due comes up in any topic of a role that calls, and in no gate of another
            others = {tp: end for tp, end in own.items() if tp not in gates or self.app.effects is not None}
            await task.open(restored + 1, gates, others)
        except Abandoned as why:
            await task.abandon(str(why))
        except Exception as error:
            if is_corruption(error):
                self.app.store.quarantine(task.number, error)
            raise

    def check_partition_counts(self) -> None:
        """Raises PartitionCountsDiffer, which says how to migrate."""
        wrong = []
        for topic in (*self.app.reads, self.app.changelog):
            found = self.topic_partitions(topic)
            if found is not None and found != self.app.partitions:
                wrong.append(f"{topic} has {found}")
        if wrong:
            raise PartitionCountsDiffer(
                f"{self.app.group} works on {self.app.partitions} partitions a topic, "
                f"but {', '.join(wrong)}. Keys would part ways, so nothing is taken. "
                f"Give every topic of this role the same count: create new topics under another "
                f"kafka.topic_prefix and move the records there, in their order."
            )

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Stops taking, drains, commits, and lets go."""
        started, self.assigned = time.monotonic(), None
        try:
            await self.drain()
        except Exception as error:
            await self.app.crash(error)
        self.app.observer.revoked(len(revoked), time.monotonic() - started)
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self.assigned = generation_id
        await super().on_partitions_assigned(assigned, generation_id)

    async def drain(self) -> None:
        """Lets units end that have begun, commits what is done, and drops the tasks; never takes long."""
        self.draining, self.opened = True, None
        async with self.drained:
            tasks = list(self.tasks.values())
            try:
                if tasks and not self.crashed:
                    bound = DRAIN_SECONDS + (0 if self.app.effects is None else self.app.effects.deadline)
                    if await within(bound, *[task.idle.wait() for task in tasks]):
                        await within(LAST_WORDS_SECONDS, *[task.last_words() for task in tasks])
                    await within(LAST_WORDS_SECONDS, self.force_commit())
            finally:
                await asyncio.gather(*[task.close() for task in tasks])
                self.tasks, self.done, self.kept, self.taken, self.full = {}, {}, {}, {}, set()

    async def close_tasks(self) -> None:
        """Drains for good: whatever the group does from now on, no task is opened again."""
        self.stopping = True
        await self.drain()

    def close(self) -> None:
        """Not Faust's way, which closes the thread's connections from here when a stop meets a rebalance."""

    async def on_stop(self) -> None:
        await self.close_tasks()
        await super().on_stop()

    # -- committing

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commits, for each partition, the first offset that is not finished."""
        async with self.committing:
            return await self.commit_done()

    async def commit_done(self) -> bool:
        internals.forget_acks(self)
        offsets = {tp: offset for tp, offset in self.done.items() if offset > self.kept.get(tp, -1)}
        if not offsets:
            self.behind_since = None
            return False
        self.behind_since = self.behind_since or time.monotonic()
        failpoint("commit.before")
        if not await internals.commit(self, offsets):
            return False
        failpoint("commit.after")
        self.kept.update(offsets)
        self.behind_since = None
        self.app.observer.committed(len(offsets))
        return True

    async def commit_rewound(self, offsets: dict[TP, int]) -> bool:
        """Commits where partitions that are being opened are to begin; False where that was in vain."""
        async with self.committing:
            return await internals.commit(self, offsets)

    async def commit_and_end_transactions(self) -> None:
        """Called at the end of a stop: the drain has committed, and a second try might wait for ever."""

    # -- being well

    def heartbeat_at(self) -> float:
        """The monotonic time of the last heartbeat that the group's coordinator answered."""
        return float(internals.watch_heartbeat(self).last_heartbeat)

    async def verify_all_partitions_active(self) -> None:
        """Not Faust's way, which looks at the acks that are not used here; see `ready`."""

    @property
    def ready(self) -> bool:
        """Recovered, every task at work, and getting on."""
        now = time.monotonic()
        return (
            self.opened is not None
            and self.opened == internals.generation(self.app)
            and not self.app.rebalancing
            and not self.crashed
            and now - self.heartbeat_at() < self.app.conf.broker_session_timeout
            and all(task.runs and now - (task.began or now) < SLACK_SECONDS for task in self.tasks.values())
            and (self.behind_since is None or now - self.behind_since < SLACK_SECONDS)
        )
