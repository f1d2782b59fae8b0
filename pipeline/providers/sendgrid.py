"""E-mail over SendGrid's Web API v3: one request for up to 1,000 who get the same words."""

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import httpx
import orjson
from pydantic import Field, SecretStr

from pipeline.providers import retry_after
from pipeline.providers.http import NO_SUCH_CALL, STATUSES, TAKES_500_AGAIN, Answer, by_status
from pipeline.providers.mail import Letter, MailProvider, MailSettings, display_name, sender_of
from pipeline.providers.mime import Sender
from pipeline.providers.provider import Place, needed
from schemas.outcome import Meaning, Outcome, sent

URL = "https://api.sendgrid.com"
MOST = 1_000
"""Personalizations of a request."""
ACCEPTED = 202

_OWN = {
    "2xx": Meaning("doubtful", "provider", "not the answer to a mail that was taken"),
    "400 to": Meaning("refused", "target", "the address is not valid"),
    "400 from": Meaning("deferred", "provider", "the address that we send from is not valid"),
    "400": Meaning("refused", "message", "the request is not valid"),
    **NO_SUCH_CALL,
    "413": Meaning("refused", "message", "the message is too large"),
    **TAKES_500_AGAIN,
}
CODES: Mapping[str, Meaning] = {**_OWN, **STATUSES, **_OWN}
"""SendGrid has statuses, and says which field of a request is at fault. 202 alone means sent."""

_of_target = re.compile(r"personalizations(\.|\[|$)").match
_of_address = re.compile(r"personalizations[.\[]\d+\]?\.to").match
_of_sender = re.compile(r"from(\.|$)").match


class Settings(MailSettings):
    """What can be set for SendGrid."""

    kind: Literal["sendgrid"] = "sendgrid"
    api_key: SecretStr | None = Field(None, description="SG.…, with the right Mail Send")
    api_key_file: Path | None = Field(None, description="a file that holds api_key")
    batch: int = Field(
        MOST, ge=1, le=MOST, description="the most targets of one request, where they get the same words"
    )
    webhook_public_key: str | None = Field(
        None, description="verifies what their Event Webhook tells us; from Mail Settings"
    )


class SendGridProvider(MailProvider):
    """A target is a personalization: its address, headers and reference; the words are everybody's."""

    kind = "sendgrid"
    takes_utf8 = True

    def __init__(self, name: str, *, api_key: str, sender: Sender, display: str = "", **options: Any) -> None:
        """`options` are MailProvider's."""
        super().__init__(name, sender=sender, **options)
        self._url = httpx.URL(f"{self.base_url}/v3/mail/send")
        self._authorization = f"Bearer {api_key}"
        self._from = {"email": sender.address} | ({"name": display} if display else {})

    def request(self, letters: Sequence[Letter]) -> httpx.Request:
        """What all of them get stands once."""
        message, attached = letters[0].message, letters[0].attached
        content = [("text/plain", message.text), ("text/html", message.html)]
        body: dict[str, Any] = {
            "personalizations": [
                {
                    "to": [{"email": one.recipient}],
                    "headers": one.headers,
                    "custom_args": {"carillon": one.key},
                }
                for one in letters
            ],
            "from": self._from,
            # neither may be empty
            "subject": message.subject or " ",
            "content": [{"type": type, "value": value} for type, value in content if value]
            or [{"type": "text/plain", "value": " "}],
            "categories": [message.category[:255]],
        }
        if attached:
            body["attachments"] = [
                {
                    "content": b64encode(one.data).decode(),
                    "type": one.content_type,
                    "filename": one.name,
                    "disposition": "attachment",
                }
                for one in attached
            ]
        headers = {
            "authorization": self._authorization,
            "content-type": "application/json",
            "user-agent": "Carillon",
        }
        return httpx.Request("POST", self._url, content=orjson.dumps(body), headers=headers)

    def is_of_one(self, answer: Answer) -> bool:
        """A 400, but where each field at fault is one that all share."""
        if answer.status != 400:
            return False
        fields = _fields(answer)
        return not fields or any(_of_target(field) for field in fields)

    def read(self, answer: Answer, letters: Sequence[Letter]) -> Sequence[Outcome]:
        """The same for all of them: SendGrid answers for a request as a whole."""
        return [self._outcome(answer)] * len(letters)

    def _outcome(self, answer: Answer) -> Outcome:
        if answer.status == ACCEPTED:
            return sent(answer.headers.get("x-message-id"))
        now = self.clock()
        if answer.status == 400:
            fields = _fields(answer)
            for code, is_at_fault in (("400 to", _of_address), ("400 from", _of_sender)):
                if any(is_at_fault(field) for field in fields):
                    return CODES[code].outcome(code)
        if answer.status == 429 and "retry-after" not in answer.headers:
            return CODES["429"].outcome("HTTP 429", retry_after=_reset(answer, now))
        return by_status(CODES, answer, now)


def _fields(answer: Answer) -> list[str]:
    """The fields at fault, as far as they are named."""
    try:
        told = orjson.loads(answer.body or b"")["errors"]
        return [one["field"] for one in told if isinstance(one.get("field"), str)]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return []


def _reset(answer: Answer, now: float) -> float | None:
    """Seconds until more is taken: X-RateLimit-Reset is a POSIX time."""
    told = answer.headers.get("x-ratelimit-reset", "")
    if not (told.isascii() and told.isdigit() and len(told) <= 12):
        return None
    return min(max(int(told) - now, 0.0), retry_after.MOST_SECONDS)


def make(name: str, settings: Settings, place: Place) -> SendGridProvider:
    """The SendGrid provider. Raises SettingsError."""
    return SendGridProvider(
        name,
        api_key=needed(name, settings, "api_key"),
        sender=sender_of(name, settings),
        attachments=place.attachments,
        display=display_name(settings),
        timeout=settings.timeout,
        base_url=settings.base_url or URL,
        most=settings.batch,
    )
