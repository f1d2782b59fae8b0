"""Receivers on loopback for the demo, the fault loops and the benchmarks: they count what they were told.

    python -m pipeline.sinks smtp|webhook --port 0 --ledger FILE

prints the port as its first line. With a ledger each request is a line on the disk before it is answered,
and a sink that starts over the same ledger knows what it knew.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import signal
import sys
import zlib
from collections import Counter
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import click
import orjson
from aiohttp import web
from aiosmtpd.smtp import SMTP
from standardwebhooks import Webhook, WebhookVerificationError

HOST = "127.0.0.1"
MESSAGE_BYTES = 10_000_000
GONE = "/gone/"
"""Webhooks to paths below it are answered 410: that receiver wants nothing any more."""
SLOW, SLOW_SECONDS = "/slow/", 3.0
"""Webhooks to paths below it are answered after a while."""


class Entry(NamedTuple):
    """One request: `key` is the idempotency key, `to` the recipient or path, `body` the SHA-256 of it."""

    seq: int
    key: str
    to: str
    body: str
    effect: bool


class Ledger:
    """Every request, in memory as counts and in a file as lines. Not bounded: it must know all of a run."""

    def __init__(self, path: Path | None = None) -> None:
        self.requests: Counter[str] = Counter()
        self.effects: Counter[str] = Counter()
        self.body_hashes: dict[str, set[str]] = {}
        self.seq = 0
        self._lines: list[bytes] = []
        self._flushed: asyncio.Future[None] | None = None
        self._flusher: asyncio.Task[None] | None = None
        self._file = -1
        if path is not None:
            self._reopen(path)

    def _reopen(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        whole = 0
        with path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break  # torn by a kill: it was never answered
                self._count(Entry(**orjson.loads(line)))
                whole += len(line)
        os.ftruncate(self._file, whole)

    def _count(self, entry: Entry) -> None:
        self.seq = entry.seq
        self.requests[entry.key] += 1
        self.effects[entry.key] += entry.effect
        self.body_hashes.setdefault(entry.key, set()).add(entry.body)

    async def add(self, key: str, to: str, body: bytes, *, effect: bool) -> None:
        """Counts a request; returns when it is on the disk, if there is a file."""
        entry = Entry(self.seq + 1, key, to, hashlib.sha256(body).hexdigest(), effect)
        self._count(entry)
        if self._file < 0:
            return
        self._lines.append(orjson.dumps(entry._asdict()) + b"\n")
        if self._flushed is None:
            self._flushed = asyncio.get_running_loop().create_future()
        flushed = self._flushed
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        await flushed

    async def _flush(self) -> None:
        """Requests that come together share a write and a sync."""
        while self._flushed is not None:
            lines, self._lines = self._lines, []
            flushed, self._flushed = self._flushed, None
            try:
                await asyncio.to_thread(self._write, b"".join(lines))
                flushed.set_result(None)
            except OSError as error:
                flushed.set_exception(error)
        self._flusher = None

    def _write(self, lines: bytes) -> None:
        view = memoryview(lines)
        while view:
            view = view[os.write(self._file, view) :]
        os.fdatasync(self._file)

    async def close(self) -> None:
        """Writes what is left."""
        if self._flusher is not None:
            await asyncio.wait([self._flusher])
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Sink(Protocol):
    """A receiver in the running loop."""

    ledger: Ledger
    port: int

    async def start(self, port: int = 0) -> None:
        """Listens on loopback; `port` then says where."""

    async def stop(self) -> None:
        """Stops listening, drops its connections, closes the ledger."""


class SmtpSink:
    """Takes every e-mail. It honours no keys, each is an effect; the key is the Message-ID's local part."""

    def __init__(self, ledger: Path | None = None) -> None:
        self.ledger = Ledger(ledger)
        self.requests, self.effects = self.ledger.requests, self.ledger.effects
        self.body_hashes = self.ledger.body_hashes
        self.port = 0
        self._server: asyncio.Server | None = None
        self._transports: set[asyncio.BaseTransport] = set()

    async def start(self, port: int = 0) -> None:
        """Listens on loopback; `port` then says where."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _SmtpSession(self, loop), HOST, port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """aiosmtpd's hook for a whole message."""
        for recipient in envelope.rcpt_tos:
            await self.ledger.add(_message_id(envelope.content), recipient, envelope.content, effect=True)
        return f"250 2.0.0 Ok: queued as sink{self.ledger.seq}"

    async def stop(self) -> None:
        """Stops listening, drops its connections, closes the ledger."""
        if self._server is not None:
            self._server.close()
            for transport in tuple(self._transports):
                transport.close()
            await self._server.wait_closed()
            self._server = None
        await self.ledger.close()


class _SmtpSession(SMTP):  # type: ignore[misc]
    def __init__(self, sink: SmtpSink, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            sink, loop=loop, hostname="localhost", data_size_limit=MESSAGE_BYTES, enable_SMTPUTF8=True,
            command_call_limit=None,
        )  # fmt: skip
        self._sink = sink

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._sink._transports.add(transport)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self.transport is not None:
            self._sink._transports.discard(self.transport)
        super().connection_lost(error)


_MESSAGE_ID = re.compile(r"<([^<>@]*)@")


def _message_id(content: bytes) -> str:
    found = _MESSAGE_ID.search(BytesHeaderParser().parsebytes(content).get("message-id", ""))
    return found[1] if found else ""


class WebhookSink:
    """Takes every webhook, and knows those it has had by their `webhook-id`: a second one is no effect.

    With a secret a request that is not signed with it is answered 401, and is neither. `busy` makes it
    answer 503 to the first request of one key in so many.
    """

    def __init__(self, ledger: Path | None = None, secret: str | None = None, busy: int = 0) -> None:
        self.ledger = Ledger(ledger)
        self.requests, self.effects = self.ledger.requests, self.ledger.effects
        self.body_hashes = self.ledger.body_hashes
        self.unsigned, self.busy = 0, busy
        self.port = 0
        self._verifier = Webhook(secret) if secret else None
        self._runner: web.ServerRunner | None = None

    async def start(self, port: int = 0) -> None:
        """Listens on loopback; `port` then says where."""
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        body = await request.read()
        key = request.headers.get("webhook-id", "")
        if self._verifier is not None:
            try:
                self._verifier.verify(body, dict(request.headers), json_parse=False)
            except (WebhookVerificationError, ValueError):
                self.unsigned += 1
                return web.Response(status=401)
        if request.path.startswith(GONE):
            await self.ledger.add(key, request.path, body, effect=False)
            return web.Response(status=410)
        if self.busy and key not in self.requests and zlib.crc32(key.encode()) % self.busy == 0:
            await self.ledger.add(key, request.path, body, effect=False)
            return web.Response(status=503)
        # said before the first wait, so that two at once are one effect
        await self.ledger.add(key, request.path, body, effect=not key or not self.effects[key])
        if request.path.startswith(SLOW):
            await asyncio.sleep(SLOW_SECONDS)
        return web.Response(status=204)

    async def stop(self) -> None:
        """Stops listening, drops its connections, closes the ledger."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        await self.ledger.close()


@click.command()
@click.argument("kind", type=click.Choice(["smtp", "webhook"]))
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0: any free one")
@click.option("--ledger", type=click.Path(path_type=Path, dir_okay=False), help="a line of JSON a request")
@click.option("--busy", type=click.IntRange(0), default=0, help="webhook: 503 at first for one in so many")
@click.option("--secret", envvar="CARILLON_SINK_SECRET", help="webhook: whsec_…; else nothing is verified")
def main(kind: str, port: int, ledger: Path | None, busy: int, secret: str | None) -> None:
    """Runs a sink until SIGTERM or SIGINT."""
    asyncio.run(_serve(SmtpSink(ledger) if kind == "smtp" else WebhookSink(ledger, secret, busy), port))


async def _serve(sink: Sink, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await sink.start(port)
    try:
        sys.stdout.write(f"{sink.port}\n")
        sys.stdout.flush()
        await stop.wait()
    finally:
        with contextlib.suppress(Exception):
            await sink.stop()


if __name__ == "__main__":
    main()
