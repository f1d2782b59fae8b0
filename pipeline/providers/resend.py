"""E-mail over Resend's API: one request a letter, under an idempotency key that Resend knows for 24 hours."""

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import httpx
import orjson
from pydantic import Field, SecretStr

from pipeline.providers.answers import by_code, told
from pipeline.providers.http import NO_SUCH_CALL, STATUSES, Answer
from pipeline.providers.mail import Letter, MailProvider, MailSettings, display_name, sender_of, tag
from pipeline.providers.mime import Sender
from pipeline.providers.provider import Place, needed
from schemas.outcome import Meaning, Outcome, sent

URL = "https://api.resend.com"
NOT_VERIFIED = "validation_error 403"

_OWN = {
    "2xx": Meaning("doubtful", "provider", "not the answer to a mail that was taken"),
    "validation_error to": Meaning("refused", "target", "the address is not valid"),
    "validation_error from": Meaning("deferred", "provider", "the address that we send from is not valid"),
    NOT_VERIFIED: Meaning("deferred", "provider", "the domain that we send from is not verified"),
    "validation_error": Meaning("refused", "message", "the request is not valid"),
    "missing_required_field": Meaning("refused", "message", "the request lacks a field"),
    "invalid_parameter": Meaning("refused", "message", "the request has a field that is not valid"),
    "invalid_attachment": Meaning("refused", "message", "an attachment is not valid"),
    "invalid_idempotency_key": Meaning("refused", "message", "the key is not one"),
    # an earlier call with the key got there: to call it unsent would let somebody else send it again
    "concurrent_idempotent_requests": Meaning("doubtful", None, "an earlier call with this key still runs"),
    "invalid_idempotent_request": Meaning("doubtful", "provider", "the key was used for other bytes"),
    "409": Meaning("doubtful", "provider", "the key was used before"),
    "missing_api_key": Meaning("deferred", "provider", "our credentials are refused"),
    "restricted_api_key": Meaning("deferred", "provider", "our key may not do this"),
    "invalid_api_key": Meaning("deferred", "provider", "our key is not valid"),
    "suspended_api_key": Meaning("deferred", "provider", "our key is suspended"),
    "invalid_permission": Meaning("deferred", "provider", "our key may not do this"),
    "daily_quota_exceeded": Meaning("deferred", "provider", "the day's quota of our account is used up"),
    "monthly_quota_exceeded": Meaning("deferred", "provider", "the month's quota of our account is used up"),
    "rate_limit_exceeded": Meaning("deferred", "provider", "too many requests", throttles=True),
    "application_error": Meaning("deferred", "provider", "an error at the vendor"),
    "service_unavailable": Meaning("deferred", "provider", "not available now"),
    **NO_SUCH_CALL,
    "413": Meaning("refused", "message", "the message is too large"),
}
CODES: Mapping[str, Meaning] = {**_OWN, **STATUSES, **_OWN}
"""Resend names its errors; of `validation_error` status and sentence say more. An unknown name means what
its status does."""

_is_name = re.compile("[a-z0-9_]{1,60}").fullmatch
_field_at_fault = re.compile("Invalid `(to|from)` field").match


KEY_SECONDS = 24 * 3600.0
"""How long a key is remembered."""


class Settings(MailSettings):
    """What can be set for Resend."""

    kind: Literal["resend"] = "resend"
    api_key: SecretStr | None = Field(None, description="re_…, with Sending access")
    api_key_file: Path | None = Field(None, description="a file that holds api_key")
    webhook_secret: SecretStr | None = Field(
        None, description="whsec_…, verifies what their webhooks tell us; from the webhook's page"
    )
    webhook_secret_file: Path | None = Field(None, description="a file that holds webhook_secret")


class ResendProvider(MailProvider):
    """A letter is a JSON object; the key goes along as a header, and as a tag that events bring back."""

    kind = "resend"
    honours_keys = True
    key_window: float | None = KEY_SECONDS

    def __init__(self, name: str, *, api_key: str, sender: Sender, display: str = "", **options: Any) -> None:
        """`options` are MailProvider's."""
        super().__init__(name, sender=sender, **options)
        self._url = httpx.URL(f"{self.base_url}/emails")
        self._authorization = f"Bearer {api_key}"
        plain = not display or display.isascii()
        self._from = sender.header if plain else f"{display} <{sender.address}>"

    def request(self, letters: Sequence[Letter]) -> httpx.Request:
        """The body is the same for the same letter: Resend refuses a known key with another one."""
        (letter,) = letters
        message = letter.message
        body: dict[str, Any] = {
            "from": self._from,
            "to": [letter.recipient],
            # neither the subject nor all of the words may be empty
            "subject": message.subject or " ",
            "text": message.text or " ",
            "tags": [
                {"name": "carillon", "value": tag(letter.key)},
                {"name": "category", "value": tag(message.category) or "_"},
            ],
        }
        if message.html:
            body["html"] = message.html
        # they write Message-ID themselves
        if headers := {name: value for name, value in letter.headers.items() if name != "Message-ID"}:
            body["headers"] = headers
        if letter.attached:
            body["attachments"] = [
                {
                    "filename": one.name,
                    "content": b64encode(one.data).decode(),
                    "content_type": one.content_type,
                }
                for one in letter.attached
            ]
        return httpx.Request(
            "POST",
            self._url,
            content=orjson.dumps(body),
            headers={
                "authorization": self._authorization,
                "content-type": "application/json",
                "idempotency-key": letter.key,
                "user-agent": "Carillon",
            },
        )

    def read(self, answer: Answer, letters: Sequence[Letter]) -> Sequence[Outcome]:
        """Sent where an id comes back; the same one at every call with a key that they know."""
        return [self._outcome(answer)]

    def _outcome(self, answer: Answer) -> Outcome:
        found = told(answer)
        id, name, words = (found.get(field) for field in ("id", "name", "message"))
        if 200 <= answer.status < 300 and isinstance(id, str) and id:
            return sent(id)
        code = name if isinstance(name, str) and _is_name(name) else f"HTTP {answer.status}"
        if code == "validation_error":
            at_fault = _field_at_fault(words) if isinstance(words, str) else None
            if answer.status == 403:
                code = NOT_VERIFIED
            elif at_fault is not None:
                code = f"{code} {at_fault[1]}"
        return by_code(CODES, code, answer, self.clock())


def make(name: str, settings: Settings, place: Place) -> ResendProvider:
    """The Resend provider. Raises SettingsError."""
    return ResendProvider(
        name,
        api_key=needed(name, settings, "api_key"),
        sender=sender_of(name, settings),
        attachments=place.attachments,
        display=display_name(settings),
        timeout=settings.timeout,
        base_url=settings.base_url or URL,
    )
