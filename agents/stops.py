"""Stops: core tells channels what is not to be sent any more; a channel keeps it, and asks before each call.

Read from the express channel topics, beside messages. What was planned later was decided with it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from agents import topics
from agents.sending import RANKS, Send
from schemas.base import RecordUnreadable, encode, problem
from schemas.ids import hash_in, packed, user_hash
from schemas.kinds import Channel, Priority, Reason, State
from schemas.message import (
    BROADCAST,
    CATEGORY,
    CHANNEL,
    NOTIFICATION,
    NUMBER,
    TARGET,
    USER,
    Message,
    Stop,
)
from schemas.notification import CANCEL, EventRef, Signal
from schemas.status import Status, rfc3339
from tables import claims, effects, stops
from tables.effects import Result
from tables.people import Wishes
from tables.rows import Rows
from tables.stops import Closed, Stopped

SOURCE = "carillon:cancel"
"""The source of the event of a cancel that does not know the notification's."""

What = tuple[Channel, str, tuple[str, ...]]
"""What is closed: on which channel, of which kind (schemas/message.py), and its names."""

_read: Callable[[bytes], Message | Stop] = msgspec.json.Decoder(Message | Stop).decode


def read(value: bytes | None) -> Message | Stop:
    """Reads a record of a channel topic. Raises RecordUnreadable, which names the field."""
    try:
        return _read(value or b"")
    except (ValueError, RecursionError) as error:
        raise RecordUnreadable(problem(error)) from None


# -- core


def _send(stop: Stop, hashed: int | None) -> Send:
    """A stop goes ahead of whatever waits; without a hash, to every partition."""
    topic = topics.MESSAGE_LANES[stop.channel, Priority.CRITICAL]
    key = (stop.user_id or stop.id or "").encode()
    return Send(topic, key, encode(stop), hashed, RANKS[Priority.CRITICAL], everywhere=hashed is None)


def of_person(
    person: bytes, user_id: str, at: int, what: Iterable[What],
    rows: Rows, number: int, mark: int,
) -> list[Send]:  # fmt: skip
    """Stops what a record of a person, of the broker's time `at`, closes; `person` is the key of its row.

    The same again where the record is redelivered and they may not be out: `number` is the unit's, `mark` the
    highest whose outputs are all out.
    """
    new, known = tuple(what), stops.closed(rows, person)
    if known is not None and known.at == at:
        if known.number <= mark and not new:
            return []
        new = tuple(dict.fromkeys((*known.what, *new)))
    if not new:
        return []
    if known is None or known.what != new or known.at != at:
        stops.put_closed(rows, person, Closed(at, number, new))
    return [
        _send(
            Stop(kind=kind, user_id=user_id, channel=channel, at=at, names=names or None), user_hash(user_id)
        )
        for channel, kind, names in new
    ]


EVERYTHING: Sequence[What] = tuple((channel, USER, ()) for channel in Channel)
"""What an erasure closes."""


def newly_closed(before: Wishes, after: Wishes) -> list[What]:
    """What a user does not want any more, channel by channel."""
    found: list[What] = []
    for channel in Channel:
        if not after.channels.get(channel, True) and before.channels.get(channel, True):
            found.append((channel, CHANNEL, ()))
        names = tuple(
            sorted(
                category
                for category, wanted in after.categories.items()
                if not wanted.get(channel, True) and before.categories.get(category, {}).get(channel, True)
            )
        )
        if names:
            found.append((channel, CATEGORY, names))
    return found


def of_target(
    user_id: str, channel: Channel, target_id: str, category: str | None, reason: str | None, at: int
) -> Send:
    """Stops what is for an address that is not to be used any more, or for nothing of one category."""
    names = (stops.target(target_id, category),)
    stop = Stop(kind=TARGET, user_id=user_id, channel=channel, at=at, names=names, reason=reason)
    return _send(stop, user_hash(user_id))


def of_number(phone_id: str, reason: str | None, at: int) -> Send:
    """Stops what is for a phone number, whoever has it: in every partition."""
    stop = Stop(kind=NUMBER, user_id="", channel=Channel.SMS, at=at, names=(phone_id,), reason=reason)
    return _send(stop, None)


def of_notification(signal: Signal, channels: Iterable[Channel], at: int) -> list[Send]:
    """Stops a notification that was cancelled, where it was queued."""
    return [
        _send(
            Stop(
                kind=NOTIFICATION, user_id=signal.user_id, channel=channel, at=at, id=signal.id,
                event=signal.event,
            ),
            hash_in(signal.id),
        )
        for channel in channels
    ]  # fmt: skip


def of_broadcast(broadcast: str, at: int) -> list[Send]:
    """Stops whatever a broadcast told, wherever it is."""
    return [
        _send(Stop(kind=BROADCAST, user_id="", channel=channel, at=at, id=broadcast), None)
        for channel in Channel
    ]


def queued_on(rows: Rows, notification: str) -> list[Channel]:
    """The channels that any step of a notification was queued on."""
    found: set[Channel] = set()
    for key, _ in rows.scan(claims.PREFIX + packed(notification)):
        claim = claims.find(rows, key)
        if claim is not None:
            found.update(one.channel for one in claim.pinned if one.target is not None)
    return [channel for channel in Channel if channel in found]


# -- a channel


def hear(stop: Stop, rows: Rows) -> list[Send]:
    """Keeps a stop. Of a cancel it says what came too late: what had been called already."""
    stops.put(rows, stop)
    if stop.kind != NOTIFICATION or stop.id is None or (known := of_cancel(rows, stop.id)) is None:
        return []
    sends = []
    for effect in effects.of_notification(rows, stop.id):
        last = effects.last_attempt(rows, effect)
        result = effects.result(rows, effect, last.n) if last is not None else None
        if result is not None:
            sends += too_late(known, effects.target_of(effect), result)
    return sends


def of_cancel(rows: Rows, notification: str) -> Stop | None:
    """The stop of a notification that was cancelled, or None."""
    return stops.of_id(rows, NOTIFICATION, notification)


def too_late(stop: Stop, target_id: str, result: Result) -> list[Send]:
    """Says that a cancel came too late for a target, where it did: what was surely not sent is in time."""
    if result.kind in effects.UNSENT:
        return []
    status = Status(
        notification_id=stop.id or "", user_id=stop.user_id, channel=stop.channel, target_id=target_id,
        state=State.CANCELLED, reason=Reason.CANCELLED_TOO_LATE, at=rfc3339(stop.at), event_at=stop.at,
        attempt=result.n, event=stop.event or EventRef(source=SOURCE, id=stop.id or "", type=CANCEL),
    )  # fmt: skip
    return [Send(topics.DELIVERY_STATUS, stop.user_id.encode(), encode(status), hash_in(stop.id or ""))]


VERDICTS: Mapping[str, tuple[State, Reason]] = {
    NOTIFICATION: (State.CANCELLED, Reason.CANCELLED),
    BROADCAST: (State.CANCELLED, Reason.CANCELLED),
    USER: (State.SUPPRESSED, Reason.USER_ERASED),
    CHANNEL: (State.SUPPRESSED, Reason.CHANNEL_OPTED_OUT),
    CATEGORY: (State.SUPPRESSED, Reason.CATEGORY_OPTED_OUT),
    TARGET: (State.SUPPRESSED, Reason.ADDRESS_SUPPRESSED),
    NUMBER: (State.SUPPRESSED, Reason.ADDRESS_SUPPRESSED),
}
"""What becomes of a message by the kind of what stands against it."""


def saw(stopped: Stopped, channel: Channel) -> str | None:
    """What the gate saw, in the words of the rules (agents/rules.py)."""
    if stopped.kind == CHANNEL:
        return f"channels.{channel}: false"
    return f"categories.{stopped.name}.{channel}: false" if stopped.kind == CATEGORY else stopped.reason


def goes_on(stopped: Stopped) -> bool:
    """Whether a chain goes on elsewhere: as in planning where a channel is closed; what is cancelled ends."""
    return stopped.kind in (CHANNEL, CATEGORY, TARGET, NUMBER)
