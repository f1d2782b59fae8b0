"""E-mail over SMTP. A server honours no keys: the Message-ID is the same at every attempt, and that is all.

Connections are kept and used again. There is no NOOP: a connection that has gone stale shows at its
first command, before anything was sent, and the message goes over a fresh one.
"""

import asyncio
import contextlib
import ipaddress
import re
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Literal

import aiosmtplib
from aiosmtplib import SMTPException, SMTPResponse, SMTPResponseException, SMTPServerDisconnected
from pydantic import Field, SecretStr

from pipeline.attachments.attached import AGAIN_SECONDS, Attached, NotFetched
from pipeline.attachments.store import Attachment
from pipeline.providers import mime
from pipeline.providers.mime import Letter, Sender, Unsendable
from pipeline.providers.provider import Place, ProviderSettings
from pipeline.sections import SettingsError
from schemas.message import Message
from schemas.outcome import Meaning, Outcome, deferred, doubtful, refused, sent

CONNECTIONS = 24
"""Side by side: Postfix takes 50 from one client."""
IDLE_SECONDS = 30.0
"""A connection that idled longer is closed: what lies between may have forgotten it."""
TLS_PORT = 465
REASON = 200


class Settings(ProviderSettings):
    """What can be set for an SMTP server."""

    kind: Literal["smtp"] = "smtp"
    host: str = Field("127.0.0.1", description="the server; without TLS only on this machine")
    port: int = Field(25, ge=1, le=65535, description="465 is TLS from the start, else STARTTLS")
    username: str | None = Field(None, description="to sign in with, if set")
    password: SecretStr | None = Field(None, description="to sign in with, if set")
    password_file: Path | None = Field(None, description="a file that holds password")
    sender: str = Field("Carillon <carillon@localhost>", alias="from", description="the From address")


class Stage(StrEnum):
    """How far a message came: up to BODY it was surely not sent."""

    FETCH = "attachments"
    CONNECT = "connect"
    SENDER = "sender"
    ENVELOPE = "envelope"
    BODY = "body"


CODES: Mapping[str, Meaning] = {
    "connect 4xx": Meaning("deferred", "provider", "the server wants no connection now"),
    "connect 5xx": Meaning("deferred", "provider", "the server wants no connection"),
    "sender 4xx": Meaning("deferred", "provider", "the server wants no mail from us now"),
    "sender 552": Meaning("refused", "message", "larger than the server takes"),
    "sender 5xx": Meaning("deferred", "provider", "the server wants no mail from this sender"),
    "envelope 4xx": Meaning("deferred", "target", "not now: greylisting, a mailbox that is busy or full"),
    "envelope 5.7.x": Meaning("deferred", "provider", "a policy: the server does not let us, or relays not"),
    "envelope 5xx": Meaning("refused", "target", "no such mailbox"),
    "body 2xx": Meaning("sent", None, "the server has it"),
    "body 4xx": Meaning("deferred", "message", "not now"),
    "body 5xx": Meaning("refused", "message", "the server does not take this message"),
    "5.7.60": Meaning("deferred", "provider", "we may not send as this sender, says Exchange"),
    "421": Meaning("deferred", "provider", "the server is closing"),
    "503": Meaning("deferred", "provider", "bad sequence of commands"),
    "530": Meaning("deferred", "provider", "authentication or TLS is needed"),
    "534": Meaning("deferred", "provider", "the mechanism of authentication is too weak"),
    "535": Meaning("deferred", "provider", "our credentials are refused"),
    "538": Meaning("deferred", "provider", "authentication needs TLS"),
}
"""A reply by its code (those speak about us and not about the message), else by how far the message came
(RFC 5321, 4.2; RFC 4954, 6; RFC 3463, 3.8). What stands nowhere is garbage. A relay that is refused in
words alone counts as 5.7.x."""

POLICY = "5.7."
_ENHANCED = re.compile(r"\s*(5\.\d{1,3}\.\d{1,3})\b")
_RELAYS_NOT = re.compile(
    r"\brelay(ing)? +(access +)?(is +)?(denied|prohibited|not +(permitted|allowed))"
    r"|\b(unable|not permitted) to relay",
    re.I,
)

_QUEUE_ID = re.compile(
    r"(?:queued as |\bid=|^(?:2\.\d+\.\d+ )?ok:? +(?!queued))<?([a-z0-9][a-z0-9._-]{4,99})", re.I
)
_ADDRESS = re.compile(r"\S*@\S*")


def judged(stage: Stage, reply: SMTPResponse) -> Outcome:
    """A reply in our words."""
    code, text = reply
    meaning = CODES.get(str(code)) or _told(stage, reply)
    if meaning is None:
        return unanswered(stage, f"garbage {code}")
    if meaning.kind == "sent":
        found = _QUEUE_ID.search(reply.message)
        return sent(found[1] if found else None)
    text = " ".join(_ADDRESS.sub("<address>", text).split())
    return Outcome(
        kind=meaning.kind, reason=f"{stage}: {code} {text}"[:REASON], code=str(code), fault=meaning.fault
    )


def _told(stage: Stage, reply: SMTPResponse) -> Meaning | None:
    """What a reply means by how far the message came: at RCPT a policy is no fault of the mailbox."""
    code, text = reply
    if code // 100 == 5:
        found = _ENHANCED.match(text)
        enhanced = found[1] if found else ""
        if enhanced in CODES:
            return CODES[enhanced]
        relays_not = not enhanced and _RELAYS_NOT.search(_ADDRESS.sub("", text))
        if stage is Stage.ENVELOPE and (enhanced.startswith(POLICY) or relays_not):
            return CODES["envelope 5.7.x"]
    return CODES.get(f"{stage} {code}") or CODES.get(f"{stage} {code // 100}xx")


def unanswered(stage: Stage, why: str) -> Outcome:
    """No reply, or none that can be read, in our words."""
    told = doubtful if stage is Stage.BODY else deferred
    return told(f"{stage}: {why}", fault="provider")


class _Connection(aiosmtplib.SMTP):
    """A connection, and what its next user must know."""

    used = False
    dirty = False
    """A transaction was left open: RSET first."""
    idle_since = 0.0


class _Progress:
    """How far one message came."""

    __slots__ = ("stage",)

    def __init__(self) -> None:
        self.stage = Stage.FETCH


class _Stale(Exception):
    """A kept connection that the server has given up."""


class SmtpProvider:
    """Sends over one server."""

    kind = "smtp"
    honours_keys = False
    parallel = CONNECTIONS
    platforms = None

    def __init__(
        self,
        name: str,
        *,
        host: str,
        port: int,
        sender: Sender,
        timeout: float,
        username: str | None = None,
        password: str | None = None,
        plaintext: bool = False,
        tls_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
        attachments: Attached | None = None,
    ) -> None:
        """`plaintext` allows a connection without TLS: right for loopback alone."""
        self.attachments = attachments
        self.name, self.timeout, self._clock, self._sender = name, timeout, clock, sender
        self._from = f"FROM:<{sender.address}>".encode()
        self._host, self._port, self._username, self._password = host, port, username, password
        self._plaintext = plaintext
        self._tls = tls_context or (None if plaintext else ssl.create_default_context())
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[_Connection] = []

    async def send(self, message: Message, key: str) -> Outcome:
        """Sends once; over a second connection only where the first surely took nothing."""
        progress = _Progress()
        try:
            async with asyncio.timeout(self.timeout), self._attached(message) as attached:
                letter = await self._composed(message, key, attached)
                progress.stage = Stage.CONNECT
                async with self._slots:
                    return await self._send(letter, progress)
        except Unsendable as error:
            return refused(str(error))
        except NotFetched as error:
            return error.outcome
        except SMTPResponseException as error:
            return judged(progress.stage, SMTPResponse(error.code, error.message))
        except (TimeoutError, OSError, SMTPException) as error:
            if progress.stage is Stage.FETCH:  # no fault of the server's
                return deferred(f"{Stage.FETCH}: {type(error).__name__}", AGAIN_SECONDS)
            return unanswered(progress.stage, type(error).__name__)
        except Exception as error:
            return unanswered(progress.stage, f"raised {type(error).__name__}")

    def _attached(self, message: Message) -> contextlib.AbstractAsyncContextManager[Sequence[Attachment]]:
        if not message.attachments:
            return contextlib.nullcontext(())
        if self.attachments is None:
            raise Unsendable("has attachments, for which there is no store")
        return self.attachments.held(message)

    async def _composed(self, message: Message, key: str, attached: Sequence[Attachment]) -> Letter:
        """Raises Unsendable."""
        try:
            if attached:  # megabytes take a while
                return await asyncio.to_thread(mime.compose, message, key, self._sender, attached)
            return mime.compose(message, key, self._sender)
        except Unsendable:
            raise
        except Exception as error:
            raise Unsendable(f"no e-mail can be made of it: {type(error).__name__}") from None

    async def _send(self, letter: Letter, progress: _Progress) -> Outcome:
        while True:
            connection = self._kept() or await self._connect()
            try:
                outcome = await self._transact(connection, letter, progress)
            except BaseException as error:
                connection.close()
                stale = isinstance(error, (SMTPServerDisconnected, _Stale))
                if stale and connection.used and progress.stage is not Stage.BODY:
                    progress.stage = Stage.CONNECT
                    continue
                raise
            if connection.is_connected:
                connection.used, connection.idle_since = True, self._clock()
                self._idle.append(connection)
            return outcome

    async def _transact(self, connection: _Connection, letter: Letter, progress: _Progress) -> Outcome:
        options = []
        if "size" in connection.esmtp_extensions:
            most = connection.esmtp_extensions["size"]
            if most.isascii() and most.isdigit() and 0 < int(most) < len(letter.data):
                return refused(f"too large: {len(letter.data)} bytes of {most}")
            options.append(b"SIZE=%d" % len(letter.data))
        if letter.utf8:
            if "smtputf8" not in connection.esmtp_extensions:
                return refused("the address needs SMTPUTF8, which the server lacks")
            options += [b"SMTPUTF8", b"BODY=8BITMIME"]
        command = connection.execute_command
        if connection.dirty:
            if (await command(b"RSET")).code != 250:
                raise _Stale
            connection.dirty = False
        progress.stage = Stage.SENDER
        reply = await command(b"MAIL", self._from, *options)
        if reply.code // 100 == 4 and connection.used:
            raise _Stale  # it may have had its number of messages: a fresh one will tell
        if reply.code == 250:
            progress.stage = Stage.ENVELOPE
            reply = await command(b"RCPT", b"TO:<%b>" % letter.recipient.encode())
            if reply.code in {250, 251}:
                reply = await command(b"DATA")
                if reply.code == 354:
                    return await self._write(connection, letter, progress)
        connection.dirty = True
        return self._judged(connection, progress.stage, reply)

    async def _write(self, connection: _Connection, letter: Letter, progress: _Progress) -> Outcome:
        protocol = connection.protocol
        if protocol is None or not protocol.is_connected:
            raise SMTPServerDisconnected("connection lost")
        progress.stage = Stage.BODY
        protocol.write(letter.data.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        return self._judged(connection, Stage.BODY, await protocol.read_response())

    def _judged(self, connection: _Connection, stage: Stage, reply: SMTPResponse) -> Outcome:
        if str(reply.code) in CODES or f"{stage} {reply.code // 100}xx" not in CODES:
            connection.close()  # closing, or out of step with us
        return judged(stage, reply)

    def _kept(self) -> _Connection | None:
        """The connection that was used last, if it is still good."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_connected and self._clock() - connection.idle_since < IDLE_SECONDS:
                return connection
            connection.close()
        return None

    async def _connect(self) -> _Connection:
        """Connects; never without TLS unless that is allowed. Raises what aiosmtplib raises."""
        connection = _Connection(
            hostname=self._host, port=self._port, username=self._username, password=self._password,
            local_hostname=self._sender.domain, timeout=None, tls_context=self._tls,
            use_tls=not self._plaintext and self._port == TLS_PORT,
            start_tls=not self._plaintext and self._port != TLS_PORT,
        )  # fmt: skip
        await connection.connect()
        if connection.is_ehlo_or_helo_needed:
            await connection.ehlo()
        return connection

    async def close(self) -> None:
        """Says good-bye on the connections that are kept."""
        idle, self._idle = self._idle, []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await asyncio.gather(*[c.quit() for c in idle if c.is_connected], return_exceptions=True)
        for connection in idle:
            connection.close()


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or number alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def make(name: str, settings: Settings, place: Place) -> SmtpProvider:
    """The provider for an SMTP server. Raises SettingsError."""
    try:
        found = mime.sender(settings.sender)
    except Unsendable as error:
        raise SettingsError(f"providers.{name}.from: {error}") from None
    password = settings.password.get_secret_value() if settings.password else None
    return SmtpProvider(
        name, host=settings.host, port=settings.port, sender=found, timeout=settings.timeout,
        username=settings.username, password=password, plaintext=is_loopback(settings.host),
        attachments=place.attachments,
    )  # fmt: skip
