"""How far a topic's units are known to be out: the number, the mark and the doubt."""

from typing import Any

from pipeline.engine.store import OWN


class Progress:
    """Unit numbers of one topic of one task.

    The unit that wrote its rows last may have died before its outputs were out. Until its records
    have come up again (they end at `doubt`), the mark must not pass it, whatever newer units do:
    a record that finds its own claim above the mark sends again what the claim implies.
    """

    __slots__ = ("doubt", "kept_mark", "mark", "mark_key", "number", "unit_key")

    def __init__(self, topic: str, db: Any) -> None:
        self.unit_key = OWN + b"unit|" + topic.encode()
        self.mark_key = OWN + b"mark|" + topic.encode()
        number, _, end = (db.get(self.unit_key) or b"0 -1").partition(b" ")
        self.number = int(number)
        self.mark = self.kept_mark = int(db.get(self.mark_key) or 0)
        self.doubt: int | None = int(end) if self.number > self.mark else None

    def rows(self, last: int) -> dict[bytes, bytes]:
        """What the next unit, which ends at offset `last`, writes beside its own rows."""
        end = last if self.doubt is None else max(last, self.doubt)
        return {self.unit_key: b"%d %d" % (self.number + 1, end), self.mark_key: b"%d" % self.mark}

    def finished(self, last: int, *, wrote: bool) -> None:
        """Notes that the outputs of a unit which ends at offset `last` are out."""
        if wrote:
            self.number += 1
            self.kept_mark = self.mark
        if self.doubt is None or last >= self.doubt:
            self.mark, self.doubt = self.number, None
        elif wrote:
            self.doubt = max(self.doubt, last)
