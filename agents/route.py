"""Routing: what a plan came to becomes messages, contents and statuses, the same bytes at every redelivery.

The values are written as plain dicts, in the order of the models' fields: building and serialising a
model costs five times as much, and half of planning is this. A test holds them against the models.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from agents import topics
from agents.sending import Send
from schemas.ids import masked, target_id
from schemas.notification import Notification
from schemas.status import rfc3339

Words = Mapping[str, Any]
"""The rendered parts of one channel: subject and html may be missing, text never is."""


class Router:
    """Writes what one decision sends; `at` is the broker's time of the planning in ms."""

    __slots__ = ("at", "event", "hashed", "key", "notification", "told")

    def __init__(self, notification: Notification, at: int, hashed: int) -> None:
        self.notification, self.at, self.hashed = notification, at, hashed
        self.key = notification.user_id.encode()
        event = notification.event
        self.event = {"source": event.source, "id": event.id, "type": event.type}
        self.told = rfc3339(at)

    def message(self, channel: str, target: str, target_name: str, words: Words) -> Send:
        """The message for one target of one channel (schemas.message.Message)."""
        n = self.notification
        value: dict[str, Any] = {
            "v": 1, "id": n.id, "step": n.step, "user_id": n.user_id, "channel": channel, "target": target,
            "target_id": target_name, **words, "event": self.event, "event_at": n.event_at, "at": self.at,
            "category": n.category, "priority": n.priority, "doubt": n.doubt,
        }  # fmt: skip
        if n.expires_at is not None:
            value["expires_at"] = n.expires_at
        return Send(topics.message_lane(channel, n.priority), self.key, orjson.dumps(value), self.hashed)

    def status(
        self,
        state: str,
        *,
        channel: str | None = None,
        target: str | None = None,
        target_name: str | None = None,
        reason: str | None = None,
        detail: str | None = None,
        why: list[dict[str, str]] | None = None,
    ) -> Send:
        """One change of state (schemas.status.Status); the first of a decision carries its why."""
        n = self.notification
        value: dict[str, Any] = {"v": 1, "notification_id": n.id, "user_id": n.user_id}
        if channel is not None:
            value["channel"] = channel
        if target is not None:
            value["target"] = masked(target)
            value["target_id"] = target_name or target_id(target)
        value["state"] = state
        if reason is not None:
            value["reason"] = reason
        if detail is not None:
            value["detail"] = detail
        value |= {
            "at": self.told, "event_at": n.event_at, "event": self.event, "workflow": n.workflow,
            "category": n.category, "priority": n.priority,
        }  # fmt: skip
        if n.metadata is not None:
            value["metadata"] = n.metadata
        if why is not None:
            value["why"] = why
        return Send(topics.DELIVERY_STATUS, self.key, orjson.dumps(value), self.hashed)

    def contents(self, by_channel: Mapping[str, Words]) -> Send:
        """The rendered content, once, for those who remember it (schemas.message.Contents)."""
        n = self.notification
        value = {"v": 1, "notification_id": n.id, "user_id": n.user_id, "channels": by_channel}
        return Send(topics.CONTENTS, self.key, orjson.dumps(value), self.hashed)
