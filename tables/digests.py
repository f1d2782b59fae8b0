"""Digests: one row a digest that still gathers, one an item; the items go when the digest is planned."""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import msgspec

from schemas.base import encode
from schemas.ids import packed
from tables.rows import Rows

OPEN = b"i|"
ITEMS = b"j|"


class Gathered(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A digest that still gathers: its id, its items so far, and the bytes of their data."""

    id: str
    count: int
    size: int


_read = msgspec.json.Decoder(Gathered).decode


def key(user_id: str, workflow: str, by: str) -> bytes:
    """The row of the digest that gathers for a user, a workflow and a key of its."""
    return OPEN + user_id.encode() + b"\0" + blake2b(f"{workflow}|{by}".encode(), digest_size=12).digest()


def find(rows: Rows, key: bytes) -> Gathered | None:
    """The digest that gathers there, or None."""
    row = rows.get(key)
    return None if row is None else _read(row)


def put(rows: Rows, key: bytes, gathered: Gathered) -> None:
    """Notes how far a digest has come."""
    rows.put(key, encode(gathered))


def put_item(rows: Rows, digest: str, n: int, item: bytes) -> None:
    """Adds the n-th item, as JSON."""
    rows.put(ITEMS + packed(digest) + n.to_bytes(4), item)


def drop_item(rows: Rows, digest: str, n: int) -> None:
    """Takes an item out again."""
    rows.delete(ITEMS + packed(digest) + n.to_bytes(4))


def items(rows: Rows, digest: str) -> Iterator[Any]:
    """The items of a digest, in the order in which they came."""
    for _, value in rows.scan(ITEMS + packed(digest)):
        yield msgspec.json.decode(value)


def drop(rows: Rows, digest: str) -> None:
    """Forgets all items of a digest."""
    for key, _ in list(rows.scan(ITEMS + packed(digest))):
        rows.delete(key)
