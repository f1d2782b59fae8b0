"""Watches: what is to be done for a notification if all of its targets fail."""

import msgspec

from schemas.ids import packed
from tables.rows import Rows

PREFIX = b"f|"


class Watch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The record that goes on (`following`), the targets that may still reach the user, since when (ms)."""

    following: bytes
    targets: tuple[str, ...]
    at: int


_decode = msgspec.msgpack.Decoder(Watch).decode
_encode = msgspec.msgpack.Encoder().encode


def key(notification: str, step: str) -> bytes:
    """The row of a step's watch."""
    return PREFIX + packed(notification) + step.encode()


def find(rows: Rows, key: bytes) -> Watch | None:
    """The watch of that key, or None."""
    row = rows.get(key)
    return None if row is None else _decode(row)


def put(rows: Rows, key: bytes, watch: Watch) -> None:
    """Watches a step."""
    rows.put(key, _encode(watch))


def forget(rows: Rows, key: bytes, value: bytes, oldest: int) -> None:
    """Removes a watch of before `oldest` (ms)."""
    if _decode(value).at < oldest:
        rows.delete(key)


def failed(watch: Watch, target: str) -> Watch:
    """The watch after a target has failed; a repeat changes nothing."""
    return msgspec.structs.replace(watch, targets=tuple(t for t in watch.targets if t != target))
