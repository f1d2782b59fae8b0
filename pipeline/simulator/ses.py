"""Amazon SES, API v2: SendEmail and SendBulkEmail, and its events over SNS."""

import functools
import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pipeline.simulator import letters
from pipeline.simulator.sigv4 import refusal, verify
from pipeline.simulator.vendor import (
    BOUNCED,
    COMPLAINED,
    DELIVERED,
    SERVER_ERROR,
    THROTTLED,
    Answer,
    Callback,
    Heard,
    Request,
    Rule,
    Taken,
    Wrong,
    in_json,
)

ONE, SEVERAL = "/v2/email/outbound-emails", "/v2/email/outbound-bulk-emails"
TOPIC_ARN = "arn:aws:sns:eu-central-1:123456789012:simulated"
DESTINATIONS, HEADERS, BODY_BYTES = 50, 15, 40 << 20
_NAME, _VALUE = re.compile(r"[!-9;-@A-~]{1,126}"), re.compile(r"[ -~]{1,995}")
_TAG = re.compile(r"[A-Za-z0-9_-]{1,256}")

TEXTS: Mapping[str, tuple[int, str, str]] = {
    "BadRequestException": (400, "INVALID_PARAMETER", "Missing final '@domain'"),
    "MessageRejected": (400, "MESSAGE_REJECTED", "Message failed: content rejected"),
    "LimitExceededException": (400, "ACCOUNT_DAILY_QUOTA_EXCEEDED", "Daily message quota exceeded."),
    "AccountSuspendedException": (400, "ACCOUNT_SUSPENDED", "Sending is permanently restricted."),
    "SendingPausedException": (400, "ACCOUNT_SENDING_PAUSED", "Sending is paused for this account."),
    "MailFromDomainNotVerifiedException": (400, "MAIL_FROM_DOMAIN_NOT_VERIFIED", "Domain not verified."),
    "NotFoundException": (404, "CONFIGURATION_SET_NOT_FOUND", "Configuration set does not exist."),
    "ExpiredTokenException": (403, "FAILED", "The security token included in the request is expired"),
}
"""Names of errors: status, what one of several says instead, and words."""


class Ses:
    """Expects requests signed with `access_key_id` and `secret_access_key`; tells events of `topic_arn`."""

    kind = "ses"
    keyed = False
    codes = tuple(TEXTS)
    rules = (
        *letters.rules("BadRequestException"),
        Rule("spam@*", "MessageRejected", says="its content is refused"),
    )

    def __init__(self, secrets: Mapping[str, str], clock: Callable[[], float]) -> None:
        self._secrets, self._clock = secrets, clock
        self._topic = secrets.get("topic_arn") or TOPIC_ARN

    def hear(self, request: Request) -> Sequence[Heard]:
        """One target a destination."""
        if request.method != "POST" or request.path not in (ONE, SEVERAL):
            raise Wrong(refusal(404, "UnknownOperationException", ""), "another call")
        verify(request, "ses", self._secrets, self._clock())
        if len(request.body) > BODY_BYTES:
            raise Wrong(refusal(413, "RequestEntityTooLargeException", ""), "too large")
        try:
            told = orjson.loads(request.body)
            return _one(told) if request.path == ONE else _several(told)
        except orjson.JSONDecodeError:
            raise _bad("not JSON") from None
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise _bad(f"of another shape: {type(error).__name__}") from None

    def id(self, number: int) -> str:
        """A MessageId."""
        return f"0107simulated-{number:08x}-000000"

    def accept(self, request: Request, heard: Sequence[Heard], taken: Sequence[Taken]) -> Answer:
        """An id for each; an error as the whole answer where it is everybody's."""
        codes = {one.code for one in taken}
        if len(codes) == 1 and (code := taken[0].code) and (request.path == ONE or len(heard) > 1):
            status, _, text = TEXTS[code]
            return refusal(status, code, text)
        if request.path == ONE:
            return in_json(200, {"MessageId": taken[0].id})
        return in_json(200, {"BulkEmailEntryResults": [_result(one) for one in taken]})

    def fault(self, name: str, request: Request, heard: Sequence[Heard]) -> Answer:
        """429, 500 or 403."""
        if name == THROTTLED:
            return refusal(429, "TooManyRequestsException", "Maximum sending rate exceeded.")
        if name == SERVER_ERROR:
            return refusal(500, "InternalFailure", "An internal failure")
        return refusal(
            403, "UnrecognizedClientException", "The security token included in the request is invalid."
        )

    def receipts(self, request: Request, heard: Heard, taken: Taken, what: str) -> Sequence[Callback]:
        """An event of the configuration set, in a message that SNS signs; none without such a set."""
        told = orjson.loads(request.body)
        if not told.get("ConfigurationSetName") or what not in _EVENTS:
            return ()
        now = _rfc3339(self._clock())
        kind, part, content = _EVENTS[what]
        tags = {"carillon": [heard.key.replace(".", "_")]} if heard.key else {}
        event = {
            "eventType": kind,
            "mail": {"timestamp": now, "messageId": taken.id, "destination": [heard.to], "tags": tags},
            part: {"timestamp": now, **content, **_recipients(part, heard.to)},
        }
        message = {
            "Type": "Notification",
            "MessageId": f"{taken.id}-{what}",
            "TopicArn": self._topic,
            "Subject": "Amazon SES Email Event Notification",
            "Message": orjson.dumps(event).decode(),
            "Timestamp": now,
            "SignatureVersion": "2",
            "SigningCertURL": certificate_url(self._topic),
        }
        signed = "".join(f"{name}\n{message[name]}\n" for name in _SIGNED)
        signature = _signer()[0].sign(signed.encode(), PKCS1v15(), SHA256())
        message["Signature"] = b64encode(signature).decode()
        headers = {"content-type": "text/plain; charset=UTF-8", "x-amz-sns-message-type": "Notification"}
        return [Callback(headers, orjson.dumps(message))]


_SIGNED = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
_EVENTS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    DELIVERED: ("Delivery", "delivery", {"smtpResponse": "250 2.6.0 Message received"}),
    BOUNCED: ("Bounce", "bounce", {"bounceType": "Permanent", "bounceSubType": "General"}),
    COMPLAINED: ("Complaint", "complaint", {"complaintFeedbackType": "abuse"}),
}


def certificate_url(topic_arn: str) -> str:
    """Where the certificate that SNS signs with would be; this one's is `certificate`."""
    region = topic_arn.split(":")[3]
    return f"https://sns.{region}.amazonaws.com/SimpleNotificationService-simulated.pem"


def certificate() -> bytes:
    """What would stand at `certificate_url`, in PEM; another one in each process."""
    return _signer()[1]


@functools.cache
def _signer() -> tuple[RSAPrivateKey, bytes]:
    key = generate_private_key(65_537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365))
        .sign(key, SHA256())
    )
    return key, made.public_bytes(Encoding.PEM)


def _bad(why: str, text: str = "The input you provided is invalid.") -> Wrong:
    return Wrong(refusal(400, "BadRequestException", text), why)


def _one(told: Any) -> Sequence[Heard]:
    content = told["Content"]
    if len(content) != 1 or "Simple" not in content:
        raise _bad("not a simple message")
    simple = content["Simple"]
    words = [simple["Subject"]["Data"], *(part["Data"] for part in simple["Body"].values())]
    if not simple["Body"] or not set(simple["Body"]) <= {"Text", "Html"}:
        raise _bad("no body")
    _check(told, words, simple, told.get("EmailTags", []), told["Destination"])
    return [_heard(told["Destination"], told.get("EmailTags", []), simple, words[0])]


def _several(told: Any) -> Sequence[Heard]:
    template, entries = told["DefaultContent"]["Template"], told["BulkEmailEntries"]
    words = template["TemplateContent"]
    if not 1 <= len(entries) <= DESTINATIONS:
        raise _bad("too few or too many destinations")
    if not isinstance(orjson.loads(template["TemplateData"]), dict) or "{{" in "".join(words.values()):
        raise _bad("a template with variables")
    for one in entries:
        tags = one.get("ReplacementTags", [])
        headers = {"Headers": one.get("ReplacementHeaders", [])}
        _check(told, list(words.values()), headers, tags, one["Destination"])
        if letters.is_refused(one["Destination"]["ToAddresses"][0]):
            raise _bad("an address that is none, among others", "Missing final '@domain'")
    return [
        _heard(one["Destination"], one.get("ReplacementTags", []), [template, one], words["Subject"])
        for one in entries
    ]


def _check(told: Any, words: Sequence[Any], head: Any, tags: Any, destination: Any) -> None:
    """Raises Wrong."""
    addresses = destination["ToAddresses"]
    if not letters.is_address(letters.bare(told["FromEmailAddress"]), ascii_only=True):
        raise _bad("no sender")
    if len(addresses) != 1 or not letters.is_address(addresses[0], ascii_only=True):
        raise _bad("an address that is none", "Missing final '@domain'")
    if not all(isinstance(part, str) for part in words):
        raise _bad("words that are no text")
    if not all(_TAG.fullmatch(tag["Name"]) and _TAG.fullmatch(tag["Value"]) for tag in tags):
        raise _bad("a tag with other characters")
    headers = head.get("Headers", [])
    if len(headers) > HEADERS or not all(
        _NAME.fullmatch(one["Name"]) and _VALUE.fullmatch(one["Value"]) for one in headers
    ):
        raise _bad("headers that are none")


def _heard(destination: Any, tags: Any, content: Any, subject: str) -> Heard:
    value = next((tag["Value"] for tag in tags if tag["Name"] == "carillon"), "")
    body = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    # a tag has no full stops; in the ledger a key is the same whoever was asked to send
    return Heard(value.replace("_", "."), destination["ToAddresses"][0], body, subject[: letters.WORDS])


def _result(taken: Taken) -> dict[str, str]:
    if not taken.code:
        return {"Status": "SUCCESS", "MessageId": taken.id}
    _, status, text = TEXTS[taken.code]
    return {"Status": status, "Error": text}


def _recipients(part: str, to: str) -> dict[str, Any]:
    if part == "delivery":
        return {"recipients": [to]}
    if part == "complaint":
        return {"complainedRecipients": [{"emailAddress": to}]}
    diagnosis = "smtp; 550 5.1.1 no such mailbox"
    return {"bouncedRecipients": [{"emailAddress": to, "status": "5.1.1", "diagnosticCode": diagnosis}]}


def _rfc3339(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
