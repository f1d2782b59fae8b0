"""How the rows of each table are laid out: what their keys are made of, and how keys and values are said.

A key is said part by part, with a bar between them: ids as ids, times as RFC 3339. What stands in a text as
a bar, a per cent sign, a control character or no UTF-8 is said as %XX, so that a key leads back to its row.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec

from schemas.ids import masked, packed
from schemas.status import rfc3339
from tables import (
    broadcasts,
    caps,
    claims,
    digests,
    effects,
    history,
    people,
    reports,
    stops,
    suppressed,
    waits,
    watches,
)

BAR: Final = "|"
_DAY: Final = 86_400_000
_MINUTE: Final = 60_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST: Final = "0000-01-01T00:00:00.000Z"
_UNPLAIN: Final = re.compile(r"[%|\x00-\x1f\x7f\udc80-\udcff]")
_CUT: Final = re.compile(r"%[0-9A-Fa-f]?$")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


class Keeper(StrEnum):
    """Which roles keep a table."""

    CORE = "core"
    CHANNEL = "channel"
    WAITING = "core and channel"
    STATUS = "status"
    EVERY = "every"


# -- the parts of keys


class Kind(NamedTuple):
    """One kind of part. `start` gives the lowest bytes of what is said to begin so; both raise ValueError.

    Where `ascends`, what is said rises with the bytes, so that what begins alike stands together.
    """

    pattern: bytes
    say: Callable[[bytes], str]
    read: Callable[[str], bytes]
    start: Callable[[str], bytes]
    ascends: bool = True


def say(raw: bytes) -> str:
    """Any bytes, as text that can be led back to them."""
    text = raw.decode("utf-8", "surrogateescape")
    return _UNPLAIN.sub(lambda found: _escaped(found[0]), text)


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))


def meant(text: str) -> bytes:
    """The bytes that are said so."""
    return _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), text.encode("utf-8", "replace"))


def _text_start(text: str) -> bytes:
    return meant(_CUT.sub("", text))


def _say_id(raw: bytes) -> str:
    return str(UUID(bytes=raw))


def _read_id(text: str) -> bytes:
    if str(UUID(text)) != text:
        raise ValueError(f"{text!r} is no id")
    return packed(text)


def _id_start(text: str) -> bytes:
    if not "00000000-0000-0000-0000-000000000000".startswith(re.sub("[0-9a-f]", "0", text)):
        raise ValueError(f"no id begins with {text!r}")
    return bytes.fromhex(text.replace("-", "").ljust(32, "0"))


def _moment(text: str) -> int:
    """Milliseconds since the epoch of an RFC 3339 time."""
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{text!r} has no zone")
    return max((found - _EPOCH) // timedelta(milliseconds=1), 0)


def _earliest(text: str) -> int:
    """The first moment that is said to begin so."""
    for whole in (f"{text}0{_EARLIEST[len(text) + 1 :]}", text + _EARLIEST[len(text) :]):
        try:
            return _moment(whole)
        except ValueError:
            continue
    raise ValueError(f"no time begins with {text!r}")


def _newest_first(text: str) -> bytes:
    return (2**63 - _moment(text)).to_bytes(8)


TEXT: Final = Kind(rb".*?", say, meant, _text_start)
ID: Final = Kind(rb".{16}", _say_id, _read_id, _id_start)
TIME: Final = Kind(
    rb".{8}", lambda raw: rfc3339(int.from_bytes(raw)), lambda text: _moment(text).to_bytes(8),
    lambda text: _earliest(text).to_bytes(8),
)  # fmt: skip
NEWEST_FIRST: Final = Kind(
    rb".{8}", lambda raw: rfc3339(2**63 - int.from_bytes(raw)), _newest_first, lambda _: b"", ascends=False
)
DAY: Final = Kind(
    rb"\d{6}", lambda raw: rfc3339(int(raw) * _DAY)[:10],
    lambda text: b"%06d" % (_moment(text + "T00:00:00Z") // _DAY),
    lambda text: b"%06d" % (_earliest(text) // _DAY),
)  # fmt: skip
MINUTE: Final = Kind(
    rb"\d{10}", lambda raw: rfc3339(int(raw) * _MINUTE), lambda text: b"%010d" % (_moment(text) // _MINUTE),
    lambda text: b"%010d" % (_earliest(text) // _MINUTE),
)  # fmt: skip


class Part(NamedTuple):
    """One part of a key, and the bytes that stand behind it."""

    name: str
    kind: Kind
    end: bytes = b""


# -- values


def _json(raw: bytes) -> Any:
    return veiled(msgspec.json.decode(raw))


def _timed(raw: bytes) -> Any:
    """What one of our own roles wrote: its numbers that are moments are said as such."""
    found = _json(raw)
    if not isinstance(found, dict):
        return found
    return {
        name: rfc3339(one) if name in _MOMENTS and isinstance(one, int) and one else one
        for name, one in found.items()
    }


def _dated(raw: bytes) -> dict[str, Any]:
    """An upsert with its time; one that was erased has no value."""
    at, value = rfc3339(int.from_bytes(raw[: people.TIME])), raw[people.TIME :]
    return {"at": at, "value": _json(value) if value else None}


def _named(*names: str) -> Callable[[bytes], Any]:
    def read(raw: bytes) -> Any:
        found = dict(zip(names, msgspec.json.decode(raw), strict=False))
        return {name: rfc3339(value) if name == "at" else value for name, value in found.items()}

    return read


def _claim(raw: bytes) -> dict[str, Any]:
    found: dict[str, Any] = plain(msgspec.json.decode(raw, type=claims.Claim))
    found["origin"]["at"] = rfc3339(found["origin"]["at"])
    if (instead := found["instead"]) and instead["due"] is not None:
        instead["due"] = rfc3339(instead["due"])
    found["pinned"] = veiled(found["pinned"])
    return found


def plain(value: Any) -> Any:
    """A struct as JSON has it, by the names of its fields, with whatever structs stand in it."""
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return value


def _wait(raw: bytes) -> dict[str, Any]:
    wait = msgspec.msgpack.decode(raw, type=waits.Wait)
    return {
        "topic": wait.topic,
        "key": say(wait.key),
        "epoch": wait.epoch,
        "record": said(_timed, wait.value),
    }


def _stops(raw: bytes) -> Any:
    found = _timed(raw)
    if not isinstance(found, list):
        return found
    return [{**dict(zip(stops.Stopped._fields, one, strict=False)), "at": rfc3339(one[2])} for one in found]


def _cursor(raw: bytes) -> dict[str, Any]:
    n, progress, page = msgspec.json.decode(raw, type=tuple[int, msgspec.Raw, list[str]])
    return {"n": n, "progress": _timed(bytes(progress)), "page": page}


def _watch(raw: bytes) -> dict[str, Any]:
    watch = msgspec.msgpack.decode(raw, type=watches.Watch)
    return {"targets": list(watch.targets), "at": rfc3339(watch.at), "record": said(_timed, watch.following)}


def _awaited(raw: bytes) -> list[str]:
    return [BY_NAME["waits-by-id"].key(waits.BY_ID + id) for id in msgspec.msgpack.decode(raw)]


def _number(raw: bytes) -> int:
    return int(raw)


def _due(raw: bytes) -> str:
    return rfc3339(int.from_bytes(raw))


def _nothing(raw: bytes) -> None:
    if raw:
        raise ValueError("an index has no values")


def said(read: Callable[[bytes], Any], raw: bytes) -> Any:
    """A value as `read` has it; one that is not of its form is said as text, never refused."""
    try:
        return read(raw)
    except (ValueError, TypeError, RecursionError):
        return say(raw)


_MOMENTS: Final = frozenset({"at", "event_at", "expires_at"})
_URLS: Final = frozenset({"target", "slack", "webhook_url"})
_SECRETS: Final = frozenset({"keys"})


def veiled(value: Any) -> Any:
    """A value without what opens doors: keys of devices, and what follows the host in a URL to post to."""
    if isinstance(value, list):
        return [veiled(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {name: _veiled(name, one) for name, one in value.items()}


def _veiled(name: str, value: Any) -> Any:
    if name in _SECRETS and isinstance(value, dict):
        return dict.fromkeys(value, "•••")
    if name in _URLS and isinstance(value, str) and "://" in value:
        return masked(value)
    return veiled(value)


# -- tables


@dataclass(frozen=True)
class Layout:
    """One table: its name, the prefix of its keys, who keeps it, what a row is, and how rows are said."""

    name: str
    prefix: bytes
    keeper: Keeper
    holds: str
    parts: tuple[Part, ...]
    read: Callable[[bytes], Any]

    @cached_property
    def _match(self) -> Callable[[bytes], re.Match[bytes] | None]:
        pattern = b"".join(b"(" + part.kind.pattern + b")" + re.escape(part.end) for part in self.parts)
        return re.compile(re.escape(self.prefix) + pattern, re.DOTALL).fullmatch

    def key(self, raw: bytes) -> str:
        """A row's key as it is said; one that is not of the table's form is said as text."""
        found = self._match(raw)
        if found is None:
            return say(raw.removeprefix(self.prefix))
        return BAR.join(part.kind.say(one) for part, one in zip(self.parts, found.groups(), strict=True))

    def raw(self, key: str) -> bytes:
        """The row's key that is said so; total, as `key` is."""
        given = key.split(BAR)
        try:
            found = self._whole(given) if len(given) == len(self.parts) else None
        except (ValueError, OverflowError):
            found = None
        return self.prefix + meant(key) if found is None else found

    def _whole(self, given: list[str]) -> bytes:
        return self.prefix + b"".join(
            part.kind.read(text) + part.end for part, text in zip(self.parts, given, strict=False)
        )

    def start(self, prefix: str) -> tuple[bytes, bytes, bool]:
        """Where to look for keys that are said to begin with `prefix`.

        Returns the bytes that all of them begin with, the lowest key that one may have, and whether they
        stand together from there on. Raises ValueError where there can be none.
        """
        *whole, last = prefix.split(BAR)
        if len(whole) >= len(self.parts):
            raise ValueError(f"a key of {self.name} has {len(self.parts)} parts")
        inside, kind = self._whole(whole), self.parts[len(whole)].kind
        if not last:
            return inside, inside, True
        return inside, inside + kind.start(last), kind.ascends and not _CUT.search(last)

    def value(self, raw: bytes) -> Any:
        """A row's value, as JSON has it; what is not of the table's form is said as text."""
        return said(self.read, raw)


_EFFECT = (Part("notification", ID), Part("step", TEXT, b"|"), Part("target", TEXT, b"|"))
_PERSON = (Part("user", TEXT),)
_NOTIFICATION = Part("notification", ID)

LAYOUTS: Final[tuple[Layout, ...]] = (
    Layout(
        "claims", claims.PREFIX, Keeper.CORE, "Which record decided a step of a notification, and how",
        (_NOTIFICATION, Part("step", TEXT)), _claim,
    ),
    Layout("users", people.USERS, Keeper.CORE, "The latest of each user, with its time", _PERSON, _dated),
    Layout(
        "preferences", people.PREFERENCES, Keeper.CORE, "What each user wants, with its time", _PERSON, _dated
    ),
    Layout(
        "devices", people.DEVICES, Keeper.CORE, "The devices of each user, with their times",
        (Part("user", TEXT, b"\0"), Part("device", TEXT)), _dated,
    ),
    Layout(
        "caps", caps.PREFIX, Keeper.CORE,
        "How much a user was sent in a day; of a category; of a workflow in a span",
        (Part("day", DAY, b"|"), Part("user", TEXT)), _number,
    ),
    Layout(
        "suppressed", suppressed.PREFIX, Keeper.CORE, "Addresses that a user is not reached at any more",
        _PERSON, _json,
    ),
    Layout(
        "closed", stops.CLOSED, Keeper.CORE, "What the latest record of a person closed on the channels",
        (Part("of", TEXT, b"|"), Part("user", TEXT)), _named(*stops.Closed._fields),
    ),
    Layout(
        "suppressed-numbers", suppressed.NUMBERS, Keeper.CORE,
        "Phone numbers whose owner told us to stop (no reason: and to go on), by the hash of the number",
        (Part("number", TEXT),), _named("reason", "at"),
    ),
    Layout(
        "digests", digests.OPEN, Keeper.CORE, "Digests that still gather",
        (Part("user", TEXT, b"\0"), Part("gathered by", TEXT)), _named(*digests.Gathered.__struct_fields__),
    ),
    Layout(
        "digest-items", digests.ITEMS, Keeper.CORE, "What digests have gathered",
        (Part("digest", ID), Part("n", TEXT)), _json,
    ),
    Layout(
        "watches", watches.PREFIX, Keeper.CORE, "What goes on when all targets of a step have failed",
        (_NOTIFICATION, Part("step", TEXT)), _watch,
    ),
    Layout(
        "awaited", people.AWAITED, Keeper.CORE, "What waits for users that are not known yet",
        _PERSON, _awaited,
    ),
    Layout(
        "broadcast-cursors", broadcasts.CURSORS, Keeper.CORE,
        "Where each broadcast is in one partition, and whom it told last", (Part("broadcast", ID),), _cursor,
    ),
    Layout(
        "attempts", effects.ATTEMPTS, Keeper.CHANNEL, "Calls to the outside, written before they were made",
        (*_EFFECT, Part("n", TEXT)), _named(*effects.Attempt._fields[1:]),
    ),
    Layout(
        "results", effects.RESULTS, Keeper.CHANNEL, "How the calls to the outside ended",
        (*_EFFECT, Part("n", TEXT)), _named(*effects.Result._fields[1:]),
    ),
    Layout(
        "reopenings", effects.REOPENINGS, Keeper.CHANNEL, "Which dead letters opened a failed message again",
        (*_EFFECT, Part("k", TEXT)), _named(*effects.Reopening._fields[1:]),
    ),
    Layout(
        "stops", stops.PREFIX, Keeper.CHANNEL, "What is not sent any more, of users or cancelled",
        (Part("of", TEXT, b"|"), Part("name", TEXT)), _stops,
    ),
    Layout(
        "waits", waits.PREFIX, Keeper.WAITING, "What comes up again, by the moment when it is due",
        (Part("due", TIME), *_EFFECT), _wait,
    ),
    Layout(
        "waits-by-id", waits.BY_ID, Keeper.WAITING, "When each wait is due", _EFFECT, _due,
    ),
    Layout(
        "histories", history.NOTIFICATIONS, Keeper.STATUS, "The whole story of each notification",
        (_NOTIFICATION,), _timed,
    ),
    Layout(
        "histories-by-user", history.BY_USER, Keeper.STATUS, "The notifications of each user, newest first",
        (Part("user", TEXT, b"\0"), Part("event at", NEWEST_FIRST), _NOTIFICATION), _nothing,
    ),
    Layout(
        "histories-by-event", history.BY_EVENT, Keeper.STATUS, "The notifications of each upstream event",
        (Part("source", TEXT, b"\0"), Part("event", TEXT, b"\0"), _NOTIFICATION), _nothing,
    ),
    Layout(
        "reports", reports.PREFIX, Keeper.STATUS,
        "What providers and readers have told of each notification", (_NOTIFICATION,), _json,
    ),
    Layout(
        "counts", history.COUNTS, Keeper.STATUS, "How many messages are in a state now, in one partition",
        (Part("channel", TEXT, b"|"), Part("state", TEXT)), _number,
    ),
    Layout(
        "minutes", history.MINUTES, Keeper.STATUS, "How many came to a state in a minute, in one partition",
        (Part("minute", MINUTE, b"|"), Part("channel", TEXT, b"|"), Part("state", TEXT)),
        _number,
    ),
    Layout(
        "variants", history.VARIANTS, Keeper.STATUS,
        "How many messages of a template's variant are in a state now, in one partition",
        (Part("workflow", TEXT, b"\0"), Part("variant", TEXT, b"\0"), Part("channel", TEXT, b"\0"),
         Part("state", TEXT)), _number,
    ),
    Layout(
        "latencies", history.LATENCIES, Keeper.STATUS,
        "How many first sends took at most so many ms (-1: more), in one partition",
        (Part("channel", TEXT, b"|"), Part("ms", TEXT)), _number,
    ),
    Layout(
        "broadcasts", broadcasts.PROGRESS, Keeper.STATUS, "How far each broadcast is in each partition",
        (Part("broadcast", ID), Part("partition", TEXT)), _timed,
    ),
    Layout(
        "broadcasts-by-time", broadcasts.BY_TIME, Keeper.STATUS, "The broadcasts, newest first",
        (Part("event at", NEWEST_FIRST), Part("broadcast", ID)), _nothing,
    ),
    Layout(
        "engine", b"\0", Keeper.EVERY, "The engine's own: epoch, unit numbers and marks",
        (Part("row", TEXT),), say,
    ),
)  # fmt: skip
BY_NAME: Final = {layout.name: layout for layout in LAYOUTS}
