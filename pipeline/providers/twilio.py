"""SMS over Twilio's Programmable Messaging (https://www.twilio.com/docs/messaging/api/message-resource).

It knows no idempotency key: a call that was written and not answered is in doubt.
"""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlencode, urlsplit

import httpx
from pydantic import Field, SecretStr

from pipeline.providers.answers import basic, by_code, told
from pipeline.providers.countries import e164
from pipeline.providers.http import GARBAGE, STATUSES, Answer, Ended, HttpProvider, by_status
from pipeline.providers.provider import HttpSettings, Place, needed
from pipeline.providers.smtp import is_loopback
from pipeline.sections import SettingsError
from schemas.message import Message
from schemas.outcome import Meaning, Outcome, refused, sent

BASE_URL = "https://api.twilio.com"
LONGEST_VALIDITY = 36_000
"""Seconds that a message may wait at Twilio: the most, and what goes without saying."""

CODES: Mapping[str, Meaning] = {
    "20003": Meaning("deferred", "provider", "our credentials are refused"),
    "20005": Meaning("deferred", "provider", "our account is not active"),
    "20403": Meaning("deferred", "provider", "our account may not do this"),
    "20404": Meaning("deferred", "provider", "there is no such account"),
    "20429": Meaning("deferred", "provider", "too many requests", throttles=True),
    "21211": Meaning("refused", "target", "not a number that can be reached"),
    "21212": Meaning("deferred", "provider", "the sender is not valid"),
    "21265": Meaning("refused", "target", "a short code receives no messages"),
    "21266": Meaning("refused", "target", "the number is the sender's own"),
    "21401": Meaning("deferred", "provider", "the sender is not valid"),
    "21408": Meaning("refused", "target", "our account is not enabled for this country"),
    "21601": Meaning("deferred", "provider", "the sender is not ours"),
    "21602": Meaning("refused", "message", "the text is empty"),
    "21603": Meaning("deferred", "provider", "a sender is missing"),
    "21604": Meaning("refused", "target", "the number is missing"),
    "21606": Meaning("deferred", "provider", "the sender is not ours, or cannot send messages"),
    "21607": Meaning("deferred", "provider", "a trial account writes from its trial number only"),
    "21608": Meaning("refused", "target", "a trial account writes to verified numbers only"),
    "21609": Meaning("deferred", "provider", "the address for receipts (web.public_url) is refused"),
    "21610": Meaning("refused", "target", "the recipient has told this sender to stop"),
    "21611": Meaning("deferred", "provider", "the sender's queue is full"),
    "21612": Meaning("refused", "target", "there is no way from this sender to this number"),
    "21614": Meaning("refused", "target", "not a mobile number"),
    "21617": Meaning("refused", "message", "longer than 1,600 characters"),
    "21619": Meaning("refused", "message", "the text is empty"),
    "21635": Meaning("refused", "target", "a landline"),
    "21657": Meaning("refused", "target", "there is no way from this sender to this country"),
    "21658": Meaning("refused", "message", "longer than is allowed"),
    "21659": Meaning("deferred", "provider", "the sender is not a number of Twilio's, or of another country"),
    "21660": Meaning("deferred", "provider", "the sender belongs to another account"),
    "21661": Meaning("deferred", "provider", "the sender cannot send messages"),
    "21703": Meaning("deferred", "provider", "the messaging service has no sender for this"),
    "21704": Meaning("deferred", "provider", "the messaging service has no senders"),
    "21705": Meaning("deferred", "provider", "there is no such messaging service"),
    **{status: meaning for status, meaning in STATUSES.items() if status != "2xx"},
    "404": Meaning("deferred", "provider", "there is no such account: is base_url right?"),
}
"""By the answer's `code`; one that is not here by its status, and is named all the same."""


class Settings(HttpSettings):
    """What can be set for Twilio."""

    kind: Literal["twilio"] = "twilio"
    account_sid: str = Field("", description="AC…: the account")
    auth_token: SecretStr | None = Field(
        None, description="the account's token; receipts are verified with it, also where api_key is set"
    )
    auth_token_file: Path | None = Field(None, description="a file that holds auth_token")
    api_key: str | None = Field(None, description="SK…: what requests are made with in place of the token")
    api_secret: SecretStr | None = Field(None, description="the secret of api_key")
    api_secret_file: Path | None = Field(None, description="a file that holds api_secret")
    sender: str | None = Field(
        None, alias="from", description="the number, short code or alphanumeric id that messages come from"
    )
    messaging_service_sid: str | None = Field(
        None, description="MG…: the messaging service that chooses a sender"
    )


class TwilioProvider(HttpProvider):
    """Creates one message a call."""

    kind = "twilio"
    codes = CODES

    def __init__(
        self,
        name: str,
        *,
        timeout: float,
        account_sid: str,
        login: tuple[str, str],
        sender: Mapping[str, str],
        base_url: str = BASE_URL,
        public_url: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`sender`: the fields that say who writes; `login`: a name and its secret."""
        super().__init__(name, timeout=timeout, base_url=base_url, clock=clock)
        self._url = httpx.URL(f"{self.base_url}/2010-04-01/Accounts/{account_sid}/Messages.json")
        self._headers = {
            "authorization": basic(*login),
            "content-type": "application/x-www-form-urlencoded",
            "accept": "application/json",
            "user-agent": "Carillon",
        }
        self._sender = dict(sender)
        self._callback = f"{public_url.rstrip('/')}/callbacks/{quote(name)}" if public_url else None

    async def compose(self, message: Message, key: str) -> httpx.Request:
        """Raises Ended for what is not a telephone number."""
        number = e164(message.target)
        if number is None:
            raise Ended(refused("not a telephone number in E.164", fault="target"))
        fields = {"To": number, **self._sender, "Body": message.text}
        if self._callback is not None:
            fields["StatusCallback"] = f"{self._callback}?ref={quote(key, safe='')}"
        if message.expires_at is not None:
            left = int(message.expires_at / 1000 - self.clock())
            if left < LONGEST_VALIDITY:
                fields["ValidityPeriod"] = str(max(left, 1))
        return httpx.Request("POST", self._url, headers=self._headers, content=urlencode(fields).encode())

    def judge(self, answer: Answer) -> Outcome:
        """By `code` where there is one. Sent is what has a `sid`."""
        found = told(answer)
        if 200 <= answer.status < 300:
            sid = found.get("sid")
            return sent(sid) if isinstance(sid, str) and sid else GARBAGE.outcome(f"HTTP {answer.status}")
        code = found.get("code")
        if not isinstance(code, int):
            return by_status(CODES, answer, self.clock())
        return by_code(CODES, str(code), answer, self.clock())


def make(name: str, settings: Settings, place: Place) -> TwilioProvider:
    """The provider for an account of Twilio's. Raises SettingsError."""
    account_sid = needed(name, settings, "account_sid")
    if not re.fullmatch(r"AC[0-9a-fA-F]{32}", account_sid):
        raise SettingsError(f"providers.{name}.account_sid: AC and 32 hexadecimal digits")
    if settings.api_key:
        login = (settings.api_key, needed(name, settings, "api_secret"))
    else:
        login = (account_sid, needed(name, settings, "auth_token"))
    public_url = place.public_url
    if not settings.base_url and is_loopback(urlsplit(public_url).hostname or ""):
        public_url = ""  # Twilio itself would refuse each message for it (21609)
    sender = {}
    if settings.sender:
        sender["From"] = settings.sender
    if settings.messaging_service_sid:
        sender["MessagingServiceSid"] = settings.messaging_service_sid
    if not sender:
        raise SettingsError(f"providers.{name}.from: twilio needs it, or messaging_service_sid")
    return TwilioProvider(
        name, timeout=settings.timeout, account_sid=account_sid, login=login, sender=sender,
        base_url=settings.base_url or BASE_URL, public_url=public_url,
    )  # fmt: skip
