"""The HTTP/1.1 transport: a server that can also reset, hang and talk nonsense."""

import asyncio
import socket
import struct

from aiohttp import web

from pipeline.simulator.transport import ASIDE, BODY_BYTES, GARBAGE, HOST, Act, Aside, Hears
from pipeline.simulator.vendor import ANSWERS, Answer, Request

STOP_SECONDS = 1.0
#: an aborted connection with it set sends RST and no FIN
_RESET = struct.pack("ii", 1, 0)


class _TooLarge(Exception):
    """A body above the cap."""


class HttpListener:
    """Serves on loopback; bodies reach the vendor as they are on the wire."""

    scheme = "http"
    faults = frozenset({*ANSWERS, *Act, "nonsense", "oversize"})

    def __init__(self, player: Hears, aside: Aside) -> None:
        self._player, self._aside = player, aside
        self._runner: web.ServerRunner | None = None

    async def open(self, port: int) -> int:
        """Listens; returns the port, which is any free one for 0. Raises OSError. May follow `close`."""
        server = web.Server(self._handle, handler_cancellation=True, access_log=None, auto_decompress=False)
        runner = web.ServerRunner(server, shutdown_timeout=STOP_SECONDS)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, port, backlog=1024).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        return int(runner.addresses[0][1])

    async def close(self) -> None:
        """Listens no more and drops each connection: who connects now is refused. May be repeated."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for site in tuple(runner.sites):
            await site.stop()
        assert isinstance(runner.server, web.Server)
        for connection in runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()

    async def _handle(self, asked: web.BaseRequest) -> web.StreamResponse:
        try:
            request = await _read(asked)
        except _TooLarge:
            return web.Response(status=413)
        if request.path.startswith(ASIDE):
            found: Answer | Act = await self._aside(request)
        else:
            found = await self._player.play(request)
        if isinstance(found, Act):
            await _act(asked, found)
            return web.Response()  # to a connection that is gone
        return web.Response(status=found.status, headers=dict(found.headers), body=found.body)


async def _read(asked: web.BaseRequest) -> Request:
    body = bytearray()
    async for piece in asked.content.iter_any():
        body += piece
        if len(body) > BODY_BYTES:
            raise _TooLarge
    path, _, query = asked.raw_path.partition("?")
    headers = {name.lower(): value for name, value in asked.headers.items()}
    return Request(asked.method, path, query, headers, bytes(body))


async def _act(asked: web.BaseRequest, act: Act) -> None:
    transport = asked.transport
    if act is Act.HANG:
        await asyncio.get_running_loop().create_future()  # until the client or the listener goes
    if transport is None or not isinstance(transport, asyncio.Transport):
        return
    if act is Act.GARBAGE:
        transport.write(GARBAGE)
    reset(transport) if act is Act.RESET else transport.close()


def reset(transport: asyncio.Transport) -> None:
    """Ends a connection so that the client sees a reset."""
    if (plain := transport.get_extra_info("socket")) is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
