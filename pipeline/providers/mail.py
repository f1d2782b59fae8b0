"""What the vendors who take e-mail over HTTP have in common."""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

import httpx
from pydantic import Field

from pipeline.attachments import NotFetched
from pipeline.providers import mime
from pipeline.providers.batching import Batches
from pipeline.providers.http import (
    CONNECTIONS_PER_HOST,
    GARBAGE,
    Answer,
    Ended,
    HttpClient,
    NotAnswered,
    NotSent,
)
from pipeline.providers.mime import Sender, Unsendable
from pipeline.providers.provider import HttpSettings, needed
from pipeline.sections import SettingsError
from schemas.message import Message
from schemas.outcome import Outcome, deferred, doubtful, refused

SHARED = 4
"""How many calls for each request that can be under way: those above wait, and may come to share one."""
TAG = 256
"""Characters of a tag's value, at SES and Resend alike."""


class MailSettings(HttpSettings):
    """A vendor who takes e-mail over HTTP."""

    sender: str | None = Field(None, alias="from", description="the From address, such as Shop <no@shop.eu>")


class Attachment(Protocol):
    """A file as it goes out."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def content_type(self) -> str:
        """Its media type."""

    @property
    def data(self) -> bytes:
        """What it holds."""


class Attachments(Protocol):
    """Where attachments come from."""

    def held(self, message: Message) -> AbstractAsyncContextManager[Sequence[Attachment]]:
        """Those of a message, for as long as it is sent. Entering raises NotFetched."""


class Letter(NamedTuple):
    """A message that is ready to be worded for a vendor."""

    message: Message
    key: str
    recipient: str
    headers: Mapping[str, str]
    """Beside those that every vendor writes itself."""
    attached: Sequence[Attachment]
    deadline: float
    """Of the loop's clock."""


class MailProvider:
    """A provider that is one call over HTTP for one letter, or for several that say the same.

    A kind says how a request is made and how its answer is read.
    """

    kind: str
    honours_keys = False
    parallel = CONNECTIONS_PER_HOST
    platforms: frozenset[str] | None = None
    takes_utf8 = False
    """Whether an address may have letters beyond ASCII before its @ (RFC 6531)."""

    def __init__(
        self,
        name: str,
        *,
        sender: Sender,
        timeout: float,
        base_url: str,
        most: int = 1,
        attachments: Attachments | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`most`: letters that a request can hold."""
        self.name, self.sender, self.timeout = name, sender, timeout
        self.base_url, self.clock, self.client = base_url.rstrip("/"), clock, HttpClient()
        self.attachments, self.most = attachments, most
        self._batches: Batches[Letter] = Batches(self.post, most=most, at_once=CONNECTIONS_PER_HOST)
        if most > 1:
            self.parallel = SHARED * CONNECTIONS_PER_HOST

    def request(self, letters: Sequence[Letter]) -> httpx.Request:
        """One request; the same body for the same letters. May raise."""
        raise NotImplementedError

    def read(self, answer: Answer, letters: Sequence[Letter]) -> Sequence[Outcome]:
        """An answer in our words, one outcome a letter. May raise for what cannot be read."""
        raise NotImplementedError

    def is_of_one(self, answer: Answer) -> bool:
        """Whether a request for several may have been refused because of one of them, and none was sent."""
        return answer.status == 400

    def like(self, letter: Letter) -> Hashable:
        """Letters of which this is the same can share a request."""
        message = letter.message
        return message.subject, message.text, message.html, message.category, message.attachments

    async def send(self, message: Message, key: str) -> Outcome:
        """Sends once, all of it within the time-out. Never raises."""
        deadline = asyncio.get_running_loop().time() + self.timeout
        held = contextlib.AsyncExitStack()
        try:
            try:
                async with asyncio.timeout_at(deadline):
                    attached = await held.enter_async_context(self._attached(message))
                letter = self._letter(message, key, attached, deadline)
            except (Ended, NotFetched) as ended:
                return ended.outcome
            except Unsendable as error:
                return refused(str(error), fault="target")
            except TimeoutError:
                return deferred("the attachments did not come in time")
            except Exception as error:
                return refused(f"no request can be made of it: {type(error).__name__}")
            if self.most == 1:
                return (await self.post([letter]))[0]
            return await self._batches.join(letter, self.like(letter), letter.recipient.lower())
        finally:
            await held.aclose()

    def _attached(self, message: Message) -> AbstractAsyncContextManager[Sequence[Attachment]]:
        if not message.attachments:
            return contextlib.nullcontext(())
        if self.attachments is None:
            raise Ended(refused("has attachments, for which there is no store"))
        return self.attachments.held(message)

    def _letter(self, message: Message, key: str, attached: Sequence[Attachment], deadline: float) -> Letter:
        """Raises Unsendable."""
        recipient = mime.recipient(message.target)
        if not recipient.isascii() and not self.takes_utf8:
            raise Unsendable("the vendor takes no address with letters beyond ASCII before its @")
        headers = {
            "Message-ID": mime.message_id(key, self.sender),
            **mime.unsubscribing(message.unsubscribe),
        }
        return Letter(message, key, recipient, headers, attached, deadline)

    async def post(self, letters: Sequence[Letter]) -> Sequence[Outcome]:
        """Makes one request for these, and two for halves of them where it was refused as a whole."""
        try:
            if letters[0].attached:  # megabytes take a while
                request = await asyncio.to_thread(self.request, letters)
            else:
                request = self.request(letters)
        except Exception as error:
            if len(letters) > 1:
                return await self._halved(letters)
            return [refused(f"no request can be made of it: {type(error).__name__}")]
        seconds = min(one.deadline for one in letters) - asyncio.get_running_loop().time()
        if seconds <= 0:
            return [deferred("there was no time left to send it", fault="provider")] * len(letters)
        try:
            answer = await self.client.exchange(request, seconds)
        except NotAnswered as error:
            return [doubtful(f"no answer: {error.why}", fault="provider")] * len(letters)
        except NotSent as error:
            return [deferred(f"not connected: {error.why}", fault="provider")] * len(letters)
        try:
            if len(letters) > 1 and self.is_of_one(answer):
                return await self._halved(letters)
            return self.read(answer, letters)
        except Exception as error:
            detail = f"an answer that is none: {type(error).__name__}"
            return [GARBAGE.outcome(f"HTTP {answer.status}", detail)] * len(letters)

    async def _halved(self, letters: Sequence[Letter]) -> Sequence[Outcome]:
        middle = len(letters) // 2
        first, second = await asyncio.gather(self.post(letters[:middle]), self.post(letters[middle:]))
        return [*first, *second]

    async def close(self) -> None:
        """Lets the connections go."""
        await self._batches.close()
        await self.client.close()


def sender_of(name: str, settings: MailSettings) -> Sender:
    """Who a provider's messages are from. Raises SettingsError."""
    written = needed(name, settings, "sender")
    try:
        return mime.sender(written)
    except Unsendable as error:
        raise SettingsError(f"providers.{name}.from: {error}") from None


def display_name(settings: MailSettings) -> str:
    """The name before the address that messages are from, or ""."""
    return (settings.sender or "").rpartition("<")[0].strip(' "')


def tag(text: str) -> str:
    """A text as the value of a tag, which may hold letters, digits, _ and - alone: a full stop becomes _."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)[:TAG]
