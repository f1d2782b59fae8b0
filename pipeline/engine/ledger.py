"""How far each partition is done, exactly."""

from collections import deque


class OffsetLedger:
    """Knows the offset to commit: the first unfinished of the offsets fetched, in whatever order they end.

    Fetched offsets may have gaps (compaction, transaction markers); they must rise.
    """

    __slots__ = ("fetched", "finished", "next")

    def __init__(self) -> None:
        self.fetched: deque[int] = deque()
        self.finished: set[int] = set()
        self.next: int | None = None

    def took(self, offset: int) -> None:
        """Notes that the offset was taken up."""
        self.fetched.append(offset)

    def done(self, offset: int) -> None:
        """Notes that the offset needs no more work; `next` moves past all that are done from the left."""
        self.finished.add(offset)
        while self.fetched and self.fetched[0] in self.finished:
            left = self.fetched.popleft()
            self.finished.remove(left)
            self.next = left + 1

    @property
    def span(self) -> int:
        """The distance between the first unfinished offset and the last one taken."""
        return self.fetched[-1] - self.fetched[0] if self.fetched else 0
