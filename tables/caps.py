"""Caps: how much a user was sent in a day of theirs, of a category in that day, of a workflow in a span.

Rows begin with their day, so that past ones lie together.
"""

from functools import lru_cache

from tables.rows import Rows

PREFIX = b"k|"
DAY = 86_400_000


def key(user_id: str, day: int) -> bytes:
    """The row of a user's day (days since the epoch, in the user's zone)."""
    return _day(day) + user_id.encode()


def of_category(user_id: str, day: int, category: str) -> bytes:
    """The row of a category in a user's day."""
    return key(user_id, day) + b"\0" + category.encode()


def of_workflow(user_id: str, at: int, per: int, workflow: str) -> bytes:
    """The row of a workflow in the span of `per` ms that `at` lies in, among those of the day of its end."""
    span = at // per
    return key(user_id, (span + 1) * per // DAY) + b"\0%d\0%d\0%s" % (per, span, workflow.encode())


@lru_cache(maxsize=64)
def _day(number: int) -> bytes:
    return PREFIX + b"%06d|" % number


def forget(rows: Rows, key: bytes, value: bytes, oldest: int) -> None:
    """Removes a row of a day that ended everywhere before `oldest` (ms)."""
    if (int(key[len(PREFIX) : len(PREFIX) + 6]) + 2) * DAY <= oldest:
        rows.delete(key)


def count(rows: Rows, key: bytes) -> int:
    """How many were counted so far."""
    return int(rows.get(key) or 0)


def raise_by_one(rows: Rows, key: bytes, counted: int) -> None:
    """Counts one more than `counted`."""
    rows.put(key, b"%d" % (counted + 1))
