"""Mailgun's HTTP API: messages as forms, and its signed webhooks."""

import hmac
import re
import secrets as randomness
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from pipeline.simulator import letters
from pipeline.simulator.vendor import (
    BOUNCED,
    COMPLAINED,
    DELIVERED,
    FAILED,
    SERVER_ERROR,
    THROTTLED,
    Answer,
    Callback,
    Heard,
    Request,
    Taken,
    Wrong,
    in_json,
)

API_KEY, SIGNING_KEY = "key-simulated", "simulated"
BODY_BYTES, OPTION_BYTES = 25 << 20, 16 << 10
TAGS, TAG = 3, 128
_TO, _BAD, _FORBIDDEN, _TOO_LARGE = "400 to", "400", "403", "413"
MOST_FIELDS = 1_000
_PATH = re.compile(r"/v3/([^/]+)/messages")
_EVENTS_PATH = re.compile(r"/v3/([^/]+)/events")
KNOWN = 1_000_000
_BOUNDARY = re.compile(r"; ?boundary=\"?([0-9A-Za-z'()+_,./:=?-]{1,70})\"?")
_DISPOSITION = re.compile(
    r'^content-disposition: form-data; name="([^"\r\n]*)"(?:; filename="([^"\r\n]*)")?', re.I | re.M
)


class Field(NamedTuple):
    """One field of a form; `file` is its name if it is a file."""

    name: str
    value: bytes
    file: str | None = None


class Mailgun:
    """Expects `api_key`, or else key-simulated; signs with `webhook_signing_key`, or else `simulated`."""

    kind = "mailgun"
    keyed = False
    codes = (_TO, _BAD, _FORBIDDEN, _TOO_LARGE)
    rules = letters.rules(_TO)

    def __init__(self, secrets: Mapping[str, str], clock: Callable[[], float]) -> None:
        key = f"api:{secrets.get('api_key') or API_KEY}".encode()
        self._authorization = b"Basic " + b64encode(key)
        self._signing_key = (secrets.get("webhook_signing_key") or SIGNING_KEY).encode()
        self._clock = clock
        #: the Message-IDs that were taken lately
        self._known: dict[str, None] = {}

    def hear(self, request: Request) -> Sequence[Heard]:
        """One target: the address that it is to. A question about events sends nothing."""
        if _EVENTS_PATH.fullmatch(request.path) and request.method == "GET":
            self._authorize(request)
            return ()
        if not _PATH.fullmatch(request.path):
            raise Wrong(Answer(404, {}, b"404 page not found"), "another path")
        if request.method != "POST":
            raise Wrong(Answer(405, {"allow": "POST"}), "not a POST")
        self._authorize(request)
        if len(request.body) > BODY_BYTES:
            raise Wrong(_says(413, "Request Entity Too Large"), "too large")
        try:
            fields = form(request)
        except ValueError:
            raise Wrong(_says(400, "the form cannot be read"), "not a form") from None
        wrong = _wrong(fields)
        if wrong:
            raise Wrong(_says(400, wrong), wrong.partition(" ")[0] + " is wrong")
        key, to, subject = (_text(fields, name) for name in ("v:carillon", "to", "subject"))
        body = orjson.dumps([[f.name, f.file, b64encode(f.value).decode()] for f in fields])
        return [Heard(key, letters.bare(to), body, subject[: letters.WORDS])]

    def _authorize(self, request: Request) -> None:
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, self._authorization):
            raise Wrong(Answer(401, {}, b"Forbidden"), "not our API key")

    def remember(self, request: Request, taken: Taken) -> None:
        """Its events tell of a message from now on, the newest KNOWN of them."""
        self._known[_id(request, taken).strip("<>")] = None
        while len(self._known) > KNOWN:
            del self._known[next(iter(self._known))]

    def id(self, number: int) -> str:
        """The local part of a Message-ID, for a message that brings none."""
        return f"{number:014d}.1.SIMULATED"

    def accept(self, request: Request, heard: Sequence[Heard], taken: Sequence[Taken]) -> Answer:
        """200 with the Message-ID, which is that of the request if it has one; or what is known of one."""
        if not heard:
            wanted = request.asked().get("message-id", "")
            return in_json(
                200, {"items": [{"event": "accepted"}] if wanted in self._known else [], "paging": {}}
            )
        match taken[0].code:
            case "":
                return in_json(200, {"id": _id(request, taken[0]), "message": "Queued. Thank you."})
            case "400 to":
                text = "'to' parameter is not a valid address. please check documentation"
                return _says(400, text)
            case "403":
                domain = _PATH.fullmatch(request.path)
                assert domain is not None
                return _says(403, f"Domain {domain[1]} is not allowed to send: it is not verified")
            case "413":
                return _says(413, "Request Entity Too Large")
        return _says(400, "Send options (parameters starting with o:, h:, or v:) are limited to 16KB total")

    def fault(self, name: str, request: Request, heard: Sequence[Heard]) -> Answer:
        """429 that says in words how long to wait, 500 or 401."""
        if name == THROTTLED:
            text = "account-requests-per-sec limit exceeded, try again after 1 seconds"
            return _says(429, f"Domain is not allowed to send: {text}")
        return _says(500, "Internal Server Error") if name == SERVER_ERROR else Answer(401, {}, b"Forbidden")

    def receipts(self, request: Request, heard: Heard, taken: Taken, what: str) -> Sequence[Callback]:
        """An event, with a signature over time and token alone."""
        now, token = str(int(self._clock())), randomness.token_hex(25)
        signature = hmac.new(self._signing_key, f"{now}{token}".encode(), "sha256").hexdigest()
        event: dict[str, Any] = {
            "id": randomness.token_urlsafe(16),
            "timestamp": self._clock(),
            "recipient": heard.to,
            "user-variables": {"carillon": heard.key} if heard.key else {},
            "message": {"headers": {"message-id": _id(request, taken).strip("<>")}},
            "tags": [f.value.decode() for f in form(request) if f.name == "o:tag"],
            **_EVENTS[what],
        }
        told = {
            "signature": {"timestamp": now, "token": token, "signature": signature},
            "event-data": event,
        }
        return [Callback({"content-type": "application/json"}, orjson.dumps(told))]


_EVENTS: Mapping[str, Mapping[str, Any]] = {
    DELIVERED: {"event": "delivered", "delivery-status": {"code": 250, "message": "OK"}},
    BOUNCED: {
        "event": "failed", "severity": "permanent", "reason": "bounce",
        "delivery-status": {"code": 550, "message": "5.1.1 no such mailbox"},
    },
    COMPLAINED: {"event": "complained"},
    FAILED: {
        "event": "failed", "severity": "permanent", "reason": "generic",
        "delivery-status": {"code": 605, "message": "not delivering to previously bounced address"},
    },
}  # fmt: skip


def form(request: Request) -> list[Field]:
    """The fields of a form, multipart or urlencoded. Raises ValueError."""
    content_type = request.headers.get("content-type", "")
    if content_type.startswith("application/x-www-form-urlencoded"):
        return [Field(name, value.encode()) for name, value in request.form().items()]
    if not content_type.startswith("multipart/form-data"):
        raise ValueError("not a form")
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise ValueError("no boundary")
    # the standard library's parser takes milliseconds for it
    first, *parts, end = (b"\r\n" + request.body).split(b"\r\n--" + found[1].encode())
    if first or end.rstrip() != b"--" or len(parts) > MOST_FIELDS:
        raise ValueError("not a multipart form")
    return [_part(part) for part in parts]


def _part(part: bytes) -> Field:
    """Raises ValueError."""
    head, gap, value = part.partition(b"\r\n\r\n")
    found = _DISPOSITION.search(head.decode())
    if not gap or found is None:
        raise ValueError("a part without a name")
    return Field(found[1], value, found[2])


def _text(fields: Sequence[Field], name: str) -> str:
    found = next((f.value for f in fields if f.name.lower() == name), b"")
    return found.decode(errors="replace")


def _wrong(fields: Sequence[Field]) -> str:
    """What is wrong with a form, in the vendor's words; or ""."""
    for name in ("from", "to"):
        written = _text(fields, name)
        if not written:
            return f"{name} parameter is missing"
        if not letters.is_address(letters.bare(written)):
            return f"{name} parameter is not a valid address. please check documentation"
    if not any(f.name == "subject" for f in fields):
        return "subject parameter is missing"
    if not any(f.name in {"text", "html"} and f.value for f in fields):
        return "Need at least one of 'text', 'html', 'amp-html' or 'template' parameters specified."
    options = [f for f in fields if f.name.startswith(("o:", "h:", "v:", "t:"))]
    if sum(len(f.name) + len(f.value) for f in options) > OPTION_BYTES:
        return "Send options (parameters starting with o:, h:, or v:) are limited to 16KB total"
    tags = [f.value for f in options if f.name == "o:tag"]
    if len(tags) > TAGS or any(len(tag) > TAG or not tag.isascii() for tag in tags):
        return "o:tag parameter is not valid"
    return ""


def _id(request: Request, taken: Taken) -> str:
    domain = _PATH.fullmatch(request.path)
    return _text(form(request), "h:message-id") or f"<{taken.id}@{domain[1] if domain else ''}>"


def _says(status: int, text: str) -> Answer:
    return in_json(status, {"message": text})
