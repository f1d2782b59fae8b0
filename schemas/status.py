"""What travels on `delivery-status`: every change of state, the public stream of outcomes."""

from datetime import UTC, datetime
from typing import Any

from schemas.base import Frozen
from schemas.kinds import Channel, State
from schemas.notification import EventRef


class Verdict(Frozen):
    """One rule of a decision: what it looked at and what it said."""

    rule: str
    saw: str = ""
    verdict: str


class Status(Frozen):
    """One change of state. `target` is masked; `at` is RFC 3339; `event_at` the event's broker time in ms."""

    v: int = 1
    notification_id: str
    user_id: str
    channel: Channel | None = None
    target: str | None = None
    target_id: str | None = None
    state: State
    reason: str | None = None
    detail: str | None = None
    at: str
    event_at: int
    provider: str | None = None
    provider_message_id: str | None = None
    attempt: int | None = None
    event: EventRef
    workflow: str | None = None
    category: str | None = None
    priority: str | None = None
    metadata: dict[str, Any] | None = None
    why: tuple[Verdict, ...] | None = None


def rfc3339(milliseconds: int) -> str:
    """Milliseconds since the epoch as RFC 3339 in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
