"""Which fault strikes which request: the words that choose one, and the choice."""

import random
import zlib
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

LATENCY, DOWN, FLAP = "latency", "down", "flap"
BANNERS = frozenset({"banner_refused", "banner_busy", "banner_missing"})
"""What strikes a connection as soon as it is there."""
MAX_SECONDS = 86_400.0
MIN_TURN = 0.05
MAX_COUNT = 1_000_000_000
MAX_FAULTS = 50
WORD = 200


class BadFault(ValueError):
    """A word that chooses no fault; its text says what is wrong with it."""


class Fault(NamedTuple):
    """One fault and when it strikes: where several conditions are given, all of them must hold."""

    word: str
    name: str
    latency: tuple[float, float] = (0.0, 0.0)
    """Seconds, from and to; of `latency` alone."""
    share: float = 1.0
    first: int = 0
    """Strikes the first so many requests."""
    every: int = 0
    """Strikes each n-th request."""
    keys: int = 0
    """Strikes the first request of each key, for one key in so many."""
    flap: tuple[float, float] = (0.0, 0.0)
    """Seconds that nothing strikes, and seconds that it does, by turns."""
    lasting: float = 0.0
    """Ends after so many seconds."""
    retry_after: float | None = None
    taken: float | None = None
    """The share of those struck that took effect all the same; else as the fault's nature is."""


class Strike(NamedTuple):
    """What strikes a request: `name` is "" if nothing but latency does."""

    name: str = ""
    seconds: float = 0.0
    retry_after: float | None = None
    taken: float | None = None


def parse(word: str, known: Collection[str]) -> Fault:
    """The fault that a word such as `throttled:0.1` or `server_error:first=5` chooses. Raises BadFault."""
    if len(word) > WORD:
        raise BadFault(f"longer than {WORD} characters")
    word = word.strip()
    head, _, tail = word.partition(":")
    name, _, argument = (part.strip() for part in head.partition("="))
    found = Fault(word, name)
    if name == FLAP:
        found = found._replace(name=DOWN, flap=_turns(word, argument))
    elif name == LATENCY:
        low, dash, high = argument.partition("-")
        span = _seconds(word, low), _seconds(word, high if dash else low)
        if span[0] > span[1]:
            raise BadFault(f"{word}: the second latency is the smaller one")
        found = found._replace(latency=span)
    elif argument:
        raise BadFault(f"{word}: {name} takes no value; conditions stand after a colon")
    if found.name not in known:
        raise BadFault(f"{word}: no such fault; there are {', '.join(sorted({*known, FLAP}))}")
    for condition in filter(None, (part.strip() for part in tail.split(","))):
        found = _under(found, condition)
    return found


def _under(fault: Fault, condition: str) -> Fault:
    name, equals, value = condition.partition("=")
    if not equals:
        return fault._replace(share=_share(fault.word, name))
    match name:
        case "first":
            return fault._replace(first=_count(fault.word, value))
        case "every":
            return fault._replace(every=_count(fault.word, value))
        case "keys":
            return fault._replace(keys=_count(fault.word, value))
        case "flap":
            return fault._replace(flap=_turns(fault.word, value))
        case "for":
            return fault._replace(lasting=_seconds(fault.word, value))
        case "retry_after":
            return fault._replace(retry_after=_seconds(fault.word, value))
        case "taken":
            return fault._replace(taken=_share(fault.word, value))
    raise BadFault(
        f"{fault.word}: no such condition as {name}; there are a share (0 to 1), "
        "first, every, keys, flap, for, retry_after, taken"
    )


def _number(word: str, text: str, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:  # a NaN is neither
        raise BadFault(f"{word}: {text or 'nothing'} is no number from 0 to {most:g}")
    return number


def _share(word: str, text: str) -> float:
    return _number(word, text, 1.0)


def _seconds(word: str, text: str) -> float:
    return _number(word, text, MAX_SECONDS)


def _count(word: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= MAX_COUNT):
        raise BadFault(f"{word}: {text or 'nothing'} is no number from 1")
    return int(text)


def _turns(word: str, text: str) -> tuple[float, float]:
    up, slash, down = text.partition("/")
    turns = (_seconds(word, up), _seconds(word, down)) if slash else (0.0, 0.0)
    if min(turns) < MIN_TURN:
        raise BadFault(f"{word}: a flap is seconds up and seconds down, such as 5/5")
    return turns


class Faults:
    """The faults in force. The first that strikes is the one; latencies add up."""

    def __init__(self, known: Collection[str], seed: int, clock: Callable[[], float]) -> None:
        """`clock` tells seconds and never goes back; of what is drawn, the seed decides."""
        self.known = frozenset(known)
        self.random = random.Random(seed)
        self._clock = clock
        self._all: Sequence[Fault] = ()
        self._met: list[int] = []
        self._since = 0.0

    @property
    def words(self) -> list[str]:
        """As they were chosen."""
        return [fault.word for fault in self._all]

    def check(self, words: Sequence[str]) -> list[Fault]:
        """What these words choose. Raises BadFault."""
        if len(words) > MAX_FAULTS:
            raise BadFault(f"more than {MAX_FAULTS} faults")
        return [parse(word, self.known) for word in words]

    def set(self, words: Sequence[str]) -> None:
        """Puts these in force instead, and counts anew. Raises BadFault, and then changes nothing."""
        self._all = self.check(words)
        self._met, self._since = [0] * len(self._all), self._clock()

    def strike(self, key: str, *, again: bool) -> Strike:
        """What strikes the next request; `again` says that its key was there before."""
        struck, seconds = Strike(), 0.0
        for n, fault in enumerate(self._all):
            if fault.name == DOWN or fault.name in BANNERS or not self._holds(n, key, again):
                continue
            if fault.name == LATENCY:
                seconds += self.random.uniform(*fault.latency)
            elif not struck.name:
                struck = Strike(fault.name, 0.0, fault.retry_after, fault.taken)
        return struck._replace(seconds=seconds)

    def greet(self) -> str:
        """The fault that strikes the next connection, or ""."""
        struck = ""
        for n, fault in enumerate(self._all):
            if fault.name in BANNERS and self._holds(n, "", False):
                struck = fault.name
        return struck

    def _holds(self, n: int, key: str, again: bool) -> bool:
        self._met[n] += 1
        fault, met = self._all[n], self._met[n]
        if fault.first and met > fault.first:
            return False
        if fault.every and met % fault.every:
            return False
        if fault.keys and (again or zlib.crc32(key.encode()) % fault.keys):
            return False
        return self._in_time(fault) and (fault.share >= 1 or self.random.random() < fault.share)

    def _in_time(self, fault: Fault) -> bool:
        past = self._clock() - self._since
        if fault.lasting and past >= fault.lasting:
            return False
        return not any(fault.flap) or past % sum(fault.flap) >= fault.flap[0]

    def is_down(self) -> bool:
        """Whether who connects now is refused."""
        return any(fault.name == DOWN and self._in_time(fault) for fault in self._all)

    def turns_in(self) -> float | None:
        """Seconds until `is_down` may change by itself; None: it does not."""
        past, found = self._clock() - self._since, []
        for fault in self._all:
            if fault.name != DOWN:
                continue
            if fault.lasting > past:
                found.append(fault.lasting - past)
            if any(fault.flap):
                turn = past % sum(fault.flap)
                found.append((fault.flap[0] if turn < fault.flap[0] else sum(fault.flap)) - turn)
        return min(found, default=None)
