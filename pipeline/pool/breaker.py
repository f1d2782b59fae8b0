"""The circuit breaker of a provider (Nygard, Release It!): after failures in a row it is left alone."""

THRESHOLD = 5
"""Failures in a row that open it."""
FIRST_PAUSE, MOST_PAUSE = 1.0, 10.0
"""Seconds until the first probe; twice as long after each probe that fails."""
MOST_ASKED = 60.0
"""The longest pause in seconds of a provider that wants to be left alone."""


class Breaker:
    """Closed: everything goes. Open: nothing does, until its pause is over; then one probe decides."""

    def __init__(self) -> None:
        self.failures = 0
        self.is_open = False
        self.probing = False
        #: whether it is so because the provider wants to be left alone
        self.asked = False
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

    def succeeded(self, *, probe: bool) -> None:
        """A call found the provider well. A pause that it asked for ends with its probe alone."""
        self.failures = 0
        if probe or not self.asked:
            self._pause = FIRST_PAUSE
            self.is_open, self.probing, self.asked, self.until = False, False, False, 0.0

    def failed(self, now: float, *, probe: bool, asks_for: float | None = None) -> None:
        """A call failed through the provider's fault; `asks_for`: how long it wants to be left alone.

        What was under way when it opened makes no pause longer, unless it is asked for.
        """
        self.failures += 1
        wanted = min(asks_for or 0.0, MOST_ASKED)
        if self.is_open and not probe:
            self.until = max(self.until, now + wanted)
            return
        if self.is_open:
            self._pause = min(self._pause * 2, MOST_PAUSE if asks_for is None else MOST_ASKED)
        elif asks_for is None and self.failures < THRESHOLD:
            return
        self.is_open, self.probing, self.asked = True, False, asks_for is not None
        self.until = now + max(self._pause, wanted)
