"""Broken versions of the engine and the stages: the oracle must catch each, or it proves nothing."""

from typing import Any

from agents import plan as plan_stage
from pipeline.delivery import Delivery
from pipeline.engine.failpoint import failpoint
from pipeline.engine.task import Task
from pipeline.engine.unit import Unit
from tables import claims


def _decided(order: str) -> Any:
    """A unit whose steps come in another order."""

    async def unit(self: Task, queue: Any, records: list[Any]) -> None:
        tp, last = queue.tp, records[-1].offset
        self.own()
        failpoint("unit.before_decide")
        progress = self.progress[tp.topic]
        found = Unit(
            tp.topic, tp.partition, records, self.db, self.app.topic_partitions,
            number=progress.number + 1, mark=progress.mark, generation=self.generation,
        )  # fmt: skip
        await self.consumer.decide(found)
        failpoint("unit.after_decide")
        end = None
        wrote = bool(found.writes)
        if order == "ack_first":
            self.consumer.done[tp] = last + 1
            await self.consumer.force_commit()
        if order == "outputs_first":
            await self.deliver(found.outbox.take())
            failpoint("unit.after_outputs")
        if wrote:
            found.writes.update(progress.rows(last))
            end = await self.log(found.writes)
        if order == "ack_first" and end is not None:
            self.apply(found.writes, end)
            progress.finished(last, wrote=wrote)
        failpoint("unit.after_changelog")
        await self.deliver(found.outbox.take())
        failpoint("unit.after_outputs")
        if order != "ack_first":
            if end is not None:
                self.apply(found.writes, end)
            progress.finished(last, wrote=wrote)
        failpoint("unit.after_store")
        self.consumer.done[tp] = last + 1

    return unit


def ack_before_outputs() -> None:
    """Offsets are committed before the outputs are out."""
    Task.unit = _decided("ack_first")  # type: ignore[method-assign]


def outputs_before_changelog() -> None:
    """What was decided goes out before it is remembered."""
    Task.unit = _decided("outputs_first")  # type: ignore[method-assign]


def claim_without_origin() -> None:
    """A claim does not know which record made it, so a redelivery looks like a duplicate."""
    find = claims.find

    def forgetful(*args: Any) -> Any:
        claim = find(*args)
        return claim and claim._replace(origin=claim.origin._replace(offset=-1))

    plan_stage.claims.find = forgetful  # type: ignore[attr-defined]


def fresh_key_a_retry() -> None:
    """Every attempt has a key of its own."""

    async def call(self: Delivery, call: Any) -> Any:
        errand = call.message
        return await self.provider.send(errand.parcel.message, f"{errand.parcel.key}.{errand.attempt.n}")

    Delivery.call = call  # type: ignore[method-assign]


#: each mutant, and the failpoints that should bring it down
MUTANTS = {
    "ack_before_outputs": (ack_before_outputs, ("unit.after_changelog",)),
    "outputs_before_changelog": (outputs_before_changelog, ("unit.after_outputs",)),
    "claim_without_origin": (claim_without_origin, ("unit.after_changelog",)),
    "fresh_key_a_retry": (fresh_key_a_retry, ("effects.after_call", "effects.after_results")),
}
