"""Twilio's callbacks: an HMAC over the URL and the form; statuses of our messages, and messages to us.

Our reference comes back in the URL that the message named (`?ref=`). Twilio signs no time and numbers no
request: a copy says what is known already.
"""

import hmac
from base64 import b64encode
from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

from pipeline.receipts.receipt import Callback, Forged, Receipt, Wish, Word, text
from pipeline.receipts.words import wish
from schemas.kinds import State

SIGNATURE = "x-twilio-signature"

STATES: dict[str, State | None] = {
    "delivered": State.DELIVERED,
    "read": State.OPENED,
    "undelivered": State.FAILED,
    "failed": State.FAILED,
    "canceled": None,
    "accepted": None,
    "scheduled": None,
    "queued": None,
    "sending": None,
    "sent": None,
    "receiving": None,
    "received": None,
}
"""Their message statuses; None: nothing that changes what we know."""
FAILED = {
    "30005": State.BOUNCED,  # unknown destination handset: there is no such number
    "30006": State.BOUNCED,  # landline or unreachable carrier
    "21211": State.BOUNCED,  # not a phone number
    "21614": State.BOUNCED,  # not a mobile number
    "21610": State.UNSUBSCRIBED,  # the recipient has told this sender to stop
}
"""The error codes of a failure that say something of the number."""
_PORTS = {"https": 443, "http": 80}


class Twilio:
    """Verifies with the account's auth token."""

    status = 204

    def __init__(self, auth_token: str) -> None:
        if not auth_token:
            raise ValueError("empty")
        self._token = auth_token.encode()

    async def verify(self, callback: Callback) -> None:
        given = callback.headers.get(SIGNATURE, "").encode("utf-8", "replace")
        fields = callback.form()
        known = [self.signature(url, fields) for url in _spellings(callback.url)]
        if True not in [hmac.compare_digest(one.encode(), given) for one in known]:
            raise Forged("the signature is missing or wrong")

    def signature(self, url: str, fields: Sequence[tuple[str, str]]) -> str:
        """What Twilio signs such a request with."""
        whole = url + "".join(name + value for name, value in sorted(set(fields)))
        return b64encode(hmac.digest(self._token, whole.encode(), "sha1")).decode()

    def read(self, callback: Callback) -> list[Word]:
        told, query = dict(callback.form()), dict(callback.query)
        status = told.get("MessageStatus") or told.get("SmsStatus")
        if "Body" in told or "OptOutType" in told:
            stop = wish(told.get("OptOutType") or told.get("Body", ""))
            sender = text(told.get("From"))
            return [] if stop is None or sender is None else [Wish(sender, stop)]
        reference, state = text(query.get("ref")), STATES.get(status or "")
        if reference is None or state is None:
            return []
        code = text(told.get("ErrorCode"))
        if state is State.FAILED:
            state = FAILED.get(code or "", state)
        sid = text(told.get("MessageSid") or told.get("SmsSid"))
        return [Receipt(reference, state, None, sid, code, text(told.get("ErrorMessage")))]

    async def acknowledge(self, callback: Callback) -> None:
        """There is nothing to do."""

    def once(self, callback: Callback) -> str | None:
        return None


def _spellings(url: str) -> list[str]:
    """The URL with and without a port: Twilio signs it in either way."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    try:
        port = parts.port
    except ValueError:
        return [url]
    if port is None:
        return [url, urlunsplit(parts._replace(netloc=f"{host}:{_PORTS.get(parts.scheme, 443)}"))]
    return [url, urlunsplit(parts._replace(netloc=host.rpartition(":")[0]))]
