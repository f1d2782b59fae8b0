"""Routing: what a plan came to becomes messages, contents and statuses, the same bytes at every redelivery."""

from collections.abc import Mapping, Sequence
from typing import Any

from agents import topics
from agents.sending import Send
from schemas.ids import masked, target_id
from schemas.kinds import Channel, State
from schemas.message import ChannelContent, Contents, Message
from schemas.notification import Notification
from schemas.status import Status, Verdict, rfc3339
from tables.claims import Pinned


def message(
    notification: Notification, pinned: Pinned, content: ChannelContent, at: int, key: bytes, hashed: int
) -> Send:
    """The message for one target of one channel."""
    channel = Channel(pinned.channel)
    target = pinned.target or ""
    found = Message.of(
        v=1, id=notification.id, step=notification.step, user_id=notification.user_id, channel=channel, target=target,
        target_id=target_id(target), subject=content.subject, text=content.text, html=content.html,
        event=notification.event, event_at=notification.event_at, at=at, category=notification.category,
        priority=notification.priority, doubt=notification.doubt, expires_at=notification.expires_at,
    )  # fmt: skip
    topic = topics.lane(topics.MESSAGES[channel], notification.priority)
    return Send(topic, key, found.to_json(), hashed)


def status(
    notification: Notification,
    state: State,
    at: int,
    key: bytes,
    hashed: int,
    *,
    channel: str | None = None,
    target: str | None = None,
    reason: str | None = None,
    detail: str | None = None,
    why: Sequence[Verdict] | None = None,
) -> Send:
    """One change of state; the first of a decision carries its why."""
    found = Status.of(
        v=1, notification_id=notification.id, user_id=notification.user_id, channel=channel,
        target=masked(target) if target else None, target_id=target_id(target) if target else None, state=state,
        reason=reason, detail=detail, at=rfc3339(at), event_at=notification.event_at, provider=None,
        provider_message_id=None, attempt=None, event=notification.event, workflow=notification.workflow,
        category=notification.category, priority=notification.priority, metadata=notification.metadata,
        why=tuple(why) if why else None,
    )  # fmt: skip
    return Send(topics.DELIVERY_STATUS, key, found.to_json(), hashed)


def contents(
    notification: Notification, by_channel: Mapping[str, ChannelContent], key: bytes, hashed: int
) -> Send:
    """The rendered content, once, for those who remember it."""
    channels: Any = by_channel
    found = Contents.of(
        v=1, notification_id=notification.id, user_id=notification.user_id, channels=channels
    )
    return Send(topics.CONTENTS, key, found.to_json(), hashed)
