"""Vonage's webhooks: SMS receipts and messages with `sig`, those of the Messages API with a JWT.

Our reference comes back as `client-ref` (SMS API) or `client_ref` (Messages API).
"""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import jwt

from pipeline.receipts.receipt import (
    Callback,
    Forged,
    Receipt,
    Unclear,
    Wish,
    Word,
    is_current,
    mapping,
    text,
)
from pipeline.receipts.words import wish
from schemas.kinds import State

Method = Literal["md5hash", "md5", "sha1", "sha256", "sha512"]

STATES: dict[str, State | None] = {
    "delivered": State.DELIVERED,
    "read": State.OPENED,
    "failed": State.FAILED,
    "rejected": State.FAILED,
    "undeliverable": State.FAILED,
    "expired": State.FAILED,
    "accepted": None,
    "buffered": None,
    "submitted": None,
    "unknown": None,
}
"""Their statuses; None: nothing that changes what we know."""
FAILED = {
    "3": State.BOUNCED,  # the number is no longer active
    "4": State.BOUNCED,  # barred by the user, for good
    "9": State.UNSUBSCRIBED,  # the user has told the carrier to have no messages from this service
}
"""The error codes of a failure that say something of the number."""


class Vonage:
    """Verifies with the account's signature secret, and the method that is chosen beside it."""

    status = 200

    def __init__(self, signature_secret: str, method: Method = "sha256") -> None:
        if not signature_secret:
            raise ValueError("empty")
        self._secret, self._method = signature_secret, method

    async def verify(self, callback: Callback) -> None:
        token = _token(callback)
        if token is not None:
            self._verify_token(token, callback)
            return
        told = _fields(callback)
        given = told.pop("sig", "").lower()
        if not hmac.compare_digest(self.signature(told).encode(), given.encode()):
            raise Forged("the signature is missing or wrong")
        is_current(told.get("timestamp"), callback.now)

    def signature(self, fields: Mapping[str, str]) -> str:
        """What Vonage signs such parameters with."""
        whole = "".join(
            f"&{name}={fields[name].replace('&', '_').replace('=', '_')}" for name in sorted(fields)
        )
        if self._method == "md5hash":
            return hashlib.md5((whole + self._secret).encode(), usedforsecurity=False).hexdigest()
        return hmac.new(self._secret.encode(), whole.encode(), self._method).hexdigest()

    def _verify_token(self, token: str, callback: Callback) -> None:
        try:
            claims = jwt.decode(
                token, self._secret, algorithms=["HS256"],
                options={"verify_iat": False, "verify_aud": False, "require": ["iat", "payload_hash"]},
            )  # fmt: skip
        except jwt.PyJWTError:
            raise Forged("the token is not signed by them") from None
        hashed = hashlib.sha256(callback.body).hexdigest()
        if not hmac.compare_digest(hashed.encode(), str(claims["payload_hash"]).lower().encode()):
            raise Forged("the token is of another body")
        is_current(str(claims["iat"]), callback.now)

    def read(self, callback: Callback) -> list[Word]:
        told = _fields(callback)
        status = told.get("status")
        if status is None:
            stop = wish(told.get("text", ""))
            sender = told.get("msisdn") or told.get("from")
            return [] if stop is None or not sender else [Wish(sender, stop)]
        reference, state = told.get("client-ref") or told.get("client_ref"), STATES.get(status)
        if not reference or state is None:
            return []
        code = told.get("err-code")
        if state is State.FAILED:
            state = FAILED.get(code or "", state)
        return [
            Receipt(
                reference, state, _moment(told.get("message-timestamp") or told.get("timestamp")),
                told.get("messageId") or told.get("message_uuid"), code if code != "0" else None,
                told.get("error"),
            )
        ]  # fmt: skip

    async def acknowledge(self, callback: Callback) -> None:
        """There is nothing to do."""

    def once(self, callback: Callback) -> str | None:
        return None


def _token(callback: Callback) -> str | None:
    """The token that it comes with, if it does."""
    scheme, _, token = callback.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _fields(callback: Callback) -> dict[str, str]:
    """What it says, in the URL, in a form or in an object; a token signs the body alone."""
    found = {} if _token(callback) is not None else dict(callback.query)
    if callback.content_type == "application/json":
        told = callback.json()
        if not isinstance(told, dict):
            raise Unclear("the body is not an object")
        for name, value in told.items():
            said = text(_title(value)) if name == "error" else _plain(value)
            if said is not None:
                found[name] = said
        return found
    return found | dict(callback.form())


def _plain(value: Any) -> str | None:
    """A value as it is signed, whole; objects are not signed."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None


def _title(error: Any) -> Any:
    return mapping(error).get("title")


def _moment(told: str | None) -> int | None:
    """Their time in UTC, with or without saying so, in ms."""
    try:
        found = datetime.fromisoformat(told or "")
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
