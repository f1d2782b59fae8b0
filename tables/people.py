"""Users, preferences and devices: the latest upsert of each, with its time."""

from typing import Final, TypeVar

import orjson

from schemas.base import Frozen
from schemas.user import Device, Preferences, User
from tables.rows import Rows

USERS: Final = b"u|"
PREFERENCES: Final = b"p|"
DEVICES: Final = b"d|"
M = TypeVar("M", bound=Frozen)

DEFAULT_PREFERENCES = Preferences()


def upsert(rows: Rows, key: bytes, at: int, value: bytes | None) -> bool:
    """Sets a row unless a newer one is there; says whether it did.

    A tombstone keeps its time, so that a rewound group cannot revive what was erased. `at` is in
    milliseconds; a record without a time (-1) is the oldest of all.
    """
    at = max(at, 0)
    known = rows.get(key)
    if known is not None and int.from_bytes(known[:8]) > at:
        return False
    rows.put(key, at.to_bytes(8) + (value or b""))
    return True


def read(rows: Rows, key: bytes, model: type[M]) -> M | None:
    """The value of a row, or None where there is none or it was erased.

    A row holds what a model of ours wrote (agents/know.py), so it is not validated again.
    """
    row = rows.get(key)
    if row is None or len(row) == 8:
        return None
    return model.trusted(orjson.loads(row[8:]))


def user(rows: Rows, user_id: str) -> User | None:
    """The user of that id."""
    return read(rows, USERS + user_id.encode(), User)


def preferences(rows: Rows, user_id: str) -> Preferences:
    """The preferences of a user, the defaults where nothing is known."""
    return read(rows, PREFERENCES + user_id.encode(), Preferences) or DEFAULT_PREFERENCES


def devices(rows: Rows, user_id: str) -> list[Device]:
    """The devices of a user, in the order of their tokens."""
    found = rows.scan(DEVICES + user_id.encode() + b"\0")
    return [Device.model_validate_json(row[8:]) for _, row in found if len(row) > 8]
