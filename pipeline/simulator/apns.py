"""APNs: it verifies provider tokens as Apple does, each token's age and how often they change included."""

import re
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

import jwt
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pipeline.simulator.server_h2 import GO_AWAY, REFUSED_STREAM
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

TOKEN_SECONDS, UPDATE_SECONDS = 3_600, 1_200
PAYLOAD_BYTES = 4_096
UNREGISTERED_FOR = 86_400
"""How many seconds ago a device that is gone went."""
_PATH = re.compile(r"/3/device/([^/]*)")
_DEVICE = re.compile(r"(?:[0-9a-fA-F]{2})+")
_WORDS = 80

REASONS: Mapping[str, int] = {
    "BadDeviceToken": 400,
    "DeviceTokenNotForTopic": 400,
    "TopicDisallowed": 400,
    "ExpiredProviderToken": 403,
    "InvalidProviderToken": 403,
    "Unregistered": 410,
    "ExpiredToken": 410,
    "TooManyProviderTokenUpdates": 429,
    "TooManyRequests": 429,
    "InternalServerError": 500,
    "ServiceUnavailable": 503,
    "Shutdown": 503,
}
STREAM, AWAY = "REFUSED_STREAM", "GOAWAY"
"""Not reasons, but what HTTP/2 says of a request that was not looked at."""


class Apns:
    """With `key`, `key_id`, `team_id` and `topic` it takes what is signed and meant so, and nothing else."""

    kind = "apns"
    keyed = False
    codes = (*REASONS, STREAM, AWAY)
    rules = (
        Rule("dead*", "Unregistered", says="the app was removed from the device"),
        Rule("bad0*", "BadDeviceToken", says="a token of the other environment"),
        Rule("0ff0*", "DeviceTokenNotForTopic", says="another app's token"),
        Rule("510e*", "latency=3", says="answers after 3 s"),
        Rule("b0b0*", "throttled", says="429 TooManyRequests"),
        Rule("b4d0*", "server_error", says="500 InternalServerError"),
        Rule("0000*", "hang", says="takes it and never answers"),
    )

    def __init__(self, secrets: Mapping[str, str], clock: Callable[[], float]) -> None:
        """Raises ValueError for a key that is none."""
        self._clock = clock
        self._key = _key(secrets["key"]) if secrets.get("key") else None
        self._known = {name: secrets[name] for name in ("key_id", "team_id", "topic") if secrets.get(name)}
        self._tokens: dict[str, int] = {}

    def hear(self, request: Request) -> Sequence[Heard]:
        """One device."""
        if request.method != "POST":
            raise _wrong("MethodNotAllowed", 405)
        path, headers = _PATH.fullmatch(request.path), request.headers
        if path is None:
            raise _wrong("BadPath", 404)
        self._verify(headers.get("authorization", ""))
        if not path[1]:
            raise _wrong("MissingDeviceToken", 400)
        if not _DEVICE.fullmatch(path[1]):
            raise _wrong("BadDeviceToken", 400)
        if not headers.get("apns-topic"):
            raise _wrong("MissingTopic", 400)
        if self._known.get("topic", headers["apns-topic"]) != headers["apns-topic"]:
            raise _wrong("TopicDisallowed", 400)
        if headers.get("apns-push-type", "alert") not in {"alert", "background"}:
            raise _wrong("InvalidPushType", 400)
        if headers.get("apns-priority", "10") not in {"1", "5", "10"}:
            raise _wrong("BadPriority", 400)
        if not headers.get("apns-expiration", "0").isdecimal():
            raise _wrong("BadExpirationDate", 400)
        if len(headers.get("apns-collapse-id", "")) > 64:
            raise _wrong("BadCollapseId", 400)
        if not _is_uuid(headers.get("apns-id", str(UUID(int=0)))):
            raise _wrong("BadMessageId", 400)
        return [_heard(path[1], request)]

    def _verify(self, authorization: str) -> None:
        """Raises Wrong for a provider token that Apple would not take."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _wrong("MissingProviderToken", 403)
        try:
            head = jwt.get_unverified_header(token)
            claims = jwt.decode(
                token, self._key and self._key.public_key(), ["ES256"],  # type: ignore[arg-type]
                options={"verify_signature": self._key is not None, "verify_iat": False},
            )  # fmt: skip
            issued = int(claims["iat"])
            told = {"key_id": head["kid"], "team_id": claims["iss"]}
        except (jwt.PyJWTError, KeyError, ValueError, TypeError):
            raise _wrong("InvalidProviderToken", 403) from None
        if head.get("alg") != "ES256" or any(self._known.get(name, it) != it for name, it in told.items()):
            raise _wrong("InvalidProviderToken", 403)
        if self._clock() - issued > TOKEN_SECONDS:
            raise _wrong("ExpiredProviderToken", 403)
        if token not in self._tokens:
            if any(abs(issued - other) < UPDATE_SECONDS for other in self._tokens.values()):
                raise _wrong("TooManyProviderTokenUpdates", 429)
            self._tokens = {token: issued, **dict(list(self._tokens.items())[:3])}

    def id(self, number: int) -> str:
        """A UUID; the answer's is the request's own, where it has one."""
        return str(UUID(int=number))

    def accept(self, request: Request, heard: Sequence[Heard], taken: Sequence[Taken]) -> Answer:
        """200 without a body, or the reason."""
        id = request.headers.get("apns-id") or taken[0].id or str(UUID(int=0))
        code = taken[0].code
        if not code:
            return Answer(200, {"apns-id": id})
        if code in {STREAM, AWAY}:
            return REFUSED_STREAM if code == STREAM else GO_AWAY
        if code == "ExpiredProviderToken":
            self._tokens.clear()  # who is told so may come with another one at once
        since = int((self._clock() - UNREGISTERED_FOR) * 1000) if REASONS[code] == 410 else None
        return _refusal(code, REASONS[code], id, since)

    def fault(self, name: str, request: Request, heard: Sequence[Heard]) -> Answer:
        """TooManyRequests, InternalServerError or InvalidProviderToken."""
        id = request.headers.get("apns-id", str(UUID(int=0)))
        if name == THROTTLED:
            return _refusal("TooManyRequests", 429, id)
        if name == SERVER_ERROR:
            return _refusal("InternalServerError", 500, id)
        return _refusal("InvalidProviderToken", 403, id)

    def receipts(self, request: Request, heard: Heard, taken: Taken, what: str) -> Sequence[Callback]:
        """None: APNs calls nobody back."""
        return ()


def _key(pem: str) -> ec.EllipticCurvePrivateKey:
    try:
        found = load_pem_private_key(pem.encode(), None)
        if not isinstance(found, ec.EllipticCurvePrivateKey):
            raise ValueError
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("key: not a signing key in PEM") from None
    return found


def _heard(device: str, request: Request) -> Heard:
    """Raises Wrong for a payload that is none."""
    body = request.body
    if not body:
        raise _wrong("PayloadEmpty", 400)
    if len(body) > PAYLOAD_BYTES:
        raise _wrong("PayloadTooLarge", 413)
    try:
        found = orjson.loads(body)
        alert = found["aps"]["alert"]
        words = alert if isinstance(alert, str) else alert.get("title") or alert.get("body") or ""
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise _wrong("PayloadEmpty", 400) from None
    key = found.get("reference") or request.headers.get("apns-id", "")
    return Heard(str(key), device, body, str(words)[:_WORDS])


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def _refusal(reason: str, status: int, id: str, since: int | None = None) -> Answer:
    found = {"reason": reason} if since is None else {"reason": reason, "timestamp": since}
    answer = in_json(status, found)
    return answer._replace(headers={**answer.headers, "apns-id": id})


def _wrong(reason: str, status: int) -> Wrong:
    return Wrong(_refusal(reason, status, str(UUID(int=0))), reason)
