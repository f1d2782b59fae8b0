"""What is under way to each host of a provider that calls many: one that hangs leaves room for the others."""

from collections import Counter
from itertools import islice

KEPT = 1_024
"""Hosts that are remembered; more only where each of them is being called."""
BUSY_SECONDS = 0.05
"""When to look again for room that the end of a call makes."""
SLOW_SECONDS = 1.0
"""A host whose calls last longer is slow: what waits for it is put off for longer than a wait in memory."""
MOST_AHEAD = 600.0
"""The farthest turn that is given, in seconds: a host that is well again is not left alone for longer."""
WEIGHT = 0.05
"""The share of the last call in what is usual: one that hangs among many makes no host slow."""


class _Host:
    __slots__ = ("begun", "by_part", "last_turn", "usual")

    def __init__(self) -> None:
        #: when each call that is under way began, and of which partition it is; the oldest first
        self.begun: dict[object, tuple[float, int]] = {}
        self.by_part: Counter[int] = Counter()
        #: seconds; 0 while no call has ended
        self.usual = 0.0
        self.last_turn = 0.0


class Hosts:
    """Of a host that is slow, or of which no call has ended yet, at most `most` calls are under way.

    At most `most_a_part` are of one partition, whose other messages would wait behind them. What waits for
    a slow host gets turns at its pace. Others take what there is: what waits for them waits in Kafka.
    """

    def __init__(self, most: int) -> None:
        self.most = self.most_a_part = most
        self._hosts: dict[str, _Host] = {}

    def has_room(self, host: str, part: int, now: float) -> bool:
        """Whether a call for a message of a partition may begin."""
        found = self._hosts.get(host)
        if found is None or (len(found.begun) < self.most and found.by_part[part] < self.most_a_part):
            return True
        return found.usual > 0 and not self.is_slow(host, now)

    def is_slow(self, host: str, now: float) -> bool:
        """Whether its calls last so long that waiting for one to end is no short wait."""
        found = self._hosts.get(host)
        return found is not None and self._lasts(found, now) > SLOW_SECONDS

    def _lasts(self, host: _Host, now: float) -> float:
        """How long a call lasts; those under way may show that it is longer than usual, if they are many."""
        many = max(1, self.most_a_part // 2)
        if len(host.begun) < many:
            return host.usual
        since, _ = next(islice(host.begun.values(), many - 1, None))
        return max(host.usual, now - since)

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
        lasts = self._lasts(found, now)
        if lasts <= SLOW_SECONDS:
            return BUSY_SECONDS
        next_turn = max(found.last_turn + lasts / self.most, now + BUSY_SECONDS)
        found.last_turn = min(next_turn, now + MOST_AHEAD)
        return found.last_turn - now
