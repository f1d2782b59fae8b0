"""SMS over Vonage's SMS API (https://developer.vonage.com/en/api/sms).

It knows no idempotency key: a call that was written and not answered is in doubt.
"""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode

import httpx
from pydantic import Field, SecretStr

from pipeline.providers.answers import basic, by_code, told
from pipeline.providers.countries import e164
from pipeline.providers.gsm7 import septets
from pipeline.providers.http import GARBAGE, NO_SUCH_CALL, STATUSES, Answer, Ended, HttpProvider, by_status
from pipeline.providers.provider import HttpSettings, Place, needed
from pipeline.sections import SettingsError
from schemas.message import Message
from schemas.outcome import Meaning, Outcome, refused, sent

BASE_URL = "https://rest.nexmo.com"
LONGEST_REFERENCE = LONGEST_CALLBACK = 100
"""Characters."""
SHORTEST_LIFE, LONGEST_LIFE = 20_000, 604_800_000
"""Milliseconds that Vonage goes on trying."""

CODES: Mapping[str, Meaning] = {
    "1": Meaning("deferred", "provider", "too many messages", throttles=True),
    "2": Meaning("refused", "message", "a parameter is missing"),
    "2 ours": Meaning("deferred", "provider", "a parameter is missing that is set here, such as from"),
    "2 to": Meaning("refused", "target", "the number is missing"),
    "3": Meaning("refused", "message", "a parameter is not valid"),
    "3 ours": Meaning("deferred", "provider", "a parameter is not valid that is set here, such as from"),
    "3 to": Meaning("refused", "target", "not a number that can be reached"),
    "4": Meaning("deferred", "provider", "our credentials are refused"),
    "5": Meaning("deferred", "provider", "an error at Vonage"),
    "6": Meaning("refused", "target", "cannot be processed, as for an unknown prefix"),
    "7": Meaning("refused", "target", "the number is barred"),
    "8": Meaning("deferred", "provider", "our account is suspended"),
    "9": Meaning("deferred", "provider", "our account has to pay first"),
    "10": Meaning("deferred", "provider", "too many connections"),
    "11": Meaning("deferred", "provider", "our account is not enabled for this API"),
    "12": Meaning("refused", "message", "the text is too long"),
    "14": Meaning("deferred", "provider", "the signature is not valid"),
    "15": Meaning("refused", "target", "this sender may not write to this number"),
    "22": Meaning("refused", "target", "the network's code is not valid"),
    "23": Meaning("deferred", "provider", "the address for receipts (web.public_url) is refused"),
    "29": Meaning("refused", "target", "a trial account writes to listed numbers only"),
    "32": Meaning("deferred", "provider", "signed, and with a secret as well"),
    "33": Meaning("refused", "target", "the number is no longer active"),
    **{status: meaning for status, meaning in STATUSES.items() if status != "2xx"},
    **NO_SUCH_CALL,
}
"""By the `status` of a part; 0 is accepted. Which parameter 2 and 3 are about stands in `error-text`."""
UNKNOWN = Meaning("deferred", "provider", "not sent, and it is not known why")
"""A part has a status that is not in the table."""
_FIELD = re.compile(r"\b(?:missing|invalid|param(?:eter)?):? +['\"`]?([a-z][a-z_-]*)", re.I)
_OURS = frozenset({"from", "api_key", "api_secret", "type", "callback", "sig", "timestamp"})


class Settings(HttpSettings):
    """What can be set for Vonage."""

    kind: Literal["vonage"] = "vonage"
    api_key: str = Field("", description="the account's key")
    api_secret: SecretStr | None = Field(None, description="the account's secret")
    api_secret_file: Path | None = Field(None, description="a file that holds api_secret")
    sender: str = Field("", alias="from", description="the number or name that messages come from")
    signature_secret: SecretStr | None = Field(
        None, description="what receipts and replies are signed with; without it none is believed"
    )
    signature_secret_file: Path | None = Field(None, description="a file that holds signature_secret")
    signature_method: Literal["md5hash", "md5", "sha1", "sha256", "sha512"] = Field(
        "sha256", description="how they are signed, as is chosen in Vonage's dashboard"
    )


class VonageProvider(HttpProvider):
    """Submits one text a call, which Vonage splits into parts where it is long."""

    kind = "vonage"
    codes = CODES

    def __init__(
        self,
        name: str,
        *,
        timeout: float,
        login: tuple[str, str],
        sender: str,
        base_url: str = BASE_URL,
        callback: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`callback`: the address for receipts, if they are wanted."""
        super().__init__(name, timeout=timeout, base_url=base_url, clock=clock)
        self._url = httpx.URL(f"{self.base_url}/sms/json")
        self._headers = {
            "authorization": basic(*login),
            "content-type": "application/x-www-form-urlencoded",
            "accept": "application/json",
            "user-agent": "Carillon",
        }
        self._sender, self._callback = sender.removeprefix("+"), callback

    async def compose(self, message: Message, key: str) -> httpx.Request:
        """Raises Ended for what is not a telephone number."""
        number = e164(message.target)
        if number is None:
            raise Ended(refused("not a telephone number in E.164", fault="target"))
        fields = {"from": self._sender, "to": number.removeprefix("+"), "text": message.text}
        if septets(message.text) is None:
            fields["type"] = "unicode"
        if len(key) <= LONGEST_REFERENCE:  # a longer one would have the message refused
            fields["client-ref"] = key
        if self._callback:
            fields["callback"] = self._callback
        if message.expires_at is not None:
            left = message.expires_at - int(self.clock() * 1000)
            fields["ttl"] = str(min(max(left, SHORTEST_LIFE), LONGEST_LIFE))
        return httpx.Request("POST", self._url, headers=self._headers, content=urlencode(fields).encode())

    def judge(self, answer: Answer) -> Outcome:
        """By the `status` of each part. Some sent and some not is doubtful: the phone waits for the rest."""
        if answer.status != 200:
            return by_status(CODES, answer, self.clock())
        parts = _parts(told(answer))
        if not parts:
            return GARBAGE.outcome("HTTP 200")
        accepted = [message_id for status, message_id in parts if status == "0"]
        refusals = [status for status, _ in parts if status != "0"]
        if not refusals:
            return sent(accepted[0])
        outcome = by_code({"2xx": UNKNOWN, **CODES}, refusals[0], answer, self.clock())
        if not accepted:
            return outcome
        partly = Meaning("doubtful", outcome.fault, "")
        detail = f"{len(accepted)} of {len(parts)} parts are sent"
        return partly.outcome(refusals[0], detail, provider_message_id=accepted[0])


def _parts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The status and id of each part; none if the answer is not as it should be."""
    parts = found.get("messages")
    if not isinstance(parts, list):
        return []
    read = []
    for part in parts:
        status = part.get("status") if isinstance(part, dict) else None
        if not isinstance(status, str):
            return []
        message_id = part.get("message-id")
        if status in {"2", "3"}:
            status += _at_fault(part.get("error-text"))
        if status == "0" and not (isinstance(message_id, str) and message_id):
            return []
        read.append((status, message_id or ""))
    return read


def _at_fault(words: object) -> str:
    """Whose the parameter is that a text names: " to", " ours", or "" for any other and for none."""
    named = {name.lower() for name in _FIELD.findall(words)} if isinstance(words, str) else set()
    if "to" in named:
        return " to"
    return " ours" if named & _OURS else ""


def make(name: str, settings: Settings, place: Place) -> VonageProvider:
    """The provider for an account of Vonage's. Raises SettingsError."""
    login = needed(name, settings, "api_key"), needed(name, settings, "api_secret")
    callback = f"{place.public_url.rstrip('/')}/callbacks/{quote(name)}" if place.public_url else ""
    if len(callback) > LONGEST_CALLBACK:
        raise SettingsError(
            f"providers.{name}: vonage takes an address for receipts of {LONGEST_CALLBACK} characters, "
            f"and {callback} has {len(callback)}; shorten the name, or web.public_url"
        )
    return VonageProvider(
        name, timeout=settings.timeout, login=login, sender=needed(name, settings, "sender"),
        base_url=settings.base_url or BASE_URL, callback=callback,
    )  # fmt: skip
