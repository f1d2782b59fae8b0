"""What a task has fetched and not begun: in order, or by rank where the stage may end it in any order."""

from collections import deque
from typing import Any

from faust.types import TP

QUEUE_RECORDS = 5_000
QUEUE_BYTES = 32 << 20
"""What one task holds of one partition, before that partition is paused."""
UNIT_BYTES = 1 << 20
RANK_HEADER = "rank"
FIRST, MIDDLE, LAST = range(3)
_RANKS = {b"0": FIRST, b"2": LAST}
OVERTAKING = 10_000
"""No record is taken whose offset is more than this beyond that of one which still waits."""


def rank_of(record: Any) -> int:
    """The rank that a record's header tells; MIDDLE without one, and for one that makes no sense."""
    for name, value in record.headers:
        if name == RANK_HEADER:
            return _RANKS.get(value, MIDDLE)
    return MIDDLE


def rank_kept(record: Any) -> tuple[tuple[str, bytes], ...]:
    """The headers by which a record that comes up again keeps its rank."""
    return tuple([header for header in record.headers if header[0] == RANK_HEADER]) if record.headers else ()


class Queue:
    """The fetched records of one topic of a task that wait their turn."""

    __slots__ = ("bytes", "cost", "passed_over", "records", "tp")

    def __init__(self, tp: TP) -> None:
        self.tp, self.records, self.bytes, self.passed_over = tp, deque[Any](), 0, 0
        #: seconds of deciding a record, as seen lately
        self.cost = 50e-6

    def __len__(self) -> int:
        return len(self.records)

    def offer(self, records: list[Any]) -> None:
        """Lets fetched records wait behind those that do."""
        self.records.extend(records)
        self.bytes += sum(len(r.value or b"") for r in records)

    @property
    def is_full(self) -> bool:
        return len(self) > QUEUE_RECORDS or self.bytes > QUEUE_BYTES

    @property
    def is_half_empty(self) -> bool:
        return len(self) < QUEUE_RECORDS // 2 and self.bytes < QUEUE_BYTES // 2

    def pop(self) -> Any:
        """The next record."""
        return self.records.popleft()

    def take(self, most: int) -> list[Any]:
        """The next records: at most `most`, and no more than a unit's bytes."""
        taken: list[Any] = []
        size, most = 0, min(most, len(self))
        while len(taken) < most and (size < UNIT_BYTES or not taken):
            record = self.pop()
            size += len(record.value or b"")
            taken.append(record)
        self.bytes -= size
        return taken

    def put_back(self, records: list[Any]) -> None:
        """Lets records that were taken last come first again."""
        self.records.extendleft(reversed(records))
        self.bytes += sum(len(r.value or b"") for r in records)

    def clear(self) -> None:
        """Forgets what waits."""
        self.records.clear()
        self.bytes = 0


class RankedQueue(Queue):
    """A queue that serves what ranks first before the middle and that before the last.

    Those of one rank keep their order, and nobody is overtaken for ever (OVERTAKING).
    """

    __slots__ = ("first", "last")

    def __init__(self, tp: TP) -> None:
        super().__init__(tp)
        self.first, self.last = deque[Any](), deque[Any]()

    def __len__(self) -> int:
        return len(self.first) + len(self.records) + len(self.last)

    def offer(self, records: list[Any]) -> None:
        if not any(record.headers for record in records):
            super().offer(records)
            return
        for record in records:
            self.of_rank(record).append(record)
            self.bytes += len(record.value or b"")

    def pop(self) -> Any:
        if not self.first and not self.last:
            return self.records.popleft()
        waiting = [one for one in (self.first, self.records, self.last) if one]
        chosen, oldest = waiting[0], min(waiting, key=lambda one: one[0].offset)
        if chosen[0].offset - oldest[0].offset > OVERTAKING:
            chosen = oldest
        return chosen.popleft()

    def put_back(self, records: list[Any]) -> None:
        for record in reversed(records):
            self.of_rank(record).appendleft(record)
            self.bytes += len(record.value or b"")

    def of_rank(self, record: Any) -> deque[Any]:
        """Those that wait with the same rank."""
        rank = rank_of(record)
        return self.first if rank == FIRST else self.last if rank == LAST else self.records

    def clear(self) -> None:
        self.first.clear()
        self.last.clear()
        super().clear()


def ranked(records: list[Any]) -> list[Any]:
    """Records in the order of their ranks, those of one rank as they came."""
    if not any(record.headers for record in records):
        return records
    return sorted(records, key=rank_of)
