"""Calls over HTTP, by httpx over aiohttp's pool: how far each came, what was answered, what that means.

What a client of httpx would add (redirects, cookies, its own time-outs) is not wanted here.
"""

import asyncio
import contextlib
import functools
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from pipeline.providers import retry_after
from schemas.message import Message
from schemas.outcome import Meaning, Outcome, deferred, doubtful, refused

CONNECTIONS = 512
CONNECTIONS_PER_HOST = 64
BODY_BYTES = 65_536
"""The most that is read of an answer."""

STATUSES: Mapping[str, Meaning] = {
    "2xx": Meaning("sent", None, "accepted"),
    "3xx": Meaning("deferred", "provider", "a redirect, which is not followed: base_url is wrong"),
    "401": Meaning("deferred", "provider", "our credentials are refused"),
    "402": Meaning("deferred", "provider", "our account has to pay first"),
    "403": Meaning("deferred", "provider", "our credentials do not allow it"),
    "408": Meaning("deferred", "provider", "the request took too long to arrive"),
    "425": Meaning("deferred", "provider", "too early"),
    "429": Meaning("deferred", "provider", "too many requests", throttles=True),
    "4xx": Meaning("refused", "message", "the request is refused"),
    "500": Meaning("doubtful", "provider", "an error at the vendor, who may have taken it"),
    "502": Meaning("doubtful", "provider", "a gateway had no good answer"),
    "503": Meaning("deferred", "provider", "not available now"),
    "504": Meaning("doubtful", "provider", "a gateway had no answer in time"),
    "5xx": Meaning("doubtful", "provider", "an error on the way or at the vendor, who may have taken it"),
}
"""What a status means where the vendor has no word of its own for it (RFC 9110, 15; RFC 6585, 4)."""
TAKES_500_AGAIN: Mapping[str, Meaning] = {"500": Meaning("deferred", "provider", "an error at the vendor")}
"""What a 500 means where the vendor's documentation says to send it again."""
NO_SUCH_CALL: Mapping[str, Meaning] = {
    status: Meaning("deferred", "provider", "there is no such call: base_url is not the vendor's")
    for status in ("404", "405")
}
"""What these mean where the vendor itself never answers so: nothing is said about the message."""
GARBAGE = Meaning("doubtful", "provider", "an answer that cannot be read")


class Answer(NamedTuple):
    """What came back. `body` is None where it broke off, came too late or was larger than BODY_BYTES."""

    status: int
    headers: httpx.Headers
    body: bytes | None


class NotSent(Exception):
    """No connection, so the request was surely not written. `cause` is what was raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause

    @property
    def why(self) -> str:
        """In a word."""
        return _named(self.cause)


class NotAnswered(NotSent):
    """The request may have been written, and no answer came."""


class Ended(Exception):
    """A call is over before it was made."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


class _Call:
    """How far a call came."""

    __slots__ = ("answer", "connection")

    def __init__(self) -> None:
        #: set once there is a connection: from then on the request may have been written
        self.connection: Any = None
        self.answer: Answer | None = None


_current: ContextVar[_Call] = ContextVar("call over HTTP")


class _Connector(aiohttp.TCPConnector):
    """Notes when a call has a connection. aiohttp's exceptions do not tell that reliably."""

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        connection = await super().connect(*args, **kwargs)
        _current.get().connection = connection
        return connection


@functools.cache
def _tls() -> ssl.SSLContext:
    """The roots are read once: that takes a while, and would be time that a call has not."""
    return httpx.create_ssl_context()


class HttpClient:
    """A pool of connections."""

    def __init__(
        self,
        *,
        socket_factory: Callable[[Any], socket.socket] | None = None,
        resolver: aiohttp.abc.AbstractResolver | None = None,
    ) -> None:
        self._socket_factory, self._resolver = socket_factory, resolver
        self._transport: AiohttpTransport | None = None
        self._tls = _tls()

    async def exchange(
        self, request: httpx.Request, seconds: float, body_seconds: float | None = None
    ) -> Answer:
        """Makes one call within `seconds`; `body_seconds` of these at the most go to the body.

        Raises NotSent and NotAnswered. An answer whose body broke off is an answer.
        """
        call = _Call()
        _current.set(call)
        try:
            async with asyncio.timeout(seconds) as deadline:
                return await self._exchange(request, call, deadline, body_seconds)
        except Exception as error:
            if call.connection is None:
                raise NotSent(error) from error
            call.connection.close()
            if call.answer is None:
                raise NotAnswered(error) from error
            return call.answer
        except BaseException:
            if call.connection is not None:
                call.connection.close()
            raise

    async def _exchange(
        self, request: httpx.Request, call: _Call, deadline: asyncio.Timeout, body_seconds: float | None
    ) -> Answer:
        if self._transport is None:
            self._transport = self._open()
        response = await self._transport.handle_async_request(request)
        call.answer = answer = Answer(response.status_code, response.headers, None)
        if response.status_code == 204 or response.headers.get("content-length") == "0":
            return answer._replace(body=b"")
        if body_seconds is not None:
            soon = asyncio.get_running_loop().time() + body_seconds
            deadline.reschedule(min(soon, deadline.when() or soon))
        body = bytearray()
        async with contextlib.aclosing(response.aiter_raw()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > BODY_BYTES:
                    call.connection.close()
                    return answer
        return answer._replace(body=bytes(body))

    def _open(self) -> AiohttpTransport:
        tls = self._tls
        connector = _Connector(
            ssl=tls,
            limit=CONNECTIONS,
            limit_per_host=CONNECTIONS_PER_HOST,
            resolver=self._resolver,
            socket_factory=self._socket_factory,
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


class HttpProvider:
    """A provider that is one call over HTTP. A kind says how its request is made and its answer read."""

    kind: str
    honours_keys = False
    parallel = CONNECTIONS_PER_HOST
    platforms: frozenset[str] | None = None
    codes: Mapping[str, Meaning] = STATUSES

    def __init__(
        self, name: str, *, timeout: float, base_url: str, clock: Callable[[], float] = time.time
    ) -> None:
        self.name, self.timeout, self.base_url = name, timeout, base_url.rstrip("/")
        self.clock, self.client = clock, HttpClient()

    async def compose(self, message: Message, key: str) -> httpx.Request:
        """The request; the same bytes for the same message and key, but for times. Raises Ended."""
        raise NotImplementedError

    def judge(self, answer: Answer) -> Outcome:
        """An answer in our words."""
        return by_status(self.codes, answer, self.clock())

    async def send(self, message: Message, key: str) -> Outcome:
        """Composes, calls once, judges; all of it within the time-out."""
        try:
            async with asyncio.timeout(self.timeout):
                request = await self.compose(message, key)
        except Ended as ended:
            return ended.outcome
        except TimeoutError:
            return deferred("the request was not ready in time", fault="provider")
        except Exception as error:
            return refused(f"no request can be made of it: {type(error).__name__}")
        return await self.call(request)

    async def call(self, request: httpx.Request) -> Outcome:
        """Makes the call and judges it. Never raises."""
        try:
            answer = await self.client.exchange(request, self.timeout)
        except NotAnswered as error:
            return doubtful(f"no answer: {error.why}", fault="provider")
        except NotSent as error:
            return deferred(f"not connected: {error.why}", fault="provider")
        return understood(answer, self.judge)

    async def close(self) -> None:
        """Lets the connections go."""
        await self.client.close()


def understood(answer: Answer, judge: Callable[[Answer], Outcome], garbage: Meaning = GARBAGE) -> Outcome:
    """An answer as `judge` reads it, and garbage where that raises. Never raises."""
    try:
        return judge(answer)
    except Exception as error:
        return garbage.outcome(f"HTTP {answer.status}", f"an answer that is none: {type(error).__name__}")


def by_status(
    codes: Mapping[str, Meaning], answer: Answer, now: float, provider_message_id: str | None = None
) -> Outcome:
    """What a status means by a table: itself, then its class (`4xx`); in no table it is garbage."""
    status = str(answer.status)
    meaning = codes.get(status) or codes.get(f"{status[0]}xx", GARBAGE)
    wait = retry_after.seconds(answer.headers.get("retry-after"), now) if meaning.kind == "deferred" else None
    return meaning.outcome(f"HTTP {status}", retry_after=wait, provider_message_id=provider_message_id)


def _named(error: Exception) -> str:
    cause = error if isinstance(error, TimeoutError) else error.__cause__ or error
    return type(getattr(cause, "os_error", cause)).__name__
