"""Calls over one HTTP/2 connection, many at once: how far each came, what was answered (RFC 9113, by h2).

A request was surely not processed where its stream was refused, or is above the last one that a GOAWAY names
(8.7). After its headers were written, all else that goes wrong leaves it in doubt.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Sequence

import httpx
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    PingAckReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hpack import NeverIndexedHeaderTuple

from pipeline.providers.http import BODY_BYTES, Answer, NotAnswered, NotSent

MOST_STREAMS = 1_000
IDLE_SECONDS = 60.0
"""A connection that was silent for so long is asked whether it is still there before it is used."""
PING_SECONDS = 2.0
CLOSE_SECONDS = 1.0
_HEAD, _GOAWAY = 9, 0x7

Headers = Sequence[tuple[bytes, bytes]]


class Unprocessed(ConnectionError):
    """The server says that it did nothing with the request."""


class ConnectionEnded(ConnectionError):
    """The server ended the connection."""


class StreamBroken(ConnectionError):
    """The server broke off an answer, or ended the stream without one."""


class NoHttp2(ConnectionError):
    """The server does not speak HTTP/2."""


class _Stream:
    """One call. `done` has its answer, or raises NotSent or NotAnswered."""

    __slots__ = ("began", "body", "done", "headers", "id", "status")

    def __init__(self, id: int, began: float) -> None:
        self.id, self.began = id, began
        self.status, self.headers, self.body = 0, httpx.Headers(), bytearray()
        self.done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def end(self, error: NotSent | None = None) -> None:
        """An answer whose body broke off is an answer, as over HTTP/1.1."""
        if self.done.done():
            return
        if error is None:
            self.done.set_result(Answer(self.status, self.headers, bytes(self.body)))
        elif self.status:
            self.done.set_result(Answer(self.status, self.headers, None))
        else:
            self.done.set_exception(error)
            self.done.exception()  # nobody may be waiting any more


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._streams: dict[int, _Stream] = {}
        self._turns: deque[asyncio.Future[None]] = deque()
        self._roomier: asyncio.Future[None] = loop.create_future()
        self._pong: asyncio.Future[None] | None = None
        self.is_usable = True
        """Whether it takes further requests."""
        self.heard_at = loop.time()
        self.ready: asyncio.Future[None] = loop.create_future()
        """Done when the server's settings are here: how many streams it takes, and that it speaks HTTP/2."""
        self.closed: asyncio.Future[None] = loop.create_future()

    @property
    def is_idle(self) -> bool:
        """Whether it was silent so long, with nothing to say, that it may be gone without a word."""
        return not self._streams and self._loop.time() - self.heard_at > IDLE_SECONDS

    # of asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets, where the other side speaks HTTP/2."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._end(NoHttp2("no h2 by ALPN"))
            return
        self._h2.local_settings = Settings(initial_values={SettingCodes.ENABLE_PUSH: 0})
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Takes what came, a frame at a time."""
        self.heard_at = self._loop.time()
        self._buffer += data
        try:
            while frame := self._next_frame():
                if frame[3] == _GOAWAY:
                    # not for h2: it would take no more answers on the streams that go on
                    self._go_away(int.from_bytes(frame[_HEAD : _HEAD + 4]) & 0x7FFF_FFFF)
                    continue
                for event in self._h2.receive_data(frame):
                    self._take(event)
        except Exception as error:  # whatever a server sends
            self._end(error)
            return
        self._flush()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        """Whoever waits hears of it."""
        self._transport = None
        self._end(error or ConnectionEnded("closed"))
        if not self.closed.done():
            self.closed.set_result(None)

    # the calls

    async def open(self, headers: Headers) -> _Stream:
        """Starts a request as soon as the server takes another one. Raises NotSent."""
        while self.is_usable and len(self._streams) >= self._most:
            turn: asyncio.Future[None] = self._loop.create_future()
            self._turns.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._wake()  # it may have been its turn
                raise
        if not self.is_usable:
            raise NotSent(Unprocessed("the connection is at its end"))
        try:
            stream = _Stream(self._h2.get_next_available_stream_id(), self._loop.time())
            self._h2.send_headers(stream.id, list(headers))
        except ProtocolError as error:
            self.retire()
            raise NotSent(error) from error
        self._streams[stream.id] = stream
        return stream

    async def write(self, stream: _Stream, body: bytes) -> None:
        """Writes a request's body as the server's windows let it; ends early where an answer came."""
        while not stream.done.done():
            most = min(self._h2.local_flow_control_window(stream.id), self._h2.max_outbound_frame_size)
            piece, body = body[:most], body[most:]
            if piece or not body:
                self._h2.send_data(stream.id, piece, end_stream=not body)
            self._flush()
            if not body:
                return
            if most <= 0:
                await asyncio.shield(self._roomier)

    def drop(self, stream: _Stream) -> None:
        """Nobody waits for this answer. Where nothing at all came since, the connection is doubted."""
        if self._streams.pop(stream.id, None) is None:
            return
        with contextlib.suppress(ProtocolError):
            self._h2.reset_stream(stream.id, ErrorCodes.CANCEL)
        stream.end(NotAnswered(TimeoutError()))
        self._flush()
        if self.heard_at < stream.began:
            self.retire()
        self._wake()

    async def is_there(self) -> bool:
        """Whether the server answers a ping soon."""
        self._pong = self._loop.create_future()
        try:
            self._h2.ping(b"carillon")
            self._flush()
            async with asyncio.timeout(PING_SECONDS):
                await self._pong
        except (TimeoutError, ProtocolError, ConnectionError):
            return False
        return self.is_usable

    def retire(self) -> None:
        """Takes no further requests; closes when the last answer is here."""
        self.is_usable = False
        self._wake()
        if not self._streams and self._transport is not None:
            self._transport.close()

    async def close(self) -> None:
        """Says good-bye."""
        self.is_usable = False
        if self._transport is not None:
            with contextlib.suppress(ProtocolError):
                self._h2.close_connection()
                self._flush()
            self._transport.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await asyncio.shield(self.closed)
        self.abort()

    def abort(self) -> None:
        """Is gone at once."""
        self._end(ConnectionEnded("closed"))

    # what came

    def _next_frame(self) -> bytes:
        """The next whole frame (4.1); nothing until it is here. Raises ProtocolError for one too large."""
        if len(self._buffer) < _HEAD:
            return b""
        length = int.from_bytes(self._buffer[:3])
        if length > self._h2.max_inbound_frame_size:
            raise ProtocolError("a frame that is too large, or none")
        if len(self._buffer) < _HEAD + length:
            return b""
        frame = bytes(self._buffer[: _HEAD + length])
        del self._buffer[: _HEAD + length]
        return frame

    def _take(self, event: Event) -> None:
        match event:
            case ResponseReceived():
                if stream := self._streams.get(event.stream_id):
                    fields = [(bytes(name), bytes(value)) for name, value in event.headers]
                    stream.status = next(int(value) for name, value in fields if name == b":status")
                    stream.headers = httpx.Headers([one for one in fields if not one[0].startswith(b":")])
            case DataReceived():
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if stream := self._streams.get(event.stream_id):
                    stream.body += event.data
                    if len(stream.body) > BODY_BYTES:
                        self.drop(stream)
            case StreamEnded():
                if stream := self._streams.pop(event.stream_id, None):
                    stream.end()
            case StreamReset():
                if stream := self._streams.pop(event.stream_id, None):
                    unprocessed = event.remote_reset and event.error_code == ErrorCodes.REFUSED_STREAM
                    told = NotSent(Unprocessed("the stream was refused")) if unprocessed else None
                    stream.end(told or NotAnswered(StreamBroken("the stream was reset")))
            case RemoteSettingsChanged():
                if not self.ready.done():
                    self.ready.set_result(None)
                self._room()
            case WindowUpdated():
                self._room()
            case PingAckReceived():
                if self._pong is not None and not self._pong.done():
                    self._pong.set_result(None)
        if not self.is_usable:
            self.retire()

    def _go_away(self, last: int) -> None:
        """The server takes no new streams; of those that run, it did not look at those above `last`."""
        for id in [id for id in self._streams if id > last]:
            self._streams.pop(id).end(NotSent(Unprocessed("the server went away")))
        if not self.ready.done():
            self.ready.set_exception(ConnectionEnded("the server went away"))
        self.retire()

    @property
    def _most(self) -> int:
        return min(self._h2.remote_settings.max_concurrent_streams, MOST_STREAMS)

    def _wake(self) -> None:
        """Lets as many go on as there is room for; all, where none will be taken any more."""
        free = self._most - len(self._streams) if self.is_usable else len(self._turns)
        while self._turns and free > 0:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1

    def _room(self) -> None:
        roomier, self._roomier = self._roomier, self._loop.create_future()
        roomier.set_result(None)

    def _flush(self) -> None:
        if self._transport is not None and (data := self._h2.data_to_send()):
            self._transport.write(data)

    def _end(self, error: Exception) -> None:
        """Tells all that it is over."""
        self.is_usable = False
        if not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()
        if self._pong is not None and not self._pong.done():
            self._pong.set_exception(ConnectionEnded("closed"))
            self._pong.exception()
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.end(NotAnswered(error))
        self._room()
        self._wake()
        if self._transport is not None:
            self._transport.abort()


class Http2Client:
    """Keeps a connection to one server, and makes another one when that comes to its end."""

    def __init__(self, url: str, timeout: float, tls: ssl.SSLContext | None = None) -> None:
        """An http URL means HTTP/2 with prior knowledge (3.3). Raises httpx.InvalidURL, ValueError."""
        parsed = httpx.URL(url)
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise ValueError("no http or https URL")
        self._scheme, self._authority = parsed.scheme.encode(), parsed.netloc
        self._host, self._port = parsed.host, parsed.port or (443 if parsed.scheme == "https" else 80)
        self._timeout = timeout
        self._tls: ssl.SSLContext | None = None
        if parsed.scheme == "https":
            self._tls = tls or httpx.create_ssl_context()
            self._tls.set_alpn_protocols(["h2"])
        self._connection: Connection | None = None
        self._all: set[Connection] = set()
        self._connecting: asyncio.Task[Connection] | None = None

    async def exchange(
        self, method: bytes, path: bytes, headers: Headers, body: bytes, seconds: float
    ) -> Answer:
        """Makes one call within `seconds`. Raises NotSent and NotAnswered.

        A call that the server surely did not look at is made a second time, if need be over another
        connection.
        """
        ends = asyncio.get_running_loop().time() + seconds
        pseudo = [
            (b":method", method), (b":scheme", self._scheme), (b":authority", self._authority),
            NeverIndexedHeaderTuple(b":path", path),
        ]  # fmt: skip
        whole = [*pseudo, *headers, (b"content-length", b"%d" % len(body))]
        try:
            return await self._exchange(whole, body, ends)
        except NotAnswered:
            raise
        except NotSent as error:
            if not isinstance(error.cause, Unprocessed):
                raise
        return await self._exchange(whole, body, ends)

    async def _exchange(self, headers: Headers, body: bytes, ends: float) -> Answer:
        connection = stream = None
        try:
            async with asyncio.timeout_at(ends):
                connection = await self._connected()
                stream = await connection.open(headers)
                await connection.write(stream, body)
                return await stream.done
        except NotSent:
            raise
        except Exception as error:
            if stream is None:
                raise NotSent(error) from error
            if stream.status:
                return Answer(stream.status, stream.headers, None)
            raise NotAnswered(error) from error
        finally:
            if connection is not None and stream is not None:
                connection.drop(stream)

    async def _connected(self) -> Connection:
        connection = self._connection
        if connection is not None and connection.is_usable and not connection.is_idle:
            return connection
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect(connection), name="HTTP/2 connection")
            self._connecting.add_done_callback(self._connected_or_not)
        # one who goes away while it waits must not take the others along
        return await asyncio.shield(self._connecting)

    def _connected_or_not(self, task: asyncio.Task[Connection]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()

    async def _connect(self, former: Connection | None) -> Connection:
        loop = asyncio.get_running_loop()
        if former is not None and former.is_usable:
            if await former.is_there():
                return former
            former.abort()
        async with asyncio.timeout(self._timeout):
            _, connection = await loop.create_connection(Connection, self._host, self._port, ssl=self._tls)
            self._all.add(connection)
            connection.closed.add_done_callback(lambda _: self._all.discard(connection))
            try:
                await connection.ready
            except BaseException:
                connection.abort()
                raise
        self._connection = connection
        return connection

    async def close(self) -> None:
        """Lets the connections go. May be repeated; a call after it makes a new one."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        self._connection = None
        await asyncio.gather(*[connection.close() for connection in tuple(self._all)])
