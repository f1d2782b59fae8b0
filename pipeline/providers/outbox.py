"""The development outbox: each message is a row of SQLite that the operator pages show.

The newest ROWS messages are kept whole, and the newest KEYS keys, so that a second call with a key has
no second effect long after its message is gone. Several processes may write, and others read meanwhile.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.providers.provider import Place, ProviderSettings
from schemas.message import Message
from schemas.outcome import Meaning, Outcome, deferred, delivered, doubtful, refused

FILE = "outbox.sqlite3"
ROWS = 20_000
KEYS = 500_000
BATCH = 1_000
"""The most rows of one transaction."""
BUSY_SECONDS = 5.0
"""How long a writer waits for another process's transaction."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, requests INTEGER NOT NULL DEFAULT 1
);
CREATE TABLE IF NOT EXISTS messages (
    seq INTEGER PRIMARY KEY, key TEXT NOT NULL, provider TEXT NOT NULL, channel TEXT NOT NULL,
    notification_id TEXT NOT NULL, user_id TEXT NOT NULL, target TEXT NOT NULL, subject TEXT,
    text TEXT NOT NULL, html TEXT, category TEXT NOT NULL, priority TEXT NOT NULL, at INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS counts (
    id INTEGER PRIMARY KEY CHECK (id = 1), requests INTEGER NOT NULL, effects INTEGER NOT NULL
);
INSERT OR IGNORE INTO counts VALUES (1, 0, 0);
CREATE VIEW IF NOT EXISTS kept AS
    SELECT m.seq, m.key, m.provider, m.channel, m.notification_id, m.user_id, m.target, m.subject, m.text,
           m.html, m.category, m.priority, m.at, k.requests
    FROM messages m JOIN keys k USING (seq);
"""
_CLAIM = "INSERT OR IGNORE INTO keys (key) VALUES (?)"
_REPEAT = "UPDATE keys SET requests = requests + 1 WHERE key = ?"
_KNOWN = "SELECT seq FROM keys WHERE key = ?"
_INSERT = "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_COUNT = "UPDATE counts SET requests = requests + ?, effects = effects + ?"
_READ = """
SELECT * FROM kept WHERE seq < ?1 AND (
    ?2 IS NULL OR target LIKE ?2 ESCAPE '!' OR user_id LIKE ?2 ESCAPE '!' OR subject LIKE ?2 ESCAPE '!'
    OR text LIKE ?2 ESCAPE '!' OR key LIKE ?2 ESCAPE '!'
) ORDER BY seq DESC LIMIT ?3
"""
_GET = "SELECT * FROM kept WHERE key = ?"


CODES: Mapping[str, Meaning] = {}
"""It has none: what its file system says is told as it is."""


class Settings(ProviderSettings):
    """The outbox: nothing of its own."""

    kind: Literal["outbox"] = "outbox"


class Stored(NamedTuple):
    """A message in the outbox. `at` is the broker's time of its planning in ms, `requests` its calls."""

    seq: int
    key: str
    provider: str
    channel: str
    notification_id: str
    user_id: str
    target: str
    subject: str | None
    text: str
    html: str | None
    category: str
    priority: str
    at: int
    requests: int


class Counts(NamedTuple):
    """Calls that were made, and rows that came of them."""

    requests: int
    effects: int


class Outbox:
    """Stores messages. Calls that come together share a transaction; each is answered when its row is in."""

    kind = "outbox"
    honours_keys = True
    parallel = BATCH
    platforms = None

    def __init__(self, name: str, path: Path, timeout: float, *, rows: int = ROWS, keys: int = KEYS) -> None:
        self.name, self.path, self.timeout = name, path, timeout
        self.rows, self.keys = rows, keys
        self._waiting: list[tuple[Message, str, asyncio.Future[Outcome]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outbox")
        self._database: sqlite3.Connection | None = None

    async def send(self, message: Message, key: str) -> Outcome:
        """Delivered, with the row's number; the same number for a key that is known."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((message, key, answer))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all())
        try:
            async with asyncio.timeout(self.timeout):
                return await answer
        except TimeoutError:
            return doubtful("the outbox did not answer in time", fault="provider")

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                calls = [(message, key) for message, key, answer in batch if not answer.done()]
                answers = [answer for _, _, answer in batch if not answer.done()]
                try:
                    outcomes = await loop.run_in_executor(self._thread, self._write, calls)
                except Exception as error:
                    # the transaction was rolled back as a whole
                    outcomes = [deferred(f"outbox: {type(error).__name__}", fault="provider")] * len(answers)
                for answer, outcome in zip(answers, outcomes, strict=True):
                    if not answer.done():
                        answer.set_result(outcome)
        finally:
            self._writer = None

    def _write(self, calls: list[tuple[Message, str]]) -> list[Outcome]:
        """One transaction, in the writer's thread."""
        database = self._database or self._open()
        outcomes: list[Outcome] = []
        effects = newest = 0
        with database:
            database.execute("BEGIN IMMEDIATE")
            for message, key in calls:
                try:
                    claimed = database.execute(_CLAIM, (key,))
                    if claimed.rowcount:
                        seq = claimed.lastrowid or 0
                        database.execute(_INSERT, _row(seq, key, self.name, message))
                        effects, newest = effects + 1, seq
                    else:
                        database.execute(_REPEAT, (key,))
                        seq = database.execute(_KNOWN, (key,)).fetchone()[0]
                except UnicodeError:
                    outcomes.append(refused("not Unicode text"))
                else:
                    outcomes.append(delivered(f"outbox:{seq}"))
            database.execute(_COUNT, (len(calls), effects))
            if newest:
                database.execute("DELETE FROM messages WHERE seq <= ?", (newest - self.rows,))
                database.execute("DELETE FROM keys WHERE seq <= ?", (newest - self.keys,))
        return outcomes

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # addresses and bodies: for this user alone (SQLite gives -wal and -shm the same mode)
        guard = os.open(self.path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(guard, fcntl.LOCK_EX)  # SQLite does not wait for others to come to WAL mode
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            database = sqlite3.connect(
                self.path,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=16,
            )
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = OFF")
            database.executescript(_SCHEMA)
        finally:
            os.close(guard)
        self._database = database
        return database

    async def close(self) -> None:
        """Waits for what is being written, and lets the file go."""
        while self._writer is not None:
            await asyncio.wait([self._writer])
        self._thread.shutdown(wait=True)
        if self._database is not None:
            self._database.close()
            self._database = None


def _row(seq: int, key: str, provider: str, message: Message) -> tuple[object, ...]:
    return (
        seq, key, provider, str(message.channel), message.id, message.user_id, message.target,
        message.subject, message.text, message.html, message.category, str(message.priority), message.at,
    )  # fmt: skip


def make(name: str, settings: Settings, place: Place) -> Outbox:
    """The outbox of a state directory; providers of several channels may share it."""
    return Outbox(name, place.state_dir / FILE, settings.timeout)


def read(path: Path, limit: int = 50, before: int | None = None, search: str | None = None) -> list[Stored]:
    """The newest messages first, those below `before`; `search` looks into target, user, subject, text, key.

    Empty where there is no outbox yet. Safe while others write.
    """
    pattern = "%" + re.sub(r"([%_!])", r"!\1", search) + "%" if search else None
    with _reading(path) as database:
        rows = (
            database.execute(_READ, (before if before is not None else 2**62, pattern, limit))
            if database
            else ()
        )
        return [Stored(*row) for row in rows]


def get(path: Path, key: str) -> Stored | None:
    """The message of a key, if it is among those kept."""
    with _reading(path) as database:
        row = database.execute(_GET, (key,)).fetchone() if database else None
    return Stored(*row) if row else None


def counts(path: Path) -> Counts:
    """Requests and effects of all time."""
    with _reading(path) as database:
        row = database.execute("SELECT requests, effects FROM counts").fetchone() if database else None
    return Counts(*row) if row else Counts(0, 0)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection | None]:
    """A connection that cannot write; None where there is no outbox yet."""
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
    except sqlite3.OperationalError:
        if path.exists():
            raise
        yield None
        return
    try:
        # its first writer may not have made the tables yet
        made = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'counts'").fetchone()[0]
        yield database if made else None
    finally:
        database.close()
