"""One unit of work: a slice of one fetched partition, its writes and what it sends."""

import asyncio
import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any

from pipeline.engine.outbox import Outbox
from pipeline.engine.patience import Patience
from pipeline.engine.store import COLD, StoreBroken, scan

_MISSING: Any = object()
_PATIENCE = Patience()

Decide = Callable[[Any, "Unit"], None]
Reject = Callable[[Any, Exception, "Unit"], None]
"""Over a Record; over a Call where the stage calls the outside."""


class Unit:
    """What a stage sees: rows that read the unit's own writes, an outbox, and the unit's number.

    `number` is the unit's own; `mark` is the highest number of this topic whose outputs are all out;
    `epoch` is the owner's.
    """

    __slots__ = (
        "broken", "calls", "db", "decided", "epoch", "generation", "later", "left", "mark", "mark_record",
        "now", "number", "outbox", "partition", "patience", "raised", "records", "rejected", "topic",
        "writes",
    )  # fmt: skip

    def __init__(
        self,
        topic: str,
        partition: int,
        records: Sequence[Any],
        db: Any,
        partitions: Mapping[str, int],
        number: int = 0,
        mark: int = 0,
        generation: int = 0,
        epoch: int = 0,
        patience: Patience = _PATIENCE,
        raised: int = 0,
    ) -> None:
        self.topic, self.partition, self.records, self.db = topic, partition, records, db
        self.number, self.mark, self.generation, self.epoch = number, mark, generation, epoch
        #: told each offset before it is decided, where the unit holds suspects (pipeline/engine/marker.py)
        self.mark_record: Callable[[int], None] | None = None
        #: the broker's time in ms; 0 where it is not known
        self.now = 0
        self.outbox = Outbox(partitions)
        self.writes: dict[bytes, bytes | None] = {}
        #: what an effect stage admitted to be called
        self.calls: list[Any] = []
        #: what it cannot call yet, with the seconds after which it is to look again
        self.later: list[tuple[Any, float]] = []
        #: the kinds of errors of the records that were handed to reject
        self.rejected: list[str] = []
        self.decided: asyncio.Future[float] | None = None
        #: on how many records in a row the stage has raised what nobody expects, and how many it may
        self.raised, self.patience = raised, patience
        #: what it raised beyond that, and how many records are left undecided: that one and all behind it
        self.broken: Exception | None = None
        self.left = 0

    def get(self, key: bytes) -> bytes | None:
        """The row of a key as this unit has left it, or None."""
        found: bytes | None = self.writes.get(key, _MISSING)
        if found is _MISSING:
            found = self.db.get(key)
        return found

    def put(self, key: bytes, value: bytes) -> None:
        """Sets the row of a key."""
        self.writes[key] = value

    def delete(self, key: bytes) -> None:
        """Removes the row of a key."""
        self.writes[key] = None

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The rows whose keys begin with `prefix`, in key order, as this unit has left them."""
        rows = dict(scan(self.db, prefix))
        for key, value in self.writes.items():
            if key.startswith(prefix):
                if value is None:
                    rows.pop(key, None)
                else:
                    rows[key] = value
        yield from sorted(rows.items())

    def page(self, prefix: bytes, after: bytes, limit: int) -> Iterator[tuple[bytes, bytes]]:
        """At most `limit` of the rows that `scan` gives, those whose keys are above `after`.

        They are read one by one as they are asked for; in the meantime nothing may be written.
        """
        written = sorted(key for key in self.writes if key.startswith(prefix) and key > after)
        own = ((key, self.writes[key]) for key in written)
        stored = scan(self.db, prefix, after=max(after, prefix), options=COLD)
        others = ((key, value) for key, value in stored if key not in self.writes)
        rows = heapq.merge(own, others, key=itemgetter(0))
        return islice(((key, value) for key, value in rows if value is not None), limit)

    def run(self, decide: Decide, reject: Reject) -> None:
        """Lets the stage decide every record.

        Where a record makes the stage raise, the unit starts over record by record, and that one is
        handed to `reject` (which dead-letters it) with nothing left of what it had written; unless the stage
        is broken, which leaves that record and those behind it undecided.
        """
        started = time.perf_counter()
        if self.mark_record is not None:
            decide = _marking(decide, self.mark_record)
        try:
            for record in self.records:
                decide(record, self)
            if self.records:
                self.raised = 0
        except StoreBroken:
            raise
        except Exception:
            self.writes.clear()
            self.outbox.clear()
            self.calls.clear()
            self.later.clear()
            self._run_one_by_one(decide, reject)
        if self.decided is not None and not self.decided.done():
            self.decided.set_result(time.perf_counter() - started)

    def tolerates(self, error: Exception) -> bool:
        """Counts what a stage raised; False, and the stage is broken, where that was once too often."""
        raised = self.patience.after(self.raised, error)
        if raised is None:
            self.broken = error
            return False
        self.raised = raised
        return True

    def _run_one_by_one(self, decide: Decide, reject: Reject) -> None:
        kept_writes: dict[bytes, bytes | None] = {}
        kept_outbox = self.outbox
        for index, record in enumerate(self.records):
            self.writes, self.outbox = dict(kept_writes), Outbox(kept_outbox.partitions)
            try:
                decide(record, self)
            except StoreBroken:
                raise
            except Exception as error:
                if not self.tolerates(error):
                    self.left = len(self.records) - index
                    break
                self.writes, self.outbox = dict(kept_writes), Outbox(kept_outbox.partitions)
                reject(record, error, self)
                self.rejected.append(type(error).__name__)
            else:
                self.raised = 0
            kept_writes = self.writes
            for batch in self.outbox.take():
                for key, value, headers in batch.records:
                    kept_outbox.add(batch.topic, key, value, headers, partition=batch.partition, room=1 << 30)
        self.writes, self.outbox = kept_writes, kept_outbox


def _marking(decide: Decide, mark: Callable[[int], None]) -> Decide:
    def marked(record: Any, unit: Unit) -> None:
        mark(record.offset)
        decide(record, unit)

    return marked
