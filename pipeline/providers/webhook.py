"""Webhooks to whoever the user named, as Standard Webhooks (https://www.standardwebhooks.com).

A receiver dedupes on `webhook-id`, so a retry with the same key is safe.
"""

import asyncio
import contextlib
import functools
import socket
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import orjson
from httpx_aiohttp import AiohttpTransport
from standardwebhooks import Webhook

from pipeline.providers import retry_after
from pipeline.providers.addresses import is_public
from pipeline.settings import ProviderSettings, SettingsError
from schemas.message import Message
from schemas.outcome import Outcome, deferred, doubtful, refused, sent
from schemas.status import rfc3339

CONNECTIONS = 512
CONNECTIONS_PER_HOST = 64
BODY_BYTES = 65_536
"""The most that is read of an answer."""
BODY_SECONDS = 1.0
"""How long to wait for an answer's body: its status says all, the rest only saves the connection."""
RETRIED = frozenset({408, 425, 429})
"""Of the 4xx, those that may be otherwise next time; every 5xx may be."""


class _NoUrl(ValueError):
    """A target that is not an http or https URL."""


class _Call:
    """How far a call came."""

    __slots__ = ("answer", "blocked", "connection")

    def __init__(self) -> None:
        self.blocked = False
        #: set once there is a connection: from then on the request may have been written
        self.connection: Any = None
        self.answer: Outcome | None = None


_current: ContextVar[_Call] = ContextVar("webhook call")


class _Connector(aiohttp.TCPConnector):
    """Notes when a call has a connection. aiohttp's exceptions do not tell that reliably."""

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        connection = await super().connect(*args, **kwargs)
        _current.get().connection = connection
        return connection


class BlockedAddress(OSError):
    """An address that is not of the public internet."""


def _public_socket(info: Any) -> socket.socket:
    """The socket for an address that is about to be dialled, literal or resolved. Raises BlockedAddress."""
    family, kind, protocol, _, address = info
    if not is_public(address[0]):
        _current.get().blocked = True
        raise BlockedAddress("blocked address")
    return socket.socket(family, kind, protocol)


class WebhookProvider:
    """Posts messages to the URLs that are their targets."""

    kind = "webhook"
    honours_keys = True
    parallel = CONNECTIONS

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
        self._clock, self._resolver = clock, resolver
        self._transport: AiohttpTransport | None = None

    async def send(self, message: Message, key: str) -> Outcome:
        """Posts once. Sent for a 2xx; a redirect is not followed but refused."""
        try:
            request = self._request(message, key)
        except (httpx.InvalidURL, _NoUrl) as error:
            return refused(f"no usable URL: {type(error).__name__}")
        except Exception as error:
            return refused(f"no request can be made of it: {type(error).__name__}")
        call = _Call()
        _current.set(call)
        try:
            async with asyncio.timeout(self.timeout) as deadline:
                await self._post(request, call, deadline)
        except Exception as error:
            if call.connection is not None:
                call.connection.close()
            if call.answer is None:
                return _broken(call, error)
        except BaseException:
            if call.connection is not None:
                call.connection.close()
            raise
        assert call.answer is not None
        return call.answer

    async def _post(self, request: httpx.Request, call: _Call, deadline: asyncio.Timeout) -> None:
        if self._transport is None:
            self._transport = self._open()
        response = await self._transport.handle_async_request(request)
        call.answer = answered(response.status_code, response.headers.get("retry-after"), self._clock())
        if response.status_code == 204 or response.headers.get("content-length") == "0":
            return
        soon = asyncio.get_running_loop().time() + BODY_SECONDS
        deadline.reschedule(min(soon, deadline.when() or soon))
        size = 0
        async with contextlib.aclosing(response.aiter_raw()) as chunks:
            async for chunk in chunks:
                size += len(chunk)
                if size > BODY_BYTES:
                    call.connection.close()
                    return

    def _request(self, message: Message, key: str) -> httpx.Request:
        url, body = _parsed(message.target), payload(message)
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

    def _open(self) -> AiohttpTransport:
        tls = httpx.create_ssl_context()
        connector = _Connector(
            ssl=tls,
            limit=CONNECTIONS,
            limit_per_host=CONNECTIONS_PER_HOST,
            resolver=self._resolver,
            socket_factory=None if self.allow_internal else _public_socket,
        )
        session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(None)
        )
        return AiohttpTransport(verify=tls, client=session)

    async def close(self) -> None:
        """Lets the connections go."""
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.aclose()


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


@functools.lru_cache(maxsize=4096)
def _parsed(target: str) -> httpx.URL:
    url = httpx.URL(target)
    if url.scheme not in {"http", "https"} or not url.host:
        raise _NoUrl
    return url


def answered(status: int, wait: str | None, now: float) -> Outcome:
    """A status in our words."""
    reason = f"HTTP {status}"
    if 200 <= status < 300:
        return sent()
    if status in RETRIED or 500 <= status < 600:
        return deferred(reason, retry_after.seconds(wait, now))
    return refused(reason)


def _broken(call: _Call, error: Exception) -> Outcome:
    """A call without an answer in our words."""
    cause = error if isinstance(error, TimeoutError) else error.__cause__ or error
    why = type(getattr(cause, "os_error", cause)).__name__
    if call.connection is not None:
        return doubtful(f"no answer: {why}")
    if call.blocked:
        return refused("blocked address")
    if isinstance(cause, ValueError):
        return refused(f"no usable URL: {why}")
    return deferred(f"not connected: {why}")


def make(name: str, settings: ProviderSettings, *, state_dir: Path) -> WebhookProvider:
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
