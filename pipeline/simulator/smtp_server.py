"""The SMTP transport: aiosmtpd, which can also reset, hang and talk nonsense."""

import asyncio
from typing import Any, cast

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from pipeline.simulator.faults import BANNERS
from pipeline.simulator.server import reset
from pipeline.simulator.smtp import DATA, MAIL, RCPT, RECIPIENTS, SIGNED_IN, MailServer
from pipeline.simulator.transport import BODY_BYTES, GARBAGE, HOST, Act, Aside, Player
from pipeline.simulator.vendor import ANSWERS, Request

GREETINGS = {
    "banner_refused": b"554 5.3.2 No SMTP service here\r\n",
    "banner_busy": b"421 4.3.2 Too busy\r\n",
    "banner_missing": b"",
}
"""The first word of a server that takes no mail; "" where it says none and hangs."""


class SmtpListener:
    """Serves on loopback, without TLS. The faults strike after the message's last dot."""

    scheme = "smtp"
    faults = frozenset({*ANSWERS, *Act, *BANNERS})

    def __init__(self, player: Player, aside: Aside) -> None:
        self.player, self.vendor = player, cast(MailServer, player.vendor)
        self.transports: set[asyncio.Transport] = set()
        self._server: asyncio.Server | None = None

    async def open(self, port: int) -> int:
        """Listens; returns the port, which is any free one for 0. Raises OSError. May follow `close`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._session, HOST, port, backlog=1024)
        return int(self._server.sockets[0].getsockname()[1])

    def _session(self) -> asyncio.BaseProtocol:
        struck = self.player.connected()
        return _Refusing(self, GREETINGS[struck]) if struck else _Session(self)

    async def close(self) -> None:
        """Listens no more and drops each connection: who connects now is refused. May be repeated."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for transport in tuple(self.transports):
            transport.abort()
        await server.wait_closed()

    async def do(self, session: "_Session", request: Request) -> str:
        """The reply to a request. Never returns where there is none: the connection then ends it."""
        found = await self.player.play(request)
        if not isinstance(found, Act):
            return f"{found.status} {found.body.decode()}"
        transport = session.transport
        if isinstance(transport, asyncio.Transport) and found is not Act.HANG:
            if found is Act.GARBAGE:
                transport.write(GARBAGE)
            reset(transport) if found is Act.RESET else transport.close()
        await asyncio.get_running_loop().create_future()
        raise AssertionError  # nobody completes that one

    # aiosmtpd's hooks

    async def handle_MAIL(
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        """The sender: who must sign in has done so."""
        headers = {SIGNED_IN: "yes"} if session.authenticated else {}
        reply = await self.do(server, Request(MAIL, "", "", headers, b""))
        if reply.startswith("250"):
            envelope.mail_from = address
            envelope.mail_options.extend(options)
        return reply

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        """An address: those that a rule refuses are refused here, one by one."""
        if self.player.steered(address):
            return await self.do(server, Request(RCPT, "", "", {RECIPIENTS: address}, b""))
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """A whole message."""
        headers = {RECIPIENTS: "\n".join(envelope.rcpt_tos)}
        return await self.do(server, Request(DATA, "", "", headers, envelope.content))


class _Session(SMTP):  # type: ignore[misc]
    def __init__(self, listener: SmtpListener) -> None:
        super().__init__(
            listener, loop=asyncio.get_running_loop(), hostname="localhost", data_size_limit=BODY_BYTES,
            enable_SMTPUTF8=True, command_call_limit=None, auth_require_tls=False, authenticator=self._may,
        )  # fmt: skip
        self._listener = listener

    def _may(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        known = isinstance(data, LoginPassword) and self._listener.vendor.knows(data.login, data.password)
        return AuthResult(success=known, handled=False)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._listener.transports.add(cast(asyncio.Transport, transport))
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self.transport is not None:
            self._listener.transports.discard(self.transport)
        super().connection_lost(error)


class _Refusing(asyncio.Protocol):
    """A banner that says no, or none at all."""

    def __init__(self, listener: SmtpListener, greeting: bytes) -> None:
        self._listener, self._greeting = listener, greeting
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._listener.transports.add(transport)
        if self._greeting:
            transport.write(self._greeting)
            transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None:
            self._listener.transports.discard(self._transport)
