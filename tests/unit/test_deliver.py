"""Deliver: one call where one is due, the doubt by its policy, the same bytes when a thing is said again."""

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import deliver
from agents.deliver import FORGOTTEN_EARLY, MAX_ATTEMPTS, MOST_CALLS, MOST_WAIT, Parcel, admit, settle
from agents.sending import Send
from schemas import outcome
from schemas.event import Unreadable
from schemas.kinds import Channel, Doubt
from schemas.outcome import Outcome
from tables import effects
from tables.effects import Attempt
from tests.journeys.memory import NOON, MemoryRows, One
from tests.journeys.samples import ID, a_message, an_origin

ORIGIN = an_origin(topic="sms-notifications")
NOW = NOON + 1_000


class Worker:
    """A delivery worker's ledger; `provider` and its keys may change between two calls."""

    def __init__(self, provider: str = "main", *, honours_keys: bool = False, **fields: Any) -> None:
        self.rows, self.provider, self.honours_keys = MemoryRows(), provider, honours_keys
        self.parcel = deliver.read(a_message(**fields).to_json(), ORIGIN)

    def admit(self, now: int = NOW, *, told: bool = False) -> tuple[Attempt | None, list[Send]]:
        admitted = admit(self.parcel, self.rows, now, One(self.provider, self.honours_keys), told=told)
        return admitted.attempt, list(admitted.sends)

    def settle(
        self, attempt: Attempt | None, answer: Outcome, now: int = NOW
    ) -> tuple[list[Send], float | None]:
        assert attempt is not None
        sends, wait = settle(
            self.parcel, attempt, answer, self.rows, now, honours_keys=self.honours_keys, jitter=0.5
        )
        return list(sends), wait

    def try_once(self, answer: Outcome) -> tuple[list[Send], float | None]:
        attempt, _ = self.admit(told=True)
        return self.settle(attempt, answer)


def told(sends: Sequence[Send]) -> list[tuple[str, str | None, int | None]]:
    values = [orjson.loads(send.value or b"") for send in sends if send.topic == "delivery-status"]
    return [(value["state"], value.get("reason"), value.get("attempt")) for value in values]


def dead(sends: Sequence[Send]) -> list[dict[str, bytes]]:
    return [dict(send.headers or []) for send in sends if send.topic == "dlq-sms"]


def test_a_fresh_message_is_attempted_and_the_attempt_is_written_first() -> None:
    worker = Worker()
    attempt, sends = worker.admit()
    assert attempt is not None
    assert (attempt.n, attempt.provider, attempt.key) == (1, "main", worker.parcel.key)
    assert sends == []
    assert effects.last_attempt(worker.rows, worker.parcel.effect) == attempt


@pytest.mark.parametrize(
    ("answer", "state"), [(outcome.sent("p-1"), "sent"), (outcome.delivered(), "delivered")]
)
def test_what_was_sent_is_told_and_never_called_again(answer: Outcome, state: str) -> None:
    worker = Worker()
    sends, wait = worker.try_once(answer)
    assert (told(sends), wait) == ([(state, None, 1)], None)
    rows = dict(worker.rows)
    assert worker.admit(NOW + 99_999) == (None, sends)
    assert worker.rows == rows


def test_a_refusal_is_final_and_leaves_a_letter() -> None:
    worker = Worker()
    sends, wait = worker.try_once(outcome.refused("no such number"))
    assert (told(sends), wait) == ([("failed", "refused", 1)], None)
    (letter,) = dead(sends)
    assert letter["reason"] == b"refused"
    assert letter["error"] == b"no such number"
    assert letter["source-topic"] == b"sms-notifications"
    assert letter["source-offset"] == b"3"
    assert letter["attempts"] == b"1"
    assert sends[1].value == worker.parcel.value
    assert worker.admit(NOW + 99_999) == (None, sends)


def test_what_was_surely_not_sent_is_tried_three_times_more_and_then_a_letter() -> None:
    worker, seen = Worker(), []
    for _ in range(MAX_ATTEMPTS):
        sends, wait = worker.try_once(outcome.deferred("busy"))
        seen.append((told(sends), len(dead(sends)), wait is None))
    assert seen == [
        ([("retrying", "busy", 1)], 0, False),
        ([("retrying", "busy", 2)], 0, False),
        ([("retrying", "busy", 3)], 0, False),
        ([("failed", "retries_exhausted", 4)], 1, True),
    ]
    assert worker.admit() == (None, sends)


@pytest.mark.parametrize(("doubt", "goes_on"), [(Doubt.AT_LEAST_ONCE, True), (Doubt.AT_MOST_ONCE, False)])
def test_a_doubtful_call_is_repeated_by_its_policy(doubt: Doubt, goes_on: bool) -> None:
    worker = Worker(doubt=doubt)
    sends, wait = worker.try_once(outcome.doubtful("time-out"))
    assert told(sends) == [("unknown", "time-out", 1)]
    assert dead(sends) == []
    assert (wait is not None) == goes_on
    attempt, again = worker.admit()
    assert (attempt is not None) == goes_on
    assert again == sends


def test_a_doubtful_call_is_repeated_where_keys_are_honoured() -> None:
    worker = Worker(doubt=Doubt.AT_MOST_ONCE, honours_keys=True)
    first, _ = worker.admit()
    _, wait = worker.settle(first, outcome.doubtful("time-out"))
    assert wait is not None
    second, _ = worker.admit()
    assert first is not None
    assert second is not None
    assert second.key == first.key
    assert second.hashed == first.hashed


def test_another_provider_does_not_know_the_keys_of_the_first() -> None:
    worker = Worker(doubt=Doubt.AT_MOST_ONCE, honours_keys=True)
    sends, _ = worker.try_once(outcome.doubtful("time-out"))
    worker.provider = "backup"
    assert worker.admit() == (None, sends)


# -- several providers


class Several:
    """Providers by name; those of `away` can be called in a while."""

    def __init__(
        self,
        *names: str,
        keyed: str = "",
        away: str = "",
        settles: float = 0.0,
        window: float | None = None,
    ) -> None:
        self.names, self.keyed, self.away, self.settles = list(names), keyed.split(), away.split(), settles
        self.window = window

    def key_window(self, provider: str) -> float | None:
        return self.window if provider in self.keyed else None

    def settles_after(self, provider: str) -> float:
        return self.settles

    def honours_keys(self, provider: str) -> bool:
        return provider in self.keyed

    def choose(self, after: str | None = None, only: str | None = None) -> str | float | None:
        names = [name for name in self.names if only in {None, name}]
        if after in names:
            names = names[names.index(after) + 1 :] + names[: names.index(after) + 1]
        return next((name for name in names if name not in self.away), 3.0 if names else None)


FAILED = outcome.deferred("HTTP 503", fault="provider")


def step(worker: Worker, providers: Several, answer: Outcome, **how: bool) -> tuple[str, float | None]:
    """One attempt; who made it, and the wait after it."""
    attempt = admit(worker.parcel, worker.rows, NOW, providers).attempt
    assert attempt is not None
    _, wait = settle(
        worker.parcel, attempt, answer, worker.rows, NOW,
        honours_keys=providers.honours_keys(attempt.provider), jitter=1.0, **how,
    )  # fmt: skip
    return attempt.provider, wait


def test_the_next_provider_is_tried_at_once_when_the_first_surely_did_not_send() -> None:
    worker, several = Worker(), Several("a", "b")
    seen = [step(worker, several, FAILED, elsewhere=who) for who in (True, False, True, False)]
    assert seen == [("a", 0.0), ("b", 2.0), ("a", 0.0), ("b", None)]


@pytest.mark.parametrize("keyed", ["", "a"])
def test_no_other_provider_is_asked_while_the_first_may_have_sent(keyed: str) -> None:
    worker, several = Worker(doubt=Doubt.AT_MOST_ONCE), Several("a", "b", keyed=keyed)
    assert step(worker, several, outcome.doubtful("time-out"), elsewhere=True)[0] == "a"
    several.away = ["a"]
    admitted = admit(worker.parcel, worker.rows, NOW, several)
    assert admitted.attempt is None
    assert admitted.later == (3.0 if keyed else None)


def test_what_may_be_sent_twice_goes_by_another_provider_too() -> None:
    worker, several = Worker(doubt=Doubt.AT_LEAST_ONCE), Several("a", "b")
    step(worker, several, outcome.doubtful("time-out"))
    several.away = ["a"]
    assert step(worker, several, outcome.sent("p"))[0] == "b"


@pytest.mark.parametrize("doubt", list(Doubt))
@pytest.mark.parametrize("keyed", ["", "a"])
def test_while_nobody_can_be_called_nothing_is_written_and_nothing_new_said(doubt: Doubt, keyed: str) -> None:
    """Not for a fresh message, nor a retry, nor one that a former owner was cut off in."""
    several = Several("a", keyed=keyed, away="a")
    fresh, retried, cut_off = Worker(doubt=doubt), Worker(doubt=doubt), Worker(doubt=doubt)
    step(retried, Several("a"), FAILED)
    admit(cut_off.parcel, cut_off.rows, NOW, Several("a"))
    for worker in (fresh, retried, cut_off):
        rows = dict(worker.rows)
        admitted = admit(worker.parcel, worker.rows, NOW + 9, several)
        if worker is cut_off and doubt is Doubt.AT_MOST_ONCE and not keyed:
            assert told(admitted.sends) == [("unknown", "call_cut_off", 1)]
            continue
        # what the retried one's first attempt implies is said again: its owner may have been stopped before
        again = [("retrying", "HTTP 503", 1)] if worker is retried else []
        assert (admitted.attempt, told(admitted.sends), admitted.later) == (None, again, 3.0)
        assert not told(admit(worker.parcel, worker.rows, NOW + 9, several, told=True).sends)
        assert worker.rows == rows


def test_a_redrive_waits_too_and_is_opened_once() -> None:
    worker = Worker()
    step(worker, Several("a"), outcome.refused("no"))
    origin = an_origin(topic="sms-notifications", offset=9)
    parcel = worker.parcel._replace(redrive="dlq-sms-0-1", origin=origin)
    rows = dict(worker.rows)
    assert admit(parcel, worker.rows, NOW, Several("a", away="a")).later == 3.0
    assert worker.rows == rows
    again = admit(parcel, worker.rows, NOW, Several("a")).attempt
    assert again is not None
    assert again.n == 2


def test_a_message_that_nobody_ever_takes_fails_and_can_be_redriven_when_somebody_does() -> None:
    worker = Worker()
    for _ in range(2):
        admitted = admit(worker.parcel, worker.rows, NOW, Several())
        assert told(admitted.sends) == [("failed", "no_provider", None)]
        assert [letter["reason"] for letter in dead(admitted.sends)] == [b"no_provider"]
    assert not worker.rows
    assert admit(worker.parcel._replace(redrive="dlq-sms-0-1"), worker.rows, NOW, Several("a")).attempt


def test_a_doubt_that_can_be_asked_about_waits_until_the_answer_is_to_be_trusted() -> None:
    several = Several("a", keyed="a", settles=30.0)
    doubtful, cut_off = Worker(doubt=Doubt.AT_MOST_ONCE), Worker(doubt=Doubt.AT_MOST_ONCE)
    attempt = admit(doubtful.parcel, doubtful.rows, NOW, several).attempt
    assert attempt is not None
    _, wait = settle(
        doubtful.parcel, attempt, outcome.doubtful("time-out"), doubtful.rows, NOW,
        honours_keys=True, jitter=1.0, settles_after=30.0,
    )  # fmt: skip
    assert wait == 30.0
    assert not admit(cut_off.parcel, cut_off.rows, NOW, several).asks
    for worker in (doubtful, cut_off):
        early = admit(worker.parcel, worker.rows, NOW + 10_000, several)
        assert early.attempt is None
        assert early.later == pytest.approx(20.0)
        found = admit(worker.parcel, worker.rows, NOW + 30_000, several)
        assert found.attempt is not None
        assert (found.attempt.n, found.asks) == (2, True)


def test_nobody_is_asked_where_the_last_call_surely_sent_nothing() -> None:
    worker, several = Worker(doubt=Doubt.AT_MOST_ONCE), Several("a", keyed="a", settles=30.0)
    step(worker, several, FAILED)
    found = admit(worker.parcel, worker.rows, NOW, several)
    assert found.attempt is not None
    assert not found.asks


def test_no_other_provider_follows_a_doubt_that_a_later_attempt_left_open() -> None:
    worker, several = Worker(doubt=Doubt.AT_MOST_ONCE), Several("a", "b", keyed="a")
    assert step(worker, several, outcome.doubtful("time-out"))[0] == "a"
    assert step(worker, several, FAILED, elsewhere=True)[0] == "a"
    assert step(worker, several, FAILED)[0] == "a"


def test_what_was_cut_off_counts_and_what_did_not_count_before_it_still_does_not() -> None:
    worker, several = Worker(), Several("a", keyed="a")
    for _ in range(6):
        step(worker, several, FAILED, counts=False)
    assert admit(worker.parcel, worker.rows, NOW, several).attempt  # and nobody sees its end
    assert step(worker, several, FAILED, counts=False)[1] is not None
    assert step(worker, several, FAILED)[1] is not None
    assert step(worker, several, FAILED)[1] is not None
    assert step(worker, several, FAILED)[1] is None


def test_a_call_that_nobody_ever_sees_end_is_not_made_for_ever() -> None:
    worker, several, calls = Worker(doubt=Doubt.AT_LEAST_ONCE), Several("a", keyed="a"), 0
    while (admitted := admit(worker.parcel, worker.rows, NOW, several)).attempt:
        calls += 1
        assert calls <= MOST_CALLS
    assert told(admitted.sends)[-1] == ("unknown", "call_cut_off", MOST_CALLS)


def test_attempts_while_a_provider_is_left_alone_do_not_count_but_are_bounded() -> None:
    worker, several, calls = Worker(), Several("a"), 0
    for _ in range(10):
        assert step(worker, several, FAILED, counts=False)[1] is not None
    for n in range(MAX_ATTEMPTS):
        assert (step(worker, several, FAILED)[1] is None) == (n == MAX_ATTEMPTS - 1)
    worker = Worker()
    while step(worker, several, FAILED, counts=False)[1] is not None:
        calls += 1
    assert calls == MOST_CALLS - 1


# -- a key that is known for a while only

DAY = 86_400
LAST = NOW + (DAY - int(FORGOTTEN_EARLY)) * 1_000 - 1
"""The last moment at which a key of `NOW` may be used."""


def calls(worker: Worker, now: int, providers: Several) -> tuple[str | None, list[Any]]:
    """Who would be called, and what is said; nothing of it is written."""
    admitted = admit(worker.parcel, MemoryRows(worker.rows), now, providers)
    return admitted.attempt.provider if admitted.attempt else None, told(admitted.sends)


@pytest.mark.parametrize("letter", [None, "dlq-sms-0-1"])
@pytest.mark.parametrize("answer", [outcome.doubtful("time-out"), None])
def test_a_key_settles_a_doubt_as_long_as_it_is_known_and_then_the_policy_does(
    answer: Outcome | None, letter: str | None
) -> None:
    several = Several("a", "b", keyed="a", window=DAY)
    for doubt in Doubt:
        worker = Worker(doubt=doubt)
        if answer is not None:
            step(worker, several, answer)
        else:
            admit(worker.parcel, worker.rows, NOW, several)
        worker.parcel = worker.parcel._replace(redrive=letter)
        said = [("unknown", "time-out" if answer else "call_cut_off", 1)]
        assert calls(worker, LAST, several)[0] == "a"
        several.away = ["a"]
        assert calls(worker, LAST, several)[0] is None, "nobody else knows the key"
        goes_on = doubt is Doubt.AT_LEAST_ONCE
        assert calls(worker, LAST + 1, several) == ("b" if goes_on else None, said)
        several.away = []
        assert calls(worker, LAST + 1, several) == ("a" if goes_on else None, said)
        several.window = None
        assert calls(worker, LAST + 1, several)[0] == "a"
        several.window = DAY


def test_a_key_is_not_known_for_longer_because_it_came_again() -> None:
    worker, several = Worker(doubt=Doubt.AT_MOST_ONCE), Several("a", keyed="a", window=DAY)
    step(worker, several, outcome.doubtful("time-out"))
    again = admit(worker.parcel, worker.rows, LAST, several).attempt
    assert again is not None
    settle(worker.parcel, again, outcome.doubtful("?"), worker.rows, LAST + 5, honours_keys=True, jitter=1.0)
    assert calls(worker, LAST + 60_000, several) == (None, [("unknown", "?", 2)])


@pytest.mark.parametrize("doubt", list(Doubt))
def test_what_surely_failed_after_a_doubt_is_not_tried_for_ever_by_its_key(doubt: Doubt) -> None:
    worker, several = Worker(doubt=doubt), Several("a", keyed="a", window=DAY)
    step(worker, several, outcome.doubtful("time-out"))
    step(worker, several, FAILED)
    assert calls(worker, LAST, several)[0] == "a"
    found = admit(worker.parcel, worker.rows, LAST + 1, several)
    if doubt is Doubt.AT_LEAST_ONCE:
        assert found.attempt is not None
        return
    assert found.attempt is None
    assert told(found.sends)[-1] == ("unknown", "HTTP 503", 2)
    assert dead(found.sends) == []
    assert admit(worker.parcel, worker.rows, LAST + 1, several) == found, "a redelivery says the same"
    fresh = Worker(doubt=doubt)
    step(fresh, several, FAILED)
    assert calls(fresh, LAST + 1, several)[0] == "a", "where there is no doubt no key is needed"


@pytest.mark.parametrize("doubt", list(Doubt))
def test_a_letter_of_what_failed_after_a_doubt_is_not_redriven_when_the_key_is_forgotten(
    doubt: Doubt,
) -> None:
    worker, several = Worker(doubt=doubt), Several("a", keyed="a", window=DAY)
    step(worker, several, outcome.doubtful("time-out"))
    step(worker, several, outcome.refused("no"))
    origin = an_origin(topic="sms-notifications", offset=9)
    worker.parcel = worker.parcel._replace(redrive="dlq-sms-0-1", origin=origin)
    assert calls(worker, LAST, several)[0] == "a"
    found = admit(worker.parcel, worker.rows, LAST + 1, several)
    assert (found.attempt is None) == (doubt is Doubt.AT_MOST_ONCE)
    if found.attempt is None:
        (letter,) = dead(found.sends)
        assert letter["error"].startswith(b"not sent again: nobody knows whether")


# -- a call that a former owner was cut off in


def test_a_cut_off_call_is_settled_by_its_key() -> None:
    worker = Worker(doubt=Doubt.AT_MOST_ONCE, honours_keys=True)
    first, _ = worker.admit()
    second, sends = worker.admit(NOW + 5)
    assert first is not None
    assert second is not None
    assert (second.n, second.key, second.hashed) == (2, first.key, first.hashed)
    assert sends == []


@pytest.mark.parametrize("keyed_elsewhere", [True, False])
def test_a_cut_off_call_without_keys_is_told_and_made_again_at_least_once(keyed_elsewhere: bool) -> None:
    worker = Worker(doubt=Doubt.AT_LEAST_ONCE, honours_keys=keyed_elsewhere)
    worker.admit()
    if keyed_elsewhere:
        worker.provider = "backup"
    attempt, sends = worker.admit(NOW + 5)
    assert attempt is not None
    assert attempt.n == 2
    assert told(sends) == [("unknown", "call_cut_off", 1)]


def test_a_cut_off_call_is_told_as_unknown_and_not_made_again_at_most_once() -> None:
    worker = Worker(doubt=Doubt.AT_MOST_ONCE)
    worker.admit()
    attempt, sends = worker.admit(NOW + 5)
    assert attempt is None
    assert told(sends) == [("unknown", "call_cut_off", 1)]
    assert worker.admit(NOW + 99_999) == (None, sends)


def test_what_an_owner_wrote_and_could_not_say_is_said_by_the_next() -> None:
    """It was stopped between changelog and statuses, once after the result, once after the attempt."""
    worker = Worker(doubt=Doubt.AT_LEAST_ONCE)
    attempt, _ = worker.admit()
    lost, _ = worker.settle(attempt, outcome.doubtful("time-out"))
    second, again = worker.admit(NOW + 5)
    assert again == lost
    assert second is not None
    third, again = worker.admit(NOW + 9)
    assert third is not None
    assert again[: len(lost)] == lost
    assert told(again) == [("unknown", "time-out", 1), ("unknown", "call_cut_off", 2)]


def test_an_owner_who_said_it_does_not_say_it_again() -> None:
    worker = Worker()
    worker.try_once(outcome.deferred("busy"))
    attempt, sends = worker.admit(told=True)
    assert attempt is not None
    assert sends == []


# -- the last gate


def test_what_has_expired_is_not_called() -> None:
    worker = Worker(expires_at=NOW)
    attempt, sends = worker.admit(NOW)
    assert attempt is None
    assert told(sends) == [("expired", "expired", None)]
    assert worker.rows == {}
    assert worker.admit(NOW + 99_999) == (None, sends)
    assert Worker(expires_at=NOW).admit(NOW - 1)[0] is not None


def test_what_expires_between_two_attempts_is_not_called_again() -> None:
    worker = Worker(expires_at=NOW + 10)
    retrying, _ = worker.try_once(outcome.deferred("busy"))
    attempt, sends = worker.admit(NOW + 10)
    assert attempt is None
    assert told(sends) == [("retrying", "busy", 1), ("expired", "expired", 1)]
    assert sends[:1] == retrying
    assert worker.admit(NOW + 20) == (None, sends)


@pytest.mark.parametrize("honours_keys", [True, False])
def test_what_expires_in_doubt_stays_in_doubt(honours_keys: bool) -> None:
    worker = Worker(expires_at=NOW + 10, honours_keys=honours_keys)
    worker.admit(NOW)
    attempt, sends = worker.admit(NOW + 10)
    assert attempt is None
    assert told(sends) == [("unknown", "call_cut_off", 1)]
    assert worker.admit(NOW + 20) == (None, sends)
    other = Worker(expires_at=NOW + 10, honours_keys=honours_keys)
    other.try_once(outcome.doubtful("time-out"))
    attempt, sends = other.admit(NOW + 10)
    assert attempt is None
    assert told(sends) == [("unknown", "time-out", 1)]


# -- waits


@pytest.mark.parametrize(
    ("retry_after", "waited"),
    [(5.0, 5.0), (0.0, 0.0), (-3.0, 0.0), (1e9, MOST_WAIT), (float("inf"), MOST_WAIT), (float("nan"), 0.0)],
)
def test_retry_after_is_honoured_and_clamped(retry_after: float, waited: float) -> None:
    assert Worker().try_once(outcome.deferred("busy", retry_after))[1] == waited


@given(st.floats(), st.integers(1, MAX_ATTEMPTS - 1), st.floats(0, 1))
def test_no_wait_is_below_nothing_or_above_the_most(retry_after: float, n: int, jitter: float) -> None:
    worker = Worker()
    attempt = Attempt(n, "k", "h", "main", NOW)
    for after in (retry_after, None):
        _, wait = settle(
            worker.parcel,
            attempt,
            outcome.deferred("busy", after),
            worker.rows,
            NOW,
            honours_keys=False,
            jitter=jitter,
        )
        assert wait is not None
        assert 0 <= wait <= MOST_WAIT


def test_the_waits_grow() -> None:
    worker = Worker()
    assert [worker.try_once(outcome.deferred("busy"))[1] for _ in range(MAX_ATTEMPTS)] == [
        0.5,
        1.0,
        2.0,
        None,
    ]


# -- identity


def test_the_key_is_that_of_the_message_and_its_target_whoever_reads_it() -> None:
    value = a_message().to_json()
    assert deliver.read(value, ORIGIN).key == deliver.read(value, an_origin(offset=99)).key == f"{ID}.t-1"


def test_each_target_of_each_step_is_an_effect_of_its_own() -> None:
    parcels = [
        deliver.read(a_message(**fields).to_json(), ORIGIN)
        for fields in (
            {},
            {"target_id": "t-2"},
            {"step": "resume:1"},
            {"id": "0783f046-62d8-8879-94d1-92a28321f5e7"},
        )
    ]
    assert len({parcel.effect for parcel in parcels}) == 4


def test_a_changed_message_shows_in_the_attempt() -> None:
    hashes = {a.hashed for text in ("one", "two") if (a := Worker(text=text).admit()[0]) is not None}
    assert len(hashes) == 2


def test_rows_come_back_as_they_were_put() -> None:
    rows, effect = MemoryRows(), b"e|"
    made = Attempt(2, "k", "h", "main", NOW)
    ended = effects.Result(2, "sent", NOW, "main", "p", None)
    effects.put_attempt(rows, effect, made)
    effects.put_result(rows, effect, ended)
    assert effects.attempt(rows, effect, 2) == made
    assert effects.result(rows, effect, 2) == ended
    assert effects.last_attempt(rows, effect) is None  # there is no first
    effects.put_attempt(rows, effect, made._replace(n=1))
    assert effects.last_attempt(rows, effect) == made


def test_a_code_is_kept_and_told_with_the_status_and_in_the_letter() -> None:
    worker = Worker()
    sends, _ = worker.try_once(Outcome(kind="refused", reason="unsubscribed", code="21610"))
    assert orjson.loads(sends[0].value or b"")["code"] == "21610"
    (letter,) = dead(sends)
    assert (letter["provider"], letter["code"]) == (b"main", b"21610")
    assert worker.admit() == (None, sends), "the row remembers it"


def test_without_a_code_the_rows_and_the_statuses_are_the_bytes_that_they_were() -> None:
    rows, effect = MemoryRows(), b"e|"
    effects.put_result(rows, effect, effects.Result(1, "refused", NOW, "main", None, "no"))
    effects.put_reopening(rows, effect, effects.Reopening(1, "dlq-sms-0-1", 1, "sms-notifications-0-9"))
    assert rows == {
        b"r|e|1": b'["refused",%d,"main",null,"no"]' % NOW,
        b"o|e|1": b'["dlq-sms-0-1",1,"sms-notifications-0-9"]',
    }
    assert effects.result(rows, effect, 1) == effects.Result(1, "refused", NOW, "main", None, "no")
    assert effects.asked_provider(rows, effect) is None
    worker = Worker()
    sends, _ = worker.try_once(outcome.refused("no"))
    assert b"code" not in (sends[0].value or b"") and "code" not in dead(sends)[0]


@given(st.none() | st.binary(max_size=60))
def test_what_is_no_message_is_refused_with_its_field(value: bytes | None) -> None:
    with pytest.raises(Unreadable, match=": "):
        deliver.read(value, ORIGIN)


# -- stories


ANSWERS = [
    outcome.sent("p"),
    outcome.delivered(),
    outcome.refused("no"),
    outcome.deferred("busy"),
    outcome.doubtful("?"),
]
moves = st.sampled_from(["cut off", *ANSWERS])


@given(st.lists(moves, min_size=1, max_size=8), st.booleans(), st.sampled_from(Doubt))
def test_whatever_happens_an_end_is_an_end_and_is_said_again_in_the_same_bytes(
    story: list[Any], honours_keys: bool, doubt: Doubt
) -> None:
    """And no attempt that surely took effect is followed by another."""
    worker = Worker(doubt=doubt, honours_keys=honours_keys)
    took_effect = False
    for move in story:
        attempt, _ = worker.admit()
        if attempt is None:
            break
        assert not took_effect
        if isinstance(move, Outcome):
            took_effect = move.kind in ("sent", "delivered")
            worker.settle(attempt, move)
    ended, sends = worker.admit()
    if ended is None:
        rows = dict(worker.rows)
        for later in (1, 1_000, 10**9):
            assert worker.admit(NOW + later) == (None, sends)
        assert worker.rows == rows
        assert told(sends)[-1][0] in ("sent", "delivered", "failed", "unknown")


@pytest.mark.parametrize("channel", Channel)
def test_every_channel_has_a_letterbox(channel: Channel) -> None:
    parcel = Parcel(a_message(channel=channel), b"value", ORIGIN)
    letter = deliver.dead(parcel, "refused", "no", NOW, 1)
    assert (letter.topic, letter.key, letter.value) == (f"dlq-{channel}", b"u-1", b"value")


# -- what is past


def effect_of(worker: Worker) -> list[bytes]:
    return sorted(key[:2] + key.rpartition(b"|")[2] for key in worker.rows)


def swept(worker: Worker, oldest: int) -> MemoryRows:
    left = MemoryRows(worker.rows)
    for key, value in worker.rows.scan(effects.ATTEMPTS):
        effects.forget(left, key, value, oldest)
    return left


def test_an_effect_is_forgotten_whole_and_not_before_its_last_row_is_past() -> None:
    worker = Worker()
    for n in range(3):
        attempt, _ = worker.admit(NOW + 10 * n)
        worker.settle(attempt, outcome.deferred("busy"), NOW + 10 * n + 1)
    effects.put_reopening(worker.rows, worker.parcel.effect, effects.Reopening(1, "letter", 3, "place"))
    attempt, _ = worker.admit(NOW + 50)
    assert effect_of(worker) == [b"a|1", b"a|2", b"a|3", b"a|4", b"o|1", b"r|1", b"r|2", b"r|3"]
    assert swept(worker, NOW + 50) == worker.rows, "the last attempt is not past"
    assert swept(worker, NOW + 51) == {}
    worker.settle(attempt, outcome.sent("p"), NOW + 70)
    assert swept(worker, NOW + 70) == worker.rows, "its result is not past"
    assert swept(worker, NOW + 71) == {}


def test_effects_whose_names_begin_alike_are_forgotten_each_for_itself() -> None:
    old, new = Worker(target_id="t"), Worker(target_id="t|1")
    new.rows = old.rows
    old.settle(old.admit()[0], outcome.sent("p"))
    new.settle(new.admit(NOW + 9)[0], outcome.sent("p"), NOW + 9)
    left = swept(old, NOW + 5)
    assert effects.last_attempt(left, old.parcel.effect) is None
    assert effects.last_attempt(left, new.parcel.effect) is not None
    assert len(left) == 2


def test_a_message_older_than_the_ledger_that_is_not_in_it_is_not_called() -> None:
    worker = Worker()
    for _ in range(2):
        admitted = admit(worker.parcel, worker.rows, NOW, One("main", False), oldest=ORIGIN.at + 1)
        assert admitted.attempt is None
        assert told(admitted.sends) == [("too_old", "too_old", None)]
    assert not worker.rows
    assert admit(worker.parcel, worker.rows, NOW, One("main", False), oldest=ORIGIN.at).attempt


def test_a_letter_of_a_message_that_is_forgotten_can_be_redriven() -> None:
    worker = Worker()
    parcel = worker.parcel._replace(redrive="dlq-sms-0-1")
    assert admit(parcel, worker.rows, NOW, One("main", False), oldest=ORIGIN.at + 1).attempt
