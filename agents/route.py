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
    """Writes what one decision about one notification sends; `at` is the broker's time of its planning in ms.

    What every record of a kind shares is serialised once and put between its own parts.
    """

    __slots__ = (
        "_message_head",
        "_message_tail",
        "_status_head",
        "_status_tail",
        "hashed",
        "key",
        "notification",
    )

    def __init__(self, notification: Notification, at: int, hashed: int) -> None:
        n = self.notification = notification
        self.hashed = hashed
        self.key = n.user_id.encode()
        event = {"source": n.event.source, "id": n.event.id, "type": n.event.type}
        self._message_head = (
            orjson.dumps({"v": 1, "id": n.id, "step": n.step, "user_id": n.user_id})[:-1] + b","
        )
        tail: dict[str, Any] = {
            "event": event, "event_at": n.event_at, "at": at, "category": n.category, "priority": n.priority,
            "doubt": n.doubt,
        }  # fmt: skip
        if n.expires_at is not None:
            tail["expires_at"] = n.expires_at
        self._message_tail = b"," + orjson.dumps(tail)[1:]
        self._status_head = orjson.dumps({"v": 1, "notification_id": n.id, "user_id": n.user_id})[:-1] + b","
        told: dict[str, Any] = {
            "at": rfc3339(at), "event_at": n.event_at, "event": event, "workflow": n.workflow,
            "category": n.category, "priority": n.priority,
        }  # fmt: skip
        if n.metadata is not None:
            told["metadata"] = n.metadata
        self._status_tail = b"," + orjson.dumps(told)[1:]

    def message(self, channel: str, target: str, target_name: str, words: Words) -> Send:
        """The message for one target of one channel (schemas.message.Message)."""
        own = orjson.dumps({"channel": channel, "target": target, "target_id": target_name, **words})[1:-1]
        value = b"".join((self._message_head, own, self._message_tail))
        return Send(topics.message_lane(channel, self.notification.priority), self.key, value, self.hashed)

    def status(
        self,
        state: str,
        channel: str | None = None,
        target: str | None = None,
        target_name: str | None = None,
        *,
        reason: str | None = None,
        detail: str | None = None,
        why: bytes | None = None,
    ) -> Send:
        """One change of state (schemas.status.Status); the first of a decision carries its why, as JSON."""
        own: dict[str, Any] = {}
        if channel is not None:
            own["channel"] = channel
        if target is not None:
            own["target"] = masked(target)
            own["target_id"] = target_name or target_id(target)
        own["state"] = state
        if reason is not None:
            own["reason"] = reason
        if detail is not None:
            own["detail"] = detail
        value = b"".join((self._status_head, orjson.dumps(own)[1:-1], self._status_tail))
        if why is not None:
            value = b"".join((value[:-1], b',"why":', why, b"}"))
        return Send(topics.DELIVERY_STATUS, self.key, value, self.hashed)

    def contents(self, by_channel: Mapping[str, Words]) -> Send:
        """The rendered content, once, for those who remember it (schemas.message.Contents)."""
        n = self.notification
        value = {"v": 1, "notification_id": n.id, "user_id": n.user_id, "channels": by_channel}
        return Send(topics.CONTENTS, self.key, orjson.dumps(value), self.hashed)
