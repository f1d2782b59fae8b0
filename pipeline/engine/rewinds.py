"""Where the members of a group were told to begin anew; each partition obeys when it is opened."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from faust.types import TP

Place = tuple[int, int]
"""Broker time and offset of a request on the topic that it came by: the order of requests."""
NEVER: Place = (-1, -1)


class Rewind(NamedTuple):
    """One partition's part of a request: the offset to begin at."""

    place: Place
    offset: int


class Rewinds:
    """The latest request for each partition; a later one stands for all that came before it.

    Whoever follows the requests lets it `hear` them; the engine reads.
    """

    def __init__(self) -> None:
        self.latest: dict[TP, Rewind] = {}
        #: rises with everything new
        self.heard = 0

    def hear(self, tp: TP, rewind: Rewind) -> None:
        """Takes a request over, in whatever order they come."""
        known = self.latest.get(tp)
        if known is None or rewind.place > known.place:
            self.latest[tp] = rewind
            self.heard += 1

    def due(self, tps: Iterable[TP], obeyed: Mapping[TP, Place]) -> dict[TP, Rewind]:
        """What was told of these partitions and not obeyed yet."""
        return {
            tp: rewind
            for tp in tps
            if (rewind := self.latest.get(tp)) is not None and rewind.place > obeyed.get(tp, NEVER)
        }
