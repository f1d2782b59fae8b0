"""Amazon SES over SNS: messages that SNS signs with a certificate of its own; one event a message.

Our reference comes back as the message tag `carillon`, whose value may have no full stops: there they are
underscores.
"""

import asyncio
import binascii
import re
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import orjson
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from pipeline.receipts.receipt import (
    Callback,
    Forged,
    Later,
    Receipt,
    Unclear,
    Word,
    is_current,
    mapping,
    text,
)
from schemas.kinds import State

RETRIED_SECONDS = 3_900.0
"""SNS signs when a message was published, and tries for up to an hour to bring it."""
MOST_CERTIFICATES = 8
MOST_FAILURES = 64
FAILED_SECONDS = 60.0
"""How long a certificate that could not be had is not asked for again."""
AT_ONCE, MOST_WAITING = 2, 64
"""Fetches at a time, and callbacks that wait for their turn: anybody can name certificates."""
Fetch = Callable[[str], Awaitable[bytes]]
"""Gets what stands at a URL, bounded in size and time, without following redirects. Raises Later."""

_HOST = r"https://sns\.([a-z]{2}(?:-[a-z]+)+-\d)\.amazonaws\.com(?:\.cn)?"
_is_certificate = re.compile(rf"{_HOST}/SimpleNotificationService-[0-9A-Za-z]{{1,64}}\.pem").fullmatch
_is_confirmation = re.compile(rf"{_HOST}/\?Action=ConfirmSubscription&[!-~]{{1,2000}}").fullmatch
_SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": (
        "Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"
    ),
    "UnsubscribeConfirmation": (
        "Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"
    ),
}  # fmt: skip

STATES: dict[str, State | None] = {
    "Delivery": State.DELIVERED,
    "Bounce": State.FAILED,
    "Complaint": State.COMPLAINED,
    "Open": State.OPENED,
    "Click": State.CLICKED,
    "Reject": State.FAILED,
    "Rendering Failure": State.FAILED,
    "Subscription": State.UNSUBSCRIBED,
    "Send": None,
    "DeliveryDelay": None,
}
"""Their events; None: nothing that changes what we know. A bounce is one for good where it is Permanent."""
_PARTS = {
    "Delivery": "delivery", "Bounce": "bounce", "Complaint": "complaint", "Open": "open", "Click": "click",
    "Reject": "reject", "Rendering Failure": "failure", "Subscription": "subscription",
}  # fmt: skip


class SES:
    """Takes what SNS signed of one topic."""

    status = 204

    def __init__(self, topic_arn: str, fetch: Fetch) -> None:
        if not topic_arn.startswith("arn:") or topic_arn.count(":") != 5:
            raise ValueError("not the ARN of a topic")
        self._topic, self._region, self._fetch = topic_arn, topic_arn.split(":")[3], fetch
        self._keys: OrderedDict[str, tuple[RSAPublicKey, datetime]] = OrderedDict()
        #: when a URL failed, and how
        self._failed: OrderedDict[str, tuple[float, type[Forged | Later], str]] = OrderedDict()
        self._turn, self._waiting = asyncio.Semaphore(AT_ONCE), 0

    async def verify(self, callback: Callback) -> None:
        told = _envelope(callback)
        names = _SIGNED.get(told.get("Type", ""))
        if names is None or told.get("TopicArn") != self._topic:
            raise Forged("it is not of our topic")
        if told.get("SignatureVersion") != "2":
            raise Forged("its signature is not of version 2; set the topic's SignatureVersion to 2")
        signed = "".join(f"{name}\n{told[name]}\n" for name in names if name in told)
        key = await self._key(told.get("SigningCertURL", ""), callback.now)
        try:
            signature = b64decode(told.get("Signature", ""), validate=True)
            key.verify(signature, signed.encode(), PKCS1v15(), SHA256())
        except (InvalidSignature, binascii.Error, ValueError):
            raise Forged("the signature is missing or wrong") from None
        moment = _moment(told.get("Timestamp"))
        is_current(None if moment is None else str(moment / 1000), callback.now, RETRIED_SECONDS)

    async def _key(self, url: str, now: float) -> RSAPublicKey:
        """The key of a certificate, which is fetched once. Raises Forged or Later."""
        at = _is_certificate(url)
        if at is None or at[1] != self._region:
            raise Forged("the certificate is not where those of SNS are")
        found = self._known(url, now)
        if found is None:
            if self._waiting >= MOST_WAITING:
                raise Later("too many certificates are asked for")
            self._waiting += 1
            try:
                async with self._turn:
                    found = self._known(url, now) or await self._fetched(url, now)
            finally:
                self._waiting -= 1
        if found[1] < datetime.fromtimestamp(now, UTC):
            raise Forged("the certificate has run out")
        return found[0]

    def _known(self, url: str, now: float) -> tuple[RSAPublicKey, datetime] | None:
        """A key that was fetched, and until when it holds. Raises again what was raised within a minute."""
        failed = self._failed.get(url)
        if failed is not None and 0 <= now - failed[0] < FAILED_SECONDS:
            raise failed[1](failed[2])
        return self._keys.get(url)

    async def _fetched(self, url: str, now: float) -> tuple[RSAPublicKey, datetime]:
        """Fetches a certificate and keeps its key, or that there is none. Raises Forged or Later."""
        try:
            try:
                certificate = x509.load_pem_x509_certificate(await self._fetch(url))
            except ValueError:
                raise Forged("what stands there is no certificate") from None
            key = certificate.public_key()
            if not isinstance(key, RSAPublicKey):
                raise Forged("the certificate has a key of another kind")
        except (Forged, Later) as error:
            self._failed.pop(url, None)
            self._failed[url] = now, type(error), str(error)
            if len(self._failed) > MOST_FAILURES:
                self._failed.popitem(last=False)
            raise
        self._failed.pop(url, None)
        found = self._keys[url] = key, certificate.not_valid_after_utc
        if len(self._keys) > MOST_CERTIFICATES:
            self._keys.popitem(last=False)
        return found

    async def acknowledge(self, callback: Callback) -> None:
        """Confirms the subscription where SNS asks for it."""
        told = _envelope(callback)
        if told.get("Type") != "SubscriptionConfirmation":
            return
        at = _is_confirmation(told.get("SubscribeURL", ""))
        if at is None or at[1] != self._region:
            raise Forged("the confirmation would be sent elsewhere")
        await self._fetch(told["SubscribeURL"])

    def read(self, callback: Callback) -> list[Word]:
        told = _envelope(callback)
        if told.get("Type") != "Notification":
            return []
        try:
            event = mapping(orjson.loads(told.get("Message", "")))
        except ValueError:
            return []  # SNS itself says in plain words that a subscription works
        receipt = _receipt(event)
        return [] if receipt is None else [receipt]

    def once(self, callback: Callback) -> str | None:
        return None


def _envelope(callback: Callback) -> dict[str, str]:
    told = callback.json()
    if not isinstance(told, dict):
        raise Unclear("the body is not an object")
    return {name: value for name, value in told.items() if isinstance(value, str)}


def _receipt(event: dict[str, Any]) -> Receipt | None:
    name, mail = event.get("eventType") or event.get("notificationType"), mapping(event.get("mail"))
    state = STATES.get(name) if isinstance(name, str) else None
    tags = mapping(mail.get("tags")).get("carillon")
    reference = text(tags[0]) if isinstance(tags, list) and tags else None
    if reference is None or state is None or not isinstance(name, str):
        return None
    part = mapping(event.get(_PARTS[name]))
    code = said = None
    if name == "Bounce":
        if part.get("bounceType") == "Permanent":
            state = State.BOUNCED
        code = "/".join(filter(None, (text(part.get("bounceType")), text(part.get("bounceSubType")))))
        recipients = part.get("bouncedRecipients")
        first = mapping(recipients[0]) if isinstance(recipients, list) and recipients else {}
        said = text(first.get("diagnosticCode"))
    elif name == "Complaint":
        code = text(part.get("complaintFeedbackType")) or text(part.get("complaintSubType"))
    elif name == "Reject":
        said = text(part.get("reason"))
    elif name == "Rendering Failure":
        said = text(part.get("errorMessage"))
    at = _moment(part.get("timestamp") or mail.get("timestamp"))
    return Receipt(reference.replace("_", "."), state, at, text(mail.get("messageId")), code or None, said)


def _moment(told: Any) -> int | None:
    try:
        return int(datetime.fromisoformat(told).timestamp() * 1000)
    except (TypeError, ValueError, OverflowError):
        return None
