"""Claims: which record decided a notification's step, when, and what its outputs' bytes depend on."""

import msgspec

from schemas.base import encode
from schemas.ids import packed
from schemas.kinds import Channel, State
from tables.rows import Rows

PREFIX = b"c|"


class Origin(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The `notifications` record that something was decided from; `at` is the broker's time in ms."""

    topic: str
    partition: int
    offset: int
    at: int


class Device(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a provider needs of a device beside its token."""

    platform: str
    keys: dict[str, str]


class Pinned(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The outcome of one target of a channel, or the reason why there is none and what the rule saw."""

    channel: Channel
    target: str | None
    reason: str | None = None
    saw: str = ""
    device: Device | None = None


class Instead(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What became of a whole step that reached no channel (yet): put off until `due`, gathered, cancelled.

    `digest` is the digest that it went into as item `n`; `flushes`: it filled it. `alone`: it is the only
    item of that digest, and has no row.
    """

    state: State
    reason: str
    saw: str = ""
    due: int | None = None
    digest: str | None = None
    n: int = 0
    flushes: bool = False
    alone: bool = False


class Manner(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How the words were rendered: in which language, with whose clock, and which variant of them."""

    locale: str
    zone: str
    variant: str | None = None


DEFAULT = Manner("en", "UTC")
"""That of a user of whom nothing else is known; claims leave it out."""

Note = tuple[str, str, str]
"""A rule of the whole decision, what it saw, and what it said."""


class Claim(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one step of a notification came to.

    `position` is the place of the `events` record behind it; `number` the unit that decided it;
    `failure` is one that can be mended.
    """

    origin: Origin
    position: str
    number: int
    version: int
    pinned: tuple[Pinned, ...]
    failure: str | None = None
    instead: Instead | None = None
    notes: tuple[Note, ...] = ()
    manner: Manner | None = None

    @property
    def mendable(self) -> bool:
        """Whether it is decided afresh when it comes up again."""
        return self.failure is not None

    @property
    def cancelled_first(self) -> bool:
        """Whether this is the mark of a cancel that came before what it cancels."""
        return not self.position and self.instead is not None


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
