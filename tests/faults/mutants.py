"""Broken versions of the engine and the stages: the oracle must catch each, or it proves nothing."""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from faust.types import TP
from msgspec.structs import replace

from agents import deliver
from agents import plan as plan_stage
from pipeline.delivery import Delivery
from pipeline.engine import store
from pipeline.engine.consumer import UnitConsumer
from pipeline.engine.effects import EffectTask
from pipeline.engine.failpoint import failpoint
from pipeline.engine.progress import Progress
from pipeline.engine.task import Abandoned, Task
from schemas.kinds import Channel, Doubt
from tables import claims


def ack_before_outputs() -> None:
    """Offsets are committed before the outputs are out."""
    whole = Task.unit

    async def unit(self: Task, queue: Any, records: list[Any]) -> None:
        self.consumer.done[queue.tp] = records[-1].offset + 1
        await self.consumer.force_commit()
        await whole(self, queue, records)

    Task.unit = unit  # type: ignore[method-assign]


def outputs_before_changelog() -> None:
    """What was decided goes out before it is remembered."""
    decide = UnitConsumer.decide

    async def decide_and_deliver(self: UnitConsumer, unit: Any) -> float:
        spent: float = await decide(self, unit)
        await self.tasks[TP(unit.topic, unit.partition).partition].deliver(unit.outbox.take())
        if unit.topic.startswith("notifications"):  # intake remembers nothing, so there it does no harm
            failpoint("effects.before_attempts")
        return spent

    UnitConsumer.decide = decide_and_deliver  # type: ignore[method-assign]


def claim_without_origin() -> None:
    """A claim does not know which record made it, so a redelivery looks like a duplicate."""
    find = claims.find

    def forgetful(*args: Any) -> Any:
        claim = find(*args)
        return claim and replace(claim, origin=replace(claim.origin, offset=-1))

    plan_stage.claims.find = forgetful  # type: ignore[attr-defined]
    deliver = Task.deliver

    async def deliver_messages(self: Task, batches: list[Any]) -> None:
        if any(batch.topic.endswith("-notifications") for batch in batches):  # claimed, and not yet out
            failpoint("effects.before_attempts")
        await deliver(self, batches)

    Task.deliver = deliver_messages  # type: ignore[method-assign]


def fresh_key_a_retry() -> None:
    """Every attempt has a key of its own."""

    async def call(self: Delivery, call: Any) -> Any:
        errand = call.message
        provider = errand.offer.member.provider
        answer = await provider.send(errand.parcel.message, f"{errand.parcel.key}.{errand.attempt.n}")
        if self.channel is Channel.WEBHOOK:  # made, and its result not yet known: the receiver knows its key
            failpoint("timers.after_publish")
        return answer, errand.offer.end(answer)

    Delivery.call = call  # type: ignore[method-assign]


def abandoned_goes_on() -> None:
    """A unit that was given up counts as done, and the next one follows."""
    whole = Task.unit

    async def unit(self: Task, queue: Any, records: list[Any]) -> None:
        try:
            await whole(self, queue, records)
        except Abandoned:
            self.consumer.done[queue.tp] = records[-1].offset + 1

    Task.unit = unit  # type: ignore[method-assign]


def epochs_ignored() -> None:
    """A restore takes every record for its owner's, whatever epoch it was written in."""
    epoch_of = store.epoch_of

    class Newest(int):
        def __lt__(self, _: int) -> bool:
            return False

    store.epoch_of = lambda record: Newest(epoch_of(record))


def offset_as_mark() -> None:
    """A claim knows the offset that it was decided at, and the mark is the last offset that is out."""
    put, begin = claims.put, Progress.__init__

    def put_at_offset(rows: Any, key: bytes, claim: Any) -> None:
        put(rows, key, replace(claim, number=claim.origin.offset))

    def begin_before_the_first(self: Progress, topic: str, db: Any) -> None:
        begin(self, topic, db)
        self.doubt = None
        if db.get(self.mark_key) is None:
            self.mark = self.kept_mark = -1

    def finished(self: Progress, last: int, *, wrote: bool) -> None:
        if wrote:
            self.kept_mark = self.mark
        self.mark = max(self.mark, last)

    plan_stage.claims.put = put_at_offset  # type: ignore[attr-defined]
    Progress.__init__ = begin_before_the_first  # type: ignore[method-assign]
    Progress.finished = finished  # type: ignore[method-assign]


def call_before_attempt() -> None:
    """A call begins before its attempt is durable."""
    land, begin = EffectTask.land, EffectTask.begin
    begun: set[int] = set()

    async def land_late(self: EffectTask, unit: Any, *, ended: bool) -> None:
        for call in unit.calls:
            begun.add(id(call))
            begin(self, call)
        if unit.calls:
            await asyncio.wait(self.calls, return_when=asyncio.FIRST_COMPLETED)
        await land(self, unit, ended=ended)

    def begin_others(self: EffectTask, call: Any) -> None:
        if id(call) in begun:
            begun.discard(id(call))
        else:
            begin(self, call)

    EffectTask.land = land_late  # type: ignore[method-assign]
    EffectTask.begin = begin_others  # type: ignore[method-assign]


def policy_ignored() -> None:
    """What was cut off is called again, whatever the message chose."""
    resolve = deliver._resolve_cut_off

    def call_again(parcel: Any, *args: Any, **options: Any) -> Any:
        again = parcel._replace(message=replace(parcel.message, doubt=Doubt.AT_LEAST_ONCE))
        return resolve(again, *args, **options)

    deliver._resolve_cut_off = call_again


class Mutant(NamedTuple):
    """A mutant, the failpoints that bring it down, and the words by which the oracle must name its fault."""

    break_it: Callable[[], None]
    points: tuple[str, ...]
    faults: tuple[str, ...]
    kills: int = 8
    #: whether it takes several workers
    of_several: bool = False
    #: the kind of provider that it is played with, of `--only delivery`
    kind: str = ""


MUTANTS = {
    "ack_before_outputs": Mutant(
        ack_before_outputs, ("unit.after_decide", "unit.after_changelog"), ("no outcome",)
    ),
    "outputs_before_changelog": Mutant(
        outputs_before_changelog, ("effects.before_attempts",), ("told two outcomes", "byte forms")
    ),
    "claim_without_origin": Mutant(claim_without_origin, ("effects.before_attempts",), ("no outcome",)),
    "epochs_ignored": Mutant(
        epochs_ignored, ("haunt",), ("told two outcomes", "byte forms"), kills=3, of_several=True
    ),
    "offset_as_mark": Mutant(offset_as_mark, ("mended",), ("no outcome",), kills=5),
    "abandoned_goes_on": Mutant(abandoned_goes_on, ("daze",), ("no outcome",), kills=20, of_several=True),
    "fresh_key_a_retry": Mutant(fresh_key_a_retry, ("timers.after_publish",), ("effects at the keyed sink",)),
}
OF_DELIVERY = {
    "call_before_attempt": Mutant(
        call_before_attempt, ("effects.before_attempts",), ("effects, 0 doubts",), kills=2, kind="smtp"
    ),
    "policy_ignored": Mutant(
        policy_ignored, ("effects.after_call",), ("doubts, at_most_once",), kills=2, kind="smtp"
    ),
    "fresh_key_a_retry": Mutant(
        fresh_key_a_retry, ("timers.after_publish",), ("0 doubts, once",), kills=2, kind="webhook"
    ),
}
"""Those that the loop on deliveries must catch."""


def caught(mutant: str, wrong: list[str]) -> str | None:
    """The line by which the oracle names the mutant's own fault, or None."""
    return next((line for line in wrong if any(fault in line for fault in MUTANTS[mutant].faults)), None)
