"""Claims: which record decided a notification's step, when, and what its outputs' bytes depend on."""

import msgspec

from schemas.base import encode
from schemas.ids import packed
from schemas.kinds import Channel
from tables.rows import Rows

PREFIX = b"c|"


class Origin(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The `notifications` record that something was decided from; `at` is the broker's time in ms."""

    topic: str
    partition: int
    offset: int
    at: int


class Pinned(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The outcome of one channel: a target, or the reason why there is none and what the rule saw."""

    channel: Channel
    target: str | None
    reason: str | None = None
    saw: str = ""


class Claim(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one step of a notification came to.

    `position` is the place of the `events` record behind it; `number` the unit that decided it;
    `mendable` marks a failure that is decided afresh when it comes up again.
    """

    origin: Origin
    position: str
    number: int
    version: int
    pinned: tuple[Pinned, ...]
    mendable: bool = False
    failure: str | None = None


def key(notification: str, step: str) -> bytes:
    """The row key of a claim."""
    return PREFIX + packed(notification) + step.encode()


class _Begin(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The part of a claim that tells its age."""

    origin: Origin


_read_begin = msgspec.json.Decoder(_Begin).decode
_read = msgspec.json.Decoder(Claim).decode


def find(rows: Rows, key: bytes) -> Claim | None:
    """The claim of a step by its row key, or None."""
    row = rows.get(key)
    return None if row is None else _read(row)


def put(rows: Rows, key: bytes, claim: Claim) -> None:
    """Claims a step by its row key."""
    rows.put(key, encode(claim))


def forget(rows: Rows, key: bytes, value: bytes, oldest: int) -> None:
    """Removes the claim of a record that came before `oldest`."""
    if _read_begin(value).origin.at < oldest:
        rows.delete(key)
