"""Calls to the outside, in group commits: attempts are durable before the call, results after it.

Each turn of a task's loop writes one changelog batch: the attempts of what it admits and the results
of the calls that have ended. When the broker has it: statuses out, RocksDB, then the admitted are
called and the ended are done. Two batches are never in flight on one partition.
"""

import asyncio
import heapq
import math
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from faust.types import TP

from pipeline.engine.failpoint import failpoint
from pipeline.engine.ledger import OffsetLedger
from pipeline.engine.queues import Queue, RankedQueue, rank_kept
from pipeline.engine.record import Record
from pipeline.engine.task import IDLE_SECONDS, UNIT_CHANGES_BYTES, Abandoned, Task, weight
from pipeline.engine.timers import DUE_HEADER, TOLD_HEADER, due_in
from pipeline.engine.unit import Unit
from tables import waits
from tables.waits import Wait

M = TypeVar("M")
R = TypeVar("R")

GATHER_SECONDS = 0.003
LEAST_SECONDS = 0.001
"""The least that a turn without work waits for the next."""
"""How long a turn waits for a few more results to share its batch."""
HELD = 2_000
HELD_BYTES = 32 << 20
"""What one task has taken and not finished, those included that wait for their user's turn."""
SHORT_SECONDS = 1.0
"""What cannot be called yet waits so long in memory, and longer as a row."""
AGAIN_SECONDS = 0.05
"""When to look again whether what waits in memory may be called."""
LETTING_GO_SECONDS = 1.0
SPAN = 20_000
"""The farthest that a task runs ahead of its first unfinished offset: farther than a queue lets overtake, so
that what is overtaken never keeps the task from coming back to it."""


@dataclass(slots=True, eq=False)
class Call(Generic[M]):
    """One call to be made: `effect` names it, `turn` the one (a user) who gets one call at a time.

    `wait_id` is the name under which it waits, where that is another: then a call does not join one that
    runs, but it does not overtake one that waits either.
    """

    effect: bytes
    turn: bytes
    message: M
    record: Record
    wait_id: bytes = b""
    begun: bool = False

    def __post_init__(self) -> None:
        self.wait_id = self.wait_id or self.effect


class EffectStage(Protocol[M, R]):
    """A stage that calls the outside. All but `call` are pure but for the unit."""

    #: how many calls a task runs side by side
    window: int
    #: how many this worker can really make at once, over all its tasks: an attempt is written only for a
    #: call that begins, so that a kill leaves no doubt about calls that never did
    parallel: int
    #: seconds that a call takes at the most, and that a drain waits for
    deadline: float

    def identify(self, record: Record) -> Call[M]:
        """Reads a record; raises where it cannot be read."""

    @property
    def room(self) -> int:
        """How many calls may begin now, over all its tasks: no more is taken from the queues."""

    @property
    def ready_in(self) -> float:
        """Seconds until there may be room again."""

    def assigned(self, share: float, window: int) -> None:
        """Hears which share of all partitions, from 0 to 1, is this worker's from now on.

        `window` is how many calls each of its tasks makes side by side.
        """

    def admit(self, call: Call[M], unit: Unit) -> bool | float:
        """Writes the attempt and says True; or False: no call, what is known is in the outbox again.

        Or it writes nothing, and says after how many seconds it is to be asked again.
        """

    def drop(self, call: Call[M]) -> None:
        """Hears that nothing is reserved for a call any more: it was not made, or it is over.

        It may hear so more than once.
        """

    def is_ready(self, call: Call[M]) -> bool:
        """Whether it is worth asking again for a call that was put off."""

    async def call(self, call: Call[M]) -> R:
        """Makes the call. Must not raise: doubt is a result."""

    def settle(self, call: Call[M], result: R, unit: Unit) -> float | None:
        """Writes the result and what it implies.

        Returns the seconds after which the record is to come up again, or None if it is settled. The wait
        is kept with the result; until it is over, copies of the record are done without a call.
        """

    def reject(self, record: Record, error: Exception, unit: Unit) -> None:
        """Dead-letters a record that could not be read or admitted."""


class EffectTask(Task):
    """One partition number of a role that calls the outside."""

    queue = RankedQueue

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.stage: EffectStage[Any, Any] = self.app.effects
        self.ledgers = {queue.tp: OffsetLedger() for queue in self.queues}
        #: the effects that are being made or waited for, and the records that wait for each
        self.open_effects: dict[bytes, list[Record]] = {}
        self.turns: set[bytes] = set()
        self.parked: dict[bytes, deque[Call[Any]]] = {}
        #: those whose turn has come
        self.again: deque[Call[Any]] = deque()
        #: those that could not be called yet, and whose turn it stays; in the order in which they are asked
        #: for again, and when that is (monotonic)
        self.later: list[tuple[float, int, Call[Any]]] = []
        self.results: deque[tuple[Call[Any], Any]] = deque()
        self.calls: set[asyncio.Task[None]] = set()
        self.held = self.held_bytes = 0
        #: why a call found that the partition is not surely ours any more
        self.lost: str | None = None

    @property
    def window(self) -> int:
        """The task's share of what can be called at once."""
        return max(1, min(self.stage.window, self.stage.parallel // max(1, len(self.consumer.tasks))))

    @property
    def pause(self) -> float:
        """How long a turn without work waits for the next, where nothing wakes it."""
        seconds = 0.0 if self.stage.room > 0 else self.stage.ready_in
        return max(seconds, LEAST_SECONDS) if seconds else IDLE_SECONDS

    # -- turns

    async def run(self) -> None:
        """Turn by turn until the task is closed."""
        try:
            while True:
                self.wake.clear()  # before the turn: what comes during it is for the next one
                if self.lost is not None:
                    raise Abandoned(self.lost)
                await self.fire()
                await self.sweep()
                turned = await self.turn()
                if self.results or (turned and not self.calls):
                    continue
                self.began = None
                if not self.calls:
                    self.set_busy(False)
                if not await self.woken(self.pause):
                    await self.when_idle()
                elif self.calls:
                    await asyncio.sleep(GATHER_SECONDS)
        except asyncio.CancelledError:
            raise
        except Abandoned as why:
            await self.abandon(str(why))
        except BaseException as error:
            await self.fail(error)
        finally:
            self.set_busy(False)

    async def turn(self) -> bool:
        """One group commit; says whether there was anything to do."""
        rejected: list[tuple[Record, Exception]] = []
        admitting = self.take(rejected) if self.may_take else []
        if not (self.results or rejected or admitting):
            return False
        taken = list(admitting)
        try:
            await self.commit(admitting, rejected)
        finally:
            for call in taken:
                if not call.begun:
                    self.stage.drop(call)
        return True

    async def commit(self, admitting: list[Call[Any]], rejected: list[tuple[Record, Exception]]) -> None:
        """Decides what was taken, settles what has ended, and begins the calls when all of it is written."""
        self.set_busy(True)
        self.own()
        topic = self.queues[0].tp.topic  # of the one stage, whichever it is
        raised = self.raised[self.app.stages[topic]]
        unit = Unit(
            "", self.number, [], self.recent, self.app.topic_partitions, generation=self.generation,
            patience=self.app.patience, raised=raised,
        )  # fmt: skip
        unit.now = self.clock.now()
        if admitting:
            unit.topic, unit.records, unit.calls = admitting[0].record.topic, admitting, []
            await self.consumer.decide(unit)
            if unit.broken is not None:
                # what was left undecided is neither done nor forgotten: it comes again after the stop
                self.give_up(unit.broken, admitting[-unit.left].record)
                del admitting[-unit.left :]
            for call in admitting:
                if due_in(call.record) is not None:
                    waits.drop(unit, call.wait_id)
        going_on = {id(call) for call in unit.calls} | {id(call) for call, _ in unit.later}
        closed = [call for call in admitting if id(call) not in going_on]
        for call, seconds in unit.later:
            self.put_off(call, seconds, unit, closed)
        rejected = self.tolerated(rejected, unit)
        for record, error in rejected:
            self.stage.reject(record, error, unit)
        ended = self.settle(unit, closed)
        unit.writes.update(self.counted(topic, unit.raised))
        await self.land(unit, ended=ended)
        self.raised[self.app.stages[topic]] = unit.raised
        for call in unit.calls:
            self.begin(call)
        for call in closed:
            self.close_effect(call)
        for record, error in rejected:
            self.finish(record)
            self.app.observer.rejected(record.topic, type(error).__name__)
        for kind in unit.rejected:
            self.app.observer.rejected(unit.topic, kind)

    def tolerated(
        self, rejected: list[tuple[Record, Exception]], unit: Unit
    ) -> list[tuple[Record, Exception]]:
        """What may be rejected of what could not be identified: all, unless the stage is broken."""
        for index, (record, error) in enumerate(rejected):
            if not unit.tolerates(error):
                self.give_up(error, record)
                return rejected[:index]
        return rejected

    def settle(self, unit: Unit, closed: list[Call[Any]]) -> bool:
        """Settles the calls that have ended, as many as one batch takes; says whether there were any."""
        count = 0
        while self.results and (count % 32 or weight(unit.writes) < UNIT_CHANGES_BYTES):
            call, result = self.results.popleft()
            count += 1
            wait = self.stage.settle(call, result, unit)
            if wait is not None:
                self.wait(call, wait, unit)
            closed.append(call)
        return count > 0

    def wait(self, call: Call[Any], seconds: float, unit: Unit, *, whole: bool = False) -> None:
        """Lets a call's record come up again by itself; `whole`: as if it had not come up yet."""
        due, record = self.clock.now() + math.ceil(seconds * 1000), call.record
        kept = tuple(record.headers) if whole else rank_kept(record)
        kept = tuple(header for header in kept if header[0] not in (DUE_HEADER, TOLD_HEADER))
        again = Wait(record.topic, record.key or b"", record.value or b"", self.epoch, kept)
        waits.put(unit, call.wait_id, due, again)

    def put_off(self, call: Call[Any], seconds: float, unit: Unit, closed: list[Call[Any]]) -> None:
        """Keeps what cannot be called yet, in memory or as a row."""
        if seconds > SHORT_SECONDS and weight(unit.writes) < UNIT_CHANGES_BYTES:
            self.wait(call, seconds, unit, whole=True)
            closed.append(call)
        else:
            seconds = min(seconds, SHORT_SECONDS)
            heapq.heappush(self.later, (time.monotonic() + seconds, id(call), call))
            asyncio.get_running_loop().call_later(seconds, self.wake.set)

    async def land(self, unit: Unit, *, ended: bool) -> None:
        """Changelog, outputs, store: each awaited."""
        if unit.calls:
            failpoint("effects.before_attempts")
        end = await self.log(unit.writes) if unit.writes else None
        if unit.calls:
            failpoint("effects.after_attempts")
        if ended:
            failpoint("effects.after_results")
        await self.deliver(unit.outbox.take())
        if ended:
            failpoint("effects.after_statuses")
        self.own()
        if end is not None:
            self.apply(unit.writes, end)

    def offer(self, tp: TP, records: list[Any]) -> bool:
        self.ledgers[tp].fetched(record.offset for record in records)
        return super().offer(tp, records)

    def may_serve(self, queue: Queue) -> bool:
        return super().may_serve(queue) and self.ledgers[queue.tp].span <= SPAN

    def take(self, rejected: list[tuple[Record, Exception]]) -> list[Call[Any]]:
        """What can be called now: nobody else's turn, no copy of it under way, room in the window."""
        admitting: list[Call[Any]] = []
        window = min(self.window, len(self.calls) + self.stage.room)
        now, asked = time.monotonic(), len(self.later)
        while self.later and asked and self.later[0][0] <= now and len(self.calls) + len(admitting) < window:
            call, asked = heapq.heappop(self.later)[2], asked - 1
            if self.stage.is_ready(call):
                admitting.append(call)
            else:
                heapq.heappush(self.later, (now + AGAIN_SECONDS, id(call), call))
        while self.again and len(self.calls) + len(admitting) < window:
            self.place(self.again.popleft(), admitting)
        while self.held < HELD and self.held_bytes < HELD_BYTES:
            room = window - len(self.calls) - len(admitting)
            queue = self.next_queue() if room > 0 else None
            if queue is None:
                break
            for record in queue.take(room):
                self.ledgers[queue.tp].took(record.offset)
                self.held += 1
                self.held_bytes += len(record.value or b"")
                try:
                    call = self.stage.identify(record)
                except Exception as error:
                    rejected.append((record, error))
                    continue
                if (waiting := self.open_effects.get(call.effect)) is not None:
                    waiting.append(record)
                elif (due := waits.find(self.recent, call.wait_id)) is not None and due_in(record) != due:
                    self.finish(record)  # it comes up by itself
                else:
                    self.open_effects[call.effect] = [record]
                    self.place(call, admitting)
            if queue.is_half_empty:
                self.consumer.resume(queue.tp)
        return admitting

    def place(self, call: Call[Any], admitting: list[Call[Any]]) -> None:
        """Admits a call, or parks it until its user's turn."""
        if call.turn in self.turns:
            self.parked.setdefault(call.turn, deque()).append(call)
        else:
            self.turns.add(call.turn)
            admitting.append(call)

    # -- calls

    def begin(self, call: Call[Any]) -> None:
        """Starts the call in the background."""
        call.begun = True
        task = asyncio.create_task(self.make(call))
        self.calls.add(task)
        task.add_done_callback(self.calls.discard)
        task.add_done_callback(lambda _: self.stage.drop(call))  # it may be cancelled before its first step

    async def make(self, call: Call[Any]) -> None:
        try:
            self.own()
            failpoint("effects.before_call")
            result = await self.stage.call(call)
            failpoint("effects.after_call")
        except Abandoned as why:
            self.lost = str(why)
            self.wake.set()
            return
        except Exception as error:
            await self.app.crash(error)
            return
        self.results.append((call, result))
        self.wake.set()

    def pass_turn(self, call: Call[Any]) -> None:
        self.turns.discard(call.turn)
        if parked := self.parked.get(call.turn):
            self.again.append(parked.popleft())
            if not parked:
                del self.parked[call.turn]

    def close_effect(self, call: Call[Any]) -> None:
        """Ends an effect: every record that waited for it is done."""
        self.pass_turn(call)
        for record in self.open_effects.pop(call.effect):
            self.finish(record)

    def finish(self, record: Record) -> None:
        tp = TP(record.topic, record.partition)
        ledger = self.ledgers[tp]
        ledger.done(record.offset)
        self.held -= 1
        self.held_bytes -= len(record.value or b"")
        if ledger.next is not None:
            self.consumer.done[tp] = ledger.next

    # -- ending

    async def abandon(self, why: str) -> None:
        await self.cut_off()
        await super().abandon(why)

    async def close(self) -> None:
        self.closed = True
        await self.cut_off()
        await super().close()

    async def cut_off(self) -> None:
        """What is cut off here has an attempt and no result: the next owner finds the doubt."""
        calls = list(self.calls)
        for call in calls:
            call.cancel()
        if calls:
            await asyncio.wait(calls, timeout=LETTING_GO_SECONDS)
