"""Webhooks to whoever the user named, as Standard Webhooks (https://www.standardwebhooks.com).

A receiver dedupes on `webhook-id`, so a retry with the same key is safe.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Literal

import aiohttp
import httpx
import orjson
from pydantic import Field, SecretStr
from standardwebhooks import Webhook

from pipeline.providers import retry_after
from pipeline.providers.guarded import BadUrl, Blocked, GuardedClient, parsed
from pipeline.providers.http import (
    CONNECTIONS,
    CONNECTIONS_PER_HOST,
    GARBAGE,
    Answer,
    NotAnswered,
    NotSent,
    understood,
)
from pipeline.providers.provider import HttpSettings, Place
from pipeline.sections import SettingsError
from schemas.message import Message
from schemas.outcome import Meaning, Outcome, deferred, doubtful, refused
from schemas.status import rfc3339

BODY_SECONDS = 1.0
"""How long to wait for an answer's body: its status says all, the rest only saves the connection."""

CODES = {
    "2xx": Meaning("sent", None, "the receiver has it"),
    "408": Meaning("deferred", "target", "the request took too long to arrive"),
    "425": Meaning("deferred", "target", "too early"),
    "429": Meaning("deferred", "target", "too many requests"),
    "5xx": Meaning("deferred", "target", "an error at the receiver"),
}
"""Everything else is refused: no redirect is followed, and no other answer is success."""
_REFUSED = Meaning("refused", "target", "the receiver wants it not")
_GARBAGE = GARBAGE._replace(fault="target")
_HOSTS_KEPT = 4_096


@lru_cache(_HOSTS_KEPT)
def _host(url: str) -> str | None:
    try:
        found = parsed(url)
    except Exception:  # `send` tells what is wrong with it
        return None
    return f"{found.host}:{found.port or (443 if found.scheme == 'https' else 80)}"


class Settings(HttpSettings):
    """What can be set for webhooks."""

    kind: Literal["webhook"] = "webhook"
    signing_secret: SecretStr | None = Field(None, description="whsec_… (Standard Webhooks)")
    signing_secret_file: Path | None = Field(None, description="a file that holds signing_secret")
    allow_internal: bool = Field(False, description="also call loopback and private addresses")


class WebhookProvider:
    """Posts messages to the URLs that are their targets."""

    kind = "webhook"
    honours_keys = True
    parallel = CONNECTIONS
    per_host = CONNECTIONS_PER_HOST
    platforms = None

    def __init__(
        self,
        name: str,
        *,
        timeout: float,
        secret: str | None = None,
        allow_internal: bool = False,
        clock: Callable[[], float] = time.time,
        resolver: aiohttp.abc.AbstractResolver | None = None,
    ) -> None:
        self.name, self.timeout, self.allow_internal = name, timeout, allow_internal
        self._signer = Webhook(secret) if secret else None
        self._clock = clock
        self._client = GuardedClient(allow_internal=allow_internal, resolver=resolver)

    def host(self, message: Message) -> str | None:
        """The name and port of the URL."""
        return _host(message.target)

    async def send(self, message: Message, key: str) -> Outcome:
        """Posts once. Sent for a 2xx; a redirect is not followed but refused."""
        try:
            request = self._request(message, key)
        except (httpx.InvalidURL, BadUrl) as error:
            return refused(f"no usable URL: {type(error).__name__}", fault="target")
        except Exception as error:
            return refused(f"no request can be made of it: {type(error).__name__}")
        try:
            answer = await self._client.exchange(request, self.timeout, BODY_SECONDS)
        except NotAnswered as error:
            return doubtful(f"no answer: {error.why}", fault="target")
        except Blocked:
            return refused("blocked address", fault="target")
        except NotSent as error:
            if isinstance(error.cause.__cause__ or error.cause, ValueError):
                return refused(f"no usable URL: {error.why}", fault="target")
            return deferred(f"not connected: {error.why}", fault="target")
        return understood(answer, self._judge, _GARBAGE)

    def _judge(self, answer: Answer) -> Outcome:
        return answered(answer.status, answer.headers.get("retry-after"), self._clock())

    def _request(self, message: Message, key: str) -> httpx.Request:
        url, body = parsed(message.target), payload(message)
        now = datetime.fromtimestamp(int(self._clock()), UTC)
        headers = {
            "content-type": "application/json",
            "user-agent": "Carillon",
            "webhook-id": key,
            "webhook-timestamp": str(int(now.timestamp())),
        }
        if self._signer is not None:
            headers["webhook-signature"] = self._signer.sign(key, now, body)
        return httpx.Request("POST", url, content=body.encode(), headers=headers)

    async def close(self) -> None:
        """Lets the connections go."""
        await self._client.close()


def payload(message: Message) -> str:
    """The JSON of a message: its text if that is a JSON object, else the envelope of Standard Webhooks."""
    try:
        if isinstance(orjson.loads(message.text), dict):
            return message.text
    except orjson.JSONDecodeError:
        pass
    data = {"notification_id": message.id, "user_id": message.user_id, "text": message.text}
    if message.subject is not None:
        data["subject"] = message.subject
    return orjson.dumps({"type": message.event.type, "timestamp": rfc3339(message.at), "data": data}).decode()


def answered(status: int, wait: str | None, now: float) -> Outcome:
    """A status in our words."""
    code = str(status)
    meaning = CODES.get(code) or CODES.get(f"{code[0]}xx", _REFUSED)
    seconds = retry_after.seconds(wait, now) if meaning.kind == "deferred" else None
    return meaning.outcome(f"HTTP {code}", retry_after=seconds)


def make(name: str, settings: Settings, place: Place) -> WebhookProvider:
    """The webhook provider. Raises SettingsError."""
    if settings.base_url is not None:
        raise SettingsError(f"providers.{name}.base_url: a webhook goes to the URL that is its target")
    secret = settings.signing_secret.get_secret_value() if settings.signing_secret else None
    try:
        return WebhookProvider(
            name, timeout=settings.timeout, secret=secret, allow_internal=settings.allow_internal
        )
    except Exception:
        raise SettingsError(f"providers.{name}.signing_secret: not a whsec_… secret (base64)") from None
