"""The HTTP/2 transport, with prior knowledge: it can also reset streams, go away, hang and talk nonsense."""

import asyncio
import contextlib
from typing import NamedTuple

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RequestReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from pipeline.simulator.transport import GARBAGE, HOST, Act, Aside, Player
from pipeline.simulator.vendor import ANSWERS, Answer, Request

STREAMS = 1_000
REQUEST_BYTES = 65_536
"""The most that is read of a request."""
REFUSED_STREAM, GO_AWAY = Answer(0, {}, b"refused"), Answer(0, {}, b"go away")
"""What a vendor answers with to do these instead: both say that nothing was done with the request."""


class _Heard(NamedTuple):
    """A request that is being read."""

    headers: dict[str, str]
    body: bytearray


class H2Listener:
    """Serves on loopback. A reset strikes a stream; closing is a GOAWAY that leaves a request in doubt."""

    scheme = "http"
    faults = frozenset({*ANSWERS, *Act})

    def __init__(self, player: Player, aside: Aside) -> None:
        self.player = player
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def open(self, port: int) -> int:
        """Listens; returns the port, which is any free one for 0. Raises OSError. May follow `close`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), HOST, port, backlog=1024)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Listens no more and drops each connection: who connects now is refused. May be repeated."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        tasks = [task for connection in self.connections for task in connection.tasks.values()]
        for connection in tuple(self.connections):
            connection.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


class _Connection(asyncio.Protocol):
    def __init__(self, listener: H2Listener) -> None:
        self._listener = listener
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding="latin-1"))
        self._h2.local_settings = Settings(
            client=False, initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS}
        )
        self._transport: asyncio.Transport | None = None
        self._heard: dict[int, _Heard] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self._last: int | None = None
        """The last stream that is answered, once it has said that it goes away."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._listener.connections.add(self)
        self._h2.initiate_connection()
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._listener.connections.discard(self)
        for task in self.tasks.values():
            task.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            for event in self._h2.receive_data(data):
                self._take(event)
        except ProtocolError:
            self._flush()
            self.abort()
            return
        self._flush()

    def abort(self) -> None:
        """Drops the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _take(self, event: Event) -> None:
        match event:
            case RequestReceived() if self._last is None or event.stream_id <= self._last:
                self._heard[event.stream_id] = _Heard(dict(event.headers), bytearray())  # type: ignore[arg-type]
            case DataReceived():
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if heard := self._heard.get(event.stream_id):
                    heard.body.extend(event.data)
                    if len(heard.body) > REQUEST_BYTES:
                        del self._heard[event.stream_id]
                        self._h2.reset_stream(event.stream_id, ErrorCodes.ENHANCE_YOUR_CALM)
            case StreamEnded():
                if heard := self._heard.pop(event.stream_id, None):
                    self.tasks[event.stream_id] = asyncio.create_task(self._play(event.stream_id, heard))
            case StreamReset():
                self._heard.pop(event.stream_id, None)
                if task := self.tasks.get(event.stream_id):
                    task.cancel()

    async def _play(self, stream: int, heard: _Heard) -> None:
        try:
            path, _, query = heard.headers.get(":path", "").partition("?")
            headers = {name: value for name, value in heard.headers.items() if not name.startswith(":")}
            method = heard.headers.get(":method", "")
            found = await self._listener.player.play(Request(method, path, query, headers, bytes(heard.body)))
            if found is Act.HANG:
                await asyncio.get_running_loop().create_future()  # until the client or the listener goes
            with contextlib.suppress(ProtocolError):  # a stream that ended meanwhile
                self._do(stream, found)
        finally:
            self.tasks.pop(stream, None)
            self._leave()

    def _do(self, stream: int, found: Answer | Act) -> None:
        if self._transport is None:
            return
        if isinstance(found, Answer) and found.status:
            fields = [(":status", str(found.status)), *found.headers.items()]
            self._h2.send_headers(stream, fields, end_stream=not found.body)
            if found.body:
                self._h2.send_data(stream, found.body, end_stream=True)
        elif found is REFUSED_STREAM:
            self._h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
        elif found is GO_AWAY:
            if stream < self._h2.highest_inbound_stream_id:
                # of later ones it may not say that nothing was done with them
                self._h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
                stream = self._h2.highest_inbound_stream_id + 2
            self._go(stream - 2)
        elif found is Act.CLOSE:
            self._go(self._h2.highest_inbound_stream_id)
        elif found is Act.RESET:
            self._h2.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)
        elif found is Act.GARBAGE:
            self._transport.write(GARBAGE)
            self._transport.close()
        self._flush()

    def _go(self, last: int) -> None:
        """Says GOAWAY, and leaves when the streams up to `last` were answered."""
        self._flush()
        if self._transport is not None:
            # written out, because h2 would send no more answers after it
            frame = b"\x00\x00\x08\x07\x00" + bytes(4) + max(last, 0).to_bytes(4) + bytes(4)
            self._transport.write(frame)
        self._last = last

    def _leave(self) -> None:
        if self._last is not None and not self.tasks and not self._heard and self._transport is not None:
            self._transport.close()

    def _flush(self) -> None:
        if self._transport is not None and (data := self._h2.data_to_send()):
            self._transport.write(data)
