"""A token bucket: so many calls a second and no more, in any second, however late the clock is looked at."""

import math

BURST = 0.03
"""The share of a second's calls that may begin at once."""
SLACK = 0.05
"""The share that is left out, for what bunches on its way."""


class Bucket:
    """`per_second` is for all workers together; each has its share of it (0 to 1). None: no limit."""

    def __init__(self, per_second: float | None) -> None:
        self.per_second, self.share = per_second, 0.0
        self.tokens, self.at = 0.0, 0.0

    @property
    def burst(self) -> float:
        """The most tokens that it holds."""
        return max(1.0, (self.per_second or 0.0) * self.share * BURST)

    @property
    def rate(self) -> float:
        """Tokens a second, so that a burst and what comes after it stay within the limit."""
        limit = (self.per_second or 0.0) * self.share
        return max(limit * (1 - SLACK) - self.burst, limit / 2)

    def set_share(self, share: float, now: float) -> None:
        """Takes another share. It begins empty: what is saved up elsewhere may still be used there."""
        self.share, self.tokens, self.at = share, 0.0, now

    def room(self, now: float) -> float:
        """How many calls may begin now."""
        if self.per_second is None:
            return math.inf
        self.tokens = min(self.burst, self.tokens + max(0.0, now - self.at) * self.rate)
        self.at = max(self.at, now)
        return self.tokens

    def ready_in(self, now: float) -> float:
        """Seconds until one may begin."""
        missing = 1.0 - self.room(now)
        if missing <= 1e-9:
            return 0.0
        return missing / self.rate if self.rate else math.inf

    def take(self, now: float) -> None:
        """One begins."""
        if self.per_second is not None:
            self.tokens = self.room(now) - 1.0
