"""One provider of a channel, with what is known of how it does."""

import math
from collections.abc import Callable

from pipeline.pool.breaker import Breaker
from pipeline.pool.bucket import Bucket
from pipeline.providers.provider import Provider, Queryable
from schemas.outcome import Outcome

MOST_ASKED = 60.0
"""The longest pause in seconds that a provider is granted at a time."""


class Member:
    """`per_second`: how many calls all workers together may begin, None for any number."""

    def __init__(
        self, provider: Provider, per_second: float | None, clock: Callable[[], float], *, guarded: bool
    ) -> None:
        self.provider, self.clock = provider, clock
        #: whether failures may be the provider's own: a webhook's are its receiver's
        self.guarded = guarded
        self.breaker, self.bucket = Breaker(), Bucket(per_second)
        self.under_way = 0
        #: seconds after a call from which on it can be asked what became of it; None: it cannot
        self.ask_after = provider.ask_after if isinstance(provider, Queryable) else None

    @property
    def name(self) -> str:
        return self.provider.name

    def serves(self, platform: str) -> bool:
        """Whether it reaches devices of a platform."""
        platforms = self.provider.platforms
        return platforms is None or platform in platforms

    @property
    def room(self) -> int:
        """How many calls may begin now."""
        now = self.clock()
        if self.breaker.ready_in(now):
            return 0
        free = self.provider.parallel - self.under_way
        return min(free, 1) if self.breaker.is_open else int(min(free, self.bucket.room(now) + 1e-9))

    @property
    def ready_in(self) -> float:
        """Seconds until a call may begin, as far as can be told; 0 where it waits for another to end."""
        now = self.clock()
        return max(self.breaker.ready_in(now), self.bucket.ready_in(now))

    def begin(self) -> bool:
        """A call is about to be made; says whether it is a probe."""
        self.under_way += 1
        self.bucket.take(self.clock())
        return self.breaker.begun()

    def release(self, *, probe: bool) -> None:
        """A call that was about to be made was not, or nobody saw its end."""
        self.under_way -= 1
        self.breaker.released(probe=probe)

    def end(self, outcome: Outcome, *, probe: bool) -> bool:
        """A call has ended; says whether it counts as an attempt.

        Not while the provider is left alone. What was surely not sent does not either where the call before
        it failed too: a few messages would have used up their attempts before an outage is known for one.
        """
        self.under_way -= 1
        now = self.clock()
        if not self.guarded:
            return True
        if outcome.fault != "provider":
            self.breaker.succeeded()
            return True
        if outcome.kind == "deferred" and outcome.retry_after is not None:
            self.breaker.asked_to_wait(now, min(outcome.retry_after, MOST_ASKED), probe=probe)
            return False
        self.breaker.failed(now, probe=probe)
        return self.breaker.failures == 1 if outcome.kind == "deferred" else not self.breaker.is_open


def soonest(members: list[Member]) -> float:
    """Seconds until one of them may be called."""
    return min((member.ready_in for member in members), default=math.inf)
