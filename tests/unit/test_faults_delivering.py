"""What the loops on deliveries call broken: each promise, each figure, and a run that proves nothing."""

from typing import Any

import pytest

from schemas.kinds import Doubt, State
from tests.faults import outage, rates
from tests.faults.delivery import PLAYED, Asked, Doubted, Ledger, Promise, Seen, judge, table
from tests.faults.kinds import ALL, KINDS, Can
from tests.faults.outage import Planned
from tests.faults.rates import Phase

KEY = "n.t"
ONE_PROMISE = list(Promise)


def verdict(
    promise: Promise, effects: int, state: State, *, doubts: int = 0, kill: int | None = 1_000,
    gone: bool = False, letter: bool = False, signal: bool = False,
) -> tuple[dict[str, int], list[str]]:  # fmt: skip
    """One message's: how often it took effect, what was said last, and how many doubts were told."""
    seen = Seen(
        last={KEY: (1, state)}, doubts={Doubted(KEY, n + 1, 500) for n in range(doubts)},
        letters={KEY} if letter else set(), signals={KEY} if signal else set(),
        kills=[kill] if kill is not None else [],
    )  # fmt: skip
    doubt = Doubt.AT_MOST_ONCE if promise is Promise.AT_MOST_ONCE else Doubt.AT_LEAST_ONCE
    return judge(promise, [Asked(KEY, doubt, gone)], Ledger({KEY: 2}, {KEY: effects}), seen)


@pytest.mark.parametrize("promise", ONE_PROMISE)
def test_one_effect_that_is_told_is_right(promise: Promise) -> None:
    figures, wrong = verdict(promise, 1, State.SENT)
    assert wrong == []
    assert figures == {
        "messages": 1, "requests": 2, "effects": 1, "sent_twice": 0, "twice_explained": 0, "unknown": 0,
        "unknown_unexplained": 0, "lost": 0, "gone": 0, "dead_lettered": 0,
    }  # fmt: skip


@pytest.mark.parametrize("promise", ONE_PROMISE)
def test_two_effects_without_a_doubt_are_wrong(promise: Promise) -> None:
    figures, wrong = verdict(promise, 2, State.SENT)
    assert figures["sent_twice"] == 1
    assert figures["twice_explained"] == 0
    assert wrong


def test_a_doubt_explains_one_more_effect_where_that_was_chosen() -> None:
    figures, wrong = verdict(Promise.AT_LEAST_ONCE, 2, State.SENT, doubts=1)
    assert wrong == []
    assert (figures["sent_twice"], figures["twice_explained"], figures["unknown"]) == (1, 1, 1)
    assert verdict(Promise.AT_LEAST_ONCE, 3, State.SENT, doubts=1)[1]
    assert verdict(Promise.AT_MOST_ONCE, 2, State.UNKNOWN, doubts=1)[1]


@pytest.mark.parametrize("effects", [0, 1])
def test_who_chose_at_most_once_may_stay_in_doubt(effects: int) -> None:
    figures, wrong = verdict(Promise.AT_MOST_ONCE, effects, State.UNKNOWN, doubts=1)
    assert wrong == []
    assert (figures["lost"], figures["unknown"]) == (0, 1)
    for promise in (Promise.ONCE, Promise.AT_LEAST_ONCE):
        assert verdict(promise, effects, State.UNKNOWN, doubts=1)[1]


def test_a_doubt_that_a_key_would_settle_is_wrong() -> None:
    assert verdict(Promise.ONCE, 1, State.SENT, doubts=1)[1]


@pytest.mark.parametrize("kill", [None, 499, 500 + 6_001])
def test_a_doubt_needs_a_kill_while_the_call_was_under_way(kill: int | None) -> None:
    figures, wrong = verdict(Promise.AT_MOST_ONCE, 0, State.UNKNOWN, doubts=1, kill=kill)
    assert figures["unknown_unexplained"] == 1
    assert wrong == [f"{KEY}: a doubt without a kill"]


@pytest.mark.parametrize("promise", ONE_PROMISE)
@pytest.mark.parametrize("state", [State.SENT, State.FAILED, State.RETRYING])
def test_no_effect_is_lost_whatever_is_said(promise: Promise, state: State) -> None:
    figures, wrong = verdict(promise, 0, state)
    assert figures["lost"] == 1
    assert wrong


def test_what_was_sent_must_be_said_to_be() -> None:
    assert verdict(Promise.ONCE, 1, State.RETRYING)[1]
    assert verdict(Promise.ONCE, 1, State.SENT, letter=True)[1]
    assert verdict(Promise.ONCE, 1, State.SENT, signal=True)[1]


def test_a_target_that_is_gone_has_a_dead_letter_and_core_is_told() -> None:
    figures, wrong = verdict(Promise.ONCE, 0, State.FAILED, gone=True, letter=True, signal=True)
    assert (wrong, figures["gone"], figures["dead_lettered"], figures["lost"]) == ([], 1, 1, 0)
    assert verdict(Promise.ONCE, 1, State.FAILED, gone=True, letter=True, signal=True)[1]
    assert verdict(Promise.ONCE, 0, State.FAILED, gone=True, letter=True)[1]
    assert verdict(Promise.ONCE, 0, State.SENT, gone=True, letter=True, signal=True)[1]
    figures, wrong = verdict(Promise.ONCE, 0, State.FAILED, gone=True, signal=True)
    assert wrong
    assert figures["lost"] == 1
    assert verdict(Promise.AT_MOST_ONCE, 0, State.UNKNOWN, gone=True, doubts=1)[1] == []


def test_the_retries_of_a_target_are_counted_as_its_own() -> None:
    found = Ledger.of([{"key": "n.t", "effect": True}, {"key": "n.t.2", "effect": True}])
    assert (found.requests, found.effects) == ({KEY: 2}, {KEY: 2})


ALL_PROMISES = {
    Can.KEYED: [Promise.ONCE],
    Can.QUERYABLE: [Promise.AT_LEAST_ONCE, Promise.ONCE],
    Can.BLIND: [Promise.AT_LEAST_ONCE, Promise.AT_MOST_ONCE],
}


def test_both_policies_are_played_where_no_key_settles_a_doubt() -> None:
    rows = table(ALL)
    for kind in ALL:
        assert [row.promise for row in rows if row.kind == kind.name] == ALL_PROMISES[kind.can]
    assert {KINDS[name].can for name in PLAYED} == set(Can)


# the outage


def weather(
    slow: int = 0, mails: int = 100, copies: int = 1, at: int = 70_000, **seen: Any
) -> tuple[dict[str, Any], list[str]]:
    """A hundred of each, calm and in the outage, which ends at 60,000; pushes come `slow` ms later in it."""
    calm = [Planned(f"c{n}", n) for n in range(100)]
    hard = [Planned(f"h{n}", 1_000 + n) for n in range(100)]
    pushes = [{"key": f"{one.id}.t", "effect": True, "at": one.at + 50} for one in calm]
    pushes += [{"key": f"{one.id}.t", "effect": True, "at": one.at + 50 + slow} for one in hard]
    arrived = [{"key": f"h{n}.t", "effect": True, "at": at} for n in range(mails)] * copies
    told = outage.Seen(states={one.id: State.SENT for one in hard})
    for name, value in seen.items():
        setattr(told, name, value)
    return outage.judge(calm, hard, pushes, arrived, told, 60_000)


def test_an_outage_that_nobody_but_the_mail_feels_is_right() -> None:
    figures, wrong = weather(slow=50)
    assert wrong == []
    assert (figures["push_calm_p99_ms"], figures["push_outage_p99_ms"]) == (50, 100)
    assert figures["last_email_after_seconds"] == 10


@pytest.mark.parametrize(
    "broken",
    [
        {"slow": 51}, {"mails": 99}, {"copies": 2}, {"at": 59_999}, {"unknown": {"h1"}}, {"letters": 1},
        {"states": {"h1": State.RETRYING}},
    ],
)  # fmt: skip
def test_an_outage_that_is_felt_is_wrong(broken: dict[str, Any]) -> None:
    assert len(weather(**broken)[1]) == 1


def test_pushes_that_never_came_are_wrong() -> None:
    one = [Planned("a", 0), Planned("b", 0)]
    came = [{"key": "a.t", "effect": True, "at": 1}]
    _, wrong = outage.judge(one, [], came, [], outage.Seen(), 0)
    assert "calm: 1 pushes never came" in wrong


def test_a_quantile_is_the_nearest_rank() -> None:
    assert outage.quantile(list(range(1, 101)), 0.99) == 99
    assert outage.quantile([3, 1, 2], 0.5) == 2
    assert outage.quantile([7], 0.99) == 7


# rates


def every(milliseconds: int, end: int = 10_000) -> list[int]:
    return list(range(0, end, milliseconds))


BOTH = Phase("both", 2, 0, 10_000)


def test_any_second_counts_not_only_whole_ones() -> None:
    assert rates.most_in_a_second([0, 999, 1_000]) == 2
    assert rates.most_in_a_second([600, 0, 1_599, 1_600]) == 2
    assert rates.most_in_a_second([]) == 0


def test_two_workers_that_share_a_limit_are_right() -> None:
    figures, wrong = rates.judge(every(14), [BOTH], 1)
    assert wrong == []
    assert figures["most_in_a_second"] == 72


def test_one_call_too_many_within_any_second_is_wrong() -> None:
    calls = [*every(14), *[5_000] * 8]
    assert rates.judge(calls, [BOTH], 1)[1] == []
    assert rates.judge([*calls, 5_000], [BOTH], 1)[1] == ["81 calls within a second, 80 is the most"]


def test_a_limit_that_is_not_made_use_of_is_wrong() -> None:
    assert rates.judge(every(17), [BOTH], 1)[1] == ["both: 58.9 a second, 60 is the least"]
    assert rates.judge(every(17), [BOTH._replace(workers=1)], 1)[1] == ["two workers were never at work"]


def test_work_that_ran_out_proves_nothing() -> None:
    assert len(rates.judge(every(14), [BOTH], 0)[1]) == 1
