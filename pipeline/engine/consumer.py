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
from pipeline.engine.store import restore
from pipeline.engine.task import Abandoned, Task
from pipeline.engine.unit import Unit

POLL_SECONDS = 0.05
DRAIN_SECONDS = 2.0
COMMIT_SLACK_SECONDS = 10.0


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
        self.draining = False
        self.seeking = asyncio.Lock()
        self.behind_since: float | None = None

    def _new_consumer_thread(self) -> Any:
        return internals.ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # -- fetching: polling never stops, whatever the tasks do

    async def _drain_messages(self, fetcher: Any) -> None:
        while not (self.should_stop or fetcher.should_stop):
            if not self.flow_active:
                await self.wait(self.can_resume_flow)
                continue
            async with self.seeking:
                active = {tp for tp in self._active_partitions or () if tp not in self.full}
                fetched = await self._getmany(active_partitions=active or internals.NOTHING, timeout=POLL_SECONDS)
                if self.flow_active:
                    for tp, records in (fetched or {}).items():
                        self.take(TP(*tp), records)
            await asyncio.sleep(0)

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
            self.kept = dict(begins)
            self.taken = dict(begins)

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

    async def open_tasks(self, numbers: set[int]) -> None:
        """Called when the store is restored: raises the epochs and lets the tasks begin."""
        self.check_partition_counts()
        generation = internals.generation(self.app)
        internals.watch_heartbeat(self)
        recovery = self.app.tables.recovery
        ends = await internals.end_offsets(self, {TP(topic, n) for n in numbers for topic in self.app.gates})
        make = Task if self.app.effects is None else EffectTask
        tasks = {number: make(self, number, generation) for number in numbers}

        async def open_one(task: Task) -> None:
            changelog = TP(self.app.changelog, task.number)
            mine = {tp: end for tp, end in ends.items() if tp.partition == task.number}
            try:
                await task.open(recovery.active_highwaters[changelog] + 1, mine)
            except Abandoned as why:
                await task.abandon(str(why))

        self.draining = False
        await asyncio.gather(*[open_one(task) for task in tasks.values()])
        if generation == internals.generation(self.app):
            self.tasks = tasks
            self.app.observer.restored(len(tasks))
        else:
            await asyncio.gather(*[task.close() for task in tasks.values()])

    def check_partition_counts(self) -> None:
        """Raises PartitionCountsDiffer, which says how to migrate."""
        wrong = []
        for topic in (*self.app.reads, self.app.changelog):
            found = self.topic_partitions(topic)
            if found is not None and found != self.app.partitions:
                wrong.append(f"{topic} has {found}")
        if wrong:
            raise PartitionCountsDiffer(
                f"{self.app.group} works on {self.app.partitions} partitions a topic, but {', '.join(wrong)}. "
                f"Keys would part ways, so nothing is taken. Give every topic of this role the same count: create "
                f"new topics under another kafka.topic_prefix and move the records there, in their order."
            )

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Stops taking, drains, commits, and lets go."""
        started = time.monotonic()
        await self.drain()
        self.app.observer.revoked(len(revoked), time.monotonic() - started)
        await super().on_partitions_revoked(revoked)

    async def drain(self) -> None:
        """Lets units end that have begun, commits what is done, and drops the tasks."""
        self.draining = True
        bound = DRAIN_SECONDS if self.app.effects is None else self.app.effects.deadline
        deadline = time.monotonic() + bound
        while any(task.busy for task in self.tasks.values()) and time.monotonic() < deadline:
            await asyncio.sleep(0.002)
        await self.force_commit()
        await asyncio.gather(*[task.close() for task in self.tasks.values()])
        self.tasks, self.done, self.kept, self.taken, self.full = {}, {}, {}, {}, set()

    async def on_stop(self) -> None:
        if self.tasks:
            await self.drain()
        await super().on_stop()

    # -- committing

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commits, for each partition, the first offset that is not finished."""
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

    # -- being well

    def heartbeat_at(self) -> float:
        """The monotonic time of the last heartbeat that the group's coordinator answered."""
        return float(internals.watch_heartbeat(self).last_heartbeat)

    @property
    def ready(self) -> bool:
        """Recovered, every task at work, and committing."""
        return (
            bool(self.taken)
            and not self.draining
            and not self.app.rebalancing
            and all(task.runner and not task.runner.done() for task in self.tasks.values())
            and (self.behind_since is None or time.monotonic() - self.behind_since < COMMIT_SLACK_SECONDS)
        )
