"""What falls due in a store is published to a topic that its own App reads: a clock changes no state."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from faust.types import TP

from pipeline.engine.failpoint import failpoint
from pipeline.engine.outbox import Outbox
from pipeline.engine.record import Record
from pipeline.engine.store import scan
from tables import waits

if TYPE_CHECKING:
    from pipeline.engine.task import Task

DUE_HEADER = "due"
TOLD_HEADER = "told"
"""Says that whatever was to be sent when the wait began is out."""
AT_ONCE = 500
ON_THE_WAY = 5_000
"""How many are published together, and how many may be published and not yet read."""
NEVER = 1 << 62
SWEEP = 10_000
"""After so many rows that are gone, their whole stretch is removed once more: to find the first row behind a
million removed ones takes RocksDB a second."""


def due_in(record: Record) -> int | None:
    """The moment that a record carries that came up by itself, in ms since the epoch; None for any other."""
    for name, value in record.headers:
        if name == DUE_HEADER:
            return int(value)
    return None


def is_told(record: Record) -> bool:
    """Whether all that was to be sent when the record's wait began is surely out."""
    return any(name == TOLD_HEADER for name, _ in record.headers)


class Clock:
    """The broker's time, as its answers tell it: this machine's clock may be set, and nothing comes early.

    It is never ahead of the broker's: an answer takes its time, so that the quickest counts.
    """

    __slots__ = ("ahead",)

    def __init__(self) -> None:
        self.ahead: float | None = None

    def heard(self, landed: Any) -> None:
        """Takes the time from what the broker said of a batch."""
        if landed.timestamp_type == 1:  # LogAppendTime: the broker's own
            ahead = landed.timestamp - time.monotonic() * 1000
            if self.ahead is None or ahead > self.ahead:
                self.ahead = ahead

    def now(self) -> int:
        """Milliseconds since the epoch; this machine's own until the broker has been heard."""
        if self.ahead is None:
            return time.time_ns() // 1_000_000
        return int(time.monotonic() * 1000 + self.ahead)


class Timers:
    """The waits of one task: the next moment is in memory, the rows are in the store.

    After an assignment nothing is published before the task has passed the `ends` that its topics had then:
    what a former owner published may stand there. Until its row is gone, no record is published twice.
    """

    def __init__(self, task: "Task", ends: Mapping[TP, int]) -> None:
        self.task, self.ends = task, dict(ends)
        self.on_the_way: set[bytes] = set()
        #: all rows up to this one are on the way
        self.passed = b""
        #: rows removed since the last sweep
        self.gone = 0
        self.next = self.first()

    def first(self) -> int:
        """When the next of what is not on the way falls due."""
        for key, _ in scan(self.task.db, waits.PREFIX, after=self.passed or None):
            return waits.due_of(key)
        return NEVER

    def wrote(self, rows: Mapping[bytes, bytes | None]) -> None:
        """Follows what was written to the store."""
        for key, value in rows.items():
            if not key.startswith(waits.PREFIX):
                continue
            if value is None:
                self.on_the_way.discard(key)
                self.gone += 1
            else:
                self.next = min(self.next, waits.due_of(key))
                if key <= self.passed:
                    self.passed = waits.from_moment(key)
        if self.gone >= SWEEP:
            self.sweep()

    def sweep(self) -> None:
        """Removes the stretch before the first row, in which all are gone."""
        self.gone, floor = 0, min(min(self.on_the_way, default=self.passed), self.passed)
        if floor > waits.PREFIX:
            self.task.db.delete_range(waits.PREFIX, floor)

    @property
    def are_due(self) -> bool:
        """Whether there is something to publish now."""
        return self.next <= self.task.clock.now() and len(self.on_the_way) < ON_THE_WAY and self.has_passed()

    def has_passed(self) -> bool:
        """Whether all is read that stood in the task's topics at the assignment."""
        consumer = self.task.consumer
        for tp, end in list(self.ends.items()):
            if max(consumer.done.get(tp, -1), consumer.kept.get(tp, -1)) < end:
                return False
            del self.ends[tp]
        return True

    async def fire(self) -> None:
        """Publishes what is due, some at a time."""
        now, task = self.task.clock.now(), self.task
        outbox = Outbox(task.app.topic_partitions)
        sent: list[bytes] = []
        self.next = NEVER
        for key, due, wait in waits.read(scan(task.db, waits.PREFIX, after=self.passed or None)):
            if due > now or len(sent) >= AT_ONCE:
                self.next = due
                break
            if key not in self.on_the_way:
                headers = [*wait.headers, (DUE_HEADER, b"%d" % due)]
                if wait.epoch == task.epoch:  # a task's own rows are in its store only when its sends are out
                    headers.append((TOLD_HEADER, b"1"))
                outbox.add(wait.topic, wait.key, wait.value, headers, partition=task.number)
                sent.append(key)
            self.passed = key
        failpoint("timers.before_publish")
        await task.deliver(outbox.take())
        failpoint("timers.after_publish")
        self.on_the_way.update(sent)
