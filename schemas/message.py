"""What travels on the channel topics: one rendered message for one target. Every retry sends these bytes."""

from schemas.base import Frozen
from schemas.kinds import Channel, Doubt, Priority
from schemas.notification import PLAN, EventRef


class Message(Frozen):
    """One message. `target` is the address, token or URL; `at` the broker's time of its planning, in ms."""

    v: int = 1
    id: str
    step: str = PLAN
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


class ChannelContent(Frozen):
    """What was rendered for one channel."""

    subject: str | None = None
    text: str
    html: str | None = None


class Contents(Frozen):
    """What travels on `contents`: the rendered content of a notification, once."""

    v: int = 1
    notification_id: str
    user_id: str
    channels: dict[Channel, ChannelContent]
