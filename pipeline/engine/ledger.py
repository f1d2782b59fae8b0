"""How far each partition is done, exactly."""

from collections import deque
from collections.abc import Iterable


class OffsetLedger:
    """Knows the offset to commit: the first unfinished of the offsets fetched, in whatever order they are
    taken and end.

    Fetched offsets may have gaps (compaction, transaction markers); they must rise.
    """

    __slots__ = ("farthest", "finished", "next", "unfinished")

    def __init__(self) -> None:
        #: from the first unfinished one on; those behind it may be finished
        self.unfinished: deque[int] = deque()
        self.finished: set[int] = set()
        self.farthest = -1
        self.next: int | None = None

    def fetched(self, offsets: Iterable[int]) -> None:
        """Notes offsets that are ours to finish, before any of them is taken."""
        self.unfinished.extend(offsets)

    def took(self, offset: int) -> None:
        """Notes that work on an offset begins."""
        self.farthest = max(self.farthest, offset)

    def done(self, offset: int) -> None:
        """Notes that the offset needs no more work; `next` moves past all that are done from the left."""
        self.finished.add(offset)
        while self.unfinished and self.unfinished[0] in self.finished:
            left = self.unfinished.popleft()
            self.finished.remove(left)
            self.next = left + 1

    @property
    def span(self) -> int:
        """How far the last offset taken is beyond the first unfinished one."""
        return max(0, self.farthest - self.unfinished[0]) if self.unfinished else 0
