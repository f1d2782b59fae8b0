"""Gathering: notifications of one user, workflow and key go into one digest, which is a notification itself.

A digest opens with its first item and closes when its window is over (the step `collect`, which comes up by
itself) or when it is full (with its last item). Closing publishes the step `digest` with all items inside;
the unit that plans it forgets their rows. Until then whoever closed it can publish the same again. An item
too large to be stored is a digest of its own, closed at once.
"""

from typing import TYPE_CHECKING, Any

import msgspec

from agents import topics
from agents.sending import RANKS, Send
from schemas.base import encode
from schemas.ids import notification_id, user_hash
from schemas.kinds import Reason, State
from schemas.notification import COLLECT, DIGEST, EventRef, Gathering, Notification
from tables import digests, effects, waits
from tables.claims import Instead
from tables.digests import Gathered
from tables.rows import Rows

if TYPE_CHECKING:
    from agents.plan import Work

SOURCE = "carillon:digest"
MAX_ITEM_BYTES = 100_000
MAX_DIGEST_BYTES = 400_000
"""Of the items' data; a digest that has so much is full."""


def add(notification: Notification, now: int, work: "Work") -> Instead:
    """Puts a notification into the digest that gathers for it, one too large into a digest of its own."""
    rule, rows = notification.digest, work.rows
    assert rule is not None
    item = encode({"id": notification.id, "data": notification.variables})
    own = notification_id(notification.user_id, SOURCE, notification.id, "")
    if len(item) > MAX_ITEM_BYTES:
        return Instead(State.DIGESTED, Reason.IN_DIGEST, rule.key, digest=own, flushes=True, alone=True)
    row = _row(notification, rule)
    gathered = digests.find(rows, row)
    if gathered is None:
        gathered = Gathered(own, 0, 0)
        work.wait(
            effects.effect(gathered.id, COLLECT, ""), now + rule.window,
            _of_digest(notification, rule, gathered.id, COLLECT, now, {"key": rule.key}),
        )  # fmt: skip
    n = gathered.count
    digests.put_item(rows, gathered.id, n, item)
    gathered = Gathered(gathered.id, n + 1, gathered.size + len(item))
    is_full = gathered.count >= rule.flush_at or gathered.size >= MAX_DIGEST_BYTES
    if is_full:
        rows.delete(row)
        waits.drop(rows, effects.effect(gathered.id, COLLECT, ""))
    else:
        digests.put(rows, row, gathered)
    return Instead(State.DIGESTED, Reason.IN_DIGEST, rule.key, digest=gathered.id, n=n, flushes=is_full)


def close(collecting: Notification, rows: Rows) -> Instead:
    """Ends the gathering of the digest whose window is over."""
    assert collecting.digest is not None
    row = _row(collecting, collecting.digest)
    gathered = digests.find(rows, row)
    if gathered is not None and gathered.id == collecting.id:
        rows.delete(row)
    return Instead(State.ACCEPTED, Reason.IN_DIGEST, digest=collecting.id, flushes=True)


def whole(notification: Notification, closed: Instead, at: int, rows: Rows) -> Send:
    """The record of a closed digest, items and all; the same bytes as long as it is not planned."""
    rule, digest = notification.digest, closed.digest
    assert rule is not None and digest is not None
    if closed.alone:
        items = [notification.variables]
    else:
        items = [item["data"] for item in digests.items(rows, digest)]
    variables = {"key": rule.key, "count": len(items), "items": items}
    found = _of_digest(notification, rule, digest, DIGEST, at, variables)
    found = msgspec.structs.replace(found, digest=None)
    topic = topics.NOTIFICATION_LANES[found.priority]
    key = found.user_id.encode()
    return Send(topic, key, encode(found), user_hash(found.user_id), RANKS[found.priority])


def forget(digest: Notification, rows: Rows) -> None:
    """Forgets the items of a digest that is planned."""
    digests.drop(rows, digest.id)


def _row(notification: Notification, rule: Gathering) -> bytes:
    return digests.key(notification.user_id, notification.workflow, rule.key)


def _of_digest(
    item: Notification, rule: Gathering, digest: str, step: str, at: int, variables: dict[str, Any]
) -> Notification:
    return msgspec.structs.replace(
        item, id=digest, step=step, event=EventRef(source=SOURCE, id=digest, type=item.event.type),
        event_at=at, position=f"digest:{digest}", template=rule.template or item.template, content=None,
        variables=variables, scheduled_at=None, waited_for=None, expires_at=None, metadata=None,
        broadcast=None, attachments=None,
    )  # fmt: skip
