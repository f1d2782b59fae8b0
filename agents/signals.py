"""Signals: what core is told of a notification by others, on the same topic and in the same order."""

from collections.abc import Sequence

from agents import broadcast, plan, stops, topics
from agents.plan import Work
from agents.sending import Send
from schemas.ids import hash_in, packed, partition_of, user_hash
from schemas.kinds import Channel, Reason, State
from schemas.notification import (
    CANCEL,
    CANCEL_BROADCAST,
    COLLECT,
    DEAD_DEVICE,
    ESCALATE,
    FAILED,
    LIFT,
    PLAN,
    SEEN,
    SUPPRESS,
    EventRef,
    Notification,
    Signal,
)
from schemas.status import Status, rfc3339
from tables import claims, digests, people, suppressed, waits, watches
from tables.claims import Claim, Instead, Origin, Pinned
from tables.rows import Rows


def hear(signal: Signal, origin: Origin, work: Work) -> Sequence[Send]:
    """Does what a signal asks for; a repeat does nothing more, and an unknown kind nothing at all."""
    if signal.kind == CANCEL:
        return _cancel(signal, origin, work)
    if signal.kind == CANCEL_BROADCAST:
        return broadcast.cancel(signal, origin, work)
    if signal.kind == SEEN:
        for id in waits.beginning(work.rows, packed(signal.id) + ESCALATE.encode()):
            waits.drop(work.rows, id)
    elif signal.kind == FAILED:
        return _failed(signal, origin, work)
    elif signal.kind in (SUPPRESS, LIFT) and signal.channel is not None and signal.target_id is not None:
        return _suppress(signal, signal.channel, signal.target_id, origin, work)
    elif signal.kind == DEAD_DEVICE and signal.target_id is not None and signal.since is not None:
        people.drop_device(work.rows, signal.user_id, signal.target_id, signal.since)
    return ()


def _suppress(signal: Signal, channel: Channel, target_id: str, origin: Origin, work: Work) -> Sequence[Send]:
    """Suppresses an address, and stops what is on its way there; or lifts that. A repeat stops it again.

    Of a phone number every partition hears, and one of them tells the channel.
    """
    at = origin.at if signal.at is None else min(signal.at, origin.at)
    reason = (signal.reason or SUPPRESS) if signal.kind == SUPPRESS else None
    if not signal.user_id:
        suppressed.tell_number(work.rows, target_id, reason, at)
        now = suppressed.of_number(work.rows, target_id)
        here = partition_of(user_hash(target_id), work.policy.partitions) == origin.partition
        stop = stops.of_number(target_id, reason, origin.at) if here else None
    else:
        of = suppressed.name(channel, target_id, signal.category)
        suppressed.tell(work.rows, signal.user_id, of, reason, at)
        now = suppressed.of_user(work.rows, signal.user_id).get(of)
        stop = stops.of_target(signal.user_id, channel, target_id, signal.category, reason, origin.at)
    return () if stop is None or reason is None or now != (reason, at) else (stop,)


def _failed(signal: Signal, origin: Origin, work: Work) -> Sequence[Send]:
    """Where the last target of a step has failed, the chain goes on."""
    row = watches.key(signal.id, signal.step or "")
    watch = watches.find(work.rows, row)
    if watch is None:
        return ()
    target = f"{signal.channel}:{signal.target_id}"
    if target in watch.targets:
        watch = watches.failed(watch, target)
        watches.put(work.rows, row, watch)
    return () if watch.targets else plan.plan(Notification.from_json(watch.following), origin, work)


def _cancel(signal: Signal, origin: Origin, work: Work) -> Sequence[Send]:
    """Drops whatever waits, and stops what is queued: each channel says of that whether it was in time.

    One that comes first leaves its mark: the plan's claim, without a position.

    Whoever cancels may not know the user: the partition is the one that the id tells.
    """
    rows, key = work.rows, claims.key(signal.id, CANCEL)
    claim = claims.find(rows, key)
    if claim is None:
        first = claims.key(signal.id, PLAN)
        decided = claims.find(rows, first)
        instead = decided.instead if decided is not None else None
        if instead is not None and instead.state is State.CANCELLED:
            return ()
        if decided is None or decided.mendable:
            mark = Instead(State.CANCELLED, Reason.CANCELLED)
            claims.put(rows, first, Claim(origin, "", work.number, 0, (), instead=mark))
        if decided is None:
            return ()
        queued = stops.queued_on(rows, signal.id)
        in_time = _drop(signal.id, rows) or decided.mendable
        reason = Reason.CANCELLED if in_time else Reason.CANCELLED_TOO_LATE
        mark = Instead(State.CANCELLED, Reason.CANCEL_ASKED if queued else reason)
        pinned = tuple(Pinned(channel, None, mark.reason) for channel in queued)
        claim = Claim(origin, "", work.number, 0, pinned, instead=mark)
        claims.put(rows, key, claim)
    elif claim.origin != origin or claim.number <= work.mark:
        return ()
    status = Status(
        notification_id=signal.id, user_id=signal.user_id, state=State.CANCELLED,
        reason=claim.instead.reason if claim.instead else None, at=rfc3339(claim.origin.at),
        event_at=claim.origin.at,
        event=signal.event or EventRef(source=stops.SOURCE, id=signal.id, type=CANCEL),
    )  # fmt: skip
    told = Send(topics.DELIVERY_STATUS, signal.user_id.encode(), status.to_json(), hash_in(signal.id))
    return (told, *stops.of_notification(signal, (one.channel for one in claim.pinned), claim.origin.at))


def _drop(notification: str, rows: Rows) -> bool:
    """Drops what waits of a notification; says whether it was in time: nothing of it had been queued."""
    in_time = False
    for row, _ in list(rows.scan(watches.PREFIX + packed(notification))):
        rows.delete(row)  # what is queued may still fail, and its chain ends there
    for id in waits.beginning(rows, packed(notification)):
        waits.drop(rows, id)
        in_time = in_time or not id.startswith(packed(notification) + ESCALATE.encode())
    return _drop_from_digest(notification, rows) or in_time


def _drop_from_digest(notification: str, rows: Rows) -> bool:
    """Takes an item out of the digest that still gathers it; says whether it did."""
    step, claim = PLAN, claims.find(rows, claims.key(notification, PLAN))
    while claim is not None and claim.instead is not None and claim.instead.due is not None:
        step = plan.resumed(step)
        claim = claims.find(rows, claims.key(notification, step))
    gone_into = claim.instead if claim is not None else None
    if gone_into is None or gone_into.digest is None:
        return False
    if waits.find(rows, plan.wait_id(gone_into.digest, COLLECT)) is None:
        return False
    digests.drop_item(rows, gone_into.digest, gone_into.n)
    return True
