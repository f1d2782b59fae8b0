"""SMS over Amazon SNS: Publish to a telephone number (https://docs.aws.amazon.com/sns/latest/api/API_Publish.html).

It knows no idempotency key outside FIFO topics: a call that was written and not answered is in doubt.
"""

import re
import time
from collections.abc import Callable, Mapping
from typing import Literal
from urllib.parse import urlencode
from xml.etree import ElementTree

import httpx
from pydantic import Field

from pipeline.providers import aws
from pipeline.providers.answers import by_code
from pipeline.providers.aws import AwsFields, Signer
from pipeline.providers.countries import e164
from pipeline.providers.http import GARBAGE, NO_SUCH_CALL, STATUSES, Answer, Ended, HttpProvider, by_status
from pipeline.providers.provider import HttpSettings, Place
from pipeline.sections import SettingsError
from schemas.kinds import Priority
from schemas.message import Message
from schemas.outcome import Meaning, Outcome, refused, sent

VERSION = "2010-03-31"
FORM = "application/x-www-form-urlencoded; charset=utf-8"
MARKETING = "marketing"
_ABOUT_A_PARAMETER = frozenset({"InvalidParameter", "ParameterValueInvalid", "ValidationException"})
PHONE_NUMBER = "InvalidParameter PhoneNumber"
SENDER = "InvalidParameter sender"
_names_the_sender = re.compile(r"AWS\.(SNS|MM)\.SMS\.|SenderID|OriginationNumber", re.I).search

CODES: Mapping[str, Meaning] = {
    PHONE_NUMBER: Meaning("refused", "target", "not a number that can be reached"),
    SENDER: Meaning("deferred", "provider", "the sender, or what else is set here, is not valid"),
    "InvalidParameter": Meaning("refused", "message", "a parameter is not valid"),
    "ParameterValueInvalid": Meaning("refused", "message", "a parameter is not valid"),
    "ValidationException": Meaning("refused", "message", "a parameter is not valid"),
    "OptedOut": Meaning("refused", "target", "the recipient has opted out"),
    "Throttling": Meaning("deferred", "provider", "too many requests", throttles=True),
    "ThrottlingException": Meaning("deferred", "provider", "too many requests", throttles=True),
    "Throttled": Meaning("deferred", "provider", "too many requests", throttles=True),
    "AuthorizationError": Meaning("deferred", "provider", "our credentials do not allow it"),
    "AccessDenied": Meaning("deferred", "provider", "our credentials do not allow it"),
    "InvalidSecurity": Meaning("deferred", "provider", "our signature is refused"),
    "SignatureDoesNotMatch": Meaning("deferred", "provider", "our signature or our clock is wrong"),
    "IncompleteSignature": Meaning("deferred", "provider", "our signature is refused"),
    "InvalidClientTokenId": Meaning("deferred", "provider", "our access key is not known"),
    "MissingAuthenticationToken": Meaning("deferred", "provider", "our request is not signed"),
    "ExpiredToken": Meaning("deferred", "provider", "our session token has expired"),
    "RequestExpired": Meaning("deferred", "provider", "our clock is wrong"),
    "OptInRequired": Meaning("deferred", "provider", "our account has no subscription for the service"),
    "InternalError": Meaning("deferred", "provider", "an error at Amazon"),
    "InternalFailure": Meaning("deferred", "provider", "an error at Amazon"),
    "ServiceUnavailable": Meaning("deferred", "provider", "not available now"),
    **{status: meaning for status, meaning in STATUSES.items() if status != "2xx"},
    **NO_SUCH_CALL,
}
"""By the name of an error; one that is not here by its status, and is named all the same."""


class Settings(AwsFields, HttpSettings):
    """What can be set for Amazon SNS."""

    kind: Literal["sns"] = "sns"
    sender: str | None = Field(
        None,
        alias="from",
        description="a number of the account's, or a sender id: 1 to 11 letters, digits and dashes",
    )


class SnsProvider(HttpProvider):
    """Publishes one message a call."""

    kind = "sns"
    codes = CODES

    def __init__(
        self,
        name: str,
        *,
        timeout: float,
        signer: Signer,
        base_url: str,
        sender: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(name, timeout=timeout, base_url=base_url, clock=clock)
        self._signer, self._sender = signer, sender

    async def compose(self, message: Message, key: str) -> httpx.Request:
        """Raises Ended for what is not a telephone number."""
        number = e164(message.target)
        if number is None:
            raise Ended(refused("not a telephone number in E.164", fault="target"))
        fields = {"Action": "Publish", "Version": VERSION, "PhoneNumber": number, "Message": message.text}
        for n, (name, value) in enumerate(self._attributes(message), 1):
            entry = f"MessageAttributes.entry.{n}"
            fields[f"{entry}.Name"] = name
            fields[f"{entry}.Value.DataType"] = "String"
            fields[f"{entry}.Value.StringValue"] = value
        return self._signer.request(f"{self.base_url}/", urlencode(fields).encode(), FORM)

    def _attributes(self, message: Message) -> list[tuple[str, str]]:
        is_bulk = message.priority is Priority.LOW or message.category == MARKETING
        found = [("AWS.SNS.SMS.SMSType", "Promotional" if is_bulk else "Transactional")]
        if self._sender is not None:
            is_number = self._sender.startswith("+")
            found.append(
                ("AWS.MM.SMS.OriginationNumber" if is_number else "AWS.SNS.SMS.SenderID", self._sender)
            )
        return found

    def judge(self, answer: Answer) -> Outcome:
        """By the error's name where there is one. Sent is what has a message id."""
        if 200 <= answer.status < 300:
            message_id = _told(answer, "MessageId")
            return sent(message_id) if message_id else GARBAGE.outcome(f"HTTP {answer.status}")
        name = _told(answer, "Code")
        if not name:
            return by_status(CODES, answer, self.clock())
        if name in _ABOUT_A_PARAMETER:  # its text names it, and may go on with the number
            text = _told(answer, "Message")
            if "Invalid parameter: PhoneNumber" in text:
                name = PHONE_NUMBER
            elif _names_the_sender(text):
                name = SENDER
        return by_code(CODES, name, answer, self.clock())


def _told(answer: Answer, name: str) -> str:
    """The text of the first element of a name in an answer's XML; "" where there is none."""
    body = answer.body or b""
    if b"<!" in body:  # no entities: an answer of theirs declares nothing
        return ""
    try:
        root = ElementTree.fromstring(body)  # noqa: S314  # it has a bound, and no DTD
        found = root.find(f".//{{*}}{name}")
    except (ElementTree.ParseError, ValueError):
        return ""
    return "" if found is None or found.text is None else found.text.strip()


def make(name: str, settings: Settings, place: Place) -> SnsProvider:
    """The provider for SNS in a region. Raises SettingsError."""
    signer = aws.signer(name, "sns", settings)
    sender = settings.sender
    if sender and not re.fullmatch(r"\+[1-9][0-9]{4,14}|[A-Za-z0-9-]{1,11}", sender):
        raise SettingsError(f"providers.{name}.from: a number with +, or 1 to 11 letters, digits and dashes")
    return SnsProvider(
        name, timeout=settings.timeout, signer=signer, sender=sender or None,
        base_url=settings.base_url or aws.endpoint("sns", signer.region),
    )  # fmt: skip
