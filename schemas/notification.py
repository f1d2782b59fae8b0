"""What travels on `notifications`: one recipient, one intent, one step."""

from typing import Any

from schemas.base import Record
from schemas.kinds import Channel, Doubt, Priority

PLAN, DIGEST, COLLECT = "plan", "digest", "collect"
RESUME, FALLBACK, ESCALATE = "resume:", "fallback:", "escalate:"
"""Steps; those that end in a colon have a number behind it."""
CANCEL, SEEN, FAILED, SUPPRESS, LIFT = "cancel", "seen", "failed", "suppress", "lift"
CANCEL_BROADCAST, DEAD_DEVICE = "cancel_broadcast", "dead_device"
"""The kinds of signals."""


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


class Gathering(Record, frozen=True, kw_only=True):
    """How notifications are gathered into one: those of `key`, for `window` ms, `flush_at` at the most."""

    key: str
    window: int
    flush_at: int
    template: str | None = None


class Escalation(Record, frozen=True, kw_only=True):
    """Where to go on if it was not seen within `after` ms of its queueing."""

    after: int
    channels: tuple[Channel, ...]


class Limit(Record, frozen=True, kw_only=True):
    """At most `limit` of a workflow to a user in each `per` ms."""

    limit: int
    per: int


class Notification(Record, frozen=True, kw_only=True, tag_field="v", tag=1):
    """Everything that planning needs beside its own state, so that a changed workflow changes no redelivery.

    `event_at` is the broker's time of the `events` record and `position` its place there, as
    topic-partition-offset. `fallback` are the channels to try, one after the other, when none of
    `channels` can be told or all of them have failed. Times are milliseconds since the epoch.
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
    scheduled_at: int | None = None
    digest: Gathering | None = None
    fallback: tuple[Channel, ...] | None = None
    escalate: tuple[Escalation, ...] | None = None
    throttle: Limit | None = None
    waited_for: str | None = None
    broadcast: str | None = None
    attachments: tuple[str, ...] | None = None


class Signal(Record, frozen=True, kw_only=True, tag_field="v", tag=2):
    """What core is told of a notification by others: that it is cancelled, was seen, or failed at a target.

    `kind`: cancel, seen, failed; or suppress and lift, which are of an address of the user's rather than of
    the notification, and of one `category` alone if there is one; or cancel_broadcast, which goes to every
    partition and whose `id` is the broadcast's. A suppress or lift without a user is of a phone number (its
    `target_id` is `phone_id`), whoever has it, and goes to every partition too. `step` is that of the message
    that failed. `at` (ms): when it was so, if that is not when it was told. dead_device: the device of
    `target_id` takes nothing any more, `since` (ms).
    """

    kind: str
    id: str
    user_id: str
    channel: Channel | None = None
    target_id: str | None = None
    step: str | None = None
    reason: str | None = None
    event: EventRef | None = None
    category: str | None = None
    at: int | None = None
    since: int | None = None


class FanOut(Record, frozen=True, kw_only=True, tag_field="v", tag=3):
    """The n-th step of telling a segment in one partition: each member there behind `after` gets the pattern.

    `pattern` is a notification without id and user, of a workflow whose immutable id is `workflow_id`.
    `rule` is the segment's as it was when the event came in, None where there was none; `after` is the user
    id at which the last step ended.
    """

    id: str
    n: int
    segment: str
    rule: str | None = None
    after: bytes | None = None
    workflow_id: str
    pattern: Notification
