"""One provider of a channel, with what is known of how it does."""

import math
from collections import deque
from collections.abc import Callable

from pipeline.pool.breaker import MOST_ASKED, Breaker
from pipeline.pool.bucket import Bucket
from pipeline.pool.hosts import Hosts
from pipeline.providers.provider import Forgetful, ManyHosts, Provider, Queryable
from schemas.message import Message
from schemas.outcome import Outcome

BUSY_SECONDS = 0.05
"""When to look again for room that the end of a call makes."""
REMEMBERED = 512
"""Requests that have failed. What shared one ends at once, but for files that are let go first."""
HORIZON_SECONDS = 600.0
"""So far ahead turns are given to messages that only this provider can take; then no more are taken."""


class Member:
    """`per_second`: how many calls all workers together may begin, None for any number."""

    def __init__(self, provider: Provider, per_second: float | None, clock: Callable[[], float]) -> None:
        self.provider, self.clock = provider, clock
        self.breaker, self.bucket = Breaker(), Bucket(per_second)
        self.under_way = 0
        self._named = provider if isinstance(provider, ManyHosts) else None
        self._hosts = Hosts(self._named.per_host if self._named is not None else provider.parallel)
        #: the numbers of requests whose failure is counted
        self._failed: deque[int] = deque(maxlen=REMEMBERED)
        self._last_turn = 0.0
        #: seconds after a call from which on it can be asked what became of it; None: it cannot
        self.ask_after = provider.ask_after if isinstance(provider, Queryable) else None
        #: seconds for which it knows a key; None: no end is known
        self.key_window = provider.key_window if isinstance(provider, Forgetful) else None

    @property
    def name(self) -> str:
        return self.provider.name

    def serves(self, platform: str) -> bool:
        """Whether it reaches devices of a platform."""
        platforms = self.provider.platforms
        return platforms is None or platform in platforms

    @property
    def is_away(self) -> bool:
        """Whether it is left alone now; who is only busy is not."""
        return self.breaker.ready_in(self.clock()) > 0

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

    def host(self, message: Message) -> str | None:
        """The host that a message goes to; None: it needs none that others want as well."""
        return self._named.host(message) if self._named is not None else None

    def set_window(self, window: int) -> None:
        """Hears how many calls are made side by side for one partition: half of them may go to one host."""
        self._hosts.most_a_part = max(1, window // 2)

    def has_room_at(self, host: str | None, part: int) -> bool:
        """Whether a host may be called now, as far as it is for the host."""
        return host is None or self._hosts.has_room(host, part, self.clock())

    def is_worth_asking(self, message: Message, part: int) -> bool:
        """Whether a message may be called for now, or will have to wait so long that it waits as a row."""
        if self.room <= 0:
            return False
        host = self.host(message)
        return self.has_room_at(host, part) or (host is not None and self._hosts.is_slow(host, self.clock()))

    def begin(self, host: str | None, call: object, part: int) -> bool:
        """A call is about to be made; says whether it is a probe. `call` is what it is known by."""
        self.under_way += 1
        if host is not None:
            self._hosts.begin(host, call, self.clock(), part)
        self.bucket.take(self.clock())
        return self.breaker.begun()

    def release(self, host: str | None, call: object, *, probe: bool) -> None:
        """A call that was about to be made was not, or nobody saw its end."""
        self.under_way -= 1
        if host is not None:
            self._hosts.end(host, call, self.clock(), made=False)
        self.breaker.released(probe=probe)

    def end(self, outcome: Outcome, host: str | None, call: object, *, probe: bool) -> bool:
        """A call has ended; says whether it counts as an attempt.

        Not while the provider is left alone. What was surely not sent does not either where the call before
        it failed too: a few messages would have used up their attempts before an outage is known for one.
        A request that several messages shared is one failure of the provider's, and is so for each of them.
        """
        self.under_way -= 1
        now = self.clock()
        if host is not None:
            self._hosts.end(host, call, now)
        if outcome.fault != "provider":
            if outcome.kind in {"sent", "delivered"} or outcome.code is not None:
                self.breaker.succeeded(probe=probe)
            else:  # it was not even called
                self.breaker.released(probe=probe)
            return True
        asks_for = outcome.retry_after if outcome.kind == "deferred" else None
        if probe or asks_for is not None or outcome.request not in self._failed:
            self.breaker.failed(now, probe=probe, asks_for=asks_for)
            if outcome.request is not None:
                self._failed.append(outcome.request)
        if asks_for is not None:
            return False
        return self.breaker.failures <= 1 if outcome.kind == "deferred" else not self.breaker.is_open

    @property
    def horizon(self) -> float:
        """Seconds until the last turn that was given."""
        return max(0.0, self._last_turn - self.clock())

    def turn(self, host: str | None = None) -> float:
        """Seconds until the turn of one more message that has to wait: they come at the pace of its limit.

        What waits for a host alone waits at the host's pace, and nobody with it.
        """
        now = self.clock()
        if host is not None:
            return self._hosts.turn(host, now)
        pace = self.bucket.rate if self.bucket.per_second is not None else 10.0 * self.provider.parallel
        step = 1 / pace if pace else MOST_ASKED
        first = now + min(max(self.ready_in, BUSY_SECONDS), MOST_ASKED)
        self._last_turn = max(self._last_turn + step, first)
        return self._last_turn - now


def soonest(members: list[Member]) -> float:
    """Seconds until one of them may be called."""
    return min((member.ready_in for member in members), default=math.inf)
