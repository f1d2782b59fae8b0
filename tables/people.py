"""Users, preferences and devices: the latest upsert of each, with its time."""

from typing import Final

import msgspec

from schemas.ids import target_id
from schemas.kinds import Channel
from schemas.user import DEFAULT_FREQUENCY_LIMIT
from tables.rows import Rows

USERS: Final = b"u|"
PREFERENCES: Final = b"p|"
DEVICES: Final = b"d|"
AWAITED: Final = b"y|"
MOST_AWAITING: Final = 1_000
TIME: Final = 8
"""Bytes of a row's time, ahead of its value."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """The part of a row that planning reads; agents/know.py has validated the whole."""


class Person(Row, frozen=True):
    """A user, and where they are reached."""

    email: str | None = None
    phone: str | None = None
    timezone: str = "UTC"
    locale: str = "en"
    slack: str | None = None
    webhook_url: str | None = None


class QuietHours(Row, frozen=True):
    """From when to when not to disturb, as HH:MM in the user's zone."""

    start: str
    end: str


class Wishes(Row, frozen=True):
    """What a user wants: what is not mentioned is wanted."""

    channels: dict[Channel, bool] = {}
    categories: dict[str, dict[Channel, bool]] = {}
    frequency_limit: int = DEFAULT_FREQUENCY_LIMIT
    quiet_hours: QuietHours | None = None


class Device(Row, frozen=True):
    """A device that takes push messages."""

    token: str
    platform: str
    keys: dict[str, str] = {}


_DEFAULT_WISHES = Wishes()
_person = msgspec.json.Decoder(Person).decode
_wishes = msgspec.json.Decoder(Wishes).decode
_device = msgspec.json.Decoder(Device).decode


def upsert(rows: Rows, key: bytes, at: int, value: bytes | None) -> bool:
    """Sets a row unless a newer one is there; says whether it did.

    A tombstone keeps its time, so that a rewound group cannot revive what was erased. `at` is in
    milliseconds; a record without a time (-1) is the oldest of all.
    """
    at = max(at, 0)
    known = rows.get(key)
    if known is not None and int.from_bytes(known[:TIME]) > at:
        return False
    rows.put(key, at.to_bytes(TIME) + (value or b""))
    return True


def is_erased(row: bytes | None) -> bool:
    """Whether a row is a tombstone."""
    return row is not None and len(row) == TIME


def user(rows: Rows, user_id: str) -> Person | None:
    """The user of that id, or None where there is none or it was erased."""
    row = rows.get(USERS + user_id.encode())
    return None if row is None or len(row) == TIME else _person(row[TIME:])


def preferences(rows: Rows, user_id: str) -> Wishes:
    """The preferences of a user, the defaults where nothing is known."""
    return wishes(rows.get(PREFERENCES + user_id.encode()))


def wishes(row: bytes | None) -> Wishes:
    """The preferences that a row says, the defaults where it says nothing."""
    return _DEFAULT_WISHES if row is None or len(row) == TIME else _wishes(row[TIME:])


def devices(rows: Rows, user_id: str) -> list[Device]:
    """The devices of a user, in the order of their tokens."""
    found = rows.scan(DEVICES + user_id.encode() + b"\0")
    return [_device(row[TIME:]) for _, row in found if len(row) > TIME]


def drop_device(rows: Rows, user_id: str, target: str, since: int) -> bool:
    """Drops the device whose token has that target id, unless it was registered after `since` (ms).

    Its row stays as a tombstone of just after `since`: what was registered until then is not revived.
    """
    for key, row in list(rows.scan(DEVICES + user_id.encode() + b"\0")):
        if len(row) == TIME or int.from_bytes(row[:TIME]) > since:
            continue
        if target_id(_device(row[TIME:]).token) == target:
            rows.put(key, (since + 1).to_bytes(TIME))
            return True
    return False


def await_user(rows: Rows, user_id: str, wait: bytes) -> None:
    """Notes the id of a wait that is over as soon as the user is known; beyond a bound, they just wait."""
    found = awaiting(rows, user_id)
    if wait not in found and len(found) < MOST_AWAITING:
        rows.put(AWAITED + user_id.encode(), msgspec.msgpack.encode([*found, wait]))


def awaiting(rows: Rows, user_id: str) -> list[bytes]:
    """The waits for a user."""
    row = rows.get(AWAITED + user_id.encode())
    return [] if row is None else msgspec.msgpack.decode(row, type=list[bytes])


def stop_awaiting(rows: Rows, user_id: str) -> None:
    """Forgets who waits for a user."""
    if rows.get(AWAITED + user_id.encode()) is not None:
        rows.delete(AWAITED + user_id.encode())
