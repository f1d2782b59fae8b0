"""Know: reads `users`, `preferences` and `devices`; keeps the latest of each, sends home what came astray.

What a record closes is stopped on the channels (agents/stops.py).
"""

from collections.abc import Sequence

from pydantic import ValidationError

from agents import redrive, stops, topics
from agents.sending import Send
from schemas.event import Unreadable, first_problem
from schemas.user import Device, Preferences, User
from tables import people, waits
from tables.rows import Rows

_TABLES: dict[str, tuple[bytes, type[User | Preferences | Device]]] = {
    topics.USERS: (people.USERS, User),
    topics.PREFERENCES: (people.PREFERENCES, Preferences),
    topics.DEVICES: (people.DEVICES, Device),
}


def know(
    topic: str,
    key: bytes | None,
    value: bytes | None,
    at: int,
    rows: Rows,
    number: int = 0,
    mark: int = -1,
) -> list[Send]:
    """Upserts a row or erases it (no value); returns what it stops. `at` is the broker's time in ms, of a
    redriven record that of the source. Raises Unreadable.

    `number` is the unit's, `mark` the highest whose outputs are all out.
    """
    prefix, model = _TABLES[topic]
    if not key:
        raise Unreadable("the record has no key; it must be the user id")
    if value is not None:
        try:
            known = model.model_validate_json(value)
        except ValidationError as error:
            raise Unreadable(first_problem(error)) from None
        if prefix != people.DEVICES and known.user_id and known.user_id.encode() != key:
            raise Unreadable("user_id: is not the record's key, by which the record is found")
        value = known.to_json()  # in one form, so that reading it needs no second look
    row, user_id = prefix + key, key.decode("utf-8", "replace")
    before = rows.get(row)
    if not people.upsert(rows, row, at, value) or prefix == people.DEVICES:
        return []
    if prefix == people.USERS and value is not None:
        for wait in people.awaiting(rows, user_id):
            waits.move(rows, wait, at)
    closed = _closed(prefix, before, rows.get(row))
    return stops.of_person(row, user_id, max(at, 0), closed, rows, number, mark)


def _closed(prefix: bytes, before: bytes | None, after: bytes | None) -> Sequence[stops.What]:
    """What the change of a row closes."""
    if prefix == people.PREFERENCES:
        return stops.newly_closed(people.wishes(before), people.wishes(after))
    return stops.EVERYTHING if people.is_erased(after) and not people.is_erased(before) else ()


def astray(
    topic: str,
    key: bytes,
    value: bytes | None,
    user_hash: int,
    headers: Sequence[tuple[str, bytes]] = (),
) -> Send:
    """The same record, sent to the partition that the user's hash gives; a redriven one stays one."""
    return Send(topic, key, value, user_hash, list(headers) if redrive.name(headers) else None)
