"""Resend's webhooks: Standard Webhooks under Svix's names of headers; one event a request.

Our reference comes back as the tag `carillon`, whose value has underscores where it has full stops.
"""

import binascii
import hmac
from base64 import b64decode, b64encode
from datetime import datetime
from typing import Any

from pipeline.receipts.receipt import Callback, Forged, Receipt, Word, is_current, mapping, text
from schemas.kinds import State

ID, TIMESTAMP, SIGNATURE = "svix-id", "svix-timestamp", "svix-signature"
PREFIX = "whsec_"
MOST_SIGNATURES = 10
"""Of one request: while a secret is replaced, both sign."""

STATES: dict[str, State | None] = {
    "email.delivered": State.DELIVERED,
    "email.bounced": State.FAILED,
    "email.suppressed": State.BOUNCED,
    "email.failed": State.FAILED,
    "email.complained": State.COMPLAINED,
    "email.opened": State.OPENED,
    "email.clicked": State.CLICKED,
    "email.sent": None,
    "email.scheduled": None,
    "email.delivery_delayed": None,
    "email.received": None,
}
"""Their events; None: nothing that changes what we know. A bounce is one for good where it is Permanent."""
SUPPRESSED = {"previous_complaint": State.COMPLAINED}
"""Why they left it unsent, where that is not a bounce."""


class Resend:
    """Verifies with the signing secret of a webhook. Raises ValueError for what is none."""

    status = 204

    def __init__(self, secret: str) -> None:
        try:
            self._key = b64decode(secret.removeprefix(PREFIX), validate=True)
        except (binascii.Error, ValueError):
            self._key = b""
        if not self._key:
            raise ValueError("not a whsec_… secret (base64)")

    async def verify(self, callback: Callback) -> None:
        id, signed = callback.headers.get(ID, ""), callback.headers.get(TIMESTAMP, "")
        content = f"{id}.{signed}.".encode("latin-1", "replace") + callback.body
        expected = b"v1," + b64encode(hmac.digest(self._key, content, "sha256"))
        given = callback.headers.get(SIGNATURE, "").split(" ", MOST_SIGNATURES)[:MOST_SIGNATURES]
        if not any(hmac.compare_digest(one.encode("latin-1", "replace"), expected) for one in given):
            raise Forged("the signature is missing or wrong")
        is_current(signed, callback.now)

    def read(self, callback: Callback) -> list[Word]:
        receipt = _receipt(mapping(callback.json()))
        return [] if receipt is None else [receipt]

    async def acknowledge(self, callback: Callback) -> None:
        """There is nothing to do."""

    def once(self, callback: Callback) -> str | None:
        return None


def _receipt(event: dict[str, Any]) -> Receipt | None:
    name, data = event.get("type"), mapping(event.get("data"))
    state = STATES.get(name) if isinstance(name, str) else None
    reference = text(mapping(data.get("tags")).get("carillon"))
    if reference is None or state is None:
        return None
    code = said = None
    if name == "email.bounced":
        bounce = mapping(data.get("bounce"))
        if bounce.get("type") == "Permanent":
            state = State.BOUNCED
        code = "/".join(filter(None, (text(bounce.get("type")), text(bounce.get("subType")))))
        said = text(bounce.get("message"))
    elif name == "email.suppressed":
        suppressed = mapping(data.get("suppressed"))
        code, said = text(suppressed.get("reason")), text(suppressed.get("message"))
        state = SUPPRESSED.get(code or "", state)
    elif name == "email.failed":
        code = text(mapping(data.get("failed")).get("reason"))
    at = _moment(event.get("created_at"))
    return Receipt(reference.replace("_", "."), state, at, text(data.get("email_id")), code or None, said)


def _moment(told: Any) -> int | None:
    try:
        return int(datetime.fromisoformat(told).timestamp() * 1000)
    except (TypeError, ValueError, OverflowError):
        return None
