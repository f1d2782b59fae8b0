"""Rows whose window is past are removed, a few at a time, by the broker's time, in batches of the changelog.

A pass looks at every row of the tables that have a window, in the order of their keys; the place that it has
come to is kept in the store. A step looks at what a moment's time allows, and the steps take a hundredth of a
task's time: nothing is done for a record. A step is a unit of work of its own, with none beside it. After an
assignment none is taken before the task has passed the ends that its topics had then: what stands there may
be in doubt, and looks for its rows.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from pipeline.engine.failpoint import failpoint
from pipeline.engine.store import COLD, OWN, scan
from pipeline.engine.unit import Unit

if TYPE_CHECKING:
    from pipeline.engine.task import Task

log = logging.getLogger(__name__)

Forget = Callable[[Unit, bytes, bytes, int], None]
"""Over a key, its value and a moment: removes through the unit what was over before that moment."""

SWEPT = OWN + b"swept"
"""Local only: the last key that was looked at."""
STEP_ROWS = 1_000
STEP_CHANGES = 5_000
STEP_SECONDS = 0.002
SHARE = 100
"""A step is followed by so many times its length without one."""
PASS_SECONDS = 3_600.0
"""From the end of a pass to the beginning of the next."""
SLACK = 3_600_000
"""Milliseconds for which rows are kept beyond their window: clocks of brokers differ, and a task's lags."""
UNREADABLE = (ValueError, TypeError, LookupError, msgspec.MsgspecError)


class Sweep(NamedTuple):
    """One table: the prefix of its keys, who removes its rows, and the milliseconds that they are kept."""

    prefix: bytes
    forget: Forget
    window: int


class Sweeper:
    """The sweeping of one task's store."""

    def __init__(self, task: "Task", sweeps: Sequence[Sweep]) -> None:
        self.task, self.sweeps = task, sorted(sweeps)
        #: the last key that was looked at; none before a pass
        self.place: bytes = task.db.get(SWEPT) or b""
        self.due = time.monotonic()
        self.unreadable = 0

    @property
    def is_due(self) -> bool:
        """Whether a step is to be taken now: it is time, and the broker's time is known."""
        task = self.task
        return (
            time.monotonic() >= self.due
            and task.clock.ahead is not None
            and task.timers is not None
            and task.timers.has_passed()
        )

    def look(self, unit: Unit, now: int) -> bool:
        """Lets rows be removed through `unit`; says whether that was the end of the pass."""
        looked, until = 0, time.perf_counter() + STEP_SECONDS
        for sweep in self.sweeps:
            if self.place >= sweep.prefix and not self.place.startswith(sweep.prefix):
                continue  # behind us
            oldest = now - sweep.window - SLACK
            after = self.place if self.place.startswith(sweep.prefix) else None
            for key, value in scan(self.task.db, sweep.prefix, after=after, options=COLD):
                try:
                    sweep.forget(unit, key, value, oldest)
                except UNREADABLE:
                    self.unreadable += 1
                self.place = key
                looked += 1
                if (
                    looked >= STEP_ROWS
                    or len(unit.writes) >= STEP_CHANGES
                    or (looked % 16 == 0 and time.perf_counter() >= until)
                ):
                    return False
        return True

    async def step(self) -> None:
        """Looks at some rows, and removes those whose window is past."""
        task, started = self.task, time.perf_counter()
        # not through the rows that were read lately: what is looked at here is cold
        unit = Unit("", task.number, [], task.db, {}, generation=task.generation)
        ended = self.look(unit, task.clock.now())
        pause = SHARE * (time.perf_counter() - started)
        if unit.writes:
            failpoint("sweep.before_log")
            end = await task.log(unit.writes)
            failpoint("sweep.after_log")
            task.apply(unit.writes, end)
            task.app.observer.swept(sum(value is None for value in unit.writes.values()))
        if ended:
            self.place, pause = b"", PASS_SECONDS
            if self.unreadable:
                log.warning("%s-%d: %d rows could not be read", task.app.group, task.number, self.unreadable)
            self.unreadable = 0
        task.db.put(SWEPT, self.place)
        self.due = time.monotonic() + pause
