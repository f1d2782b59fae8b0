"""What is under way to each host of a provider that calls many: one that hangs leaves room for the others."""

from collections import Counter

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
    __slots__ = ("begun", "by_part", "last_turn", "usual")

    def __init__(self) -> None:
        #: when each call that is under way began, and of which partition it is; the oldest first
        self.begun: dict[object, tuple[float, int]] = {}
        self.by_part: Counter[int] = Counter()
        self.usual = 0.0
        self.last_turn = 0.0

    def lasts(self, now: float) -> float:
        """How long a call lasts, as far as can be told: the oldest under way may show that it is longer."""
        oldest, _ = next(iter(self.begun.values()), (now, 0))
        return max(self.usual or UNKNOWN_SECONDS, now - oldest)


class Hosts:
    """At most `most` calls are under way to one host. What waits for one gets turns at the host's pace.

    At most `most_a_part` are of one partition, whose other messages would wait behind them.
    """

    def __init__(self, most: int) -> None:
        self.most = self.most_a_part = most
        self._hosts: dict[str, _Host] = {}

    def has_room(self, host: str, part: int) -> bool:
        """Whether a call for a message of a partition may begin."""
        found = self._hosts.get(host)
        return found is None or (len(found.begun) < self.most and found.by_part[part] < self.most_a_part)

    def is_slow(self, host: str, now: float) -> bool:
        """Whether its calls last so long that waiting for one to end is no short wait."""
        found = self._hosts.get(host)
        return found is not None and found.lasts(now) > SLOW_SECONDS

    def begin(self, host: str, call: object, now: float, part: int) -> None:
        """A call begins; `call` is what it is known by when it ends."""
        found = self._hosts.get(host)
        if found is None:
            if len(self._hosts) >= KEPT:
                self._hosts = {name: one for name, one in self._hosts.items() if one.begun}
            found = self._hosts[host] = _Host()
        found.begun[call] = now, part
        found.by_part[part] += 1

    def end(self, host: str, call: object, now: float, *, made: bool = True) -> None:
        """A call has ended, or was not `made`."""
        found = self._hosts[host]
        begun, part = found.begun.pop(call)
        found.by_part[part] -= 1
        if made:
            found.usual += (now - begun - found.usual) * (WEIGHT if found.usual else 1.0)

    def turn(self, host: str, now: float) -> float:
        """Seconds until the turn of one more message that has to wait for a host."""
        found = self._hosts[host]
        next_turn = max(found.last_turn + found.lasts(now) / self.most, now + BUSY_SECONDS)
        found.last_turn = min(next_turn, now + MOST_AHEAD)
        return found.last_turn - now
