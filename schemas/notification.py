"""What travels on `notifications`: one recipient, one intent, one step."""

from typing import Any

from pydantic import ConfigDict

from schemas.base import Frozen
from schemas.event import Contact, DirectContent
from schemas.kinds import Channel, Doubt, Priority

PLAN = "plan"


class EventRef(Frozen):
    """The domain event that something came from."""

    source: str
    id: str
    type: str


class Notification(Frozen):
    """Everything that planning needs beside its own state, so that a changed workflow changes no redelivery.

    `event_at` is the broker's time of the `events` record and `position` its place there, as
    topic-partition-offset. Times are milliseconds since the epoch. The enums' values are held as plain text:
    a member's every use costs more than all of the rest.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", use_enum_values=True)

    v: int = 1
    id: str
    step: str = PLAN
    user_id: str
    event: EventRef
    event_at: int
    position: str
    workflow: str
    category: str
    priority: Priority
    channels: tuple[Channel, ...]
    template: str | None = None
    content: DirectContent | None = None
    variables: dict[str, Any]
    contact: Contact | None = None
    locale: str | None = None
    doubt: Doubt = Doubt.AT_LEAST_ONCE
    mandatory: bool = False
    expires_at: int | None = None
    generation: int = 0
    metadata: dict[str, Any] | None = None
