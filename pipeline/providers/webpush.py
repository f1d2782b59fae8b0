"""Web Push: to a browser's endpoint (RFC 8030), encrypted for it (RFC 8291), signed by VAPID (RFC 8292).

Push services know no idempotency keys. The topic makes a second copy replace the first one while that waits
at the push service.
"""

import base64
import binascii
import time
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import aiohttp
import http_ece
import httpx
import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from msgspec.structs import replace
from pydantic import Field, SecretStr

from pipeline.providers.answers import told
from pipeline.providers.guarded import BadUrl, Blocked, GuardedClient, parsed
from pipeline.providers.http import (
    CONNECTIONS_PER_HOST,
    STATUSES,
    Answer,
    Ended,
    NotAnswered,
    NotSent,
    by_status,
    understood,
)
from pipeline.providers.provider import HttpSettings, Place, needed
from pipeline.sections import SettingsError
from schemas.kinds import Priority
from schemas.message import Message
from schemas.outcome import Meaning, Outcome, deferred, doubtful, refused

BODY_SECONDS = 1.0
"""How long to wait for an answer's body: its status says all."""
RECORD_BYTES = 4096
PAYLOAD_BYTES = 3993
"""What is left of a record of 4,096 bytes (RFC 8291, 4): without header, padding's delimiter and tag."""
MOST_TTL = 2_419_200
"""Seconds: four weeks, the most that push services keep a message."""
TOKEN_SECONDS, RENEW_SECONDS = 43_200, 3_600
"""How long a VAPID token holds (a day at most), and how long before its end it is made anew."""
ORIGINS = 256
URGENCY = {Priority.CRITICAL: "high", Priority.HIGH: "high", Priority.NORMAL: "normal", Priority.LOW: "low"}

PUSH_SERVICES = frozenset({"fcm.googleapis.com", "jmt17.google.com", "web.push.apple.com"})
"""Google's (the second one for Chromium that is not Chrome) and Apple's."""
PUSH_DOMAINS = (".push.services.mozilla.com", ".notify.windows.com")
"""With all hosts below them. These hosts speak for the provider: anybody can register any other endpoint, and
must not be able to stop all others by answering badly. What those others say is the target's fault alone."""

OTHER_KEY, BAD_TOKEN = "VAPID key", "BadJwtToken"
_OTHER_KEY = (b"do not correspond to the credentials", b"VAPID public key mismatch", b"VapidPkHashMismatch")
"""How FCM (403), Mozilla (401) and Apple (400) say that the subscription was made with another key."""

CODES: Mapping[str, Meaning] = {
    "404": Meaning("refused", "target", "the subscription has ended", dead=True),
    "410": Meaning("refused", "target", "the subscription has ended", dead=True),
    "400": Meaning("refused", "message", "the request is not as it should be"),
    "413": Meaning("refused", "message", "the message is too large"),
    **STATUSES,
    "3xx": Meaning("refused", "target", "a redirect, which is not followed"),
    "401": Meaning("deferred", "provider", "the VAPID token is refused"),
    "403": Meaning("deferred", "target", "the VAPID key is not the subscription's, or the token is refused"),
    OTHER_KEY: Meaning("deferred", "target", "the VAPID key is not the subscription's"),
    BAD_TOKEN: Meaning("deferred", "provider", "Apple refuses the VAPID token: is `subject` a real address?"),
    "406": Meaning("deferred", "provider", "too many requests, as WNS says it", throttles=True),
}


class Settings(HttpSettings):
    """What can be set for Web Push."""

    kind: Literal["webpush"] = "webpush"
    vapid_private_key: SecretStr | None = Field(
        None, description="the VAPID key: 32 bytes in base64url, or PEM; required"
    )
    vapid_private_key_file: Path | None = Field(None, description="a file that holds vapid_private_key")
    subject: str | None = Field(
        None, description="where push services reach you: mailto:… or https://…; required"
    )
    allow_internal: bool = Field(False, description="also call loopback and private addresses, and http")


class VapidTokens:
    """VAPID's header (RFC 8292, 3), one for each origin, made anew before its token ends."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, subject: str) -> None:
        self._key, self._subject = key, subject
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.public_key = _base64(point)
        """What the page hands to `pushManager.subscribe` as applicationServerKey."""
        self._known: dict[str, tuple[str, float]] = {}

    def get(self, origin: str, now: float) -> str:
        """The value of Authorization towards an origin."""
        header, ends = self._known.get(origin, ("", 0.0))
        if now > ends - RENEW_SECONDS:
            ends = int(now) + TOKEN_SECONDS
            token = jwt.encode({"aud": origin, "exp": int(ends), "sub": self._subject}, self._key, "ES256")
            header = f"vapid t={token}, k={self.public_key}"
            if len(self._known) >= ORIGINS:  # endpoints are what users say
                self._known.clear()
            self._known[origin] = header, ends
        return header


class WebPushProvider:
    """Posts to the endpoints that are its targets; their keys are in `message.keys`."""

    kind = "webpush"
    honours_keys = False
    parallel = CONNECTIONS_PER_HOST
    platforms = frozenset({"web"})

    def __init__(
        self,
        name: str,
        *,
        timeout: float,
        tokens: VapidTokens,
        allow_internal: bool = False,
        clock: Callable[[], float] = time.time,
        resolver: aiohttp.abc.AbstractResolver | None = None,
    ) -> None:
        self.name, self.timeout, self.allow_internal = name, timeout, allow_internal
        self.tokens, self._clock = tokens, clock
        self._client = GuardedClient(allow_internal=allow_internal, resolver=resolver)

    async def send(self, message: Message, key: str) -> Outcome:
        """Posts once; no redirect is followed."""
        try:
            request = self._request(message, key)
        except Ended as ended:
            return ended.outcome
        except (httpx.InvalidURL, BadUrl) as error:
            return refused(f"no usable endpoint: {type(error).__name__}", fault="target")
        except Exception as error:
            return refused(f"no request can be made of it: {type(error).__name__}")
        outcome = await self._call(request)
        if outcome.fault == "provider" and not self._is_known(request.url.host):
            return replace(outcome, fault="target")
        return outcome

    async def _call(self, request: httpx.Request) -> Outcome:
        try:
            answer = await self._client.exchange(request, self.timeout, BODY_SECONDS)
        except NotAnswered as error:
            return doubtful(f"no answer: {error.why}", fault="provider")
        except Blocked:
            return refused("blocked address", fault="target")
        except NotSent as error:
            if isinstance(error.cause.__cause__ or error.cause, ValueError):
                return refused(f"no usable endpoint: {error.why}", fault="target")
            return deferred(f"not connected: {error.why}", fault="provider")
        # Location would let whoever reads it delete the message, so it is no id to be shown
        return understood(answer, lambda answer: judged(answer, self._clock()))

    def _is_known(self, host: str) -> bool:
        return self.allow_internal or host in PUSH_SERVICES or host.endswith(PUSH_DOMAINS)

    def _request(self, message: Message, key: str) -> httpx.Request:
        """Raises Ended, httpx.InvalidURL, BadUrl, UnicodeError."""
        url = parsed(message.target)
        if url.scheme != "https" and not self.allow_internal:
            raise Ended(refused("no usable endpoint: not https", fault="target"))
        plain = payload(message, key)
        if len(plain) > PAYLOAD_BYTES:
            raise Ended(refused(f"too large: {len(plain)} bytes of {PAYLOAD_BYTES}"))
        now = self._clock()
        seconds = MOST_TTL
        if message.expires_at is not None:
            seconds = min(max(int(message.expires_at / 1000 - now), 0), MOST_TTL)
        origin = f"{url.scheme}://{url.netloc.decode('ascii')}"
        headers = {
            "authorization": self.tokens.get(origin, now),
            "content-encoding": "aes128gcm",
            "content-type": "application/octet-stream",
            "ttl": str(seconds),
            "urgency": URGENCY[message.priority],
            "topic": _base64(blake2b(key.encode(), digest_size=24).digest()),
            "user-agent": "Carillon",
        }
        return httpx.Request("POST", url, content=encrypted(plain, message.keys or {}), headers=headers)

    async def close(self) -> None:
        """Lets the connections go."""
        await self._client.close()


def judged(answer: Answer, now: float) -> Outcome:
    """A status in our words; of those that refuse us the body tells whether all of ours are meant."""
    if answer.status in {400, 401, 403} and answer.body:
        if any(words in answer.body for words in _OTHER_KEY):
            return CODES[OTHER_KEY].outcome(OTHER_KEY)
        if told(answer).get("reason") == BAD_TOKEN:
            return CODES[BAD_TOKEN].outcome(BAD_TOKEN)
    return by_status(CODES, answer, now)


def payload(message: Message, key: str) -> bytes:
    """What the service worker gets: JSON, as a page may hand it to `showNotification`."""
    found = {"body": message.text, "notification_id": message.id, "reference": key}
    return orjson.dumps({"title": message.subject} | found if message.subject else found)


def encrypted(plain: bytes, keys: Mapping[str, str]) -> bytes:
    """One record for the browser that gave these keys, never the same twice. Raises Ended.

    Salt and key pair are random, as RFC 8291 wants them: what is the same at every attempt is the plain text.
    """
    try:
        point, auth = _bytes(keys["p256dh"]), _bytes(keys["auth"])
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        if len(auth) != 16:
            raise ValueError
    except (KeyError, ValueError):
        raise Ended(refused("no usable keys of a subscription", fault="target")) from None
    ephemeral = ec.generate_private_key(ec.SECP256R1())
    record: bytes = http_ece.encrypt(
        plain, private_key=ephemeral, dh=point, auth_secret=auth, rs=RECORD_BYTES
    )
    return record


def _bytes(text: str) -> bytes:
    """Base64url or base64, padded or not: browsers' libraries write either. Raises ValueError."""
    plain = text.rstrip("=").replace("+", "-").replace("/", "_")
    return base64.b64decode(plain + "=" * (-len(plain) % 4), b"-_", validate=True)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def vapid_key(name: str, text: str) -> ec.EllipticCurvePrivateKey:
    """Reads the VAPID key. Raises SettingsError, which tells nothing of it."""
    try:
        if "-----BEGIN" in text:
            found = load_pem_private_key(text.encode(), None)
            if not isinstance(found, ec.EllipticCurvePrivateKey) or not isinstance(found.curve, ec.SECP256R1):
                raise ValueError
            return found
        number = _bytes(text)
        if len(number) != 32:
            raise ValueError
        return ec.derive_private_key(int.from_bytes(number), ec.SECP256R1())
    except (ValueError, TypeError, binascii.Error):
        told = "not a P-256 key: 32 bytes in base64url, or PEM"
        raise SettingsError(f"providers.{name}.vapid_private_key: {told}") from None


def make(name: str, settings: Settings, place: Place) -> WebPushProvider:
    """The Web Push provider. Raises SettingsError."""
    if settings.base_url is not None:
        raise SettingsError(f"providers.{name}.base_url: a message goes to the endpoint that is its target")
    key = vapid_key(name, needed(name, settings, "vapid_private_key"))
    subject = needed(name, settings, "subject")
    if not subject.startswith(("mailto:", "https://")):
        raise SettingsError(f"providers.{name}.subject: mailto:… or https://…")
    return WebPushProvider(
        name,
        timeout=settings.timeout,
        tokens=VapidTokens(key, subject),
        allow_internal=settings.allow_internal,
    )
