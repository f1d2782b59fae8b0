"""Caps: how much a user was sent in a day."""

from functools import lru_cache

from tables.rows import Rows

PREFIX = b"k|"
DAY = 86_400_000


def key(user_id: str, at: int) -> bytes:
    """The row of a user's day; `at` is in milliseconds since the epoch, days are UTC's."""
    return PREFIX + user_id.encode() + _day(at // DAY)


@lru_cache(maxsize=64)
def _day(number: int) -> bytes:
    return b"|%06d" % number


def forget(rows: Rows, key: bytes, value: bytes, oldest: int) -> None:
    """Removes the row of a day that ended before `oldest`."""
    if (int(key[-6:]) + 1) * DAY <= oldest:
        rows.delete(key)


def count(rows: Rows, key: bytes) -> int:
    """How many were counted so far."""
    return int(rows.get(key) or 0)


def raise_by_one(rows: Rows, key: bytes, counted: int) -> None:
    """Counts one more than `counted`."""
    rows.put(key, b"%d" % (counted + 1))
