"""Addresses that a user is not reached at any more: they bounced for good, or the user complained of them."""

import msgspec

from schemas.base import encode
from schemas.kinds import Channel
from tables.rows import Rows

PREFIX = b"b|"
MOST = 100
"""Of one user; beyond them the oldest go."""

_read = msgspec.json.Decoder(dict[str, tuple[str, int]]).decode
NONE: dict[str, tuple[str, int]] = {}


def of_user(rows: Rows, user_id: str) -> dict[str, tuple[str, int]]:
    """Why and since when (ms), by channel and target id."""
    row = rows.get(PREFIX + user_id.encode())
    return NONE if row is None else _read(row)


def name(channel: Channel, target_id: str) -> str:
    """The name of an address among a user's."""
    return f"{channel}:{target_id}"


def put(rows: Rows, user_id: str, channel: Channel, target_id: str, reason: str, at: int) -> None:
    """Suppresses an address; what is suppressed already stays as it is."""
    found = dict(of_user(rows, user_id))
    if name(channel, target_id) in found:
        return
    found[name(channel, target_id)] = (reason, at)
    while len(found) > MOST:
        del found[min(found, key=lambda one: found[one][1])]
    rows.put(PREFIX + user_id.encode(), encode(found))
