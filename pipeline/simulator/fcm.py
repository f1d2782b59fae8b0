"""FCM v1: it gives access tokens for a service account's JWT and takes messages with them."""

import base64
import hashlib
import hmac
import re
import secrets as randomness
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jwt
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pipeline.simulator.vendor import (
    SERVER_ERROR,
    THROTTLED,
    Answer,
    Callback,
    Heard,
    Request,
    Rule,
    Taken,
    Wrong,
    in_json,
)

TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105
SCOPES = frozenset(
    {
        "https://www.googleapis.com/auth/firebase.messaging",
        "https://www.googleapis.com/auth/cloud-platform",
    }
)
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_SECONDS = 3_600
PAYLOAD_BYTES = 4_096
MOST_TTL = 2_419_200
_SEND = re.compile(r"/v1/projects/([^/]+)/messages:send")
_DURATION = re.compile(r"(\d{1,9})(?:\.\d{1,9})?s")
_RESERVED = re.compile(r"from|message_type|google\..*|gcm\.notification\..*")
_WORDS = 80
_FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"

#: by FCM's code: the HTTP status, the API's status, and what the message says
ERRORS: Mapping[str, tuple[int, str, str]] = {
    "UNREGISTERED": (404, "NOT_FOUND", "Requested entity was not found."),
    "INVALID_ARGUMENT": (
        400,
        "INVALID_ARGUMENT",
        "The registration token is not a valid FCM registration token",
    ),
    "SENDER_ID_MISMATCH": (403, "PERMISSION_DENIED", "SenderId mismatch"),
    "QUOTA_EXCEEDED": (429, "RESOURCE_EXHAUSTED", "Quota exceeded."),
    "UNAVAILABLE": (503, "UNAVAILABLE", "The service is currently unavailable."),
    "INTERNAL": (500, "INTERNAL", "Internal error encountered."),
    "THIRD_PARTY_AUTH_ERROR": (401, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service"),
}
#: of a message, as revision 20261023 of the API's discovery document has them
_FIELDS = frozenset(
    [
        "name",
        "data",
        "notification",
        "android",
        "android_v2",
        "webpush",
        "apns",
        "fcm_options",
        "fid",
        "token",
        "topic",
        "condition",
    ]
)


class Fcm:
    """With `service_account` (its key, as JSON) only that account is given access tokens; else anybody is."""

    kind = "fcm"
    keyed = False
    codes = tuple(ERRORS)
    rules = (
        Rule("dead-*", "UNREGISTERED", says="the app was removed from the device"),
        Rule("bad-*", "INVALID_ARGUMENT", says="no registration token"),
        Rule("other-*", "SENDER_ID_MISMATCH", says="another sender's token"),
        Rule("slow-*", "latency=3", says="answers after 3 s"),
        Rule("busy-*", "throttled", says="429 with Retry-After"),
        Rule("broken-*", "server_error", says="500"),
        Rule("hang-*", "hang", says="takes it and never answers"),
    )

    def __init__(self, secrets: Mapping[str, str], clock: Callable[[], float]) -> None:
        """Raises ValueError for a service account that is none."""
        self._clock = clock
        self._signing = randomness.token_bytes(32)
        self._account, self._key = _account(secrets.get("service_account"))
        self._project = self._account.get("project_id")

    def hear(self, request: Request) -> Sequence[Heard]:
        """One device; none for a request for an access token."""
        if request.method == "POST" and request.path == "/token":
            self._grant(request)
            return ()
        found = _SEND.fullmatch(request.path)
        if request.method != "POST" or found is None:
            raise Wrong(Answer(404, {"content-type": "text/html"}, b"Not Found"), "no such address")
        self._verify(request.headers.get("authorization", ""))
        if self._project is not None and found[1] != self._project:
            raise Wrong(_error(403, "PERMISSION_DENIED", "Permission denied on the project."), "project")
        return [_heard(request.body)]

    def _grant(self, request: Request) -> None:
        """Raises Wrong for a JWT that gives no access token (RFC 7523)."""
        try:
            asked = request.form()
        except ValueError:
            asked = {}
        if asked.get("grant_type") != GRANT:
            raise Wrong(in_json(400, {"error": "unsupported_grant_type"}), "grant type")
        key, aud = self._key, self._account.get("token_uri", TOKEN_URI)
        try:
            claims = jwt.decode(
                asked.get("assertion", ""), key and key.public_key(), ["RS256"], audience=aud,
                options={
                    "verify_signature": key is not None, "verify_exp": False, "verify_iat": False,
                    "verify_aud": key is not None, "require": ["iss", "aud", "iat", "exp"],
                },
            )  # fmt: skip
            lasts = int(claims["exp"]) - int(claims["iat"])
            age = self._clock() - int(claims["iat"])
        except (jwt.PyJWTError, ValueError, TypeError):
            raise Wrong(in_json(400, _grant_error("Invalid JWT Signature.")), "JWT") from None
        if not (0 < lasts <= TOKEN_SECONDS and -300 < age < lasts):
            told = (
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
            )
            raise Wrong(in_json(400, _grant_error(told)), "JWT's time")
        if claims["aud"] != aud or claims["iss"] != self._account.get("client_email", claims["iss"]):
            raise Wrong(in_json(400, _grant_error("Invalid JWT.")), "JWT's claims")
        if not SCOPES & set(str(claims.get("scope", "")).split()):
            raise Wrong(in_json(400, {"error": "invalid_scope"}), "scope")

    def _verify(self, authorization: str) -> None:
        """Raises Wrong for an access token that it did not give, or that has ended."""
        scheme, _, token = authorization.partition(" ")
        prefix, _, rest = token.partition(".")
        ends, _, mac = rest.partition(".")
        known = scheme == "Bearer" and prefix == "ya29" and hmac.compare_digest(mac, self._mac(ends))
        if not known or self._clock() >= int(ends):
            raise Wrong(_unauthenticated(), "access token")

    def _mac(self, ends: str) -> str:
        mac = hmac.digest(self._signing, ends.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()

    def id(self, number: int) -> str:
        """A message's name."""
        return f"projects/{self._project or 'simulated'}/messages/0:{number:020d}"

    def accept(self, request: Request, heard: Sequence[Heard], taken: Sequence[Taken]) -> Answer:
        """An access token, a message's name, or an error."""
        if not heard:
            ends = str(int(self._clock()) + TOKEN_SECONDS)
            token = f"ya29.{ends}.{self._mac(ends)}"
            return in_json(200, {"access_token": token, "expires_in": TOKEN_SECONDS, "token_type": "Bearer"})
        code = taken[0].code
        return _fcm_error(code) if code else in_json(200, {"name": taken[0].id})

    def fault(self, name: str, request: Request, heard: Sequence[Heard]) -> Answer:
        """QUOTA_EXCEEDED, INTERNAL, or an access token that is refused."""
        if name == THROTTLED:
            answer = _fcm_error("QUOTA_EXCEEDED")
            return answer._replace(headers={**answer.headers, "retry-after": "1"})
        return _fcm_error("INTERNAL") if name == SERVER_ERROR else _unauthenticated()

    def receipts(self, request: Request, heard: Heard, taken: Taken, what: str) -> Sequence[Callback]:
        """None: FCM calls nobody back."""
        return ()


def _heard(body: bytes) -> Heard:
    """Raises Wrong for what is no message to one device."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise _invalid("", "Invalid JSON payload received.") from None
    message = found.get("message") if isinstance(found, dict) else None
    if not isinstance(message, dict):
        raise _invalid("message", "Message is required")
    if unknown := set(message) - _FIELDS:
        name = sorted(unknown)[0]
        raise _invalid("message", f"Invalid JSON payload received. Unknown name \"{name}\" at 'message'")
    token = message.get("fid") or message.get("token")
    if not isinstance(token, str) or not token:
        raise _invalid("message.token", "Recipient of the message is not set.")
    data, notification = message.get("data") or {}, message.get("notification") or {}
    for name, value in data.items():
        if _RESERVED.fullmatch(name) or not isinstance(value, str):
            raise _invalid("message.data", "Invalid data payload")
    pairs = [*data.items(), *notification.items()]
    if sum(len(f"{name}{value}".encode()) for name, value in pairs) > PAYLOAD_BYTES:
        raise _invalid("message", "Android message is too big")
    ttl = (message.get("android") or {}).get("ttl", "0s")
    seconds = _DURATION.fullmatch(ttl)
    if seconds is None or int(seconds[1]) > MOST_TTL:
        raise _invalid("message.android.ttl", "Invalid time to live")
    same: dict[str, Any] = {
        name: value for name, value in message.items() if name in {"data", "notification"}
    }
    shown = orjson.dumps(same, option=orjson.OPT_SORT_KEYS)
    words = notification.get("title") or notification.get("body") or ""
    return Heard(data.get("reference", ""), token, shown, words[:_WORDS])


def _account(text: str | None) -> tuple[dict[str, str], Any]:
    """A service account and its key; nothing where none is given. Raises ValueError, which tells nothing."""
    if not text:
        return {}, None
    try:
        found = orjson.loads(text)
        account = {name: found[name] for name in ("client_email", "token_uri", "project_id")}
        return account, load_pem_private_key(found["private_key"].encode(), None)
    except (ValueError, KeyError, TypeError, AttributeError, UnsupportedAlgorithm):
        raise ValueError("service_account: not a service account's key, as JSON") from None


def _grant_error(told: str) -> dict[str, str]:
    return {"error": "invalid_grant", "error_description": told}


def _error(code: int, status: str, message: str, *details: Any) -> Answer:
    error: dict[str, Any] = {"code": code, "message": message, "status": status}
    return in_json(code, {"error": error | {"details": details} if details else error})


def _fcm_error(code: str) -> Answer:
    return _error(*ERRORS[code], {"@type": _FCM_ERROR, "errorCode": code})


def _unauthenticated() -> Answer:
    told = "Request had invalid authentication credentials. Expected OAuth 2 access token."
    return _error(401, "UNAUTHENTICATED", told)


def _invalid(field: str, told: str) -> Wrong:
    violation = {"field": field, "description": told}
    details = {"@type": _BAD_REQUEST, "fieldViolations": [violation]}
    return Wrong(_error(400, "INVALID_ARGUMENT", told, details), told)
