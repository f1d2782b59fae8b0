"""SendGrid's Event Webhook: ECDSA over time and body; many events a request.

Our reference comes back as the custom argument `carillon`, which stands beside the event's own fields.
"""

import binascii
from base64 import b64decode
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from pipeline.receipts.receipt import (
    Callback,
    Forged,
    Receipt,
    Unclear,
    Word,
    is_current,
    mapping,
    milliseconds,
    text,
)
from schemas.kinds import State

SIGNATURE = "x-twilio-email-event-webhook-signature"
TIMESTAMP = "x-twilio-email-event-webhook-timestamp"

STATES: dict[str, State | None] = {
    "delivered": State.DELIVERED,
    "bounce": State.BOUNCED,
    "dropped": State.FAILED,
    "open": State.OPENED,
    "click": State.CLICKED,
    "spamreport": State.COMPLAINED,
    "unsubscribe": State.UNSUBSCRIBED,
    "group_unsubscribe": State.UNSUBSCRIBED,
    "group_resubscribe": None,
    "processed": None,
    "deferred": None,
}
"""Their events; None: nothing that changes what we know."""
DROPPED = {
    "Bounced Address": State.BOUNCED,
    "Spam Reporting Address": State.COMPLAINED,
    "Unsubscribed Address": State.UNSUBSCRIBED,
}
"""Why they dropped it before sending, where that is an earlier word of the receiver."""


class SendGrid:
    """Verifies with the `public_key` of the webhook's settings. Raises ValueError for what is none."""

    status = 204

    def __init__(self, public_key: str) -> None:
        try:
            key = load_der_public_key(b64decode(public_key))
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError("not a public key in Base64") from None
        if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
            raise ValueError("not a key on the curve P-256")
        self._key = key

    async def verify(self, callback: Callback) -> None:
        signed = callback.headers.get(TIMESTAMP, "")
        try:
            signature = b64decode(callback.headers.get(SIGNATURE, ""), validate=True)
            self._key.verify(signature, signed.encode("latin-1", "replace") + callback.body, ECDSA(SHA256()))
        except (InvalidSignature, binascii.Error, ValueError):
            raise Forged("the signature is missing or wrong") from None
        is_current(signed, callback.now)

    def read(self, callback: Callback) -> list[Word]:
        events = callback.json()
        if not isinstance(events, list):
            raise Unclear("the body is not a list of events")
        return [receipt for event in events if (receipt := _receipt(mapping(event))) is not None]

    async def acknowledge(self, callback: Callback) -> None:
        """There is nothing to do."""

    def once(self, callback: Callback) -> str | None:
        return None


def _receipt(event: dict[str, Any]) -> Receipt | None:
    reference, name, why = text(event.get("carillon")), event.get("event"), text(event.get("reason"))
    state = STATES.get(name) if isinstance(name, str) else None
    if reference is None or state is None:
        return None
    code = text(event.get("status"))
    if name == "dropped":
        state = DROPPED.get(why or "", state)
    elif name == "bounce" and (event.get("type") == "blocked" or (code or "").startswith("4")):
        state = State.FAILED  # the server refused this message, not this address
    return Receipt(
        reference, state, milliseconds(event.get("timestamp")), text(event.get("sg_message_id")), code, why
    )
