"""The delivery stage of a channel: the ledger's decisions around a provider's calls."""

import logging
import random
import time
from dataclasses import dataclass

from agents import deliver, intake, topics
from agents.deliver import Parcel
from pipeline.engine import Call, Record, Unit
from pipeline.engine.timers import is_told
from pipeline.metrics import Metrics
from pipeline.providers.provider import Provider
from pipeline.wiring import Wiring, origin_of
from schemas.kinds import Channel
from schemas.outcome import Outcome
from tables.effects import Attempt

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Errand:
    """A parcel, and the attempt that is being made for it; `told`: what its earlier ones imply is out."""

    parcel: Parcel
    told: bool = False
    attempt: Attempt | None = None


class Delivery:
    """An engine's EffectStage over one channel and its provider."""

    def __init__(
        self,
        channel: Channel,
        provider: Provider,
        wiring: Wiring,
        metrics: Metrics,
        window: int,
        deadline: float,
        forgets_after: int,
    ) -> None:
        self.channel, self.provider, self.wiring, self.metrics = channel, provider, wiring, metrics
        self.window, self.deadline, self.parallel = window, deadline, provider.parallel
        #: milliseconds for which attempts are remembered
        self.forgets_after = forgets_after

    def identify(self, record: Record) -> Call[Errand]:
        """Reads a message. Raises Unreadable."""
        parcel = deliver.read(record.value, origin_of(record), record.headers)
        # a redriven message waits for its turn: one that joined a copy would end with it, and not be decided
        effect = parcel.effect + (parcel.redrive or "").encode()
        errand = Errand(parcel, is_told(record))
        return Call(effect, parcel.message.user_id.encode(), errand, record, parcel.effect)

    def admit(self, call: Call[Errand], unit: Unit) -> bool:
        """Writes the attempt, or what the ledger knows already."""
        errand, provider = call.message, self.provider
        admitted = deliver.admit(
            errand.parcel,
            unit,
            unit.now,
            provider.name,
            honours_keys=provider.honours_keys,
            told=errand.told,
            oldest=unit.now - self.forgets_after,
        )
        self.wiring.send(unit, admitted.sends)
        errand.attempt = admitted.attempt
        return admitted.attempt is not None

    async def call(self, call: Call[Errand]) -> Outcome:
        """Calls the provider; an outcome, always."""
        started, parcel = time.perf_counter(), call.message.parcel
        with self.metrics.calling(self.provider.name, self.channel):
            outcome = await self.provider.send(parcel.message, parcel.key)
        self.metrics.called(self.provider.name, self.channel, outcome.kind, time.perf_counter() - started)
        return outcome

    def settle(self, call: Call[Errand], result: Outcome, unit: Unit) -> float | None:
        """Writes the result and what it implies."""
        errand = call.message
        assert errand.attempt is not None
        sends, wait = deliver.settle(
            errand.parcel, errand.attempt, result, unit, unit.now,
            honours_keys=self.provider.honours_keys, jitter=random.random(),
        )  # fmt: skip
        self.wiring.send(unit, sends)
        if any(send.topic == topics.DEAD_MESSAGES[self.channel] for send in sends):
            self.metrics.dead_lettered(topics.DEAD_MESSAGES[self.channel])
        return wait

    def reject(self, record: Record, error: Exception, unit: Unit) -> None:
        """Dead-letters what could not be read."""
        log.warning(
            "dead-lettered %s-%d-%d: %s", record.topic, record.partition, record.offset, type(error).__name__
        )
        self.metrics.dead_lettered(topics.DEAD_MESSAGES[self.channel])
        dead = intake.dead(
            record.value, record.key, error, origin_of(record), topics.DEAD_MESSAGES[self.channel],
            record.headers,
        )  # fmt: skip
        self.wiring.send(unit, [dead])
