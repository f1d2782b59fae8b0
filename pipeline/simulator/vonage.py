"""Vonage's SMS API: everything is answered 200, with a status for each part; signed receipts."""

import hashlib
import hmac
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

import orjson

from pipeline.providers.gsm7 import messages, septets
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

API_KEY = "abcd1234"
API_SECRET = SIGNATURE_SECRET = "simulated"  # noqa: S105  # no secret: it is what a simulator takes
LONGEST, LONGEST_REFERENCE, LONGEST_CALLBACK = 3200, 100, 100
REFUSALS: Mapping[str, str] = {
    "6": "The message was not able to be delivered due to a prefix that is not recognised",
    "7": "The number you are trying to send messages to is barred",
    "15": "Illegal Sender Address - rejected",
    "29": "Non White-listed Destination - rejected",
    "33": "Number De-activated",
}
"""What a number may be refused with, and how that is worded."""
STATUSES = {DELIVERED: ("delivered", "0"), BOUNCED: ("failed", "3"), FAILED: ("failed", "5")}
PRICE = "0.03330000"


class VonageSimulator:
    """Asks for `api_key` and `api_secret`; signs receipts with `signature_secret` by HMAC-SHA-256."""

    kind = "vonage"
    keyed = False
    codes = tuple(REFUSALS)
    rules = (
        Rule("15005550001", "6", says="an unknown prefix"),
        Rule("15005550004", "7", says="barred"),
        Rule("15005550009", "33", says="no longer active"),
        Rule("15005550020", "", (BOUNCED,), "accepted, then failed: no such number"),
        Rule("15005550021", "", (FAILED,), "accepted, then failed"),
        Rule("15005550022", "latency=3", says="answers after 3 s"),
        Rule("15005550023", "throttled", says="status 1"),
        Rule("15005550024", "server_error", says="status 5"),
        Rule("15005550025", "hang", says="takes it and never answers"),
    )

    def __init__(self, secrets: Mapping[str, str], clock: Callable[[], float]) -> None:
        self._key = secrets.get("api_key") or API_KEY
        self._login = self._key, secrets.get("api_secret") or API_SECRET
        self._signer = (secrets.get("signature_secret") or SIGNATURE_SECRET).encode()
        self._clock = clock

    def hear(self, request: Request) -> Sequence[Heard]:
        """One target: the number, whatever the parts."""
        if request.path != "/sms/json":
            raise Wrong(Answer(404), "no such path")
        if request.method != "POST":
            raise Wrong(Answer(405, {"allow": "POST"}), "not a POST")
        try:
            fields = request.form()
        except ValueError:
            raise Wrong(_refusal("3", "Invalid Parameters"), "no form") from None
        if self._given(request, fields) != self._login:
            raise Wrong(_refusal("4", "Bad Credentials"), "not signed in")
        if (wrong := _wrong(fields)) is not None:
            raise Wrong(_refusal(*wrong), wrong[1])
        text = fields["text"]
        body = f"{fields['to']}\n{text}".encode()
        return [Heard(fields.get("client-ref", ""), fields["to"], body, text[:80])]

    def _given(self, request: Request, fields: Mapping[str, str]) -> tuple[str, str]:
        """In the header Authorization, or as parameters."""
        scheme, _, told = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return fields.get("api_key", ""), fields.get("api_secret", "")
        try:
            name, _, secret = b64decode(told, validate=True).decode().partition(":")
        except ValueError:
            return "", ""
        return name, secret

    def id(self, number: int) -> str:
        """16 digits and letters; the last two are the part's."""
        return f"0A{number:012X}00"

    def accept(self, request: Request, heard: Sequence[Heard], taken: Sequence[Taken]) -> Answer:
        """A status for each part, or the one that refuses it all."""
        found, fields = taken[0], request.form()
        if found.code:
            return _refusal(found.code, REFUSALS[found.code])
        parts = [
            {
                "to": fields["to"],
                "message-id": message_id,
                "status": "0",
                "remaining-balance": "3.14159265",
                "message-price": PRICE,
                "network": "12345",
                **({"client-ref": fields["client-ref"]} if "client-ref" in fields else {}),
            }
            for message_id in _ids(found.id, fields["text"])
        ]
        return in_json(200, {"message-count": str(len(parts)), "messages": parts})

    def fault(self, name: str, request: Request, heard: Sequence[Heard]) -> Answer:
        """Status 1, 5 or 4, in a 200."""
        if name == THROTTLED:
            return _refusal("1", "Throughput Rate Exceeded - please wait [ 250 ] and retry")
        return _refusal("5", "Internal Error") if name == SERVER_ERROR else _refusal("4", "Bad Credentials")

    def receipts(self, request: Request, heard: Heard, taken: Taken, what: str) -> Sequence[Callback]:
        """One for each part, where the request named an address for them."""
        fields = request.form()
        if "callback" not in fields or what not in STATUSES:
            return ()
        return [self._receipt(fields, message_id, what) for message_id in _ids(taken.id, fields["text"])]

    def _receipt(self, fields: Mapping[str, str], message_id: str, what: str) -> Callback:
        status, code = STATUSES[what]
        now = datetime.fromtimestamp(self._clock(), UTC)
        told = {
            "msisdn": fields["to"],
            "to": fields["from"],
            "network-code": "12345",
            "messageId": message_id,
            "price": PRICE,
            "status": status,
            "scts": now.strftime("%y%m%d%H%M"),
            "err-code": code,
            "api-key": self._key,
            "message-timestamp": now.strftime("%Y-%m-%d %H:%M:%S"),
            "timestamp": str(int(now.timestamp())),
            "nonce": message_id,
        }
        if "client-ref" in fields:
            told["client-ref"] = fields["client-ref"]
        whole = "".join(f"&{name}={told[name].replace('&', '_').replace('=', '_')}" for name in sorted(told))
        told["sig"] = hmac.new(self._signer, whole.encode(), hashlib.sha256).hexdigest()
        return Callback({"content-type": "application/json"}, orjson.dumps(told), fields["callback"])


def _ids(first: str, text: str) -> list[str]:
    """The ids of a text's parts."""
    return [f"{first[:-2]}{n:02X}" for n in range(messages(text))]


def _wrong(fields: Mapping[str, str]) -> tuple[str, str] | None:
    """The first thing that is wrong with a message."""
    for name in ("from", "to", "text"):
        if not fields.get(name):
            return "2", f"Missing {name} param"
    to, text, kind = fields["to"], fields["text"], fields.get("type", "text")
    if not (to.isascii() and to.isdigit() and 7 <= len(to) <= 15):
        return "3", "Invalid value for param: to"
    if kind not in ("text", "unicode"):
        return "3", "Invalid value for param: type"
    if kind == "text" and septets(text) is None:
        return "3", "Invalid value for param: text (Vonage would send question marks)"
    if len(fields.get("client-ref", "")) > LONGEST_REFERENCE:
        return "3", "Invalid value for param: client-ref"
    life = fields.get("ttl", "20000")
    if not (life.isascii() and life.isdigit() and 20_000 <= int(life) <= 604_800_000):
        return "3", "Invalid value for param: ttl"
    callback = fields.get("callback")
    if callback is not None and (len(callback) > LONGEST_CALLBACK or not urlsplit(callback).hostname):
        return "23", "Invalid callback url"
    return ("12", "Message is too long") if len(text) > LONGEST else None


def _refusal(status: str, words: str) -> Answer:
    return in_json(200, {"message-count": "1", "messages": [{"status": status, "error-text": words}]})
