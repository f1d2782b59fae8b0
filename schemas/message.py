"""What travels on the channel topics: one rendered message for one target. Every retry sends these bytes."""

from schemas.base import Record
from schemas.kinds import Channel, Doubt, Priority
from schemas.notification import EventRef


class Message(Record, frozen=True, kw_only=True, tag_field="v", tag=1):
    """One message. `target` is the address, token or URL; `at` the broker's time of its planning, in ms.

    `platform` and `keys` are a device's. `has_fallback`: core is to hear if it fails. `attachments` are
    ids, of e-mails alone; what stands under an id never changes.
    `unsubscribe`: the URL at which an e-mail's reader wants no more of its kind, by one POST (RFC 8058).
    `mandatory`: no wish of the user's stands against it; `broadcast`: the one that told it.
    """

    id: str
    step: str
    user_id: str
    channel: Channel
    target: str
    target_id: str
    subject: str | None = None
    text: str
    html: str | None = None
    event: EventRef
    event_at: int
    at: int
    category: str
    priority: Priority
    doubt: Doubt
    expires_at: int | None = None
    has_fallback: bool | None = None
    platform: str | None = None
    keys: dict[str, str] | None = None
    attachments: tuple[str, ...] | None = None
    unsubscribe: str | None = None
    mandatory: bool | None = None
    broadcast: str | None = None


class Stop(Record, frozen=True, kw_only=True, tag_field="v", tag=2):
    """What travels beside messages on the express topics: some that wait are not to be sent any more.

    `kind`: of those of a user that were planned up to `at` (the broker's time in ms) all (user), those on
    this channel (channel), of categories or to targets (`names`; a target may be of one category); of
    whomever, those to a phone number; or, whenever they were planned, those of one `id` (notification,
    broadcast). `reason`: what became of a target; `event`: of what is cancelled.
    """

    kind: str
    user_id: str
    channel: Channel
    at: int
    names: tuple[str, ...] | None = None
    id: str | None = None
    reason: str | None = None
    event: EventRef | None = None


NOTIFICATION, BROADCAST = "notification", "broadcast"
USER, CHANNEL, CATEGORY, TARGET, NUMBER = "user", "channel", "category", "target", "number"
"""The kinds of stops."""


class ChannelContent(Record, frozen=True, kw_only=True):
    """What was rendered for one channel."""

    subject: str | None = None
    text: str
    html: str | None = None


class Contents(Record, frozen=True, kw_only=True, tag_field="v", tag=1):
    """What travels on `contents`: the rendered content of a notification, once."""

    notification_id: str
    user_id: str
    channels: dict[Channel, ChannelContent]
