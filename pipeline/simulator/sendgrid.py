"""SendGrid's Web API v3: mail/send, and its signed Event Webhook."""

import hmac
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, derive_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

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

API_KEY = "SG.simulated"
PATH = "/v3/mail/send"
BODY_BYTES = 30 << 20
PERSONALIZATIONS, CATEGORIES, CATEGORY, ARGS_BYTES = 1_000, 10, 255, 10_000
RESERVED = frozenset({
    "x-sg-id", "x-sg-eid", "received", "dkim-signature", "content-type", "content-transfer-encoding", "to",
    "from", "subject", "reply-to", "cc", "bcc",
})  # fmt: skip
"""Headers that a request may not set."""
_TO, _BAD, _TOO_LARGE, _IDENTITY = "400 to", "400", "413", "403"

_SIGNER = derive_private_key(int.from_bytes(b"simulated by carillon"), SECP256R1())
PUBLIC_KEY = b64encode(
    _SIGNER.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
).decode()
"""The `webhook_public_key` of what this SendGrid tells."""


class SendGrid:
    """Expects `api_key`, or else SG.simulated."""

    kind = "sendgrid"
    keyed = False
    codes = (_TO, _BAD, _IDENTITY, _TOO_LARGE)
    rules = letters.rules(_TO)

    def __init__(self, secrets: Mapping[str, str], clock: Callable[[], float]) -> None:
        self._authorization = f"Bearer {secrets.get('api_key') or API_KEY}".encode()
        self._clock = clock

    def hear(self, request: Request) -> Sequence[Heard]:
        """One target a personalization."""
        if request.path != PATH:
            raise Wrong(_errors(404, ("not found", None)), "another path")
        if request.method != "POST":
            raise Wrong(_errors(405, ("method not allowed", None)), "not a POST")
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, self._authorization):
            raise Wrong(_unauthorized(), "not our API key")
        if not request.headers.get("content-type", "").startswith("application/json"):
            raise Wrong(_errors(415, ("Content-Type should be application/json.", None)), "not JSON")
        if len(request.body) > BODY_BYTES:
            raise Wrong(_errors(413, ("payload too large", None)), "too large")
        try:
            told = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            raise Wrong(_errors(400, ("Bad Request", None)), "not JSON") from None
        wrong = _wrongs(told)
        if wrong:
            raise Wrong(_errors(400, *wrong), f"{wrong[0][1] or 'the body'} is wrong")
        people = told["personalizations"]
        refused = [n for n, one in enumerate(people) if letters.is_refused(one["to"][0]["email"])]
        if refused and len(people) > 1:  # one address that is none, and nobody gets anything
            raise Wrong(_errors(400, *map(_no_address, refused)), "an address that is none, among others")
        return [_heard(told, one) for one in people]

    def id(self, number: int) -> str:
        """What X-Message-Id tells."""
        return f"simulated.{number:010d}"

    def accept(self, request: Request, heard: Sequence[Heard], taken: Sequence[Taken]) -> Answer:
        """202 without a body, and one id for all of them."""
        match taken[0].code:
            case "":
                return Answer(202, {"x-message-id": taken[0].id})
            case "400 to":
                return _errors(400, *map(_no_address, range(len(heard))))
            case "403":
                text = "The from address does not match a verified Sender Identity."
                return _errors(403, (text, "from"))
            case "413":
                return _errors(413, ("payload too large", None))
        return _errors(400, ("The content is not acceptable.", "content"))

    def fault(self, name: str, request: Request, heard: Sequence[Heard]) -> Answer:
        """429 with the headers of a limit, 500 or 401."""
        if name == THROTTLED:
            headers = {
                "x-ratelimit-limit": "600",
                "x-ratelimit-remaining": "0",
                "x-ratelimit-reset": str(int(self._clock()) + 1),
            }
            answer = _errors(429, ("too many requests", None))
            return answer._replace(headers={**answer.headers, **headers})
        return _errors(500, ("internal server error", None)) if name == SERVER_ERROR else _unauthorized()

    def receipts(self, request: Request, heard: Heard, taken: Taken, what: str) -> Sequence[Callback]:
        """An event, signed over time and body."""
        now = int(self._clock())
        told = orjson.loads(request.body)
        event: dict[str, Any] = {
            "email": heard.to, "timestamp": now, "category": told.get("categories", []),
            "sg_event_id": b64encode(f"{taken.id} {what}".encode()).decode().rstrip("="),
            "sg_message_id": f"{taken.id}.recvd-simulated", "carillon": heard.key, **_EVENTS[what],
        }  # fmt: skip
        body = orjson.dumps([event])
        signature = _SIGNER.sign(f"{now}".encode() + body, ECDSA(SHA256()))
        headers = {
            "content-type": "application/json",
            "x-twilio-email-event-webhook-signature": b64encode(signature).decode(),
            "x-twilio-email-event-webhook-timestamp": str(now),
        }
        return [Callback(headers, body)]


_EVENTS: Mapping[str, Mapping[str, str]] = {
    DELIVERED: {"event": "delivered", "response": "250 2.0.0 OK"},
    BOUNCED: {
        "event": "bounce", "type": "bounce", "status": "5.1.1", "reason": "550 5.1.1 no such mailbox",
        "bounce_classification": "Invalid Address",
    },
    COMPLAINED: {"event": "spamreport"},
    FAILED: {"event": "dropped", "reason": "Spam Content", "status": "5.0.0"},
}  # fmt: skip

_Told = tuple[str, str | None]


def _errors(status: int, *told: _Told) -> Answer:
    return in_json(status, {"errors": [{"message": t, "field": f} for t, f in told]})


def _unauthorized() -> Answer:
    return _errors(401, ("The provided authorization grant is invalid, expired, or revoked", None))


def _no_address(n: int) -> _Told:
    return "Does not contain a valid address.", f"personalizations.{n}.to.0.email"


def _heard(told: Any, one: Any) -> Heard:
    shared = {name: value for name, value in told.items() if name != "personalizations"}
    body = orjson.dumps([shared, one], option=orjson.OPT_SORT_KEYS)
    key = one.get("custom_args", {}).get("carillon", "")
    return Heard(key, one["to"][0]["email"], body, told["subject"][: letters.WORDS])


def _wrongs(told: Any) -> list[_Told]:
    """What is wrong with a body."""
    if not isinstance(told, dict):
        return [("Bad Request", None)]
    people, sender = told.get("personalizations"), told.get("from")
    if not isinstance(people, list) or not people:
        return [("You must have at least one personalization.", "personalizations")]
    if len(people) > PERSONALIZATIONS:
        return [("The personalization block is limited to 1000 personalizations per API request.", None)]
    found = [wrong for n, one in enumerate(people) for wrong in _wrong_person(n, one)]
    if not found:
        addresses = [one["to"][0]["email"].lower() for one in people]
        if len(set(addresses)) < len(addresses):
            found.append(("Each unique email address in the personalizations array should only be included "
                          "once.", "personalizations"))  # fmt: skip
    if not isinstance(sender, dict) or not letters.is_address(sender.get("email")):
        found.append(("Does not contain a valid address.", "from.email"))
    if not _is_text(told.get("subject")):
        found.append(("The subject is required.", "subject"))
    return found + _wrong_content(told)


def _wrong_person(n: int, one: Any) -> list[_Told]:
    at = f"personalizations.{n}"
    if not isinstance(one, dict) or not isinstance(one.get("to"), list) or len(one["to"]) != 1:
        return [("The to array is required for all personalization objects.", f"{at}.to")]
    to = one["to"][0]
    if not isinstance(to, dict) or not letters.is_address(to.get("email")):
        return [_no_address(n)]
    for name in ("custom_args", "headers"):
        if not _is_texts(one.get(name, {})):
            return [("Key/value pairs must be strings.", f"{at}.{name}")]
    if len(orjson.dumps(one.get("custom_args", {}))) > ARGS_BYTES:
        return [("The custom_args may not exceed 10,000 bytes.", f"{at}.custom_args")]
    if any(name.lower() in RESERVED for name in one.get("headers", {})):
        return [("The header is reserved.", f"{at}.headers")]
    return []


def _wrong_content(told: Mapping[str, Any]) -> list[_Told]:
    content, categories = told.get("content"), told.get("categories", [])
    found: list[_Told] = []
    kinds = [one.get("type") if isinstance(one, dict) else None for one in content or ()]
    if not kinds or not all(
        _is_text(one.get("type")) and _is_text(one.get("value")) for one in content or ()
    ):
        found.append(("The content value must be a string at least one character in length.", "content"))
    elif "text/plain" in kinds[1:]:
        found.append(("If present, text/plain must be first.", "content"))
    if len(categories) > CATEGORIES or not all(_is_text(one) and len(one) <= CATEGORY for one in categories):
        found.append(("The category names are wrong.", "categories"))
    for n, one in enumerate(told.get("attachments", ())):
        try:
            whole = _is_text(one.get("filename")) and bool(b64decode(one["content"], validate=True))
        except (KeyError, TypeError, AttributeError, NotBase64):
            whole = False
        if not whole:
            found.append(("The attachment content must be base64 encoded.", f"attachments.{n}.content"))
    return found


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())
