"""A push service and its browsers: it verifies VAPID and decrypts what it takes.

Each path below `/push/` is a browser's subscription; its keys follow from the path, so that whoever knows the
path can register it: see `subscription`.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import http_ece
import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

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
)

BODY_BYTES = 4_096
TOKEN_SECONDS = 86_400
URGENCIES = frozenset({"very-low", "low", "normal", "high"})
_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")
_VAPID = re.compile(r"vapid (.+)", re.IGNORECASE)
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of the curve P-256."""
_WORDS = 80


def keys(path: str) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """The key pair and the secret of the browser behind a path. They are no secrets at all."""
    seed = hashlib.sha512(b"carillon simulator web push " + path.encode()).digest()
    number = int.from_bytes(seed[:48]) % (_ORDER - 1) + 1
    return ec.derive_private_key(number, ec.SECP256R1()), seed[48:]


def subscription(base_url: str, name: str) -> dict[str, Any]:
    """A subscription as a browser's `toJSON()` gives it, at a simulator's `base_url`."""
    path = f"/push/{name}"
    key, auth = keys(path)
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return {
        "endpoint": f"{base_url}{path}",
        "expirationTime": None,
        "keys": {"p256dh": _base64(point), "auth": _base64(auth)},
    }


class PushService:
    """With `vapid_private_key` it takes messages of that key alone, as subscriptions made for it would."""

    kind = "webpush"
    keyed = False
    codes = ("400", "401", "403", "404", "410", "413")
    rules = (
        Rule("/push/dead-*", "410", says="the subscription has ended"),
        Rule("/push/missing-*", "404", says="the subscription has ended, as others say it"),
        Rule("/push/other-*", "403", says="subscribed with another VAPID key"),
        Rule("/push/slow-*", "latency=3", says="answers after 3 s"),
        Rule("/push/busy-*", "throttled", says="429 with Retry-After"),
        Rule("/push/broken-*", "server_error", says="500"),
        Rule("/push/hang-*", "hang", says="takes it and never answers"),
    )

    def __init__(self, secrets: Mapping[str, str], clock: Callable[[], float]) -> None:
        """Raises ValueError for a key that is none: 32 bytes in base64url."""
        self._clock = clock
        self._point = b""
        if secret := secrets.get("vapid_private_key"):
            try:
                key = ec.derive_private_key(int.from_bytes(_bytes(secret)), ec.SECP256R1())
            except ValueError:
                raise ValueError("vapid_private_key: not 32 bytes in base64url") from None
            self._point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def hear(self, request: Request) -> Sequence[Heard]:
        """One browser."""
        headers = request.headers
        if request.method != "POST":
            raise Wrong(Answer(405, {"allow": "POST"}), "not a POST")
        if not request.path.startswith("/push/"):
            raise Wrong(Answer(404), "no subscription")
        self._verify(headers.get("authorization", ""), f"http://{headers.get('host', '')}")
        if not headers.get("ttl", "").isdecimal():
            raise Wrong(Answer(400), "no TTL")
        if headers.get("urgency", "normal") not in URGENCIES:
            raise Wrong(Answer(400), "no urgency")
        if not _TOPIC.fullmatch(headers.get("topic", "none")):
            raise Wrong(Answer(400), "no topic")
        if headers.get("content-encoding") != "aes128gcm":
            raise Wrong(Answer(400), "not encrypted with aes128gcm")
        if len(request.body) > BODY_BYTES:
            raise Wrong(Answer(413), "too large")
        return [_heard(request)]

    def _verify(self, authorization: str, origin: str) -> None:
        """Raises Wrong for what VAPID does not allow (RFC 8292, 2 and 4.2)."""
        found = _VAPID.fullmatch(authorization)
        if found is None:
            raise Wrong(Answer(401, {"www-authenticate": "vapid"}), "no VAPID")
        fields = dict(part.strip().partition("=")[::2] for part in found[1].split(","))
        try:
            point = _bytes(fields["k"])
            key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
            claims = jwt.decode(
                fields["t"],
                key,
                ["ES256"],
                audience=origin,
                options={"verify_exp": False, "require": ["exp"]},
            )
            left = int(claims["exp"]) - self._clock()
        except (KeyError, ValueError, TypeError, jwt.PyJWTError):
            raise Wrong(Answer(403), "VAPID token") from None
        if not 0 < left <= TOKEN_SECONDS:
            raise Wrong(Answer(403), "VAPID token's time")
        if self._point and point != self._point:
            raise Wrong(Answer(403), "another VAPID key")

    def id(self, number: int) -> str:
        """The name of a message at its push service."""
        return f"m{number}"

    def accept(self, request: Request, heard: Sequence[Heard], taken: Sequence[Taken]) -> Answer:
        """201 with the message's address, or the code."""
        if taken[0].code:
            return Answer(int(taken[0].code))
        location = f"http://{request.headers.get('host', '')}/message/{taken[0].id}"
        return Answer(201, {"location": location, "ttl": request.headers["ttl"]})

    def fault(self, name: str, request: Request, heard: Sequence[Heard]) -> Answer:
        """429, 500 or 401."""
        if name == THROTTLED:
            return Answer(429, {"retry-after": "1"})
        return Answer(500 if name == SERVER_ERROR else 401)

    def receipts(self, request: Request, heard: Heard, taken: Taken, what: str) -> Sequence[Callback]:
        """None: push services call nobody back."""
        return ()


def _heard(request: Request) -> Heard:
    """Raises Wrong for what the browser could not read: it would drop it, and nobody would hear of it."""
    key, auth = keys(request.path)
    try:
        plain = http_ece.decrypt(request.body, private_key=key, auth_secret=auth)
    except Exception as error:
        raise Wrong(Answer(400), f"cannot be decrypted: {type(error).__name__}") from None
    try:
        found = orjson.loads(plain)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        found = {}
    words = str(found.get("title") or found.get("body") or "")
    return Heard(str(found.get("reference", "")), request.path, plain, words[:_WORDS])


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
