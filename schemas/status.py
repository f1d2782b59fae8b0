"""What travels on `delivery-status`: every change of state, the public stream of outcomes."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from schemas.base import Record
from schemas.kinds import Channel, Priority, State
from schemas.notification import EventRef

STEP = "step"
"""The rule by which a decision says that it goes on from an earlier one: its verdict is the step."""


class Verdict(Record, frozen=True, kw_only=True):
    """One rule of a decision: what it looked at, and what it said."""

    rule: str
    saw: str | None = None
    verdict: str


class Status(Record, frozen=True, kw_only=True, tag_field="v", tag=1):
    """One change of state. `target` is masked; `at` is RFC 3339; `event_at` the event's broker time in ms.

    `code`: the vendor's own for how a call ended. `awaits_seen`: core is to hear when somebody has seen it.
    """

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
    priority: Priority | None = None
    metadata: dict[str, Any] | None = None
    variant: str | None = None
    awaits_seen: bool | None = None
    why: tuple[Verdict, ...] | None = None
    code: str | None = None


_EPOCH = datetime.fromtimestamp(0, UTC)
_LAST = 253_402_300_799_999
"""The last millisecond of the year 9999."""


def milliseconds(moment: str) -> int | None:
    """The milliseconds of an RFC 3339 time; None for what is none."""
    try:
        return (datetime.fromisoformat(moment) - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, TypeError, OverflowError):
        return None


@lru_cache(maxsize=1_024)
def rfc3339(milliseconds: int) -> str:
    """Milliseconds since the epoch as RFC 3339 in UTC.

    Total: a producer may stamp a record with any number; outside 1970 to 9999 it is the nearer end.
    """
    moment = _EPOCH + timedelta(milliseconds=min(max(milliseconds, 0), _LAST))
    return moment.isoformat(timespec="milliseconds")[:-6] + "Z"
