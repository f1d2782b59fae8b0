"""What the fault loops' oracle says of rewinds: one must not mend what had been acked too soon."""

from collections import Counter

import pytest

from pipeline.demo.workload import Expected, Workload
from schemas.ids import target_id
from schemas.kinds import Channel, State
from schemas.status import Status
from tests.faults.verdict import Acked, Evidence, Ledger, judge
from tests.journeys.memory import NOON
from tests.journeys.samples import ID, a_message, a_notification

ACKED = Acked(
    committed={("events", 0): 8, ("notifications", 1): 4, ("email-notifications", 1): 2},
    ends={("notifications", 1): 4, ("delivery-status", 2): 10},
)


def seen(event: int, notification: int, decision: int, message: int, outcome: int) -> Evidence:
    """One notification's way, by the offset of its record on each topic."""
    found = Evidence(rewinds=[ACKED])
    value = a_notification(position=f"events-0-{event}").to_json()
    found.notification(value, ("notifications", 1, notification))
    for state, offset in ((State.QUEUED, decision), (State.SENT, outcome)):
        status = Status(
            notification_id=ID, user_id="u-1", channel=Channel.EMAIL, state=state, at="", event_at=NOON,
            event=a_notification().event,
        )  # fmt: skip
        found.status(status, NOON, ("delivery-status", 2, offset))
    email = a_message(channel=Channel.EMAIL).to_json()
    found.message(email, ("email-notifications", 1, message))
    return found


def test_what_was_out_before_it_was_acked_is_right() -> None:
    assert seen(7, 3, 8, 1, 9).acked_too_soon() == []


def test_what_was_not_acked_may_come_later() -> None:
    assert seen(8, 4, 10, 2, 11).acked_too_soon() == []


@pytest.mark.parametrize(
    ("offsets", "what"),
    [((7, 4, 10, 2, 11), "notification"), ((8, 3, 10, 2, 11), "decision"), ((7, 3, 9, 1, 10), "outcome")],
)
def test_what_was_acked_and_came_by_a_rewind_alone_is_named(offsets: tuple[int, ...], what: str) -> None:
    (line,) = seen(*offsets).acked_too_soon()
    assert line.endswith(f"its {what} came by a rewind alone")
    assert ID in line


def test_the_first_record_of_each_counts() -> None:
    found = seen(7, 3, 8, 1, 9)
    again = a_notification(position="events-0-7").to_json()
    found.notification(again, ("notifications", 1, 50))
    assert found.acked_too_soon() == []


def told(*outcomes: tuple[State, str | None]) -> list[str]:
    """What the oracle finds wrong with one pair of a user who may be told or not; by state and its target."""
    found = Evidence()
    for offset, (state, target) in enumerate(outcomes):
        status = Status(
            notification_id=ID, user_id="u-1", channel=Channel.EMAIL, state=state, at="", event_at=NOON,
            event=a_notification().event, target_id=target,
        )  # fmt: skip
        found.status(status, NOON, ("delivery-status", 2, offset))
    one = Counter({(ID, "email"): 1})
    load = Workload(pairs={(ID, "email"): Expected(frozenset({State.SUPPRESSED}))}, of_user={"u-1": [ID]})
    return judge(load, found, Ledger(Counter(), Counter()), Ledger(one, one), {"u-1"})[1]


TARGET = target_id("ada@example.com")


def test_what_the_last_gate_stops_has_one_outcome() -> None:
    assert told((State.QUEUED, TARGET), (State.SUPPRESSED, TARGET)) == []
    assert told((State.QUEUED, TARGET), (State.RETRYING, TARGET), (State.SUPPRESSED, TARGET)) == []


@pytest.mark.parametrize(
    "outcomes",
    [
        ((State.QUEUED, TARGET), (State.SUPPRESSED, None)),
        ((State.QUEUED, TARGET), (State.SUPPRESSED, TARGET), (State.SENT, TARGET)),
    ],
)
def test_two_outcomes_are_named(outcomes: tuple[tuple[State, str | None], ...]) -> None:
    (line,) = told(*outcomes)
    assert "told two outcomes" in line
