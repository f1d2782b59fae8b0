"""What travels on `notifications`: one recipient, one intent, one step."""

from typing import Any

from schemas.base import Record
from schemas.kinds import Channel, Doubt, Priority

PLAN = "plan"


class EventRef(Record, frozen=True, kw_only=True):
    """The domain event that something came from."""

    source: str
    id: str
    type: str


class Addresses(Record, frozen=True, kw_only=True):
    """Where a recipient is reached that a request names by address."""

    email: str | None = None
    phone: str | None = None
    slack: str | None = None
    webhook_url: str | None = None


class GivenContent(Record, frozen=True, kw_only=True):
    """Words that a request brings instead of a template."""

    subject: str | None = None
    body: str


class Notification(Record, frozen=True, kw_only=True, tag_field="v", tag=1):
    """Everything that planning needs beside its own state, so that a changed workflow changes no redelivery.

    `event_at` is the broker's time of the `events` record and `position` its place there, as
    topic-partition-offset. Times are milliseconds since the epoch.
    """

    id: str
    step: str
    user_id: str
    event: EventRef
    event_at: int
    position: str
    workflow: str
    category: str
    priority: Priority
    channels: tuple[Channel, ...]
    template: str | None = None
    content: GivenContent | None = None
    variables: dict[str, Any]
    contact: Addresses | None = None
    locale: str | None = None
    doubt: Doubt
    mandatory: bool
    expires_at: int | None = None
    generation: int
    metadata: dict[str, Any] | None = None
