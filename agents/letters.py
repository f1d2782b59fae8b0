"""Letters: a dead letter as it stands on a `dlq-` topic, and what a list may tell of it."""

import base64
import re
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from agents import topics
from schemas.dead_letter import ORIGINAL, by
from schemas.event import MAX_NAME, Unreadable, milliseconds, read_event
from schemas.ids import hash_in, masked
from tables.claims import Origin

DEAD = (
    topics.DEAD_EVENTS, topics.DEAD_NOTIFICATIONS, topics.DEAD_PEOPLE, topics.DEAD_STATUS,
    *topics.DEAD_MESSAGES.values(),
)  # fmt: skip
"""Every topic of dead letters."""
MOST_TOLD = 200


class Letter(NamedTuple):
    """A record of a `dlq-` topic; `plain` is the topic's name without prefix, `at` its broker time in ms."""

    topic: str
    plain: str
    partition: int
    offset: int
    at: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]

    @property
    def name(self) -> str:
        """The letter's place, which is its name: what the header `redrive` says."""
        return f"{self.topic}-{self.partition}-{self.offset}"

    def told(self, name: str) -> str:
        """One of the letter's own headers as text; empty if it has none of that name."""
        return next((v or b"" for n, v in self.headers if n == name), b"").decode("utf-8", "replace")

    @property
    def source(self) -> Origin | None:
        """Where the record stood and its time, as the letter says; None where it does not say."""
        partition, offset, at = self.told("source-partition"), self.told("source-offset"), None
        try:
            at = milliseconds(datetime.fromisoformat(self.told("failed-at")))
        except (ValueError, TypeError):  # no time, or one without a zone
            return None
        if at is None or at < 0 or not (_is_number(partition) and _is_number(offset)):
            return None
        topic = self.told("source-topic")
        return Origin(topic, int(partition), int(offset), at) if topic else None

    @property
    def provider(self) -> str | None:
        """The provider that was called last; None where none was, or the letter does not say."""
        return by(self.headers)[0]

    @property
    def code(self) -> str | None:
        """The vendor's code for what befell it, if it had one."""
        return by(self.headers)[1]

    @property
    def original(self) -> list[tuple[str, bytes]]:
        """The headers that the record itself came with."""
        return [(n.removeprefix(ORIGINAL), v or b"") for n, v in self.headers if n.startswith(ORIGINAL)]


class Said(NamedTuple):
    """What letters must say to be meant: a reason, a provider, any one of some codes of its vendor's.

    A code that ends in `*` stands for all that begin so; None and nothing ask for nothing.
    """

    reason: str | None = None
    provider: str | None = None
    codes: Collection[str] = ()

    @property
    def asks(self) -> bool:
        """Whether it leaves any letter out."""
        return self.reason is not None or self.provider is not None or bool(self.codes)

    def fits(self, letter: Letter) -> bool:
        """Whether a letter says all of it."""
        if self.reason is not None and letter.told("reason") != self.reason:
            return False
        if self.provider is not None and letter.provider != self.provider:
            return False
        return not self.codes or any(_is_code(code, letter.code) for code in self.codes)


def _is_code(wanted: str, code: str | None) -> bool:
    if code is None:
        return False
    return code.startswith(wanted[:-1]) if wanted.endswith("*") else code == wanted


_is_number = re.compile(r"[0-9]{1,18}").fullmatch


def summary(letter: Letter) -> dict[str, Any]:
    """What a list tells of a letter: never its bytes, and no address."""
    source = letter.source
    return {
        "topic": letter.topic, "partition": letter.partition, "offset": letter.offset,
        "failed_at": _clean(letter.told("failed-at")), "reason": _clean(letter.told("reason")),
        "error": redacted(_clean(letter.told("error")))[:MOST_TOLD],
        "attempts": _clean(letter.told("attempts")), "provider": letter.provider, "code": letter.code,
        "source": _clean(f"{source.topic}-{source.partition}-{source.offset}") if source else None,
        "notification_id": _notification(letter), "event": _event(letter),
    }  # fmt: skip


def whole(letter: Letter) -> dict[str, Any]:
    """A letter with its headers and its bytes, addresses and all: as text, and always as base64 too."""
    return {
        **summary(letter),
        "headers": [[name, text(value or b"")] for name, value in letter.headers],
        "key": None if letter.key is None else text(letter.key),
        "value": None if letter.value is None else text(letter.value),
        "value_base64": None if letter.value is None else base64.b64encode(letter.value).decode(),
    }


def text(value: bytes) -> str:
    """Bytes as text; what is none shows as escapes."""
    return value.decode("utf-8", "backslashreplace")


def escaped(text: str) -> str:
    """Text that gives no orders to what shows it."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def redacted(text: str) -> str:
    """A text without what may be an address: providers like to repeat them in what they answer."""
    for pattern in (_URL, _EMAIL, _PHONE):
        text = pattern.sub(lambda found: masked(found[0]), text)
    return text


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s<>\"']+")
_EMAIL = re.compile(r"[^\s<>\"'(),:;\[\]]+@[^\s<>\"'(),:;]*\.[A-Za-z]{2,}")
_PHONE = re.compile(r"\+[0-9][0-9 ().-]{5,}[0-9]|[0-9]{7,}")


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else "�" for c in text)


def _notification(letter: Letter) -> str | None:
    """The notification that a letter is of, as far as its bytes can be read."""
    if letter.plain in (topics.DEAD_EVENTS, topics.DEAD_PEOPLE):
        return None
    name = "notification_id" if letter.plain == topics.DEAD_STATUS else "id"
    found = _body(letter.value).get(name)
    try:
        return found if isinstance(found, str) and hash_in(found) >= 0 else None
    except ValueError:
        return None


def _event(letter: Letter) -> dict[str, str] | None:
    """Source and id of the event that a letter is, as far as its bytes can be read."""
    if letter.plain != topics.DEAD_EVENTS:
        return None
    place, headers = letter.source, letter.original
    if place is not None:
        try:
            event = read_event(
                letter.value, headers, f"{place.topic}-{place.partition}-{place.offset}", place.at
            )
            return _identity(event.source, event.id)
        except Unreadable:
            pass  # what can be read may still say who it is
    body, attributes = _body(letter.value), dict(headers)
    told = [
        attributes.get(f"ce_{name}", b"").decode("utf-8", "replace") or body.get(name)
        for name in ("source", "id")
    ]
    return _identity(*told)


def _identity(source: object, id_: object) -> dict[str, str] | None:
    """The two where they are names; without an e-mail address that stands in them."""
    for one in (source, id_):
        if not (isinstance(one, str) and 0 < len(one) <= 2 * MAX_NAME and one.isprintable()):
            return None
    return {
        name: _EMAIL.sub(lambda found: masked(found[0]), str(one))
        for name, one in (("source", source), ("id", id_))
    }


def _body(value: bytes | None) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(value or b"")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def is_of(
    letter: Letter,
    *,
    notification: str | None = None,
    event: tuple[str, str] | None = None,
    user: str | None = None,
) -> bool:
    """Whether a letter is of a notification, or of an event's source and id (for that user), as far as its
    bytes can be read."""
    if notification is not None:
        return _notification(letter) == notification
    if event is None:
        return False
    if letter.plain == topics.DEAD_EVENTS:
        return (found := _event(letter)) is not None and found == _identity(*event)
    body = _body(letter.value)
    told = body.get("event")
    if not isinstance(told, dict) or (told.get("source"), told.get("id")) != event:
        return False
    return user is None or body.get("user_id") == user
