"""What a vendor's callback is, what it comes to in our words, and what may be wrong with it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl

import orjson

from schemas.kinds import State

TOLERANCE = 300.0
"""Seconds that a signed time may be off ours."""
MOST_FIELDS = 200
MOST_DETAIL = 300
_LAST_MS = 253_402_300_799_999

Fields = dict[str, str]
_ADDRESS = re.compile(r"[^\s<>\"'(]+@[^\s<>\"')]+|\+?\d[\d -]{6,}\d")


class Forged(Exception):
    """What its vendor did not sign; the message says what was missing or wrong, and nothing of the body."""


class Stale(Forged):
    """What was signed too long ago, or in the future."""


class Unclear(Exception):
    """What its vendor signed, and nobody can read."""


class Later(Exception):
    """What cannot be verified at this moment, and can when it is sent again."""


class Callback(NamedTuple):
    """A request to us. Names of headers are lower case; `url` is as the vendor knows it; `now` in seconds."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    now: float

    @property
    def query(self) -> Sequence[tuple[str, str]]:
        """The parameters in the URL. Raises Unclear."""
        return _pairs(self.url.partition("?")[2])

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def form(self) -> Sequence[tuple[str, str]]:
        """The fields of a form in the body. Raises Unclear."""
        try:
            return _pairs(self.body.decode())
        except UnicodeDecodeError:
            raise Unclear("the form is not UTF-8") from None

    def json(self) -> Any:
        """The body as JSON. Raises Unclear."""
        try:
            return orjson.loads(self.body)
        except ValueError:
            raise Unclear("the body is not JSON") from None


class Receipt(NamedTuple):
    """What became of one message. `at` is the vendor's time in ms, None where it tells none.

    A bounce is for good: the address is not used again. What came to nothing otherwise has `failed`.
    """

    reference: str
    state: State
    at: int | None = None
    provider_message_id: str | None = None
    code: str | None = None
    detail: str | None = None


class Wish(NamedTuple):
    """That a phone number wants no more messages, or wants them again."""

    phone: str
    stop: bool


Word = Receipt | Wish


class Vendor(Protocol):
    """How one kind of provider calls back."""

    status: int
    """What the vendor takes for an answer that all is well; it has no body."""

    async def verify(self, callback: Callback) -> None:
        """Returns where the vendor signed it. Raises Forged, Stale, Later or Unclear."""
        ...

    def read(self, callback: Callback) -> list[Word]:
        """What it says in our words; what is not for us is left out. Raises Unclear."""
        ...

    async def acknowledge(self, callback: Callback) -> None:
        """Does what the vendor waits for beside the answer. Raises Forged or Later."""
        ...

    def once(self, callback: Callback) -> str | None:
        """What makes this one request known again, where a copy would pass for another; else None."""
        ...


def is_current(signed: str | None, now: float, tolerance: float = TOLERANCE) -> None:
    """Returns where a signed time, in seconds since the epoch, is about now. Raises Forged or Stale."""
    try:
        moment = float(signed or "")
    except ValueError:
        raise Forged("it has no signed time") from None
    if not abs(moment - now) <= tolerance:
        raise Stale("it was signed at another time")


def milliseconds(seconds: Any) -> int | None:
    """A vendor's time in seconds, as a number or text; None for what is no time."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float | str):
        return None
    try:
        found = float(seconds) * 1000
        return int(found) if 0 <= found <= _LAST_MS else None
    except (ValueError, OverflowError):
        return None


def text(value: Any) -> str | None:
    """A vendor's text or number as text; None for anything else, and for what is empty."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)[:MOST_DETAIL].strip() or None
    return None


def told(receipt: Receipt) -> str | None:
    """The vendor's code and words in one line, without the addresses that stand in them."""
    said = _ADDRESS.sub("•••", receipt.detail or "")
    line = ": ".join(part for part in (receipt.code, " ".join(said.split())) if part)
    return line[:MOST_DETAIL] or None


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is an object, else an empty one: vendors leave things out."""
    return value if isinstance(value, dict) else {}


def _pairs(encoded: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(encoded, keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except ValueError:
        raise Unclear("the fields cannot be read") from None
