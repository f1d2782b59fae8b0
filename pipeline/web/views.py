"""What the operator pages stand on: histories and figures, read from the open partitions of status."""

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pipeline.engine.store import scan
from pipeline.providers import outbox
from pipeline.providers.outbox import Stored
from schemas.ids import hash_in, packed, partition_of, user_hash
from tables import broadcasts, history
from tables.broadcasts import Broadcast
from tables.history import History
from tables.rows import Rows

NOTIFICATION_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
MINUTES_SHOWN = 60
FRESH_SECONDS = 0.5
"""How long figures are good for: several viewers, and a scrape, share one reading."""
SETTLED_MINUTES = 3
SETTLED_SECONDS = 10.0
"""Minutes longer ago than those change rarely, and are read that seldom."""


class NotHeld(Exception):
    """What was asked for lives in a partition that this process does not hold; says which."""


class SeekableRows(Rows, Protocol):
    """Rows whose scans can begin behind a key."""

    def scan(self, prefix: bytes, *, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]: ...


class StoredRows:
    """A partition's rows, read-only and as they are on disk."""

    def __init__(self, db: Any) -> None:
        self._db = db

    def get(self, key: bytes) -> bytes | None:
        """The row of a key, or None."""
        found: bytes | None = self._db.get(key)
        return found

    def scan(self, prefix: bytes, *, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """The rows under a prefix, in key order, read as asked for; `after` is a key to go on behind."""
        return scan(self._db, prefix, after=after)

    def put(self, key: bytes, value: bytes) -> None:
        """Refused: only the engine writes."""
        raise TypeError("read-only")

    def delete(self, key: bytes) -> None:
        """Refused: only the engine writes."""
        raise TypeError("read-only")


class Behind:
    """Other rows, whose scans begin behind a key."""

    def __init__(self, rows: SeekableRows, after: bytes) -> None:
        self._rows, self._after = rows, after
        self.get, self.put, self.delete = rows.get, rows.put, rows.delete

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The rows under a prefix that come behind the key."""
        return self._rows.scan(prefix, after=self._after)


class Held(NamedTuple):
    """The open partitions of a role, and how many there are in all (0: the role does not run here)."""

    rows: Mapping[int, SeekableRows]
    of: int


@dataclass(frozen=True)
class Figures:
    """Sums over the open partitions; `at` is a Unix time in seconds."""

    at: float
    open: int
    of: int
    counts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    latencies: Mapping[tuple[str, int], int] = field(default_factory=dict)
    minutes: Mapping[tuple[int, str, str], int] = field(default_factory=dict)


class Desk(Protocol):
    """What the pages ask. All of it may block for a moment; none of it changes anything."""

    def held(self) -> Held:
        """The partitions that can be read now."""

    def figures(self) -> Figures:
        """Counts, latencies and the last hour's minutes, at most half a second old."""

    def notification(self, notification: str) -> History | None:
        """A notification's history. Raises ValueError for what is no id, NotHeld."""

    def of_user(self, user_id: str, most: int, after: History | None = None) -> list[History]:
        """A user's histories, the newest first; those behind `after`. Raises NotHeld."""

    def each_of_user(
        self, user_id: str, after: History | None = None, before: int | None = None
    ) -> Iterator[History]:
        """A user's histories, the newest first, read as they are taken: those behind `after`, of events
        before `before` (ms). Raises NotHeld."""

    def of_event(self, source: str, event: str, most: int) -> list[History]:
        """What came of an upstream event, as far as the open partitions know. Raises NotHeld of none."""

    def each_of_event(
        self, source: str, event: str, user_id: str | None = None, after: History | None = None
    ) -> Iterator[History]:
        """What came of an upstream event (for one user), behind `after`, read as it is taken. Raises NotHeld:
        of no open partition, or of the user's."""

    def broadcast(self, broadcast: str) -> Broadcast | None:
        """How far a broadcast is. Raises ValueError for what is no id, NotHeld."""

    def broadcasts(self, most: int) -> list[Broadcast]:
        """The newest broadcasts, as far as the open partitions know."""

    def messages(self, limit: int, before: int | None, search: str | None) -> list[Stored]:
        """The newest messages of the development outbox."""

    def message(self, key: str) -> Stored | None:
        """One message of the development outbox."""


class RowsDesk:
    """A Desk over whatever rows `held` says are there."""

    def __init__(
        self,
        held: Callable[[], Held],
        outbox_file: Path | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._held, self._outbox, self._clock = held, outbox_file, clock
        self._figures: Figures | None = None
        self._settled: tuple[float, int, frozenset[int], Mapping[tuple[int, str, str], int]] | None = None

    def held(self) -> Held:
        """The partitions that can be read now."""
        return self._held()

    def _of(self, hashed: int) -> SeekableRows:
        rows, of = self.held()
        if not of:
            raise NotHeld("the status role does not run in this process")
        partition = partition_of(hashed, of)
        if partition not in rows:
            raise NotHeld(
                f"partition {partition} of status is not held by this process (it holds {len(rows)} of {of})"
            )
        return rows[partition]

    def notification(self, notification: str) -> History | None:
        """A notification's history. Raises ValueError for what is no id, NotHeld."""
        if not NOTIFICATION_ID.fullmatch(notification):
            raise ValueError(f"{notification!r} is no notification id")
        return history.find(self._of(hash_in(notification)), notification)

    def of_user(self, user_id: str, most: int, after: History | None = None) -> list[History]:
        """A user's histories, the newest first; those behind `after`. Raises NotHeld."""
        return list(islice(self.each_of_user(user_id, after), most))

    def each_of_user(
        self, user_id: str, after: History | None = None, before: int | None = None
    ) -> Iterator[History]:
        """A user's histories, the newest first, read as they are taken: those behind `after`, of events
        before `before` (ms). Raises NotHeld."""
        rows, begins = self._of(user_hash(user_id)), []
        whose = history.BY_USER + user_id.encode() + b"\0"
        if after is not None:
            begins.append(whose + _newest_first(after["event_at"]) + packed(after["id"]))
        if before is not None:
            begins.append(whose + _newest_first(before) + b"\xff" * 16)
        return history.of_user(Behind(rows, max(begins)) if begins else rows, user_id, sys.maxsize)

    def of_event(self, source: str, event: str, most: int) -> list[History]:
        """What came of an upstream event, as far as the open partitions know. Raises NotHeld of none."""
        return list(islice(self.each_of_event(source, event), most))

    def each_of_event(
        self, source: str, event: str, user_id: str | None = None, after: History | None = None
    ) -> Iterator[History]:
        """What came of an upstream event (for one user), behind `after`, read as it is taken. Raises NotHeld:
        of no open partition, or of the user's."""
        if user_id is not None:
            parts = {0: self._of(user_hash(user_id))}
            first = 0
        else:
            rows, of = self.held()
            if not rows:
                raise NotHeld(f"no partition of status is held by this process (0 of {of})")
            parts = dict(rows)
            first = 0 if after is None else partition_of(hash_in(after["id"]), of)
        behind = None if after is None else history.event_key(source, event) + packed(after["id"])
        return (
            found
            for number, part in sorted(parts.items())
            if number >= first
            for found in history.of_event(
                Behind(part, behind) if behind is not None and number == first else part,
                source, event, user_id,
            )
        )  # fmt: skip

    def broadcast(self, broadcast: str) -> Broadcast | None:
        """How far a broadcast is. Raises ValueError for what is no id, NotHeld."""
        if not NOTIFICATION_ID.fullmatch(broadcast):
            raise ValueError(f"{broadcast!r} is no broadcast id")
        return broadcasts.find(self._of(hash_in(broadcast)), broadcast)

    def broadcasts(self, most: int) -> list[Broadcast]:
        """The newest broadcasts, as far as the open partitions know."""
        found = [one for part in self.held().rows.values() for one in broadcasts.newest(part, most)]
        return sorted(found, key=lambda one: (-one.event_at, one.id))[:most]

    def figures(self) -> Figures:
        """Counts, latencies and the last hour's minutes, at most half a second old."""
        now = self._clock()
        if self._figures is None or not 0 <= now - self._figures.at < FRESH_SECONDS:
            self._figures = self._read_figures(now)
        return self._figures

    def _read_figures(self, now: float) -> Figures:
        rows, of = self.held()
        counts: Counter[tuple[str, str]] = Counter()
        latencies: Counter[tuple[str, int]] = Counter()
        for part in rows.values():
            counts.update(history.counts(part))
            latencies.update(history.latencies(part))
        return Figures(now, len(rows), of, counts, latencies, self._minutes(rows, now))

    def _minutes(self, rows: Mapping[int, SeekableRows], now: float) -> Mapping[tuple[int, str, str], int]:
        recent = int(now // 60) - SETTLED_MINUTES
        parts = frozenset(rows)
        settled = self._settled
        if settled is None or settled[1:3] != (recent, parts) or not 0 <= now - settled[0] < SETTLED_SECONDS:
            since = int(now // 60) - MINUTES_SHOWN + 1
            older = {minute: n for minute, n in _minutes_since(rows, since).items() if minute[0] < recent}
            settled = self._settled = (now, recent, parts, older)
        return {**settled[3], **_minutes_since(rows, recent)}

    def messages(self, limit: int, before: int | None, search: str | None) -> list[Stored]:
        """The newest messages of the development outbox."""
        return [] if self._outbox is None else outbox.read(self._outbox, limit, before, search)

    def message(self, key: str) -> Stored | None:
        """One message of the development outbox."""
        return None if self._outbox is None else outbox.get(self._outbox, key)


def _newest_first(at: int) -> bytes:
    return (2**63 - at).to_bytes(8)


def _minutes_since(rows: Mapping[int, SeekableRows], since: int) -> Counter[tuple[int, str, str]]:
    found: Counter[tuple[int, str, str]] = Counter()
    begin = history.MINUTES + b"%010d" % since
    for part in rows.values():
        found.update(history.minutes(Behind(part, begin), since))
    return found


def held_by(app: Any) -> Held:
    """The partitions of a running App that are open now."""
    return Held({number: StoredRows(db) for number, db in app.store.opened().items()}, app.partitions)


class StoreDesk(RowsDesk):
    """The Desk over the databases of the status role; `status` gives its App as it runs now, or None."""

    def __init__(
        self, status: Callable[[], Any], state_dir: Path, *, clock: Callable[[], float] = time.time
    ) -> None:
        def held() -> Held:
            app = status()
            return Held({}, 0) if app is None else held_by(app)

        super().__init__(held, state_dir / outbox.FILE, clock=clock)
