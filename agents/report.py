"""Report: reads reports from `contents`, writes the statuses that they come to on `delivery-status`.

A report names its message; who and what that was stands in its history. One that comes before its history
is kept until then. State: reports.
"""

from collections.abc import Sequence

import msgspec

from agents import topics
from agents.sending import Send
from schemas.ids import hash_in
from schemas.kinds import Priority, Reason, State
from schemas.notification import FAILED, EventRef, Signal
from schemas.report import Report
from schemas.status import Status, rfc3339
from tables import history, reports
from tables.claims import Origin
from tables.history import History, Pair
from tables.reports import Kept
from tables.rows import Rows
from tables.states import advance

_IN_VAIN = (State.FAILED, State.BOUNCED)


def sending(report: Report) -> Send:
    """A report on its way to whoever keeps the history of its notification."""
    id = report.notification_id
    return Send(topics.CONTENTS, id.encode(), report.to_json(), hash_in(id))


def hear(report: Report, origin: Origin, rows: Rows, number: int, mark: int) -> Sequence[Send]:
    """What a report comes to; one that says what another record has said comes to nothing.

    `number` is the unit's, `mark` the highest whose outputs are all out: the same record is answered in the
    same way until then, and silently afterwards.
    """
    place = f"{origin.partition}-{origin.offset}"
    kept = reports.of(rows, report.notification_id)
    story = history.find(rows, report.notification_id)
    pair = _pair(story, report)
    known = next((one for one in kept if reports.are_same(one.report, report)), None)
    if known is None:
        if not reports.has_room(kept, report):
            return ()
        if report.at is None:
            report = msgspec.structs.replace(report, at=origin.at)
        known = Kept(report, place, origin.at, number if pair is not None else 0)
        reports.put(rows, report.notification_id, [*kept, known])
    elif known.place != place or known.number <= mark:
        return ()
    return _implied(known.report, story, pair)


def catch_up(status: Status, rows: Rows, number: int, mark: int) -> Sequence[Send]:
    """What came of reports that were earlier than the first status of their message."""
    if status.state is not State.QUEUED or status.target_id is None:
        return ()
    kept = reports.of(rows, status.notification_id)
    if not kept:
        return ()
    story = history.find(rows, status.notification_id)
    sends: list[Send] = []
    after: list[Kept] = []
    for known in kept:
        one, report = known, known.report
        if (report.channel, report.target_id) == (status.channel, status.target_id):
            if not one.number:
                one = msgspec.structs.replace(one, number=number)
            if one.number > mark:
                sends += _implied(report, story, _pair(story, report))
        after.append(one)
    if after != kept:
        reports.put(rows, status.notification_id, after)
    return sends


def _pair(story: History | None, report: Report) -> Pair | None:
    return None if story is None else story["pairs"].get(f"{report.channel}:{report.target_id}")


def _implied(report: Report, story: History | None, pair: Pair | None) -> list[Send]:
    """The status of a report, and where the message was in vain, the word to core for its chain to go on."""
    if story is None or pair is None:
        return []
    user, hashed = story["user_id"], hash_in(report.notification_id)
    priority = story["priority"]
    status = Status(
        notification_id=report.notification_id, user_id=user, channel=report.channel, target=pair["target"],
        target_id=report.target_id, state=report.state, reason=report.reason, detail=report.detail,
        at=rfc3339(report.at or 0), event_at=story["event_at"], provider=report.provider,
        provider_message_id=report.provider_message_id, event=EventRef(**story["event"]),
        workflow=story["workflow"], category=story["category"],
        priority=Priority(priority) if priority else None,
    )  # fmt: skip
    sends = [Send(topics.DELIVERY_STATUS, user.encode(), status.to_json(), hashed)]
    undelivered = report.reason == Reason.UNDELIVERED
    after = advance(State(pair["state"]), report.state, undelivered=undelivered)
    if report.state in _IN_VAIN and after in _IN_VAIN:
        signal = Signal(
            kind=FAILED, id=report.notification_id, user_id=user, channel=report.channel,
            target_id=report.target_id, step=report.step,
        )  # fmt: skip
        lane = topics.NOTIFICATION_LANES[Priority.HIGH]
        sends.append(Send(lane, user.encode(), signal.to_json(), hashed))
    return sends
