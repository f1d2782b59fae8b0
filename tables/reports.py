"""What was reported of each notification: each report once, with the place of the record that brought it."""

from collections.abc import Sequence

import msgspec

from schemas.ids import packed
from schemas.kinds import State
from schemas.report import Report
from tables.rows import Rows

PREFIX = b"R|"
MOST_READ = 50
MOST = 100
"""Of a notification. What readers do fills half of them at the most, so that a complaint always fits."""


class Kept(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A report; the partition and offset of its record; when it came (ms); the unit that told it.

    `number` is 0 while its message is not known here.
    """

    report: Report
    place: str
    at: int
    number: int


_read = msgspec.json.Decoder(list[Kept]).decode
_write = msgspec.json.Encoder().encode


def key(notification: str) -> bytes:
    """The row key of a notification's reports."""
    return PREFIX + packed(notification)


def of(rows: Rows, notification: str) -> list[Kept]:
    """The reports of a notification, in the order in which they came."""
    row = rows.get(key(notification))
    return [] if row is None else _read(row)


def put(rows: Rows, notification: str, kept: Sequence[Kept]) -> None:
    """Keeps the reports of a notification."""
    rows.put(key(notification), _write(kept))


def has_room(kept: Sequence[Kept], report: Report) -> bool:
    """Whether another one is kept."""
    return len(kept) < (MOST_READ if report.state in (State.OPENED, State.CLICKED) else MOST)


def are_same(one: Report, other: Report) -> bool:
    """Whether two reports say the same, whenever it was: vendors repeat themselves, and readers too."""
    return (
        one.state == other.state
        and one.target_id == other.target_id
        and one.channel == other.channel
        and one.step == other.step
        and one.provider == other.provider
        and one.reason == other.reason
        and one.detail == other.detail
    )


def forget(rows: Rows, key: bytes, value: bytes, oldest: int) -> None:
    """Removes the reports of a notification if none came since `oldest` (ms)."""
    if all(one.at < oldest for one in _read(value)):
        rows.delete(key)
