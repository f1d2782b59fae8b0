"""Broadcast: reads fan-outs on `notifications`, tells the members of a segment that live in the partition.

One step looks at one page of users and lets the next come up by itself, with the place in it where this one
ended: whoever owns the partition goes on there. A page that may not be out is told again as it was told.
Writes `notifications` (one a member), `contents` (how far it is) and, of what failed, `delivery-status`;
state: users, claims, waits, cursors.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from agents import stops, topics
from agents.plan import MAX_DETAIL, Work, wait_id
from agents.route import Router
from agents.sending import RANKS, Send
from schemas.base import encode
from schemas.broadcast import Progress, Stage
from schemas.ids import hash_in, notification_id, packed, partition_of, user_hash
from schemas.kinds import Reason, State
from schemas.notification import CANCEL_BROADCAST, EventRef, FanOut, Notification, Signal
from schemas.segment import Program, RuleBroken, program
from tables import broadcasts, claims, people, waits
from tables.broadcasts import Cursor
from tables.claims import Claim, Instead, Note, Origin

STEP = "fan-out:"
MAX_PAGE_BYTES = 4_000_000
"""What one step reads and sends; it always looks at one user."""
MAX_USER_BYTES = 64_000
"""Of a user of whom a rule is asked: what a rule can cost grows with it."""
MENDED = "mended"


def step(n: int) -> str:
    """The name under which the n-th step is claimed, and waits."""
    return f"{STEP}{n}"


def fan_out(record: FanOut, origin: Origin, work: Work, due: int | None = None) -> Sequence[Send]:
    """Claims the step and tells its page; `due` is the moment that the record carries if it waited for it.

    What is sent when it comes again is what was sent, as far as that may not be out.
    """
    key = claims.key(record.id, step(record.n))
    claim = claims.find(work.rows, key)
    if claim is None and due is None and record.pattern.event_at < work.oldest:
        return _too_old(record, origin, key, work)
    if claim is None or claim.mendable:
        if due is not None and claim is None and not _was_waiting(record, due, work):
            return ()  # cancelled since, or a copy of what came already
        return _decide(record, origin, key, work, claim)
    if claim.origin == origin:
        return _emit(record, claim, work) if claim.number > work.mark else ()
    if claim.cancelled_first:
        return _call_off(record, origin, key, work)
    if due is not None or claim.position == record.pattern.position or not _is_home(record.id, origin, work):
        return ()
    pattern = record.pattern
    return (_tell(record, pattern.event_at, State.DUPLICATE, Reason.ALREADY_PLANNED, pattern.position),)


def _too_old(record: FanOut, origin: Origin, key: bytes, work: Work) -> Sequence[Send]:
    """Claims that nobody is told: whoever was told of it before is forgotten."""
    instead = Instead(State.TOO_OLD, Reason.TOO_OLD)
    claims.put(work.rows, key, Claim(origin, record.pattern.position, work.number, 0, (), instead=instead))
    return (_tell(record, origin.at, State.TOO_OLD, Reason.TOO_OLD),)


def _was_waiting(record: FanOut, due: int, work: Work) -> bool:
    id = wait_id(record.id, step(record.n))
    if waits.find(work.rows, id) != due:
        return False
    waits.drop(work.rows, id)
    return True


def _decide(record: FanOut, origin: Origin, key: bytes, work: Work, before: Claim | None) -> Sequence[Send]:
    if claims.find(work.rows, claims.key(record.id, CANCEL_BROADCAST)) is not None:
        return _call_off(record, origin, key, work)
    rule, name = record.rule, record.segment
    if rule is None and (known := work.catalogue.segments.get(name)) is not None:
        rule = known.rule
    try:
        if rule is None:
            raise RuleBroken("there is no such segment")
        holds = program(rule)
    except RuleBroken as error:
        return _fail(record, origin, key, work, before, f"{name}: {error}"[:MAX_DETAIL])
    notes: tuple[Note, ...] = ()
    if before is not None:
        notes = (("segment", name, MENDED),)
    pattern, now = record.pattern, origin.at
    was = broadcasts.cursor(work.rows, record.id)
    if pattern.scheduled_at is not None and pattern.scheduled_at > now:
        page, due = _Page((), 0, 0, record.after, is_last=False), pattern.scheduled_at
        stage, instead = Stage.SCHEDULED, Instead(State.SCHEDULED, Reason.SCHEDULED, "", due)
    else:
        page, instead = _page(record, work, holds), None
        due = now + round(len(page.members) * work.policy.partitions * 1000 / work.policy.per_second)
        stage = Stage.DONE if page.is_last else Stage.RUNNING
    if stage is not Stage.DONE:
        following = msgspec.structs.replace(
            record, n=record.n + 1, rule=rule, after=page.after,
            pattern=msgspec.structs.replace(pattern, scheduled_at=None),
        )  # fmt: skip
        work.wait_in(pattern.priority, wait_id(record.id, step(following.n)), due, record.id, following)
    _put(record, origin, work, was, stage, page)
    claim = Claim(origin, pattern.position, work.number, 0, (), instead=instead, notes=notes)
    claims.put(work.rows, key, claim)
    return _emit(record, claim, work)


class _Page(NamedTuple):
    """What one step has looked at."""

    members: tuple[str, ...]
    looked_at: int
    undecided: int
    after: bytes | None
    is_last: bool


def _page(record: FanOut, work: Work, holds: Program) -> _Page:
    members: list[str] = []
    seen = looked_at = undecided = size = 0
    after, weight = record.after, len(encode(record.pattern))
    begin = people.USERS + (after or b"")
    for row, value in work.rows.page(people.USERS, begin, work.policy.page):
        seen, after = seen + 1, row[len(people.USERS) :]
        size += len(value)
        if len(value) > people.TIME:  # else it was erased
            looked_at += 1
            found = holds(_user(value)) if len(value) <= MAX_USER_BYTES else None
            if found:
                members.append(after.decode())
                size += weight
            undecided += found is None
        if size >= MAX_PAGE_BYTES:
            return _Page(tuple(members), looked_at, undecided, after, is_last=False)
    return _Page(tuple(members), looked_at, undecided, after, is_last=seen < work.policy.page)


def _user(row: bytes) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(row[people.TIME :])
    return found


def _put(record: FanOut, origin: Origin, work: Work, was: Cursor | None, stage: Stage, page: _Page) -> None:
    """Notes where the broadcast is after this step."""
    pattern = record.pattern
    turn, told, looked_at, undecided = 0, 0, 0, 0
    if was is not None:
        so_far = was.progress
        turn, told = so_far.turn + 1, so_far.told
        looked_at, undecided = so_far.looked_at, so_far.undecided
    progress = Progress(
        broadcast=record.id, partition=origin.partition, partitions=work.policy.partitions, turn=turn,
        stage=stage, told=told + len(page.members), looked_at=looked_at + page.looked_at,
        undecided=undecided + page.undecided, segment=record.segment, workflow=pattern.workflow,
        event=pattern.event, event_at=pattern.event_at, at=origin.at,
    )  # fmt: skip
    broadcasts.put_cursor(work.rows, Cursor(record.n, progress, page.members))


_NOBODY = _Page((), 0, 0, None, is_last=True)


def _call_off(record: FanOut, origin: Origin, key: bytes, work: Work) -> Sequence[Send]:
    """Claims a step that tells nobody, for it was cancelled before."""
    was = broadcasts.cursor(work.rows, record.id)
    _put(record, origin, work, was, Stage.CANCELLED, _NOBODY)
    claim = Claim(
        origin, record.pattern.position, work.number, 0, (),
        instead=Instead(State.CANCELLED, Reason.CANCELLED),
    )  # fmt: skip
    claims.put(work.rows, key, claim)
    return _emit(record, claim, work)


def _fail(
    record: FanOut, origin: Origin, key: bytes, work: Work, before: Claim | None, detail: str
) -> Sequence[Send]:
    told = f"{Reason.UNKNOWN_SEGMENT}: {detail}"
    if before is not None and before.failure == told and before.number <= work.mark:
        return ()  # still broken in the same way, and said so already
    was = broadcasts.cursor(work.rows, record.id)
    _put(record, origin, work, was, Stage.FAILED, _NOBODY)
    claim = Claim(origin, record.pattern.position, work.number, 0, (), failure=told)
    claims.put(work.rows, key, claim)
    sends = [_progress(record.id, work)]
    if _is_home(record.id, origin, work):
        sends.append(_tell(record, origin.at, State.FAILED, Reason.UNKNOWN_SEGMENT, detail))
    return sends


# -- emitting


def _emit(record: FanOut, claim: Claim, work: Work) -> Sequence[Send]:
    """What a step implies; of one that is not the last, nothing: its page is out, or it would be the last."""
    cursor = broadcasts.cursor(work.rows, record.id)
    if cursor is None or cursor.n != record.n:
        return ()
    pattern, lane = record.pattern, topics.NOTIFICATION_LANES[record.pattern.priority]
    sends = [_to(user_id, record, pattern, lane) for user_id in cursor.page]
    sends.append(_progress(record.id, work))
    if claim.notes and _is_home(record.id, claim.origin, work):
        sends.append(_tell(record, claim.origin.at, State.ACCEPTED, detail=record.segment))
    return sends


def _to(user_id: str, record: FanOut, pattern: Notification, lane: str) -> Send:
    event = pattern.event
    found = msgspec.structs.replace(
        pattern, user_id=user_id, scheduled_at=None,
        id=notification_id(user_id, event.source, event.id, record.workflow_id, pattern.generation),
    )  # fmt: skip
    return Send(lane, user_id.encode(), encode(found), user_hash(user_id), RANKS[found.priority])


def _progress(broadcast: str, work: Work) -> Send:
    cursor = broadcasts.cursor(work.rows, broadcast)
    assert cursor is not None
    progress = cursor.progress
    return Send(topics.CONTENTS, _key(progress.event), progress.to_json(), hash_in(broadcast))


def _tell(record: FanOut, at: int, state: State, reason: str | None = None, detail: str = "") -> Send:
    """A status of the broadcast itself: of a notification to nobody."""
    whole = msgspec.structs.replace(record.pattern, id=record.id, user_id="")
    status = Router(whole, at).status(state, reason=reason, detail=detail)
    return Send(status.topic, _key(record.pattern.event), status.value, hash_in(record.id))


def _key(event: EventRef) -> bytes:
    """The key of what is told of a broadcast: what its id was made of (schemas/ids.py)."""
    return f"{event.source}|{event.id}".encode()


def _is_home(broadcast: str, origin: Origin, work: Work) -> bool:
    """Whether this partition is the one that speaks of the broadcast as a whole."""
    return partition_of(hash_in(broadcast), work.policy.partitions) == origin.partition


# -- cancelling


def cancel(signal: Signal, origin: Origin, work: Work) -> Sequence[Send]:
    """Drops the next step, and whoever was told but still waits (agents/plan.py).

    One that comes first leaves its mark: the claim of the first step, without a position.
    """
    rows, key = work.rows, claims.key(signal.id, CANCEL_BROADCAST)
    claim, cursor = claims.find(rows, key), broadcasts.cursor(rows, signal.id)
    if claim is None:
        mark = Instead(State.CANCELLED, Reason.CANCELLED)
        first = claims.key(signal.id, step(0))
        if claims.find(rows, first) is None:
            claims.put(rows, first, Claim(origin, "", work.number, 0, (), instead=mark))
        claims.put(rows, key, Claim(origin, "", work.number, 0, (), instead=mark))
        if cursor is not None and cursor.progress.stage not in (Stage.DONE, Stage.CANCELLED):
            for id in waits.beginning(rows, packed(signal.id)):
                waits.drop(rows, id)
            so_far = cursor.progress
            progress = msgspec.structs.replace(
                so_far, turn=so_far.turn + 1, stage=Stage.CANCELLED, at=origin.at
            )
            broadcasts.put_cursor(rows, Cursor(cursor.n, progress, cursor.page))
    elif claim.origin != origin or claim.number <= work.mark:
        return ()
    told = () if cursor is None else (_progress(signal.id, work),)
    return (*told, *stops.of_broadcast(signal.id, origin.at)) if _is_home(signal.id, origin, work) else told
