"""The ledger of a simulator: what it was told, on the disk before anything is answered."""

import asyncio
import hashlib
import os
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import orjson

NEWEST = 200


class Entry(NamedTuple):
    """One target of a request. `request` is the request's number: a batch has as many entries as targets."""

    seq: int
    request: int
    at: int
    """Milliseconds since 1970."""
    kind: str
    key: str
    """The idempotency key or reference."""
    to: str
    body: str
    """The SHA-256 of what the target gets."""
    effect: bool
    fault: str
    """The fault that struck, or the vendor's code that refused it; "" for neither."""
    id: str
    """The vendor's id of the message, where it took effect now."""


@dataclass(slots=True)
class Recent:
    """An entry for the page, with what only the page tells."""

    entry: Entry
    words: str
    answer: str = ""
    """What the request was answered; "" while it waits."""


class Note(NamedTuple):
    """What an entry is made of."""

    key: str
    to: str
    body: bytes
    effect: bool
    fault: str = ""
    id: str = ""
    words: str = ""


class Counts:
    """What came to one kind. Not bounded: it must know all of a run."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        """By key, as all of these: how often it came."""
        self.effects: Counter[str] = Counter()
        self.body_hashes: dict[str, set[str]] = {}
        self.faults: Counter[str] = Counter()
        self.arrivals = 0
        self.targets = 0
        self.took_effect = 0
        self.several = 0
        """Keys that took effect more than once."""
        self.wrong: Counter[str] = Counter()
        """Requests that were refused as a whole, by why: unsigned ones for instance. They are no entries."""
        self._most = 0
        self._last = 0
        self._second: deque[int] = deque()

    def most_in_a_second(self) -> int:
        """The most requests that came within any one second."""
        return self._most

    def count(self, entry: Entry) -> None:
        """Takes an entry into account."""
        if entry.request != self._last:
            self._last = entry.request
            self.arrivals += 1
            self._second.append(entry.at)
            while self._second[0] <= entry.at - 1000:
                self._second.popleft()
            self._most = max(self._most, len(self._second))
        self.targets += 1
        self.requests[entry.key] += 1
        self.effects[entry.key] += entry.effect
        if entry.effect:
            self.took_effect += 1
            self.several += bool(entry.key) and self.effects[entry.key] == 2
        self.body_hashes.setdefault(entry.key, set()).add(entry.body)
        if entry.fault:
            self.faults[entry.fault] += 1


class Ledger:
    """Every target of every request, in memory as counts by kind and in a file as lines of JSON."""

    def __init__(self, path: Path | None = None) -> None:
        """Over a file that is there it knows what it knew. Raises OSError, or ValueError for another file."""
        self.seq = self.request = 0
        self.newest: deque[Recent] = deque(maxlen=NEWEST)
        self._kinds: dict[str, Counts] = {}
        self._lines: list[bytes] = []
        self._flushed: asyncio.Future[None] | None = None
        self._flusher: asyncio.Task[None] | None = None
        self._file = -1
        if path is not None:
            self._reopen(path)

    def of(self, kind: str) -> Counts:
        """What came to a kind."""
        return self._kinds.setdefault(kind, Counts())

    def _reopen(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        whole = 0
        with path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break  # torn by a kill: it was never answered
                try:
                    self._count(Entry(**orjson.loads(line)), "")
                except (TypeError, ValueError):
                    raise ValueError(f"{path}: not a simulator's ledger") from None
                whole += len(line)
        os.ftruncate(self._file, whole)

    def _count(self, entry: Entry, words: str) -> Recent:
        self.seq, self.request = entry.seq, entry.request
        self.of(entry.kind).count(entry)
        recent = Recent(entry, words)
        self.newest.append(recent)
        return recent

    async def add(self, kind: str, at: int, notes: Sequence[Note]) -> Sequence[Recent]:
        """Counts a request at once; returns when it is on the disk, if there is a file. Raises OSError."""
        request, lines, added = self.request + 1, list[bytes](), list[Recent]()
        for note in notes:
            body = hashlib.sha256(note.body).hexdigest()
            entry = Entry(
                self.seq + 1, request, at, kind, note.key, note.to, body, note.effect, note.fault, note.id
            )
            added.append(self._count(entry, note.words))
            if self._file >= 0:
                lines.append(orjson.dumps(entry._asdict()) + b"\n")
        if not lines:
            return added
        self._lines += lines
        if self._flushed is None:
            self._flushed = asyncio.get_running_loop().create_future()
        flushed = self._flushed
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        # one who goes away while it waits must not take the others along
        await asyncio.shield(flushed)
        return added

    async def _flush(self) -> None:
        """Requests that come together share a write and a sync."""
        while self._flushed is not None:
            lines, self._lines = self._lines, []
            flushed, self._flushed = self._flushed, None
            try:
                await asyncio.to_thread(self._write, b"".join(lines))
                flushed.set_result(None)
            except OSError as error:
                flushed.set_exception(error)
        self._flusher = None

    def _write(self, lines: bytes) -> None:
        view = memoryview(lines)
        while view:
            view = view[os.write(self._file, view) :]
        os.fdatasync(self._file)

    async def close(self) -> None:
        """Writes what is left. May be repeated."""
        if self._flusher is not None:
            await asyncio.wait([self._flusher])
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
