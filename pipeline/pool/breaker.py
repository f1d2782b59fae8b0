"""The circuit breaker of a provider (Nygard, Release It!): after failures in a row it is left alone."""

THRESHOLD = 5
"""Failures in a row that open it."""
FIRST_PAUSE, MOST_PAUSE = 1.0, 10.0
"""Seconds until the first probe; twice as long after each probe that fails."""


class Breaker:
    """Closed: everything goes. Open: nothing does, until its pause is over; then one probe decides."""

    def __init__(self) -> None:
        self.failures = 0
        self.is_open = False
        self.probing = False
        #: when the next call may be made (seconds of a monotonic clock)
        self.until = 0.0
        self._pause = FIRST_PAUSE

    def ready_in(self, now: float) -> float:
        """Seconds until a call may begin; 0: now."""
        if self.is_open and self.probing:
            return FIRST_PAUSE
        return max(0.0, self.until - now)

    def begun(self) -> bool:
        """A call begins; says whether it is the probe."""
        if self.is_open:
            self.probing = True
        return self.is_open

    def released(self, *, probe: bool) -> None:
        """A call that had begun was not made."""
        if probe:
            self.probing = False

    def succeeded(self) -> None:
        """A call found the provider well. A pause that it asked for is kept."""
        self.failures, self._pause = 0, FIRST_PAUSE
        if self.is_open:
            self.is_open, self.probing, self.until = False, False, 0.0

    def failed(self, now: float, *, probe: bool) -> None:
        """A call failed through the provider's fault. What was under way when it opened changes nothing."""
        self.failures += 1
        if self.is_open:
            if not probe:
                return
            self._pause = min(self._pause * 2, MOST_PAUSE)
        elif self.failures < THRESHOLD:
            return
        self.is_open, self.probing = True, False
        self.until = now + self._pause

    def asked_to_wait(self, now: float, seconds: float, *, probe: bool) -> None:
        """The provider wants no call for so long."""
        self.released(probe=probe)
        self.until = max(self.until, now + seconds)
