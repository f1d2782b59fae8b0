"""Signals: what core is told of a notification by others, on the same topic and in the same order."""

from collections.abc import Sequence

from agents import broadcast, plan, topics
from agents.plan import Work
from agents.sending import Send
from schemas.ids import hash_in, packed
from schemas.kinds import Reason, State
from schemas.notification import (
    CANCEL,
    CANCEL_BROADCAST,
    COLLECT,
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
from tables import claims, digests, suppressed, waits, watches
from tables.claims import Claim, Instead, Origin
from tables.rows import Rows

SOURCE = "carillon:cancel"


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
        at = origin.at if signal.at is None else min(signal.at, origin.at)
        _suppress(signal, at, work.rows)
    return ()


def _suppress(signal: Signal, at: int, rows: Rows) -> None:
    reason = (signal.reason or SUPPRESS) if signal.kind == SUPPRESS else None
    if not signal.user_id:
        suppressed.tell_number(rows, signal.target_id or "", reason, at)
    elif signal.channel is not None:
        of = suppressed.name(signal.channel, signal.target_id or "", signal.category)
        suppressed.tell(rows, signal.user_id, of, reason, at)


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
    """Drops whatever waits. One that comes first leaves its mark: the plan's claim, without a position.

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
        in_time = _drop(signal.id, rows) or decided.mendable
        reason = Reason.CANCELLED if in_time else Reason.CANCELLED_TOO_LATE
        claim = Claim(origin, "", work.number, 0, (), instead=Instead(State.CANCELLED, reason))
        claims.put(rows, key, claim)
    elif claim.origin != origin or claim.number <= work.mark:
        return ()
    status = Status(
        notification_id=signal.id, user_id=signal.user_id, state=State.CANCELLED,
        reason=claim.instead.reason if claim.instead else None, at=rfc3339(claim.origin.at),
        event_at=claim.origin.at, event=signal.event or EventRef(source=SOURCE, id=signal.id, type=CANCEL),
    )  # fmt: skip
    return (Send(topics.DELIVERY_STATUS, signal.user_id.encode(), status.to_json(), hash_in(signal.id)),)


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
