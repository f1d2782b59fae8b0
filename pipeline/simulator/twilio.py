"""Twilio's Messages resource: one message a request, refused by code, with status callbacks."""

import hmac
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from urllib.parse import parse_qs, urlencode, urlsplit

from pipeline.providers.gsm7 import messages
from pipeline.simulator.vendor import (
    BOUNCED,
    DELIVERED,
    FAILED,
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

ACCOUNT_SID = "AC00000000000000000000000000000000"
AUTH_TOKEN = "simulated"  # noqa: S105  # no secret: it is what a simulator takes
LONGEST = 1600

REFUSALS: Mapping[str, str] = {
    "21211": "Invalid 'To' Phone Number",
    "21265": "'To' number cannot be a Short Code",
    "21266": "'To' and 'From' numbers cannot be the same",
    "21408": "Permission to send an SMS has not been enabled for the region indicated by the 'To' number",
    "21608": "The 'to' phone number provided is not yet verified for this account",
    "21610": "Attempt to send to unsubscribed recipient",
    "21611": "This 'From' number has exceeded the maximum number of queued messages",
    "21612": "Message cannot be sent with the current combination of 'To' and 'From' parameters",
    "21614": "'To' number is not a valid mobile number",
    "21635": "'To' number cannot be a landline",
}
"""What a number may be refused with, and how that is worded."""
STATUSES = {DELIVERED: ("sent", "delivered"), BOUNCED: ("sent", "undelivered"), FAILED: ("failed",)}
ERRORS = {"undelivered": "30005", "failed": "30008"}


class TwilioSimulator:
    """Asks for `account_sid` with `auth_token`, or `api_key` with `api_secret`."""

    kind = "twilio"
    keyed = False
    codes = tuple(REFUSALS)
    rules = (
        Rule("+15005550001", "21211", says="invalid (one of Twilio's own test numbers, as the next four)"),
        Rule("+15005550002", "21612", says="cannot be routed"),
        Rule("+15005550003", "21408", says="a country that is not enabled"),
        Rule("+15005550004", "21610", says="has said STOP"),
        Rule("+15005550009", "21614", says="no mobile"),
        Rule("+15005550020", "", (BOUNCED,), "accepted, then undelivered: no such number"),
        Rule("+15005550021", "", (FAILED,), "accepted, then failed"),
        Rule("+15005550022", "latency=3", says="answers after 3 s"),
        Rule("+15005550023", "throttled", says="429"),
        Rule("+15005550024", "server_error", says="500"),
        Rule("+15005550025", "hang", says="takes it and never answers"),
    )

    def __init__(self, secrets: Mapping[str, str], clock: Callable[[], float]) -> None:
        self._account = secrets.get("account_sid") or ACCOUNT_SID
        self._token = secrets.get("auth_token") or AUTH_TOKEN
        self._logins = {f"{self._account}:{self._token}"}
        if secrets.get("api_key"):
            self._logins.add(f"{secrets['api_key']}:{secrets.get('api_secret', '')}")
        self._clock = clock

    def hear(self, request: Request) -> Sequence[Heard]:
        """One target: the number."""
        if not self._is_known(request.headers.get("authorization", "")):
            raise Wrong(_error(401, 20003, "Authenticate"), "not signed in")
        if request.path != f"/2010-04-01/Accounts/{self._account}/Messages.json":
            told = f"The requested resource {request.path} was not found"
            raise Wrong(_error(404, 20404, told), "no such resource")
        if request.method != "POST":
            raise Wrong(_error(405, 20004, "Method not allowed"), "not a POST")
        try:
            fields = request.form()
        except ValueError:
            raise Wrong(_error(400, 20001, "Bad request"), "no form") from None
        if (wrong := _wrong(fields)) is not None:
            raise Wrong(_error(400, *wrong), wrong[1])
        text = fields["Body"]
        asked = parse_qs(urlsplit(fields.get("StatusCallback", "")).query)
        body = f"{fields['To']}\n{text}".encode()
        return [Heard(asked.get("ref", [""])[0], fields["To"], body, text[:80])]

    def _is_known(self, authorization: str) -> bool:
        scheme, _, told = authorization.partition(" ")
        try:
            return scheme.lower() == "basic" and b64decode(told, validate=True).decode() in self._logins
        except ValueError:
            return False

    def id(self, number: int) -> str:
        """SM and 32 hexadecimal digits."""
        return f"SM{number:032x}"

    def accept(self, request: Request, heard: Sequence[Heard], taken: Sequence[Taken]) -> Answer:
        """201 with the message, or 400 with the code."""
        found = taken[0]
        if found.code:
            return _error(400, int(found.code), REFUSALS[found.code])
        fields = request.form()
        place = f"/2010-04-01/Accounts/{self._account}/Messages/{found.id}"
        now = formatdate(self._clock())
        return in_json(
            201,
            {
                "account_sid": self._account, "api_version": "2010-04-01", "body": fields["Body"],
                "date_created": now, "date_sent": None, "date_updated": now, "direction": "outbound-api",
                "error_code": None, "error_message": None, "from": fields.get("From"),
                "messaging_service_sid": fields.get("MessagingServiceSid"), "num_media": "0",
                "num_segments": str(messages(fields["Body"])), "price": None, "price_unit": None,
                "sid": found.id, "status": "queued", "subresource_uris": {"media": f"{place}/Media.json"},
                "to": fields["To"], "uri": f"{place}.json",
            },
        )  # fmt: skip

    def fault(self, name: str, request: Request, heard: Sequence[Heard]) -> Answer:
        """429 (without Retry-After, for which Twilio promises none), 500 or 401."""
        if name == THROTTLED:
            return _error(429, 20429, "Too Many Requests")
        if name == SERVER_ERROR:
            return _error(500, 20500, "An internal server error has occurred")
        return _error(401, 20003, "Authenticate")

    def receipts(self, request: Request, heard: Heard, taken: Taken, what: str) -> Sequence[Callback]:
        """The statuses that lead to `what`, where the request named an address for them."""
        fields = request.form()
        url = fields.get("StatusCallback", "")
        return [self._receipt(url, fields, taken, status) for status in STATUSES.get(what, ()) if url]

    def _receipt(self, url: str, fields: Mapping[str, str], taken: Taken, status: str) -> Callback:
        told = {
            "MessageSid": taken.id,
            "MessageStatus": status,
            "SmsSid": taken.id,
            "SmsStatus": status,
            "AccountSid": self._account,
            "ApiVersion": "2010-04-01",
            "To": fields["To"],
        }
        for name in ("From", "MessagingServiceSid"):
            if name in fields:
                told[name] = fields[name]
        if status in ERRORS:
            told["ErrorCode"] = ERRORS[status]
        signed = url + "".join(name + told[name] for name in sorted(told))
        signature = b64encode(hmac.digest(self._token.encode(), signed.encode(), "sha1")).decode()
        headers = {
            "content-type": "application/x-www-form-urlencoded",
            "x-twilio-signature": signature,
            "user-agent": "TwilioProxy/1.1",
        }
        return Callback(headers, urlencode(told).encode(), url)


def _wrong(fields: Mapping[str, str]) -> tuple[int, str] | None:
    """The first thing that is wrong with a message."""
    to, callback = fields.get("To", ""), fields.get("StatusCallback")
    if not to:
        return 21604, "A 'To' phone number is required."
    if not (to[0] == "+" and to[1:].isascii() and to[1:].isdigit() and len(to) <= 16):
        return 21211, REFUSALS["21211"]
    if not (fields.get("From") or fields.get("MessagingServiceSid")):
        return 21603, "A 'From' phone number is required."
    if fields.get("From") == to:
        return 21266, REFUSALS["21266"]
    text = fields.get("Body", "")
    if not text:
        return 21602, "Message body is required."
    if len(text) > LONGEST:
        return 21617, "The concatenated message body exceeds the 1600 character limit."
    if callback is not None and not _is_url(callback):
        return 21609, "The 'StatusCallback' URL is not a valid URL."
    validity = fields.get("ValidityPeriod", "1")
    if not (validity.isascii() and validity.isdigit() and 1 <= int(validity) <= 36_000):
        return 20001, "ValidityPeriod is out of range."
    return None


def _is_url(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "_" not in (parts.hostname or "")


def _error(status: int, code: int, words: str) -> Answer:
    about = f"https://www.twilio.com/docs/errors/{code}"
    return in_json(status, {"code": code, "message": words, "more_info": about, "status": status})
