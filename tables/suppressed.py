"""Addresses that are not reached any more: they bounced for good, or whoever has them wants no more.

A user's are in one row; phone numbers whose owner told us to stop have a row each, for nobody knows who has
the number. What is lifted keeps its time, so that a rewound group cannot bring back what was before.
"""

import msgspec

from schemas.base import encode
from schemas.kinds import Channel, State
from tables.rows import Rows

PREFIX = b"b|"
NUMBERS = b"B|"
MOST = 100
"""Of one user; beyond them the oldest go."""

_read = msgspec.json.Decoder(dict[str, tuple[str | None, int]]).decode
_read_one = msgspec.json.Decoder(tuple[str | None, int]).decode
NONE: dict[str, tuple[str | None, int]] = {}


def of_user(rows: Rows, user_id: str) -> dict[str, tuple[str | None, int]]:
    """Why (None: it is lifted) and since when (ms), by name."""
    row = rows.get(PREFIX + user_id.encode())
    return NONE if row is None else _read(row)


def name(channel: Channel, target_id: str, category: str | None = None) -> str:
    """The name of an address among a user's, for everything or for one category."""
    return f"{channel}:{target_id}" if category is None else f"{channel}:{target_id}:{category}"


def against(
    found: dict[str, tuple[str | None, int]],
    channel: Channel,
    target_id: str,
    category: str,
    number: tuple[str | None, int] | None = None,
) -> str | None:
    """Why an address is not reached with something of a category, or None where it is.

    `number` is what its owner said of it as a phone number: who has asked for messages again has taken back
    that they unsubscribed.
    """
    if number is not None and number[0] is not None:
        return number[0]
    for one in (name(channel, target_id), name(channel, target_id, category)):
        reason, at = found.get(one, (None, 0))
        if reason == State.UNSUBSCRIBED and number is not None and number[1] > at:
            continue
        if reason is not None:
            return reason
    return None


def tell(rows: Rows, user_id: str, name: str, reason: str | None, at: int) -> None:
    """Suppresses a user's address, or lifts that (no reason). What is so already stays as it is, and an
    earlier word changes nothing."""
    found = dict(of_user(rows, user_id))
    if not _changes(found.get(name), reason, at):
        return
    found[name] = (reason, at)
    while len(found) > MOST:
        del found[min(found, key=lambda one: found[one][1])]
    rows.put(PREFIX + user_id.encode(), encode(found))


def of_number(rows: Rows, phone_id: str) -> tuple[str | None, int] | None:
    """Why (None: it is lifted) and since when (ms) a phone number is not reached, whoever has it."""
    row = rows.get(NUMBERS + phone_id.encode())
    return None if row is None else _read_one(row)


def tell_number(rows: Rows, phone_id: str, reason: str | None, at: int) -> None:
    """Suppresses a phone number for everybody, or lifts that; as `tell`."""
    if _changes(of_number(rows, phone_id), reason, at):
        rows.put(NUMBERS + phone_id.encode(), encode((reason, at)))


def _changes(known: tuple[str | None, int] | None, reason: str | None, at: int) -> bool:
    if known is None:
        return True
    return at > known[1] and (known[0] is None) != (reason is None)
