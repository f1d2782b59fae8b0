"""Waits: what is to come up again, by the moment when it is due.

A row holds the record that is published then; nothing else happens by the clock. Whoever reads that record
compares the moment that it carries with the row's (a copy that comes late finds another, or none), drops
the row, and goes on. Cancelling is dropping.
"""

from collections.abc import Iterable, Iterator

import msgspec

from tables.rows import Readable, Rows

PREFIX = b"w|"
BY_ID = b"x|"
_DUE = slice(len(PREFIX), len(PREFIX) + 8)


class Wait(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The record that comes up: `topic` is its name on the broker, `epoch` that of the owner who wrote it.

    `headers` are those that it keeps.
    """

    topic: str
    key: bytes
    value: bytes
    epoch: int
    headers: tuple[tuple[str, bytes], ...] = ()


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Wait).decode


def key(due: int, id: bytes) -> bytes:
    """The row of a wait; rows stand in the order in which they fall due (`due` in ms since the epoch)."""
    return PREFIX + max(due, 0).to_bytes(8) + id


def from_moment(key: bytes) -> bytes:
    """What stands before every row that is due at the same moment, and behind all earlier ones."""
    return key[: _DUE.stop]


def due_of(key: bytes) -> int:
    """When the row of that key falls due."""
    return int.from_bytes(key[_DUE])


def find(rows: Readable, id: bytes) -> int | None:
    """When a wait falls due, or None where there is none."""
    due = rows.get(BY_ID + id)
    return None if due is None else int.from_bytes(due)


def put(rows: Rows, id: bytes, due: int, wait: Wait) -> None:
    """Lets a record come up at `due`, instead of what waited under the same id."""
    drop(rows, id)
    rows.put(key(due, id), _encode(wait))
    rows.put(BY_ID + id, max(due, 0).to_bytes(8))


def drop(rows: Rows, id: bytes) -> bool:
    """Forgets a wait; says whether there was one."""
    due = find(rows, id)
    if due is None:
        return False
    rows.delete(key(due, id))
    rows.delete(BY_ID + id)
    return True


def move(rows: Rows, id: bytes, due: int) -> None:
    """Lets what waits under an id come up at another moment; does nothing where nothing waits."""
    now = find(rows, id)
    row = None if now is None else rows.get(key(now, id))
    if row is not None:
        drop(rows, id)
        rows.put(key(due, id), row)
        rows.put(BY_ID + id, max(due, 0).to_bytes(8))


def beginning(rows: Rows, id: bytes) -> list[bytes]:
    """The ids of all waits that begin so."""
    return [row.removeprefix(BY_ID) for row, _ in rows.scan(BY_ID + id)]


def read(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, int, Wait]]:
    """Key, moment and record of rows."""
    for row, value in rows:
        yield row, due_of(row), _decode(value)
