"""What is told of a message after it was sent: by providers in their receipts, and by whoever reads it."""

import re

from schemas.base import Record
from schemas.ids import hash_in
from schemas.kinds import Channel, State


class Report(Record, frozen=True, kw_only=True, tag_field="v", tag=3):
    """One such word, on `contents`. `at` is the teller's own time in ms, left out where none was told.

    `provider` is left out where the reader told it: an open, a click, an unsubscription of ours. `detail`
    begins with the provider's own code; it never holds an address.
    """

    notification_id: str
    channel: Channel
    target_id: str
    step: str
    state: State
    reason: str | None = None
    at: int | None = None
    provider: str | None = None
    provider_message_id: str | None = None
    detail: str | None = None


class NotOurs(ValueError):
    """A reference that no message of ours has."""


_is_reference = re.compile(
    r"([0-9a-f-]{36})\.([0-9a-f]{12})(?:\.([a-z]+(?:-[0-9]+)?(?:\.[a-z]+-[0-9]+)*))?"
).fullmatch
_PLAN = "plan"


def referred(reference: str) -> tuple[str, str, str]:
    """The notification, target and step that a message's idempotency key names (agents/deliver.py).

    Raises NotOurs.
    """
    found = _is_reference(reference)
    if found is None:
        raise NotOurs("not of the form of our references")
    notification, target, step = found.groups()
    try:
        hash_in(notification)
    except ValueError:
        raise NotOurs("it names no notification") from None
    return notification, target, (step or _PLAN).replace(".", "/").replace("-", ":")
