"""The delivery stage of a channel: the ledger's decisions around a provider's calls."""

import logging
import random
import time
from dataclasses import dataclass

from agents import deliver, intake, stops, topics
from agents.deliver import Parcel
from pipeline.engine import Call, Record, Unit
from pipeline.engine.timers import is_told
from pipeline.metrics import Metrics
from pipeline.pool import Offer, Pool
from pipeline.providers.provider import Queryable
from pipeline.wiring import Wiring, origin_of
from schemas.kinds import Channel
from schemas.message import Stop
from schemas.outcome import Outcome, doubtful
from tables.effects import Attempt

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Errand:
    """A parcel, and the attempt that is being made for it; `told`: what its earlier ones imply is out."""

    parcel: Parcel
    offer: Offer
    told: bool = False
    attempt: Attempt | None = None
    asks: bool = False
    """Whether the last call may have been taken."""


class Delivery:
    """An engine's EffectStage over one channel and its providers."""

    def __init__(
        self,
        channel: Channel,
        pool: Pool,
        wiring: Wiring,
        metrics: Metrics,
        window: int,
        deadline: float,
        forgets_after: int,
    ) -> None:
        self.channel, self.pool, self.wiring, self.metrics = channel, pool, wiring, metrics
        self.window, self.deadline, self.parallel = window, deadline, pool.parallel
        #: milliseconds for which attempts are remembered
        self.forgets_after = forgets_after

    @property
    def room(self) -> int:
        """How many calls may begin now."""
        return self.pool.room

    @property
    def ready_in(self) -> float:
        """Seconds until one may."""
        return self.pool.ready_in

    def assigned(self, share: float, window: int) -> None:
        """Takes its share of every provider's limit, and bounds what one host takes of a task's window."""
        self.pool.set_share(share)
        self.pool.set_window(window)

    def identify(self, record: Record) -> Call[Errand | Stop]:
        """Reads a message, or a stop, which waits for nobody's turn. Raises Unreadable."""
        parcel = deliver.receive(record.value, origin_of(record), record.headers)
        if isinstance(parcel, Stop):
            place = f"stop|{record.topic}-{record.partition}-{record.offset}".encode()
            return Call(place, place, parcel, record)
        # a redriven message waits for its turn: one that joined a copy would end with it, and not be decided
        effect = parcel.effect + (parcel.redrive or "").encode()
        errand = Errand(parcel, Offer(self.pool, parcel.message, record.partition), is_told(record))
        return Call(effect, parcel.message.user_id.encode(), errand, record, parcel.effect)

    def admit(self, call: Call[Errand | Stop], unit: Unit) -> bool | float:
        """Writes the attempt, or what the ledger knows already; or nothing, while nobody may be called."""
        errand = call.message
        if isinstance(errand, Stop):
            self.wiring.send(unit, stops.hear(errand, unit))
            return False
        errand.offer.release()  # where the unit is decided anew
        try:
            admitted = deliver.admit(
                errand.parcel, unit, unit.now, errand.offer,
                told=errand.told, oldest=unit.now - self.forgets_after,
            )  # fmt: skip
            self.wiring.send(unit, admitted.sends)
        except BaseException:
            errand.offer.release()
            raise
        if admitted.attempt is None:
            errand.offer.release()
        if admitted.later is not None:
            errand.told = True  # what its earlier attempts imply was said just now
            return admitted.later
        errand.attempt, errand.asks = admitted.attempt, admitted.asks
        return admitted.attempt is not None

    def is_ready(self, call: Call[Errand | Stop]) -> bool:
        """Whether somebody may be called now."""
        return not isinstance(call.message, Errand) or call.message.offer.is_ready

    def drop(self, call: Call[Errand | Stop]) -> None:
        """Gives back what was reserved for a call."""
        if isinstance(call.message, Errand):
            call.message.offer.release()

    async def call(self, call: Call[Errand | Stop]) -> tuple[Outcome, bool]:
        """Calls the provider; an outcome, always, and whether it counts as an attempt."""
        started, parcel, offer = time.perf_counter(), _errand(call).parcel, _errand(call).offer
        assert offer.member is not None
        provider = offer.member.provider
        with self.metrics.calling(provider.name, self.channel):
            outcome = None
            try:
                if _errand(call).asks and isinstance(provider, Queryable) and provider.ask_after is not None:
                    outcome = await provider.find(parcel.message, parcel.key)
                if outcome is None:
                    outcome = await provider.send(parcel.message, parcel.key)
            except Exception as error:
                # a provider does not raise; where one does, nobody knows how far it came
                log.error("%s raised %s", provider.name, type(error).__name__)
                outcome = doubtful(f"raised {type(error).__name__}", fault="provider")
        # what may have been sent each time is not tried for as long as a provider is away
        in_doubt = outcome.kind == "doubtful" and not offer.honours_keys(provider.name)
        counts = offer.end(outcome) or in_doubt
        self.metrics.called(provider.name, self.channel, outcome.kind, time.perf_counter() - started)
        return outcome, counts

    def settle(self, call: Call[Errand | Stop], result: tuple[Outcome, bool], unit: Unit) -> float | None:
        """Writes the result and what it implies."""
        errand, (outcome, counts) = _errand(call), result
        assert errand.attempt is not None
        provider = errand.attempt.provider
        sends, wait = deliver.settle(
            errand.parcel, errand.attempt, outcome, unit, unit.now,
            honours_keys=errand.offer.honours_keys(provider), jitter=random.random(), counts=counts,
            elsewhere=errand.offer.goes_elsewhere(provider),
            settles_after=errand.offer.settles_after(provider),
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


def _errand(call: Call[Errand | Stop]) -> Errand:
    """What a call is made for: a stop is none."""
    assert isinstance(call.message, Errand)
    return call.message
