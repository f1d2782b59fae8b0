"""Amazon SNS: Publish to a telephone number, over the query protocol, signed with Signature Version 4."""

from collections.abc import Callable, Mapping, Sequence
from uuid import UUID
from xml.sax.saxutils import escape

import orjson

from pipeline.simulator import sigv4
from pipeline.simulator.vendor import (
    SERVER_ERROR,
    THROTTLED,
    Answer,
    Callback,
    Heard,
    Request,
    Rule,
    Taken,
    Wrong,
)

NAMESPACE = "http://sns.amazonaws.com/doc/2010-03-31/"
LONGEST = 1600
ENTRY = "MessageAttributes.entry."
REFUSALS: Mapping[str, tuple[int, str]] = {
    "InvalidParameter": (400, "Invalid parameter: PhoneNumber Reason: it is not valid to publish to"),
    "OptedOut": (400, "The phone number has opted out of receiving SMS messages"),
    "AuthorizationError": (403, "User is not authorized to perform: SNS:Publish"),
    "ExpiredToken": (403, "The security token included in the request is expired"),
}


class SnsSimulator:
    """Verifies signatures made with `access_key_id`, `secret_access_key` and `session_token`."""

    kind = "sns"
    keyed = False
    codes = tuple(REFUSALS)
    rules = (
        Rule("+15005550001", "InvalidParameter", says="not valid to publish to"),
        Rule("+15005550004", "OptedOut", says="has opted out"),
        Rule("+15005550022", "latency=3", says="answers after 3 s"),
        Rule("+15005550023", "throttled", says="Throttling"),
        Rule("+15005550024", "server_error", says="InternalError"),
        Rule("+15005550025", "hang", says="takes it and never answers"),
    )

    def __init__(self, secrets: Mapping[str, str], clock: Callable[[], float]) -> None:
        self._secrets, self._clock = dict(secrets), clock

    def hear(self, request: Request) -> Sequence[Heard]:
        """One target: the number. No reference comes along: SNS has no place for one."""
        if request.method != "POST" or request.path != "/":
            raise Wrong(_error(404, "NotFound", "no such path"), "no such path")
        try:
            sigv4.verify(request, "sns", self._secrets, self._clock())
        except Wrong as wrong:
            raise Wrong(_error(403, "SignatureDoesNotMatch", _text(wrong.answer)), wrong.why) from None
        try:
            fields = request.form()
        except ValueError:
            raise Wrong(_error(400, "MalformedQueryString", "no form"), "no form") from None
        if (fields.get("Action"), fields.get("Version")) != ("Publish", "2010-03-31"):
            raise Wrong(_error(400, "InvalidAction", "only Publish is simulated"), "another action")
        number, text = fields.get("PhoneNumber", ""), fields.get("Message", "")
        if (wrong_is := _wrong(number, text, fields)) is not None:
            raise Wrong(_error(400, "InvalidParameter", wrong_is), wrong_is.partition(" Reason")[0])
        return [Heard("", number, f"{number}\n{text}".encode(), text[:80])]

    def id(self, number: int) -> str:
        """A UUID."""
        return str(UUID(int=number, version=4))

    def accept(self, request: Request, heard: Sequence[Heard], taken: Sequence[Taken]) -> Answer:
        """200 with the message's id, or the error."""
        if code := taken[0].code:
            return _error(REFUSALS[code][0], code, REFUSALS[code][1])
        result = f"<PublishResult><MessageId>{taken[0].id}</MessageId></PublishResult>"
        return _xml(200, f"{result}<ResponseMetadata>{_REQUEST_ID}</ResponseMetadata>", "PublishResponse")

    def fault(self, name: str, request: Request, heard: Sequence[Heard]) -> Answer:
        """Throttling (without Retry-After), InternalError, or an access key that is not known."""
        if name == THROTTLED:
            return _error(400, "Throttling", "Rate exceeded")
        if name == SERVER_ERROR:
            return _error(500, "InternalError", "An internal error has occurred")
        text = "The security token included in the request is invalid"
        return _error(403, "InvalidClientTokenId", text)

    def receipts(self, request: Request, heard: Heard, taken: Taken, what: str) -> Sequence[Callback]:
        """None: SNS writes what becomes of an SMS to CloudWatch, and calls nobody."""
        return ()


def _wrong(number: str, text: str, fields: Mapping[str, str]) -> str | None:
    """The first thing that is wrong with a message."""
    if not (number[:1] == "+" and number[1:].isascii() and number[1:].isdigit() and 8 <= len(number) <= 16):
        return "Invalid parameter: PhoneNumber Reason: it is not valid to publish to"
    if not text:
        return "Invalid parameter: Message Reason: Empty message"
    if len(text) > LONGEST:
        return "Invalid parameter: Message Reason: Message too long"
    names = {name: value for name, value in fields.items() if name.startswith(ENTRY)}
    told = {
        value: names.get(name.removesuffix("Name") + "Value.StringValue", "")
        for name, value in names.items()
        if name.endswith(".Name") and names.get(name.removesuffix("Name") + "Value.DataType") == "String"
    }
    if told.get("AWS.SNS.SMS.SMSType", "Promotional") not in ("Promotional", "Transactional"):
        return "Invalid parameter: MessageAttributes Reason: SMSType"
    if len(told.get("AWS.SNS.SMS.SenderID", "")) > 11:
        return "Invalid parameter: MessageAttributes Reason: SenderID"
    return None


_REQUEST_ID = "<RequestId>00000000-0000-4000-8000-000000000000</RequestId>"


def _error(status: int, name: str, text: str) -> Answer:
    kind = "Sender" if status < 500 else "Receiver"
    inside = f"<Error><Type>{kind}</Type><Code>{name}</Code><Message>{escape(text)}</Message></Error>"
    return _xml(
        status, f"{inside}<RequestId>00000000-0000-4000-8000-000000000000</RequestId>", "ErrorResponse"
    )


def _xml(status: int, inside: str, root: str) -> Answer:
    body = f'<{root} xmlns="{NAMESPACE}">{inside}</{root}>'
    return Answer(status, {"content-type": "text/xml"}, body.encode())


def _text(answer: Answer) -> str:
    """What a refusal of the services that speak JSON says."""
    return str(orjson.loads(answer.body)["message"])
