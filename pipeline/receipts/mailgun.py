"""Mailgun's webhooks: an HMAC over time and token alone, so that a token counts once; one event a request.

Our reference comes back as the user variable `carillon`.
"""

import hmac
from typing import Any

from pipeline.receipts.receipt import (
    Callback,
    Forged,
    Receipt,
    Word,
    is_current,
    mapping,
    milliseconds,
    text,
)
from schemas.kinds import State

STATES: dict[str, State | None] = {
    "delivered": State.DELIVERED,
    "failed": State.FAILED,
    "rejected": State.FAILED,
    "opened": State.OPENED,
    "clicked": State.CLICKED,
    "complained": State.COMPLAINED,
    "unsubscribed": State.UNSUBSCRIBED,
    "accepted": None,
    "stored": None,
}
"""Their events; None: nothing that changes what we know."""
FAILED = {
    "bounce": State.BOUNCED,
    "suppress-bounce": State.BOUNCED,
    "suppress-complaint": State.COMPLAINED,
    "suppress-unsubscribe": State.UNSUBSCRIBED,
}
"""Why it failed for good, where that says something of the address."""


class Mailgun:
    """Verifies with the account's webhook signing key."""

    status = 200  # the only one that Mailgun takes for yes

    def __init__(self, signing_key: str) -> None:
        if not signing_key:
            raise ValueError("empty")
        self._key = signing_key.encode()

    async def verify(self, callback: Callback) -> None:
        told = mapping(mapping(callback.json()).get("signature"))
        signed, token, signature = (
            text(told.get(name)) or "" for name in ("timestamp", "token", "signature")
        )
        expected = hmac.new(self._key, f"{signed}{token}".encode(), "sha256").hexdigest()
        if not token or not hmac.compare_digest(expected.encode(), signature.encode()):
            raise Forged("the signature is missing or wrong")
        is_current(signed, callback.now)

    def read(self, callback: Callback) -> list[Word]:
        receipt = _receipt(mapping(mapping(callback.json()).get("event-data")))
        return [] if receipt is None else [receipt]

    async def acknowledge(self, callback: Callback) -> None:
        """There is nothing to do."""

    def once(self, callback: Callback) -> str | None:
        return text(mapping(mapping(callback.json()).get("signature")).get("token"))


def _receipt(event: dict[str, Any]) -> Receipt | None:
    reference = text(mapping(event.get("user-variables")).get("carillon"))
    name = event.get("event")
    state = STATES.get(name) if isinstance(name, str) else None
    if reference is None or state is None:
        return None
    delivery, why = mapping(event.get("delivery-status")), text(event.get("reason"))
    if name == "failed":
        if event.get("severity") == "temporary":
            return None  # they try again themselves
        state = FAILED.get(why or "", state)
    headers = mapping(mapping(event.get("message")).get("headers"))
    said = text(delivery.get("message")) or text(delivery.get("description")) or why
    return Receipt(
        reference, state, milliseconds(event.get("timestamp")), text(headers.get("message-id")),
        text(delivery.get("code")), said,
    )  # fmt: skip
