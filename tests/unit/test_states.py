"""States: every report has an answer in every state, and none that came late undoes what is farther on."""

from itertools import permutations, product

import pytest

from schemas.kinds import State
from tables.states import advance

EVERY = list(product([None, *State], State, [False, True]))
ONWARD = [
    State.ACCEPTED, State.SCHEDULED, State.QUEUED, State.SENDING, State.UNKNOWN, State.SENT, State.DELIVERED,
    State.OPENED, State.CLICKED,
]  # fmt: skip
WITHOUT_A_CALL = {
    State.IGNORED, State.DUPLICATE, State.SUPPRESSED, State.DIGESTED, State.EXPIRED, State.CANCELLED,
    State.TOO_OLD,
}  # fmt: skip
BY_THE_RECEIVER = {State.BOUNCED, State.COMPLAINED, State.UNSUBSCRIBED}


def test_every_pair_has_an_answer_and_a_repeat_changes_nothing() -> None:
    for state, reported, newer in EVERY:
        after = advance(state, reported, newer_attempt=newer)
        assert after in {state, reported}, (state, reported, newer)
        assert advance(after, reported, newer_attempt=newer) == after, (state, reported, newer)
        assert advance(after, reported) == after, (state, reported, newer)


@pytest.mark.parametrize("reported", State)
def test_the_first_report_counts(reported: State) -> None:
    assert advance(None, reported) == reported


@pytest.mark.parametrize(
    ("earlier", "later"), [(a, b) for n, a in enumerate(ONWARD) for b in ONWARD[n + 1 :]]
)
def test_what_is_farther_on_stays_in_whatever_order_it_is_told(earlier: State, later: State) -> None:
    assert advance(earlier, later) == later
    assert advance(later, earlier) == later


@pytest.mark.parametrize("seen", ONWARD)
def test_what_a_receiver_reports_counts_whatever_was_seen(seen: State) -> None:
    for report in BY_THE_RECEIVER:
        assert advance(seen, report) == report
        assert advance(report, seen, newer_attempt=True) == report


def test_a_complaint_outweighs_a_bounce_and_not_the_other_way_round() -> None:
    assert advance(State.BOUNCED, State.COMPLAINED) == State.COMPLAINED
    assert advance(State.COMPLAINED, State.BOUNCED) == State.COMPLAINED


@pytest.mark.parametrize(
    "state", [State.ACCEPTED, State.QUEUED, State.SENDING, State.RETRYING, State.UNKNOWN]
)
def test_a_failure_ends_what_was_not_sent(state: State) -> None:
    assert advance(state, State.FAILED) == State.FAILED


@pytest.mark.parametrize("state", [State.SENT, State.DELIVERED, State.OPENED, State.CLICKED])
def test_nothing_undoes_what_was_sent(state: State) -> None:
    for report in {State.FAILED} | WITHOUT_A_CALL:
        assert advance(state, report) == state
        assert advance(state, report, newer_attempt=True) == state


@pytest.mark.parametrize("reported", [State.QUEUED, State.SENDING, State.RETRYING, State.SENT])
def test_only_a_later_attempt_opens_what_has_failed(reported: State) -> None:
    assert advance(State.FAILED, reported) == State.FAILED
    assert advance(State.FAILED, reported, newer_attempt=True) == reported


def test_what_arrived_cannot_have_failed() -> None:
    assert advance(State.FAILED, State.DELIVERED) == State.DELIVERED
    assert advance(State.FAILED, State.OPENED) == State.OPENED


@pytest.mark.parametrize("end", sorted(WITHOUT_A_CALL))
def test_only_a_new_decision_opens_an_end_without_a_call(end: State) -> None:
    for report in ONWARD:
        assert advance(end, report) == end
        assert advance(end, report, newer_attempt=True) == report
    for report in WITHOUT_A_CALL | {State.FAILED}:
        taken_out = (end, report) == (State.DIGESTED, State.CANCELLED)
        assert advance(end, report, newer_attempt=True) == (report if taken_out else end)


@pytest.mark.parametrize(
    "story",
    [
        (State.ACCEPTED, State.QUEUED, State.SENDING, State.SENT, State.DELIVERED),
        (State.QUEUED, State.SENDING, State.UNKNOWN, State.SENT),
        (State.QUEUED, State.SENT, State.DELIVERED, State.OPENED, State.CLICKED),
        (State.QUEUED, State.SENT, State.BOUNCED),
        (State.QUEUED, State.SENDING, State.FAILED),
        (State.QUEUED, State.EXPIRED),
    ],
)
def test_a_story_ends_the_same_in_whatever_order_it_is_told(story: tuple[State, ...]) -> None:
    for order in permutations(story):
        state: State | None = None
        for report in order:
            state = advance(state, report)
        assert state == story[-1], order
