"""E-mail over Mailgun's HTTP API: one form for one message."""

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import httpx
from pydantic import Field, SecretStr

from pipeline.providers import mime, retry_after
from pipeline.providers.answers import basic, told
from pipeline.providers.http import GARBAGE, STATUSES, TAKES_500_AGAIN, Answer, NotSent, by_status
from pipeline.providers.mail import Attachment, Letter, MailProvider, MailSettings, sender_of
from pipeline.providers.provider import Place, needed
from schemas.message import Message
from schemas.outcome import Meaning, Outcome, doubtful, sent

URL = "https://api.mailgun.net"
TAG = 128
"""Characters of a tag, which is ASCII."""

_OWN = {
    "400 to": Meaning("refused", "target", "the address is not valid"),
    "400 from": Meaning("deferred", "provider", "the address that we send from is not valid"),
    "400": Meaning("refused", "message", "the request is not valid"),
    "404": Meaning("deferred", "provider", "there is no such domain at this base_url"),
    "413": Meaning("refused", "message", "the message is too large"),
    **TAKES_500_AGAIN,
}
CODES: Mapping[str, Meaning] = {**_OWN, **STATUSES, **_OWN}
"""Mailgun has statuses, and a sentence that may say which field is at fault."""

_field_at_fault = re.compile(r"'?(to|from)'? parameter is (?:not a valid address|missing)").match
_seconds_told = re.compile(r"try again after (\d{1,9}) seconds").search


class Settings(MailSettings):
    """What can be set for Mailgun."""

    kind: Literal["mailgun"] = "mailgun"
    domain: str | None = Field(None, description="the sending domain; one in the EU needs a base_url")
    api_key: SecretStr | None = Field(None, description="a sending key of the domain, or the account's key")
    api_key_file: Path | None = Field(None, description="a file that holds api_key")
    ask_after: float | None = Field(
        None,
        ge=0,
        le=86_400,
        description="seconds after which their events tell whether a mail in doubt was taken; "
        "needs the account's key. Not set: they are not asked",
    )
    webhook_signing_key: SecretStr | None = Field(
        None, description="verifies what their webhooks tell us; the account's HTTP webhook signing key"
    )
    webhook_signing_key_file: Path | None = Field(None, description="a file that holds webhook_signing_key")

    @property
    def longest(self) -> float:
        """Who is asked what became of a call is called after that."""
        return self.timeout * (1 if self.ask_after is None else 2)


class MailgunProvider(MailProvider):
    """A letter is a multipart form; what comes back is the Message-ID that we gave it."""

    kind = "mailgun"
    takes_utf8 = True

    def __init__(
        self, name: str, *, domain: str, api_key: str, ask_after: float | None = None, **options: Any
    ) -> None:
        """`options` are MailProvider's."""
        super().__init__(name, **options)
        # a call that was cut off is known by its beginning
        self.ask_after = None if ask_after is None else ask_after + self.timeout
        self._events = httpx.URL(f"{self.base_url}/v3/{quote(domain, safe='')}/events")
        self._url = httpx.URL(f"{self.base_url}/v3/{quote(domain, safe='')}/messages")
        self._authorization = basic("api", api_key)

    def request(self, letters: Sequence[Letter]) -> httpx.Request:
        """A form; its boundary comes of the key, so that its bytes are always the same."""
        (letter,) = letters
        message = letter.message
        fields = [
            ("from", self.sender.header),
            ("to", letter.recipient),
            ("subject", message.subject or ""),
            ("text", message.text),
            *([("html", message.html)] if message.html is not None else ()),
            *((f"h:{name}", value) for name, value in letter.headers.items()),
            ("v:carillon", letter.key),
            ("o:tag", message.category.encode("ascii", "replace").decode()[:TAG]),
        ]
        boundary, body = multipart(fields, letter.attached, letter.key)
        headers = {
            "authorization": self._authorization,
            "content-type": f"multipart/form-data; boundary={boundary}",
            "user-agent": "Carillon",
        }
        return httpx.Request("POST", self._url, content=body, headers=headers)

    async def find(self, message: Message, key: str) -> Outcome | None:
        """What their events know of the Message-ID of a key (documentation.mailgun.com: Events)."""
        id = mime.message_id(key, self.sender).strip("<>")
        url = self._events.copy_merge_params({"message-id": id, "limit": "1"})
        headers = {"authorization": self._authorization, "user-agent": "Carillon"}
        try:
            answer = await self.client.exchange(httpx.Request("GET", url, headers=headers), self.timeout)
        except NotSent as error:
            return doubtful(f"events: no answer: {error.why}", fault="provider")
        items = told(answer).get("items")
        if answer.status != 200 or not isinstance(items, list):
            return doubtful(f"events: HTTP {answer.status}", f"HTTP {answer.status}", "provider")
        return sent(id) if items else None

    def read(self, answer: Answer, letters: Sequence[Letter]) -> Sequence[Outcome]:
        """Sent where an id comes back."""
        return [self._outcome(answer)]

    def _outcome(self, answer: Answer) -> Outcome:
        found = told(answer)
        if 200 <= answer.status < 300:
            id = found.get("id")
            return sent(id.strip("<>")) if isinstance(id, str) and id else GARBAGE.outcome(_http(answer))
        words = found.get("message")
        words = words if isinstance(words, str) else ""
        if answer.status == 400 and (at_fault := _field_at_fault(words)):
            return CODES[f"400 {at_fault[1]}"].outcome(f"400 {at_fault[1]}")
        if answer.status == 429 and (seconds := _seconds_told(words)):
            wait = min(float(seconds[1]), retry_after.MOST_SECONDS)
            return CODES["429"].outcome("HTTP 429", retry_after=wait)
        return by_status(CODES, answer, self.clock())


def multipart(
    fields: Sequence[tuple[str, str]], attached: Sequence[Attachment], seed: str
) -> tuple[str, bytes]:
    """A form as multipart/form-data (RFC 7578): its boundary, which nothing in it holds, and its bytes."""
    values = [(f'name="{name}"', value.encode()) for name, value in fields]
    values += [
        (
            f'name="attachment"; filename="{_file_name(one.name)}"\r\nContent-Type: {one.content_type}',
            one.data,
        )
        for one in attached
    ]
    boundary = blake2b(seed.encode(), digest_size=16).hexdigest()
    while any(boundary.encode() in value for _, value in values):
        boundary = blake2b(boundary.encode(), digest_size=16).hexdigest()
    parts = [
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + value + b"\r\n"
        for head, value in values
    ]
    return boundary, b"".join([*parts, f"--{boundary}--\r\n".encode()])


def _file_name(name: str) -> str:
    """As browsers write it into a header."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _http(answer: Answer) -> str:
    return f"HTTP {answer.status}"


def make(name: str, settings: Settings, place: Place) -> MailgunProvider:
    """The Mailgun provider. Raises SettingsError."""
    return MailgunProvider(
        name,
        domain=needed(name, settings, "domain"),
        ask_after=settings.ask_after,
        api_key=needed(name, settings, "api_key"),
        sender=sender_of(name, settings),
        attachments=place.attachments,
        timeout=settings.timeout,
        base_url=settings.base_url or URL,
    )
