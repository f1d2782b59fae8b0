"""Servers on loopback that answer as a case says: well, badly, too much, or not at all."""

import asyncio
import contextlib
import socket
import ssl
import struct
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from schemas.kinds import Channel, Doubt, Priority
from schemas.message import Message
from schemas.notification import EventRef

HOST = "127.0.0.1"
RECORDED = Path(__file__).parent / "recorded"
CERTIFICATE = RECORDED / "loopback.pem"
KEY = "7b5e4c1a-0f3d-8abc-9def-0123456789ab.a1b2c3d4e5f6"

SILENT, RESET, CLOSE, ENDLESS = "silent", "reset", "close", "endless"


def message(target: str = "kim@example.com", channel: Channel = Channel.EMAIL, **fields: Any) -> Message:
    """A message as core would send it; each call's is equal to the last."""
    given: dict[str, Any] = {
        "step": "plan",
        "id": KEY.split(".")[0],
        "user_id": "u1",
        "channel": channel,
        "target": target,
        "target_id": KEY.split(".")[1],
        "subject": "Your order has shipped",
        "text": "Hello Kim,\nyour order has shipped.\n",
        "html": "<p>Hello Kim,</p><p>your order has shipped.</p>",
        "event": EventRef(source="shop", id="e1", type="order.shipped"),
        "event_at": 1_760_000_000_000,
        "at": 1_760_000_000_123,
        "category": "orders",
        "priority": Priority.NORMAL,
        "doubt": Doubt.AT_LEAST_ONCE,
    }
    return Message(**(given | fields))


#: what a peer does with a connection
Script = Callable[["Peer", Reader, Writer], Awaitable[None]]


class Peer:
    """A TCP server; what it heard and did is there to look at."""

    def __init__(self, serve: "Script") -> None:
        self._serve = serve
        self.port = 0
        self.connections = 0
        self.written = 0
        #: each whole request or command, in order
        self.heard: list[bytes] = []
        self.bodies: list[bytes] = []
        #: set when the peer falls silent over something that it was told
        self.silent = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """Listens; `port` then says where."""
        self._server = await asyncio.start_server(self._accept, HOST, 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: Reader, writer: Writer) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                await self._serve(self, reader, writer)
        except asyncio.CancelledError:
            pass  # `stop`: the streams' own callback would report it as an error
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def act(self, what: str, reader: Reader, writer: Writer) -> bool:
        """Does one of the words above, or writes `what` as it is. False: this connection is over."""
        if what == SILENT:
            self.silent.set()
            await reader.read()
            return False
        if what == RESET:
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        if what == CLOSE:
            return False
        if what == ENDLESS:
            while True:
                writer.write(b"x" * 65_536)
                self.written += 65_536
                await writer.drain()
        writer.write(what.encode("latin-1"))
        await writer.drain()
        return True

    async def stop(self) -> None:
        """Drops everything."""
        if self._server is not None:
            self._server.close()
            tasks = tuple(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._server.wait_closed()


def http_script(
    acts: list[str], *, at_once: bool = False
) -> Callable[[Peer, Reader, Writer], Awaitable[None]]:
    """Reads requests and does an act for each, over all connections; the last one again and again.

    An act's ` & ` stands between things to do one after the other. `at_once`: before reading anything.
    """
    turn = iter(range(1 << 30))

    async def serve(peer: Peer, reader: Reader, writer: Writer) -> None:
        while True:
            if not at_once:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.partition(b":")[2])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                peer.bodies.append(await reader.readexactly(length))
                peer.heard.append(head)
            for act in acts[min(next(turn), len(acts) - 1)].split(" & "):
                if not await peer.act(act, reader, writer):
                    return

    return serve


SMTP_REPLIES = {
    "GREETING": "220 peer ESMTP",
    "EHLO": "250-peer\r\n250 SIZE 100000",
    "MAIL": "250 2.1.0 Ok",
    "RCPT": "250 2.1.5 Ok",
    "DATA": "354 Go ahead",
    "BODY": "250 2.0.0 Ok: queued as 4cX1fS2gqnz",
    "RSET": "250 2.0.0 Ok",
    "QUIT": "221 2.0.0 Bye",
    "STARTTLS": "220 2.0.0 Ready",
    "AUTH": "235 2.7.0 Ok",
}


def smtp_script(replies: Mapping[str, str | list[str]], tls: ssl.SSLContext | None = None) -> Script:
    """Answers each command by its word; of a list, one after the other, over all connections."""
    told: dict[str, Iterator[str]] = {}
    for word, usual in SMTP_REPLIES.items():
        given = replies.get(word, usual)
        told[word] = _ever(given if isinstance(given, list) else [given])

    async def serve(peer: Peer, reader: Reader, writer: Writer) -> None:
        async def do(what: str) -> bool:
            line = what if what in {SILENT, RESET, CLOSE, ENDLESS} else f"{what}\r\n"
            return await peer.act(line, reader, writer)

        if not await do(next(told["GREETING"])):
            return
        while True:
            line = await reader.readuntil(b"\n")
            peer.heard.append(line)
            word = line[:8].decode("latin-1").strip().partition(" ")[0].upper()
            if word not in told:
                return
            if word == "DATA":
                going_on = next(told[word])
                if not await peer.act(
                    going_on if going_on in {SILENT, RESET} else f"{going_on}\r\n", reader, writer
                ):
                    return
                if not going_on.startswith("354"):
                    continue
                word = "BODY"
                peer.bodies.append(await reader.readuntil(b"\r\n.\r\n"))
            if not await do(next(told[word])) or word == "QUIT":
                return
            if word == "STARTTLS" and tls is not None:
                await writer.start_tls(tls)

    return serve


def _ever(values: list[str]) -> Iterator[str]:
    yield from values
    while True:
        yield values[-1]


@contextlib.asynccontextmanager
async def listening(serve: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    """A peer, for as long as the block lasts."""
    peer = Peer(serve)
    await peer.start(tls)
    try:
        yield peer
    finally:
        await peer.stop()


@contextlib.contextmanager
def refusing() -> Iterator[int]:
    """A port that nobody listens on, held so that nobody can."""
    with socket.socket() as held:
        held.bind((HOST, 0))
        yield held.getsockname()[1]


def server_tls() -> ssl.SSLContext:
    """What a server on loopback shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def client_tls() -> ssl.SSLContext:
    """What trusts it."""
    return ssl.create_default_context(cafile=str(CERTIFICATE))
