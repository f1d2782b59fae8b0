"""Routing: what a plan came to becomes messages, contents and statuses, the same bytes every time."""

from collections.abc import Mapping

from agents import topics
from agents.sending import RANKS, Send
from schemas.base import encode
from schemas.ids import masked, target_id, user_hash
from schemas.kinds import Channel, Reason, State
from schemas.message import ChannelContent, Contents, Message
from schemas.notification import ESCALATE, Notification
from schemas.status import Status, Verdict, rfc3339
from tables.claims import Pinned


class Router:
    """Writes what one decision about a notification sends; `at` is the broker's time of it in ms."""

    __slots__ = ("at", "hashed", "key", "notification")

    def __init__(self, notification: Notification, at: int) -> None:
        self.notification, self.at = notification, at
        self.key, self.hashed = notification.user_id.encode(), user_hash(notification.user_id)

    def queued(
        self,
        pinned: Pinned,
        words: ChannelContent,
        why: tuple[Verdict, ...] | None = None,
        *,
        has_fallback: bool | None = None,
        variant: str | None = None,
        unsubscribe: str | None = None,
    ) -> tuple[Send, Send]:
        """The message for one target of one channel, and the status that says so."""
        channel, target, device = pinned.channel, pinned.target or "", pinned.device
        n, name = self.notification, target_id(target)
        message = Message(
            id=n.id, step=n.step, user_id=n.user_id, channel=channel, target=target, target_id=name,
            subject=words.subject, text=words.text, html=words.html, event=n.event, event_at=n.event_at,
            at=self.at, category=n.category, priority=n.priority, doubt=n.doubt, expires_at=n.expires_at,
            has_fallback=has_fallback, platform=device.platform if device else None,
            keys=(device.keys or None) if device else None, mandatory=n.mandatory or None,
            broadcast=n.broadcast, attachments=n.attachments if channel is Channel.EMAIL else None,
            unsubscribe=unsubscribe,
        )  # fmt: skip
        status = Status(
            notification_id=n.id, user_id=n.user_id, channel=channel, target=masked(target), target_id=name,
            state=State.QUEUED, reason=self._because(channel), at=rfc3339(self.at), event_at=n.event_at,
            event=n.event, workflow=n.workflow, category=n.category, priority=n.priority, metadata=n.metadata,
            variant=variant, awaits_seen=True if n.escalate else None, why=why,
        )  # fmt: skip
        lane = topics.MESSAGE_LANES[channel, n.priority]
        return (
            Send(lane, self.key, encode(message), self.hashed, RANKS[n.priority]),
            Send(topics.DELIVERY_STATUS, self.key, encode(status), self.hashed),
        )

    def _because(self, channel: Channel) -> Reason | None:
        """Why a channel is used that was not the first choice."""
        n = self.notification
        if n.step.startswith(ESCALATE):
            return Reason.ESCALATED
        return None if channel in n.channels else Reason.FALLBACK

    def status(
        self,
        state: State,
        channel: Channel | None = None,
        *,
        reason: str | None = None,
        detail: str | None = None,
        why: tuple[Verdict, ...] | None = None,
    ) -> Send:
        """Any other change of state; the first of a decision carries its why."""
        n = self.notification
        status = Status(
            notification_id=n.id, user_id=n.user_id, channel=channel, state=state, reason=reason,
            detail=detail, at=rfc3339(self.at), event_at=n.event_at, event=n.event, workflow=n.workflow,
            category=n.category, priority=n.priority, metadata=n.metadata, why=why,
        )  # fmt: skip
        return Send(topics.DELIVERY_STATUS, self.key, encode(status), self.hashed)

    def contents(self, by_channel: Mapping[Channel, ChannelContent]) -> Send:
        """The rendered content, once, for those who remember it."""
        n = self.notification
        contents = Contents(notification_id=n.id, user_id=n.user_id, channels=dict(by_channel))
        return Send(topics.CONTENTS, self.key, encode(contents), self.hashed)
