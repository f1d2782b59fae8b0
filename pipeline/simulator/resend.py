"""Resend's API: POST /emails under an idempotency key, and its webhooks, signed as Svix signs."""

import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
from standardwebhooks import Webhook

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

API_KEY = "re_simulated"
WEBHOOK_SECRET = "whsec_" + b64encode(b"simulated by carillon").decode()
PATH = "/emails"
BODY_BYTES = 40 << 20
RECIPIENTS, KEY = 50, 256
KNOWN, KNOWN_SECONDS = 100_000, 86_400.0
"""How many keys are known at once, and for how long each."""
_TO, _NOT_VERIFIED, _QUOTA = "validation_error to", "validation_error 403", "daily_quota_exceeded"
_CONCURRENT = "concurrent_idempotent_requests"
_WORDS: Mapping[str, tuple[int, str]] = {
    _TO: (422, "Invalid `to` field. The email address needs to follow the `email@example.com` or "
               "`Name <email@example.com>` format."),
    _NOT_VERIFIED: (403, "The shop.example domain is not verified. Please, add and verify your domain."),
    _CONCURRENT: (409, "Same idempotency key used while original request is still in progress."),
    _QUOTA: (429, "You have reached your daily email sending quota."),
}  # fmt: skip
"""The codes that can be chosen, with status and sentence."""
_is_tag = re.compile("[A-Za-z0-9_-]{1,256}").fullmatch


class Known(NamedTuple):
    """What was taken with a key."""

    body: bytes
    id: str
    since: float


class Resend:
    """Expects `api_key`, or else re_simulated; signs with `webhook_secret`, or else WEBHOOK_SECRET."""

    kind = "resend"
    keyed = True
    codes = tuple(_WORDS)
    rules = letters.rules(_TO)

    def __init__(self, secrets: Mapping[str, str], clock: Callable[[], float]) -> None:
        self._authorization = f"Bearer {secrets.get('api_key') or API_KEY}".encode()
        try:
            self._signer = Webhook(secrets.get("webhook_secret") or WEBHOOK_SECRET)
        except Exception:  # its own error, or that of its decoder, as it comes
            raise ValueError("resend.webhook_secret: not a whsec_… secret") from None
        self._clock = clock
        self._known: dict[str, Known] = {}

    def hear(self, request: Request) -> Sequence[Heard]:
        """One target: the address that it is to. A known key with another body is refused."""
        if request.path != PATH:
            raise Wrong(_error(404, "not_found", "The requested endpoint does not exist."), "another path")
        if request.method != "POST":
            text = "Method is not allowed for the requested path."
            raise Wrong(_error(405, "method_not_allowed", text), "not a POST")
        given = request.headers.get("authorization", "").encode()
        if not given:
            text = "Missing API key in the authorization header."
            raise Wrong(_error(401, "missing_api_key", text), "no API key")
        if not hmac.compare_digest(given, self._authorization):
            raise Wrong(_unauthorized(), "not our API key")
        if len(request.body) > BODY_BYTES:
            raise Wrong(_error(413, "payload_too_large", "The payload is too large."), "too large")
        key = request.headers.get("idempotency-key")
        if key is not None and not 1 <= len(key) <= KEY:
            text = "The key must be between 1-256 chars."
            raise Wrong(_error(400, "invalid_idempotency_key", text), "no idempotency key")
        try:
            told = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            raise Wrong(_error(400, "validation_error", "The body is not JSON."), "not JSON") from None
        if wrong := _wrong(told):
            raise Wrong(_error(*wrong), f"{wrong[1]}: {wrong[2]}"[:60])
        known = self._of(key)
        if known is not None and known.body != _hash(request):
            text = "Same idempotency key used with a different request payload."
            raise Wrong(_error(409, "invalid_idempotent_request", text), "another body for a known key")
        to = told["to"] if isinstance(told["to"], str) else told["to"][0]
        return [Heard(key or "", letters.bare(to), request.body, told["subject"][: letters.WORDS])]

    def _of(self, key: str | None) -> Known | None:
        found = self._known.get(key or "")
        return found if found is not None and self._clock() - found.since < KNOWN_SECONDS else None

    def remember(self, request: Request, taken: Taken) -> None:
        """A key is known from now on for a day, the newest KNOWN of them."""
        if key := request.headers.get("idempotency-key"):
            self._known.pop(key, None)
            self._known[key] = Known(_hash(request), taken.id, self._clock())
            while len(self._known) > KNOWN:
                del self._known[next(iter(self._known))]

    def id(self, number: int) -> str:
        """A UUID."""
        return f"00000000-0000-4000-8000-{number:012x}"

    def accept(self, request: Request, heard: Sequence[Heard], taken: Sequence[Taken]) -> Answer:
        """200 with an id: for a known key that of the first time."""
        code = taken[0].code
        if not code:
            known = self._of(heard[0].key)
            return in_json(200, {"id": taken[0].id if known is None else known.id})
        status, text = _WORDS[code]
        return _error(status, code.partition(" ")[0], text)

    def fault(self, name: str, request: Request, heard: Sequence[Heard]) -> Answer:
        """429 with Retry-After and the headers of a limit, 500 or 403."""
        if name == THROTTLED:
            text = "Too many requests. You can only make 2 requests per second."
            answer = _error(429, "rate_limit_exceeded", text)
            limits = {
                "ratelimit-limit": "2", "ratelimit-remaining": "0", "ratelimit-reset": "1", "retry-after": "1"
            }  # fmt: skip
            return answer._replace(headers={**answer.headers, **limits})
        if name == SERVER_ERROR:
            return _error(500, "application_error", "An unexpected error occurred.")
        return _unauthorized()

    def receipts(self, request: Request, heard: Heard, taken: Taken, what: str) -> Sequence[Callback]:
        """An event, signed over id, time and body."""
        now = datetime.fromtimestamp(int(self._clock()), UTC)
        told = orjson.loads(request.body)
        moment = now.isoformat().replace("+00:00", "Z")
        name, more = _EVENTS[what]
        data = {
            "email_id": taken.id, "created_at": moment, "from": told["from"], "to": [heard.to],
            "subject": told["subject"], "tags": {one["name"]: one["value"] for one in told.get("tags", ())},
            **more,
        }  # fmt: skip
        body = orjson.dumps({"type": name, "created_at": moment, "data": data})
        id = f"msg_{hashlib.blake2b(body, digest_size=12).hexdigest()}"
        headers = {
            "content-type": "application/json",
            "svix-id": id,
            "svix-timestamp": str(int(now.timestamp())),
            "svix-signature": self._signer.sign(id, now, body.decode()),
        }
        return [Callback(headers, body)]


_EVENTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    DELIVERED: ("email.delivered", {}),
    BOUNCED: (
        "email.bounced",
        {
            "bounce": {
                "type": "Permanent",
                "subType": "General",
                "message": "The recipient's mail server permanently rejected it.",
                "diagnosticCode": ["smtp; 550 5.1.1 no such mailbox"],
            }
        },
    ),
    COMPLAINED: ("email.complained", {}),
    FAILED: ("email.failed", {"failed": {"reason": "reached_daily_quota"}}),
}


def _error(status: int, name: str, text: str) -> Answer:
    return in_json(status, {"statusCode": status, "name": name, "message": text})


def _unauthorized() -> Answer:
    return _error(403, "invalid_api_key", "API key is invalid.")


def _hash(request: Request) -> bytes:
    return hashlib.blake2b(request.body, digest_size=16).digest()


def _wrong(told: Any) -> tuple[int, str, str] | None:
    """What is wrong with a body: status, name and sentence."""
    if not isinstance(told, dict):
        return 400, "validation_error", "The body is not an object."
    for name in ("from", "to", "subject"):
        if not told.get(name):
            return 422, "missing_required_field", f"Missing `{name}` field."
    if not (told.get("html") or told.get("text")):
        return 422, "missing_required_field", "Missing `html` or `text` field."
    to = told["to"] if isinstance(told["to"], list) else [told["to"]]
    for name, addresses in (("from", [told["from"]]), ("to", to)):
        if not all(letters.is_address(letters.bare(one), ascii_only=True) for one in addresses):
            return 422, "validation_error", _WORDS[_TO][1].replace("`to`", f"`{name}`")
    if len(to) > RECIPIENTS:
        return 422, "validation_error", "The `to` field may have up to 50 addresses."
    if not all(isinstance(told.get(name, ""), str) for name in ("subject", "html", "text")):
        return 422, "validation_error", "The `subject`, `html` and `text` fields must be strings."
    return _wrong_details(told)


def _wrong_details(told: Mapping[str, Any]) -> tuple[int, str, str] | None:
    headers, tags, attached = (told.get(name) for name in ("headers", "tags", "attachments"))
    if headers is not None and not (
        isinstance(headers, dict) and all(isinstance(one, str) for one in headers.values())
    ):
        return 422, "validation_error", "The `headers` field must be an object of strings."
    for one in tags or ():
        if not all(isinstance(one.get(part), str) and _is_tag(one[part]) for part in ("name", "value")):
            text = "Tags should only contain ASCII letters, numbers, underscores, or dashes."
            return 422, "validation_error", text
    for one in attached or ():
        try:
            whole = bool(one["filename"]) and b64decode(one["content"], validate=True) is not None
        except (KeyError, TypeError, NotBase64, ValueError):
            whole = False
        if not whole:
            return 422, "invalid_attachment", "Attachment must have either a `content` or `path`."
    return None
