"""E-mail over Amazon SES, API v2: SendEmail, and SendBulkEmail for those who get the same words."""

from base64 import b64encode
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import httpx
import orjson
from msgspec.structs import replace
from pydantic import Field

from pipeline.providers import aws
from pipeline.providers.aws import AwsFields, Signer
from pipeline.providers.http import GARBAGE, NO_SUCH_CALL, STATUSES, Answer, by_status
from pipeline.providers.mail import Letter, MailProvider, MailSettings, sender_of, tag
from pipeline.providers.provider import Place
from schemas.outcome import CODE, REASON, Meaning, Outcome, sent

MOST = 50
"""Destinations of one SendBulkEmail."""
TEMPLATE_BYTES = 200_000
"""What is longer goes alone: SES takes templates up to 500 kB."""
NOT_VERIFIED = "MessageRejected: not verified"
SUCCESS = "SUCCESS"

_REQUEST = {
    "TooManyRequestsException": Meaning("deferred", "provider", "too many requests", throttles=True),
    "LimitExceededException": Meaning("deferred", "provider", "our quota is used up", throttles=True),
    "AccountSuspendedException": Meaning("deferred", "provider", "our account may not send any more"),
    "SendingPausedException": Meaning("deferred", "provider", "our sending is paused"),
    "MailFromDomainNotVerifiedException": Meaning("deferred", "provider", "our domain is not verified"),
    "NotFoundException": Meaning("deferred", "provider", "there is no such configuration set"),
    NOT_VERIFIED: Meaning("deferred", "provider", "an address is not verified; is this the sandbox?"),
    "MessageRejected": Meaning("refused", "message", "the content is refused"),
    "BadRequestException": Meaning("refused", "message", "the request is not valid"),
}
ENTRY = {
    "MESSAGE_REJECTED": Meaning("refused", "message", "the content is refused"),
    "MAIL_FROM_DOMAIN_NOT_VERIFIED": Meaning("deferred", "provider", "our domain is not verified"),
    "CONFIGURATION_SET_NOT_FOUND": Meaning("deferred", "provider", "there is no such configuration set"),
    "TEMPLATE_NOT_FOUND": Meaning("refused", "message", "the template is not found"),
    "ACCOUNT_SUSPENDED": Meaning("deferred", "provider", "our account may not send any more"),
    "ACCOUNT_THROTTLED": Meaning("deferred", "provider", "more than our account may send", throttles=True),
    "ACCOUNT_DAILY_QUOTA_EXCEEDED": Meaning(
        "deferred", "provider", "our quota of the day is used up", throttles=True
    ),
    "INVALID_SENDING_POOL_NAME": Meaning("deferred", "provider", "there is no such pool of addresses"),
    "ACCOUNT_SENDING_PAUSED": Meaning("deferred", "provider", "our sending is paused"),
    "CONFIGURATION_SET_SENDING_PAUSED": Meaning("deferred", "provider", "our sending is paused"),
    "INVALID_PARAMETER": Meaning("refused", "message", "the request is not valid"),
    "TRANSIENT_FAILURE": Meaning("deferred", "provider", "an error at the vendor"),
    "FAILED": Meaning("deferred", "message", "it was not sent"),
}
"""How one of a bulk request can end, beside SUCCESS."""
_TOO_LARGE = {"413": Meaning("refused", "message", "the message is too large")}
CODES: Mapping[str, Meaning] = {**_REQUEST, **ENTRY, **aws.COMMON, **_TOO_LARGE, **STATUSES, **NO_SUCH_CALL}
"""Names of errors first; where there is none the status decides."""


class Settings(AwsFields, MailSettings):
    """What can be set for Amazon SES."""

    kind: Literal["ses"] = "ses"
    configuration_set: str | None = Field(
        None, description="the configuration set to send with; its events tell what became of a mail"
    )
    topic_arn: str | None = Field(None, description="the SNS topic over which those events reach us")
    batch: int = Field(
        MOST, ge=1, le=MOST, description="the most targets of one request, where they get the same words"
    )


class SesProvider(MailProvider):
    """SES writes Message-ID and Date itself; the reference goes along as a tag."""

    kind = "ses"

    def __init__(self, name: str, *, signer: Signer, configuration_set: str | None, **options: Any) -> None:
        """`options` are MailProvider's."""
        super().__init__(name, **options)
        self._signer, self._configuration_set = signer, configuration_set

    def like(self, letter: Letter) -> Hashable:
        """A request for several is worded as a template, so words that it could take for its own go alone."""
        message = letter.message
        words = (message.subject or "", message.text, message.html or "")
        if any("{{" in part for part in words) or sum(map(len, words)) > TEMPLATE_BYTES:
            return object()
        return super().like(letter)

    def request(self, letters: Sequence[Letter]) -> httpx.Request:
        """SendEmail for one, SendBulkEmail for several."""
        path, body = ("outbound-emails", _one(letters[0])) if len(letters) == 1 else _several(letters)
        body["FromEmailAddress"] = self.sender.header
        if self._configuration_set:
            body["ConfigurationSetName"] = self._configuration_set
        url = f"{self.base_url}/v2/email/{path}"
        return self._signer.request(url, orjson.dumps(body), "application/json")

    def is_of_one(self, answer: Answer) -> bool:
        """A destination that is none has the whole request refused."""
        return answer.status == 400 and aws.error(answer)[0] == "BadRequestException"

    def read(self, answer: Answer, letters: Sequence[Letter]) -> Sequence[Outcome]:
        """Sent where an id comes back; SendBulkEmail answers for each."""
        if not 200 <= answer.status < 300:
            return [self._refusal(answer)] * len(letters)
        told = orjson.loads(answer.body or b"")
        if len(letters) == 1:
            return [_taken(told.get("MessageId"), answer)]
        results = told["BulkEmailEntryResults"]
        return [_entry(one, answer) for one, _ in zip(results, letters, strict=True)]

    def _refusal(self, answer: Answer) -> Outcome:
        name, text = aws.error(answer)
        if name == "MessageRejected" and "not verified" in text:
            name = NOT_VERIFIED
        found = by_status(CODES, answer, self.clock())
        meaning = CODES.get(name)
        if meaning is not None:
            return meaning.outcome(name, retry_after=found.retry_after)
        return replace(found, code=name[:CODE], reason=f"{name} ({found.reason})"[:REASON]) if name else found


def _one(letter: Letter) -> dict[str, Any]:
    message = letter.message
    body = {"Text": _text(message.text)}
    if message.html is not None:
        body["Html"] = _text(message.html)
    content = {"Subject": _text(message.subject or ""), "Body": body}
    return {
        "Destination": {"ToAddresses": [letter.recipient]},
        "Content": {"Simple": {**content, **_headers("Headers", letter), **_attachments(letter)}},
        "EmailTags": _tags(letter),
    }


def _several(letters: Sequence[Letter]) -> tuple[str, dict[str, Any]]:
    message = letters[0].message
    words = {"Subject": message.subject or "", "Text": message.text}
    if message.html is not None:
        words["Html"] = message.html
    template = {"TemplateContent": words, "TemplateData": "{}"} | _attachments(letters[0])
    entries = [
        {"Destination": {"ToAddresses": [one.recipient]}, "ReplacementTags": _tags(one)}
        | _headers("ReplacementHeaders", one)
        for one in letters
    ]
    return "outbound-bulk-emails", {"DefaultContent": {"Template": template}, "BulkEmailEntries": entries}


def _text(words: str) -> dict[str, str]:
    return {"Data": words, "Charset": "UTF-8"}


def _headers(name: str, letter: Letter) -> dict[str, Any]:
    found = [
        {"Name": header, "Value": value} for header, value in letter.headers.items() if header != "Message-ID"
    ]
    return {name: found} if found else {}


def _attachments(letter: Letter) -> dict[str, Any]:
    found = [
        {
            "FileName": one.name[:255],
            "ContentType": one.content_type[:78],
            "RawContent": b64encode(one.data).decode(),
            "ContentDisposition": "ATTACHMENT",
            "ContentTransferEncoding": "BASE64",
        }
        for one in letter.attached
    ]
    return {"Attachments": found} if found else {}


def _tags(letter: Letter) -> list[dict[str, str]]:
    return [{"Name": "carillon", "Value": tag(letter.key)}]


def _taken(id: object, answer: Answer) -> Outcome:
    return sent(id) if isinstance(id, str) and id else GARBAGE.outcome(f"HTTP {answer.status}")


def _entry(result: dict[str, Any], answer: Answer) -> Outcome:
    status = str(result.get("Status"))
    if status == SUCCESS:
        return _taken(result.get("MessageId"), answer)
    return ENTRY.get(status, GARBAGE).outcome(status if aws.is_name(status) else f"HTTP {answer.status}")


def make(name: str, settings: Settings, place: Place) -> SesProvider:
    """The SES provider. Raises SettingsError."""
    signer = aws.signer(name, "ses", settings)
    return SesProvider(
        name,
        signer=signer,
        configuration_set=settings.configuration_set,
        sender=sender_of(name, settings),
        attachments=place.attachments,
        timeout=settings.timeout,
        base_url=settings.base_url or aws.endpoint("email", signer.region),
        most=settings.batch,
    )
