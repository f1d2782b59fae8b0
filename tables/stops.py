"""Stops: what is not to be sent any more; in a channel as its last gate asks for it, in core what closed.

A channel has one row of each user and phone number, and one of each notification or broadcast that was
cancelled. Core keeps what the latest record of a person closed, to say the same when it comes again.
"""

from typing import Final, NamedTuple

import msgspec

from schemas.base import encode
from schemas.ids import phone_id
from schemas.kinds import Channel
from schemas.message import BROADCAST, CATEGORY, CHANNEL, NOTIFICATION, NUMBER, TARGET, USER, Message, Stop
from tables.rows import Rows

PREFIX: Final = b"z|"
CLOSED: Final = b"Z|"
MOST: Final = 1_000
"""Of one user on one channel; beyond them the oldest go, those first that a later one stands for."""


class Stopped(NamedTuple):
    """What stands against messages: of which kind and name, since when (ms), and why."""

    kind: str
    name: str
    at: int
    reason: str | None = None


_read = msgspec.json.Decoder(list[Stopped]).decode


def _of_user(user_id: str) -> bytes:
    return b"%suser|%s" % (PREFIX, user_id.encode())


def _of_id(kind: str, id: str) -> bytes:
    return PREFIX + f"{kind}|{id}".encode()


def target(target_id: str, category: str | None) -> str:
    """The name of a target, for everything or for one category."""
    return target_id if category is None else f"{target_id}:{category}"


def put(rows: Rows, stop: Stop) -> None:
    """Keeps a stop; a repeat changes nothing, and an unknown kind stands against nothing."""
    if stop.id is not None:
        if stop.kind in (NOTIFICATION, BROADCAST) and rows.get(_of_id(stop.kind, stop.id)) is None:
            rows.put(_of_id(stop.kind, stop.id), encode(stop))
        return
    is_number = stop.kind == NUMBER and stop.names is not None
    key = _of_id(NUMBER, stop.names[0]) if is_number and stop.names else _of_user(stop.user_id)
    known = _known(rows, key)
    new = [Stopped(stop.kind, name, stop.at, stop.reason) for name in stop.names or ("",)]
    found = known + [one for one in dict.fromkeys(new) if one not in known]
    if len(found) > len(known):
        rows.put(key, encode(_bounded(found)))


def _bounded(found: list[Stopped]) -> list[Stopped]:
    if len(found) <= MOST:
        return found
    newest = {(one.kind, one.name): one.at for one in sorted(found, key=lambda one: one.at)}
    found.sort(key=lambda one: (newest[one.kind, one.name] == one.at, one.at))
    return found[len(found) - MOST :]


def against(rows: Rows, message: Message) -> Stopped | None:
    """What stands against a message: of several the earliest, so that it is the same one again later."""
    known = _known(rows, _of_user(message.user_id))
    if message.channel is Channel.SMS:
        known = known + _known(rows, _of_id(NUMBER, phone_id(message.target)))
    found = [one for one in known if _is_against(one, message)]
    for kind, id in ((NOTIFICATION, message.id), (BROADCAST, message.broadcast)):
        if id is not None and (stop := of_id(rows, kind, id)) is not None:
            found.append(Stopped(kind, id, stop.at))
    return min(found, key=lambda one: one.at) if found else None


def _is_against(one: Stopped, message: Message) -> bool:
    """Whether it stands against a message that was planned before; later ones were decided with it."""
    if message.at > one.at:
        return False
    if one.kind == USER:
        return True
    if message.mandatory:
        return False
    if one.kind == TARGET:
        return one.name in (message.target_id, target(message.target_id, message.category))
    return one.kind in (CHANNEL, NUMBER) or (one.kind == CATEGORY and one.name == message.category)


def _known(rows: Rows, key: bytes) -> list[Stopped]:
    row = rows.get(key)
    return [] if row is None else _read(row)


def of_id(rows: Rows, kind: str, id: str) -> Stop | None:
    """The stop of a notification or a broadcast, or None."""
    row = rows.get(_of_id(kind, id))
    return None if row is None else Stop.from_json(row)


def forget(rows: Rows, key: bytes, value: bytes, oldest: int) -> None:
    """Removes what was stopped before `oldest` (ms)."""
    if not key.startswith((_of_user(""), _of_id(NUMBER, ""))):
        if Stop.from_json(value).at < oldest:
            rows.delete(key)
        return
    known = _read(value)
    kept = [one for one in known if one.at >= oldest]
    if not kept:
        rows.delete(key)
    elif len(kept) < len(known):
        rows.put(key, encode(kept))


# -- in core


class Closed(NamedTuple):
    """What a record of a person closed: its time (ms), the unit that decided it, and on each channel what."""

    at: int
    number: int
    what: tuple[tuple[Channel, str, tuple[str, ...]], ...]


_read_closed = msgspec.json.Decoder(Closed).decode


def closed(rows: Rows, person: bytes) -> Closed | None:
    """What the latest record behind a person's row that closed anything did; None where there is none."""
    row = rows.get(CLOSED + person)
    return None if row is None else _read_closed(row)


def put_closed(rows: Rows, person: bytes, found: Closed) -> None:
    """Keeps what the record behind a person's row closed."""
    rows.put(CLOSED + person, encode(found))


def forget_closed(rows: Rows, key: bytes, value: bytes, oldest: int) -> None:
    """Removes what was closed before `oldest` (ms)."""
    if _read_closed(value).at < oldest:
        rows.delete(key)
