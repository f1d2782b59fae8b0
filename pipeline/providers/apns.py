"""Apple Push Notification service (https://developer.apple.com/documentation/usernotifications), by tokens.

APNs knows no idempotency keys. The collapse id makes a second copy replace the first one on the device.
"""

import asyncio
import base64
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple
from uuid import UUID, uuid5

import orjson
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hpack import NeverIndexedHeaderTuple
from pydantic import Field, SecretStr

from pipeline.providers import retry_after
from pipeline.providers.answers import told
from pipeline.providers.http import (
    STATUSES,
    TAKES_500_AGAIN,
    Answer,
    Ended,
    NotAnswered,
    NotSent,
    by_status,
    understood,
)
from pipeline.providers.http2 import Headers, Http2Client
from pipeline.providers.provider import HttpSettings, Place, needed
from pipeline.sections import SettingsError
from schemas.kinds import Priority
from schemas.message import Message
from schemas.outcome import Meaning, Outcome, deferred, doubtful, refused, sent

BASE_URL = "https://api.push.apple.com"
PARALLEL = 500
PAYLOAD_BYTES = 4096
MOST_LIFE = 30 * 86_400
"""Seconds: no longer does APNs keep a notification."""
WINDOW = 2_400
"""Seconds that a provider token serves: APNs takes it for an hour, and a new one after 20 minutes."""
LEAST_SECONDS = 1_200
ID_SPACE = UUID("5e8f3d0a-6c1b-5b0e-9d53-1c4f0a7be2d1")
"""The name space in which a message's key becomes its apns-id."""

EXPIRED = "ExpiredProviderToken"

CODES: Mapping[str, Meaning] = {
    "Unregistered": Meaning("refused", "target", "the app is no longer on the device", dead=True),
    "ExpiredToken": Meaning("refused", "target", "the device token has expired", dead=True),
    "BadDeviceToken": Meaning("refused", "target", "no device token, or one of the other environment"),
    "DeviceTokenNotForTopic": Meaning("refused", "target", "the device token is another app's"),
    "MissingDeviceToken": Meaning("refused", "target", "there is no device token"),
    "BadPath": Meaning("refused", "target", "the device token makes no path"),
    "TooManyRequests": Meaning("deferred", "target", "too many in a row to this device"),
    "BadCollapseId": Meaning("refused", "message", "the collapse id is too long"),
    "BadExpirationDate": Meaning("refused", "message", "the expiration is no time"),
    "BadMessageId": Meaning("refused", "message", "the apns-id is none"),
    "BadPriority": Meaning("refused", "message", "the priority is none"),
    "DuplicateHeaders": Meaning("refused", "message", "a header came twice"),
    "InvalidPushType": Meaning("refused", "message", "the push type is none"),
    "PayloadEmpty": Meaning("refused", "message", "the payload is empty"),
    "PayloadTooLarge": Meaning("refused", "message", "the payload is too large"),
    "MethodNotAllowed": Meaning("refused", "message", "the method is not allowed"),
    "Forbidden": Meaning("refused", "message", "the action is not allowed"),
    "BadTopic": Meaning("deferred", "provider", "the topic is none"),
    "MissingTopic": Meaning("deferred", "provider", "there is no topic"),
    "TopicDisallowed": Meaning("deferred", "provider", "the key may not send to the topic"),
    "BadCertificate": Meaning("deferred", "provider", "the certificate is refused"),
    "BadCertificateEnvironment": Meaning(
        "deferred", "provider", "the certificate is the other environment's"
    ),
    EXPIRED: Meaning("deferred", "provider", "the provider token is too old: is the clock right?"),
    "InvalidProviderToken": Meaning("deferred", "provider", "the key, its id or the team's id is wrong"),
    "MissingProviderToken": Meaning("deferred", "provider", "there is no provider token"),
    "UnrelatedKeyIdInToken": Meaning("deferred", "provider", "the connection knows another key"),
    "BadEnvironmentKeyIdInToken": Meaning("deferred", "provider", "the key is the other environment's"),
    "BadEnvironmentKeyInToken": Meaning("deferred", "provider", "the key is the other environment's"),
    "TooManyProviderTokenUpdates": Meaning(
        "deferred", "provider", "the provider token changed too often", throttles=True
    ),
    "IdleTimeout": Meaning("deferred", "provider", "the connection was idle for too long"),
    "InternalServerError": Meaning("deferred", "provider", "an error at the vendor"),
    "ServiceUnavailable": Meaning("deferred", "provider", "not available now"),
    "Shutdown": Meaning("deferred", "provider", "the server is shutting down"),
    **STATUSES,
    **TAKES_500_AGAIN,
    "410": Meaning("refused", "target", "the app is no longer on the device", dead=True),
}
"""Apple's reasons; a status stands for itself where none is given."""


class Settings(HttpSettings):
    """What can be set for APNs."""

    kind: Literal["apns"] = "apns"
    base_url: str | None = Field(
        None,
        description="stands for Apple's own address; the sandbox is https://api.sandbox.push.apple.com",
    )
    key: SecretStr | None = Field(None, description="the signing key that Apple gave (.p8, PEM); required")
    key_file: Path | None = Field(None, description="a file that holds key")
    key_id: str | None = Field(None, description="the key's id, 10 characters; required")
    team_id: str | None = Field(None, description="the team's id, 10 characters; required")
    topic: str | None = Field(None, description="the app's bundle id; required")


class ProviderTokens:
    """The provider token (a JWT, ES256): the same bytes in every process of a fleet.

    Its time is the clock's, rounded down to a window of 40 minutes, and its signature is deterministic (RFC
    6979): APNs sees one token and one change in 40 minutes, however many workers there are.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey, key_id: str, team_id: str) -> None:
        self._key, self._key_id, self._team_id = key, key_id, team_id
        self._issued, self._forced = -1, 0
        self._token = ""

    def get(self, now: float) -> str:
        """The token of this moment (POSIX seconds)."""
        issued = max(int(now // WINDOW) * WINDOW, min(self._forced, int(now)))
        if issued != self._issued:
            self._issued, self._token = issued, self._signed(issued)
        return self._token

    def renew(self, now: float) -> None:
        """One was refused as too old: from now on one of this minute, at most every 20 minutes."""
        if now - self._forced >= LEAST_SECONDS:
            self._forced = int(now // 60) * 60

    def _signed(self, issued: int) -> str:
        head = {"alg": "ES256", "kid": self._key_id}
        parts = [_base64(orjson.dumps(one)) for one in (head, {"iss": self._team_id, "iat": issued})]
        text = ".".join(parts)
        signature = self._key.sign(text.encode(), ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        r, s = decode_dss_signature(signature)
        return f"{text}.{_base64(r.to_bytes(32) + s.to_bytes(32))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Push(NamedTuple):
    """A request for one device, without the provider token."""

    path: bytes
    headers: Headers
    body: bytes


class ApnsProvider:
    """Sends to device tokens, over one connection."""

    kind = "apns"
    honours_keys = False
    parallel = PARALLEL
    platforms = frozenset({"ios"})

    def __init__(
        self,
        name: str,
        *,
        timeout: float,
        tokens: ProviderTokens,
        topic: str,
        base_url: str = BASE_URL,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises httpx.InvalidURL, ValueError."""
        self.name, self.timeout = name, timeout
        self._tokens, self._topic, self._clock = tokens, topic, clock
        self._client = Http2Client(base_url, timeout)

    async def send(self, message: Message, key: str) -> Outcome:
        """Posts once; once more with another provider token where the first one is too old."""
        ends = asyncio.get_running_loop().time() + self.timeout
        try:
            made = push(message, key, self._topic, self._clock())
        except Ended as ended:
            return ended.outcome
        except Exception as error:
            return refused(f"no request can be made of it: {type(error).__name__}")
        outcome = await self._post(made, ends)
        if outcome.code == EXPIRED:
            self._tokens.renew(self._clock())
            outcome = await self._post(made, ends)
        return outcome

    async def _post(self, made: Push, ends: float) -> Outcome:
        token = self._tokens.get(self._clock())
        headers = [(b"authorization", b"bearer " + token.encode()), *made.headers]
        seconds = max(ends - asyncio.get_running_loop().time(), 0.0)
        try:
            answer = await self._client.exchange(b"POST", made.path, headers, made.body, seconds)
        except NotAnswered as error:
            return doubtful(f"no answer: {error.why}", fault="provider")
        except NotSent as error:
            return deferred(f"not sent: {error.why}", fault="provider")
        return understood(answer, lambda answer: judged(answer, self._clock()))

    async def close(self) -> None:
        """Lets the connection go."""
        await self._client.close()


_TOKEN = re.compile(r"(?:[0-9a-fA-F]{2}){4,512}")


def push(message: Message, key: str, topic: str, now: float) -> Push:
    """The request for a message. Raises Ended for what no device is or can take."""
    if not _TOKEN.fullmatch(message.target):
        raise Ended(refused("no device token: not hexadecimal", fault="target"))
    body = payload(message, key)
    if len(body) > PAYLOAD_BYTES:
        raise Ended(refused(f"too large: {len(body)} bytes of {PAYLOAD_BYTES}"))
    id = str(uuid5(ID_SPACE, key)).encode()
    ends = now + MOST_LIFE if message.expires_at is None else message.expires_at / 1000
    return Push(
        b"/3/device/" + message.target.encode(),
        [
            (b"apns-topic", topic.encode()),
            (b"apns-push-type", b"alert"),
            (b"apns-priority", b"5" if message.priority is Priority.LOW else b"10"),
            # of no use to the next request, so not for the small table of header compression
            NeverIndexedHeaderTuple(b"apns-expiration", b"%d" % min(max(ends, 0), now + MOST_LIFE)),
            NeverIndexedHeaderTuple(b"apns-id", id),
            NeverIndexedHeaderTuple(b"apns-collapse-id", id),
        ],
        body,
    )


def payload(message: Message, key: str) -> bytes:
    """What the device gets: an alert, and the ids for the app."""
    alert = {"title": message.subject, "body": message.text} if message.subject else {"body": message.text}
    found = {
        "aps": {"alert": alert, "sound": "default"},
        "notification_id": message.id,
        "reference": key,
    }
    return orjson.dumps(found)


def judged(answer: Answer, now: float) -> Outcome:
    """An answer in our words."""
    if answer.status == 200:
        return sent(answer.headers.get("apns-id", "")[:100] or None)
    found = told(answer)
    reason = found.get("reason")
    meaning = CODES.get(reason) if isinstance(reason, str) and not reason.isdigit() else None
    if not isinstance(reason, str) or meaning is None:
        return by_status(CODES, answer, now)
    at = found.get("timestamp")
    since = at if isinstance(at, int) and at > 0 else 0
    wait = retry_after.seconds(answer.headers.get("retry-after"), now) if meaning.kind == "deferred" else None
    return meaning.outcome(reason, retry_after=wait, dead_since=since)


def make(name: str, settings: Settings, place: Place) -> ApnsProvider:
    """The provider for an app. Raises SettingsError."""
    pem = needed(name, settings, "key")
    key_id, team_id = needed(name, settings, "key_id"), needed(name, settings, "team_id")
    try:
        key = load_pem_private_key(pem.encode(), None)
    except Exception:
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise SettingsError(f"providers.{name}.key: not a signing key of Apple's (.p8: PEM, P-256)")
    try:
        return ApnsProvider(
            name, timeout=settings.timeout, tokens=ProviderTokens(key, key_id, team_id),
            topic=needed(name, settings, "topic"), base_url=settings.base_url or BASE_URL,
        )  # fmt: skip
    except ValueError:
        raise SettingsError(f"providers.{name}.base_url: no http or https URL") from None
