"""What is under way to each host of a provider that calls many: one that hangs leaves room for the others."""

KEPT = 1_024
"""Hosts that are remembered; more only where each of them is being called."""
BUSY_SECONDS = 0.05
"""When to look again for room that the end of a call makes."""
UNKNOWN_SECONDS = 0.1
"""How long a call is taken to last while none has ended."""
SLOW_SECONDS = 1.0
"""What waits for a host whose calls last longer is put off again, for longer: it would wait in memory."""
MOST_AHEAD = 600.0
"""The farthest turn that is given, in seconds: a host that is well again is not left alone for longer."""
WEIGHT = 0.2
"""The share of the last call in what is usual."""


class _Host:
    __slots__ = ("begun", "last_turn", "usual")

    def __init__(self) -> None:
        #: when each call that is under way began, the oldest first
        self.begun: dict[object, float] = {}
        self.usual = 0.0
        self.last_turn = 0.0

    def lasts(self, now: float) -> float:
        """How long a call lasts, as far as can be told: the oldest under way may show that it is longer."""
        oldest = next(iter(self.begun.values()), now)
        return max(self.usual or UNKNOWN_SECONDS, now - oldest)


class Hosts:
    """At most `most` calls are under way to one host. What waits for one gets turns at the host's pace."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._hosts: dict[str, _Host] = {}

    def has_room(self, host: str) -> bool:
        """Whether a call may begin."""
        found = self._hosts.get(host)
        return found is None or len(found.begun) < self.most

    def is_slow(self, host: str, now: float) -> bool:
        """Whether its calls last so long that waiting for one to end is no short wait."""
        found = self._hosts.get(host)
        return found is not None and found.lasts(now) > SLOW_SECONDS

    def begin(self, host: str, call: object, now: float) -> None:
        """A call begins; `call` is what it is known by when it ends."""
        found = self._hosts.get(host)
        if found is None:
            if len(self._hosts) >= KEPT:
                self._hosts = {name: one for name, one in self._hosts.items() if one.begun}
            found = self._hosts[host] = _Host()
        found.begun[call] = now

    def end(self, host: str, call: object, now: float, *, made: bool = True) -> None:
        """A call has ended, or was not `made`."""
        found = self._hosts[host]
        lasted = now - found.begun.pop(call)
        if made:
            found.usual += (lasted - found.usual) * (WEIGHT if found.usual else 1.0)

    def turn(self, host: str, now: float) -> float:
        """Seconds until the turn of one more message that has to wait for a host."""
        found = self._hosts[host]
        next_turn = max(found.last_turn + found.lasts(now) / self.most, now + BUSY_SECONDS)
        found.last_turn = min(next_turn, now + MOST_AHEAD)
        return found.last_turn - now
