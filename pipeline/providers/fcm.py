"""Firebase Cloud Messaging, HTTP v1 (https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages).

FCM knows no idempotency keys. The tag makes a second copy replace the first one on the device's screen.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import httpx
import jwt
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import Field, SecretStr

from pipeline.providers import retry_after
from pipeline.providers.answers import told
from pipeline.providers.http import (
    CONNECTIONS_PER_HOST,
    GARBAGE,
    STATUSES,
    TAKES_500_AGAIN,
    Answer,
    Ended,
    HttpClient,
    NotAnswered,
    NotSent,
    by_status,
    understood,
)
from pipeline.providers.provider import HttpSettings, Place, needed
from pipeline.sections import SettingsError
from schemas.kinds import Priority
from schemas.message import Message
from schemas.outcome import Meaning, Outcome, deferred, doubtful, refused, sent

BASE_URL = "https://fcm.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_PATH = "/token"  # noqa: S105
PAYLOAD_BYTES = 4096
MOST_TTL = 2_419_200
"""Seconds: four weeks, which is also what FCM takes where none is given."""
QUOTA_SECONDS = 60.0
"""How long FCM asks to wait after a 429 that does not say it."""
ASSERTION_SECONDS = 3600
EARLY, LATE = 300.0, 10.0
"""Seconds before a token's end: from the one on it is renewed behind the calls, from the other not used."""
PAUSE = 30.0
"""Seconds between two renewals behind the calls, should the first one fail."""
DEVICES = frozenset({"android", "ios", "web"})

UNAUTHENTICATED = "UNAUTHENTICATED"
BAD_TOKEN = "INVALID_ARGUMENT message.token"  # noqa: S105
_TOKEN_FIELD = "message.token"  # noqa: S105
_TOKEN_TEXT = "The registration token is not a valid FCM registration token"  # noqa: S105

CODES: Mapping[str, Meaning] = {
    "UNREGISTERED": Meaning("refused", "target", "the app is no longer on the device", dead=True),
    BAD_TOKEN: Meaning("refused", "target", "this is no registration token", dead=True),
    "SENDER_ID_MISMATCH": Meaning("refused", "target", "the token belongs to another sender's app"),
    "INVALID_ARGUMENT": Meaning("refused", "message", "the request is not as it should be"),
    "QUOTA_EXCEEDED": Meaning("deferred", "provider", "too many requests", throttles=True),
    "UNAVAILABLE": Meaning("deferred", "provider", "overloaded"),
    "INTERNAL": Meaning("deferred", "provider", "an error at the vendor"),
    "THIRD_PARTY_AUTH_ERROR": Meaning(
        "deferred", "provider", "the project's APNs or Web Push key is refused"
    ),
    UNAUTHENTICATED: Meaning("deferred", "provider", "the access token is refused"),
    "PERMISSION_DENIED": Meaning("deferred", "provider", "the service account may not send for the project"),
    "NOT_FOUND": Meaning("deferred", "provider", "there is no such project"),
    "RESOURCE_EXHAUSTED": Meaning("deferred", "provider", "too many requests", throttles=True),
    "invalid_grant": Meaning("deferred", "provider", "the service account's assertion is refused"),
    "invalid_client": Meaning("deferred", "provider", "the service account is not known"),
    "unauthorized_client": Meaning("deferred", "provider", "the service account may not ask for a token"),
    "invalid_scope": Meaning("deferred", "provider", "the service account may not send"),
    "no access token": Meaning("deferred", "provider", "no access token could be had"),
    **STATUSES,
    **TAKES_500_AGAIN,
    "404": Meaning("deferred", "provider", "there is no such address"),
}
"""FCM's own error codes, else the API's statuses, in small letters those of the token's endpoint."""


class Settings(HttpSettings):
    """What can be set for Firebase Cloud Messaging."""

    kind: Literal["fcm"] = "fcm"
    base_url: str | None = Field(
        None, description="stands for FCM's own address, and with /token for the one that gives access tokens"
    )
    service_account: SecretStr | None = Field(None, description="a service account's key, as JSON; required")
    service_account_file: Path | None = Field(None, description="a file that holds service_account")
    project_id: str | None = Field(None, description="the project, if not the service account's own")
    platforms: tuple[str, ...] = Field(
        (), description="which devices it reaches: android, ios, web; android where none is named"
    )


class Account(NamedTuple):
    """What of a service account's key is needed."""

    email: str
    key_id: str
    private_key: rsa.RSAPrivateKey
    token_uri: str
    project_id: str


class AccessTokens:
    """The access token, got by a JWT (RFC 7523); whoever needs a new one shares the one request for it."""

    def __init__(
        self, account: Account, url: str, client: HttpClient, timeout: float, clock: Callable[[], float]
    ) -> None:
        self._account, self._url, self._client = account, url, client
        self._timeout, self._clock = timeout, clock
        self._token, self._ends, self._pause = "", 0.0, 0.0
        self._renewal: asyncio.Task[str] | None = None

    async def get(self) -> str:
        """A token that is good for a while. Raises Ended."""
        now = self._clock()
        if self._token and now < self._ends - LATE:
            if now >= self._ends - EARLY and now >= self._pause and self._renewal is None:
                self._pause = now + PAUSE
                self._renew()
            return self._token
        # one who goes away while it waits must not take the others along
        return await asyncio.shield(self._renewal or self._renew())

    def forget(self, token: str) -> None:
        """A token that was refused is not used again."""
        if token == self._token:
            self._token = ""

    def _renew(self) -> asyncio.Task[str]:
        self._renewal = renewal = asyncio.create_task(self._ask(), name="access token")
        renewal.add_done_callback(self._renewed)
        return renewal

    def _renewed(self, renewal: asyncio.Task[str]) -> None:
        self._renewal = None
        if not renewal.cancelled():
            renewal.exception()  # those who waited were told; behind the calls there is nobody

    async def _ask(self) -> str:
        now = int(self._clock())
        account = self._account
        claims = {
            "iss": account.email, "scope": SCOPE, "aud": account.token_uri, "iat": now,
            "exp": now + ASSERTION_SECONDS,
        }  # fmt: skip
        headers = {"kid": account.key_id} if account.key_id else None
        assertion = jwt.encode(claims, account.private_key, "RS256", headers)
        request = httpx.Request("POST", self._url, data={"grant_type": GRANT, "assertion": assertion})
        try:
            answer = await self._client.exchange(request, self._timeout)
        except NotSent as error:  # NotAnswered is one as well: a token that was lost on its way does no harm
            raise Ended(deferred(f"no access token: {error.why}", fault="provider")) from error
        found = told(answer)
        token, seconds = found.get("access_token"), found.get("expires_in")
        if isinstance(token, str) and not (token.isascii() and token.isprintable()):
            token = None  # no header can hold it
        if answer.status == 200 and isinstance(token, str) and isinstance(seconds, int):
            self._token, self._ends = token, now + seconds
            return token
        raise self._failure(answer, found.get("error"))

    def _failure(self, answer: Answer, error: Any) -> Ended:
        """By the codes of RFC 6749, 5.2; surely nothing was sent, whatever came."""
        if isinstance(error, str) and error in CODES:
            return Ended(CODES[error].outcome(error))
        wait = by_status(CODES, answer, self._clock()).retry_after
        detail = f"HTTP {answer.status} instead of an access token"
        return Ended(CODES["no access token"].outcome("no access token", detail, retry_after=wait))

    async def close(self) -> None:
        """Asks for no more."""
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])


class FcmProvider:
    """Sends to registration tokens."""

    kind = "fcm"
    honours_keys = False
    parallel = CONNECTIONS_PER_HOST

    def __init__(
        self,
        name: str,
        *,
        timeout: float,
        account: Account,
        base_url: str | None = None,
        project_id: str | None = None,
        platforms: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name, self.timeout = name, timeout
        self.platforms: frozenset[str] | None = frozenset(platforms or ("android",))
        self._clock, self._client = clock, HttpClient()
        own = (base_url or BASE_URL).rstrip("/")
        self._url = httpx.URL(f"{own}/v1/projects/{project_id or account.project_id}/messages:send")
        token_url = f"{own}{TOKEN_PATH}" if base_url else account.token_uri
        self.tokens = AccessTokens(account, token_url, self._client, timeout, clock)

    async def send(self, message: Message, key: str) -> Outcome:
        """Posts once; once more with another access token where the first one is refused."""
        ends = asyncio.get_running_loop().time() + self.timeout
        try:
            content = orjson.dumps(body(message, key, self._clock()))
        except Ended as ended:
            return ended.outcome
        except Exception as error:
            return refused(f"no request can be made of it: {type(error).__name__}")
        token, outcome = await self._post(content, ends)
        if outcome.code == UNAUTHENTICATED:
            self.tokens.forget(token)
            _, outcome = await self._post(content, ends)
        return outcome

    async def _post(self, content: bytes, ends: float) -> tuple[str, Outcome]:
        """The access token that was used, and how the call ended."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(ends):
                token = await self.tokens.get()
            headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
            request = httpx.Request("POST", self._url, content=content, headers=headers)
        except Ended as ended:
            return "", ended.outcome
        except Exception as error:  # whatever the token's endpoint answers, nothing was sent
            return "", deferred(f"no access token: {type(error).__name__}", fault="provider")
        try:
            answer = await self._client.exchange(request, max(ends - loop.time(), 0.0))
        except NotAnswered as error:
            return token, doubtful(f"no answer: {error.why}", fault="provider")
        except NotSent as error:
            return token, deferred(f"not connected: {error.why}", fault="provider")
        return token, understood(answer, lambda answer: judged(answer, self._clock()))

    async def close(self) -> None:
        """Lets the connections go."""
        await self.tokens.close()
        await self._client.close()


def body(message: Message, key: str, now: float) -> dict[str, Any]:
    """The request for a message. Raises Ended for one that is too large.

    Two for the same message and key are the same, but for the seconds that it has still to live.
    """
    shown = {"title": message.subject, "body": message.text} if message.subject else {"body": message.text}
    data = {"notification_id": message.id, "reference": key}
    size = sum(len(part.encode()) for fields in (shown, data) for pair in fields.items() for part in pair)
    if size > PAYLOAD_BYTES:
        raise Ended(refused(f"too large: {size} bytes of {PAYLOAD_BYTES}"))
    seconds = MOST_TTL
    if message.expires_at is not None:
        seconds = min(max(int(message.expires_at / 1000 - now), 0), MOST_TTL)
    urgent = message.priority in {Priority.CRITICAL, Priority.HIGH}
    found: dict[str, Any] = {"token": message.target, "notification": shown, "data": data}
    if message.platform == "ios":
        priority = "5" if message.priority is Priority.LOW else "10"
        found["apns"] = {
            "headers": {"apns-priority": priority, "apns-expiration": str(int(now) + seconds)},
            "payload": {"aps": {"sound": "default"}},
        }
    elif message.platform == "web":
        found["webpush"] = {"headers": {"TTL": str(seconds), "Urgency": "high" if urgent else "normal"}}
    else:
        found["android"] = {
            "priority": "HIGH" if urgent else "NORMAL",
            "ttl": f"{seconds}s",
            "notification": {"tag": key},
        }
    return {"message": found}


def judged(answer: Answer, now: float) -> Outcome:
    """An answer in our words: a message's name is success, whatever else must say what it is."""
    found = told(answer)
    if 200 <= answer.status < 300:
        name = found.get("name")
        if isinstance(name, str) and name:
            return sent(name[:200])
        return GARBAGE.outcome(f"HTTP {answer.status}")
    code = _code(found.get("error"))
    if code is None:
        return by_status(CODES, answer, now)
    meaning = CODES[code]
    wait = retry_after.seconds(answer.headers.get("retry-after"), now) if meaning.kind == "deferred" else None
    if wait is None and meaning.throttles:
        wait = QUOTA_SECONDS
    return meaning.outcome(code, retry_after=wait)


def _code(error: Any) -> str | None:
    """FCM's code of an error, else its status; None where we know neither."""
    if not isinstance(error, dict):
        return None
    details = error.get("details")
    details = [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    codes = [one.get("errorCode") for one in details if str(one.get("@type")).endswith(".FcmError")]
    code = next((code for code in codes if code in CODES), error.get("status"))
    if code != "INVALID_ARGUMENT":
        return code if isinstance(code, str) and code in CODES else None
    # the token's fault or the payload's: a violation names the field, without one the text tells
    fields = [
        violation.get("field")
        for one in details
        if isinstance(violations := one.get("fieldViolations"), list)
        for violation in violations
        if isinstance(violation, dict)
    ]
    of_token = (
        all(field == _TOKEN_FIELD for field in fields) if fields else error.get("message") == _TOKEN_TEXT
    )
    return BAD_TOKEN if of_token else code


def account(name: str, text: str) -> Account:
    """Reads a service account's key. Raises SettingsError, which tells nothing of it."""
    where = f"providers.{name}.service_account"
    try:
        found = orjson.loads(text)
        read = Account(
            str(found["client_email"]), str(found.get("private_key_id") or ""),
            _key(str(found["private_key"])), str(found["token_uri"]), str(found.get("project_id") or ""),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, UnsupportedAlgorithm):
        told = "not a service account's key: JSON with client_email, private_key (RSA) and token_uri"
        raise SettingsError(f"{where}: {told}") from None
    return read


def _key(pem: str) -> rsa.RSAPrivateKey:
    """Read once: reading one takes much longer than signing. Raises ValueError."""
    found = load_pem_private_key(pem.encode(), None)
    if not isinstance(found, rsa.RSAPrivateKey):
        raise ValueError
    return found


def make(name: str, settings: Settings, place: Place) -> FcmProvider:
    """The provider for a Firebase project. Raises SettingsError."""
    found = account(name, needed(name, settings, "service_account"))
    if not (settings.project_id or found.project_id):
        raise SettingsError(f"providers.{name}.project_id: the service account names none")
    if unknown := sorted(set(settings.platforms) - DEVICES):
        raise SettingsError(f"providers.{name}.platforms: {unknown[0]}: android, ios or web")
    return FcmProvider(
        name, timeout=settings.timeout, account=found, base_url=settings.base_url,
        project_id=settings.project_id, platforms=settings.platforms,
    )  # fmt: skip
