"""A dead letter goes back as what it was, and whoever reads it again knows that it is the same."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as given_these
from hypothesis import strategies as st

from agents import deliver, intake, know, narrow, redrive
from agents.deliver import MAX_ATTEMPTS
from agents.letters import Letter
from agents.redrive import NotRedrivable, Redriven, To, back
from pipeline.app import Roles
from pipeline.delivery import Delivery
from pipeline.engine import Unit
from pipeline.metrics import Metrics
from pipeline.pool import Pool
from pipeline.settings import given
from schemas import outcome
from schemas.event import Unreadable
from schemas.ids import partition_of, user_hash
from schemas.kinds import Channel, Doubt
from schemas.outcome import Outcome
from tables import effects, people
from tables.claims import Origin
from tests.journeys.memory import NOON, MemoryRows
from tests.journeys.samples import a_message, an_origin, cloud_event, request, shop
from tests.unit.test_deliver import NOW, ORIGIN, Worker, dead, told

EVENT = Origin("events", 3, 42, NOON)
LATER = Origin("events", 3, 77, NOON + 99_000)
Headers = list[tuple[str, bytes]]


@dataclass
class Arrived:
    """A record as the engine hands it over."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@pytest.fixture
def roles(tmp_path: Path) -> Roles:
    return Roles(given(state_dir=tmp_path), shop(), Metrics())


KNOWN = {"events": 12, "users": 12}


def a_letter(value: bytes | None, headers: Headers | None = None, origin: Origin = EVENT) -> Letter:
    send = intake.dead(value, b"k", Unreadable("no"), origin, "dlq-events", headers or [])
    return Letter("dlq-events", "dlq-events", 1, 5, NOON, send.key, send.value, send.headers or [])


def again(value: bytes, headers: Headers | None = None) -> Redriven:
    return back(a_letter(value, headers), KNOWN)


# -- going back


def test_what_goes_back_is_the_original_where_it_was() -> None:
    found = again(b"\xff", [("ce_type", b"t")])
    assert (found.topic, found.partition, found.key, found.value) == ("events", 3, b"k", b"\xff")
    assert found.headers == [
        ("ce_type", b"t"), ("redrive", b"dlq-events-1-5"), ("source-topic", b"events"),
        ("source-partition", b"3"), ("source-offset", b"42"), ("source-time", b"%d" % NOON),
    ]  # fmt: skip


def test_a_partition_that_is_gone_is_chosen_by_the_key() -> None:
    assert back(a_letter(b"x"), {"events": 3}).partition is None


@pytest.mark.parametrize("topic", ["nothing", "dlq-sms", "carillon-core-store-changelog", ""])
def test_nothing_goes_where_no_stage_reads(topic: str) -> None:
    letter = a_letter(b"x", origin=Origin(topic, 0, 1, NOON))
    with pytest.raises(NotRedrivable):
        back(letter, KNOWN)


def test_a_letter_that_does_not_say_where_from_stays() -> None:
    with pytest.raises(NotRedrivable, match="do not say"):
        back(a_letter(b"x")._replace(headers=[]), KNOWN)


# -- events


@pytest.mark.parametrize(
    "value", [request(), cloud_event(), request(idempotency_key="i"), request(user_id=7)]
)
def test_an_event_becomes_the_same_as_when_it_first_came(value: bytes) -> None:
    first = intake.take_in(value, [], EVENT, shop())
    assert intake.take_in(value, again(value).headers, LATER, shop()) == first
    assert first[0].topic == "notifications"


def test_a_binary_cloud_event_has_its_attributes_again() -> None:
    own = [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"e"),
        ("ce_source", b"s"),
        ("ce_type", b"shop.order.confirmed"),
    ]
    value = b'{"customer":{"id":"u-1"}}'
    first = intake.take_in(value, own, EVENT, shop())
    assert intake.take_in(value, again(value, own).headers, LATER, shop()) == first


def test_an_event_that_fails_again_has_its_first_place_still() -> None:
    own = [("content-type", b"text/plain")]
    once = a_letter(b"x", own)
    record = back(once, KNOWN)
    twice = intake.dead(record.value, record.key, Unreadable("no"), LATER, "dlq-events", record.headers)
    assert twice.headers == once.headers


def test_without_the_header_redrive_the_others_say_nothing() -> None:
    headers = [header for header in again(request()).headers if header[0] != "redrive"]
    assert intake.take_in(request(), headers, LATER, shop()) == intake.take_in(request(), [], LATER, shop())


@pytest.mark.parametrize(
    ("name", "value"),
    [("source-topic", b"users"), ("source-partition", b"-1"), ("source-offset", b"x"), ("source-time", b""),
     ("source-time", b"9" * 5_000)],
)  # fmt: skip
def test_headers_that_make_no_sense_change_nothing(name: str, value: bytes) -> None:
    headers = [(n, value if n == name else v) for n, v in again(request()).headers]
    assert redrive.origin(headers, LATER) == LATER


def test_nothing_comes_from_the_future() -> None:
    headers = [(n, b"%d" % 10**15 if n == "source-time" else v) for n, v in again(request()).headers]
    assert redrive.origin(headers, LATER).at == LATER.at


SOME = st.sampled_from(["redrive", "source-topic", "source-offset", "source-time", "x"])


@given_these(st.lists(st.tuples(SOME, st.binary(max_size=9))))
def test_any_headers_give_some_origin(headers: Headers) -> None:
    assert redrive.origin(headers, LATER).topic == "events"


# -- people


def test_a_redriven_preference_never_replaces_a_newer_one() -> None:
    rows, here = MemoryRows(), Origin("preferences", 0, 9, NOON + 50)
    send = intake.dead(b"{}", b"u", Unreadable("no"), Origin("preferences", 0, 1, NOON), "dlq-people")
    letter = Letter("dlq-people", "dlq-people", 0, 0, NOON, send.key, send.value, send.headers or [])
    record = back(letter, {"preferences": 12})
    know.know("preferences", b"u", b'{"channels":{"sms":false}}', NOON + 5, rows)
    know.know("preferences", b"u", record.value, redrive.origin(record.headers, here).at, rows)
    assert people.preferences(rows, "u").channels == {"sms": False}


def test_core_reads_a_redriven_user_as_of_then(roles: Roles) -> None:
    rows: dict[bytes, bytes] = {}
    topic = roles.wiring.name("users")
    place = partition_of(user_hash("u"), roles.wiring.partitions[topic])
    old = [
        ("redrive", b"dlq-people-0-1"), ("source-topic", topic.encode()), ("source-partition", b"0"),
        ("source-offset", b"1"), ("source-time", b"%d" % NOON),
    ]  # fmt: skip
    unit = Unit(topic, place, [], rows, roles.wiring.partitions)
    for at, phone, headers in ((NOON + 5, "new", []), (NOON + 9, "old", old)):
        value = b'{"user_id":"u","phone":"%s"}' % phone.encode()
        roles._know(Arrived(topic, place, 4, at, b"u", value, headers), unit)
    user = people.user(unit, "u")
    assert user is not None
    assert user.phone == "new"


def test_core_gives_a_letter_the_headers_of_its_record(roles: Roles) -> None:
    topic = roles.wiring.name("events")
    unit = Unit(topic, 0, [], {}, roles.wiring.partitions)
    record = Arrived(topic, 0, 4, NOON, b"k", b"x", [("ce_type", b"t")])
    roles._dead("dlq-events", record, Unreadable("no"), unit)
    ((_, _, headers),) = unit.outbox.take()[0].records
    assert dict(headers)["original-ce_type"] == b"t"


def test_a_redriven_message_joins_no_copy_that_is_under_way(roles: Roles) -> None:
    """A copy that joins ends with the first, undecided; another redrive of the same letter may."""
    stage = Delivery(Channel.SMS, Pool([]), roles.wiring, roles.metrics, 1, 1.0, 1)
    value = a_message().to_json()
    effects_of = [
        stage.identify(Arrived("sms-notifications", 0, 4, NOON, b"u-1", value, headers)).effect
        for headers in ([], [], [("redrive", b"a-0-1")], [("redrive", b"a-0-1")], [("redrive", b"a-0-2")])
    ]
    assert effects_of[0] == effects_of[1]
    assert effects_of[2] == effects_of[3]
    assert len(set(effects_of)) == 3


def test_what_came_astray_takes_its_headers_along() -> None:
    headers = again(b"x").headers
    assert know.astray("users", b"u", b"x", 1, headers).headers == headers


# -- messages


REFUSED, BUSY = outcome.refused("no"), outcome.deferred("busy")


def redriven(worker: Worker, letter: str = "dlq-sms-0-1", offset: int = 9) -> None:
    """From now on the worker reads the message as redriven."""
    origin = an_origin(topic="sms-notifications", offset=offset)
    worker.parcel = worker.parcel._replace(redrive=letter, origin=origin)


def failed(answer: Outcome, **fields: Any) -> Worker:
    """A worker whose message has failed for good."""
    worker = Worker(**fields)
    while worker.try_once(answer)[1] is not None:
        pass
    return worker


@pytest.mark.parametrize(("answer", "tried"), [(REFUSED, 1), (BUSY, MAX_ATTEMPTS)])
def test_a_failed_message_is_tried_again_and_again_in_full(answer: Outcome, tried: int) -> None:
    worker = failed(answer)
    redriven(worker)
    attempt, sends = worker.admit()
    assert attempt is not None
    assert (attempt.n, sends) == (tried + 1, [])
    waits, said = [], []
    while attempt is not None:
        sends, wait = worker.settle(attempt, BUSY)
        waits.append(wait)
        said += told(sends)
        attempt = worker.admit(told=True)[0] if wait is not None else None
    assert waits == [0.5, 1.0, 2.0, None]
    assert [state for state, _, _ in said] == ["retrying", "retrying", "retrying", "failed"]
    assert said[-1][2] == tried + MAX_ATTEMPTS
    assert dead(sends)[0]["attempts"] == b"%d" % (tried + MAX_ATTEMPTS)


def test_the_row_names_the_letter_and_the_attempt_and_is_written_with_the_attempt() -> None:
    worker = failed(REFUSED)
    redriven(worker)
    worker.admit()
    (made,) = effects.reopenings(worker.rows, worker.parcel.effect)
    assert made == (1, "dlq-sms-0-1", 1, "sms-notifications-0-9", None)


def test_the_key_is_the_same_after_a_redrive() -> None:
    worker = Worker()
    first, _ = worker.admit()
    worker.settle(first, REFUSED)
    redriven(worker)
    second, _ = worker.admit()
    assert first is not None
    assert second is not None
    assert (second.key, second.hashed) == (first.key, first.hashed)


@pytest.mark.parametrize("ended", [outcome.sent("p"), outcome.delivered(), outcome.doubtful("?"), None])
def test_what_may_have_taken_effect_is_as_without_the_header(ended: Outcome | None) -> None:
    worker = Worker(doubt=Doubt.AT_MOST_ONCE)
    attempt, _ = worker.admit()
    if ended is not None:
        worker.settle(attempt, ended)
    plain = worker.admit()
    redriven(worker)
    assert worker.admit() == plain
    assert plain[0] is None
    assert effects.reopenings(worker.rows, worker.parcel.effect) == []


def test_what_is_still_under_way_is_not_opened_again() -> None:
    worker = Worker()
    worker.try_once(BUSY)
    redriven(worker)
    attempt, _ = worker.admit()
    assert attempt is not None
    assert attempt.n == 2
    assert effects.reopenings(worker.rows, worker.parcel.effect) == []


def test_a_message_that_was_never_tried_is_tried() -> None:
    worker = Worker()
    redriven(worker)
    attempt, _ = worker.admit()
    assert attempt is not None
    assert attempt.n == 1


def test_the_same_letter_opens_once_and_does_not_breed() -> None:
    worker = failed(REFUSED)
    redriven(worker)
    attempt, _ = worker.admit()
    lost, _ = worker.settle(attempt, REFUSED)
    redriven(worker, offset=10)
    assert worker.admit() == (None, [])
    redriven(worker, offset=9)
    assert worker.admit() == (None, lost), "a redelivery says again what may not be out"


def test_the_next_letter_opens_it_once_more() -> None:
    worker = failed(REFUSED)
    for number, letter in enumerate(("dlq-sms-0-1", "dlq-sms-0-2"), 2):
        redriven(worker, letter)
        attempt, _ = worker.admit()
        assert attempt is not None
        assert attempt.n == number
        worker.settle(attempt, REFUSED)
    assert effects.counted_from(worker.rows, worker.parcel.effect) == 2


def test_a_kill_in_the_middle_repeats_nothing() -> None:
    worker = failed(BUSY)
    redriven(worker)
    worker.admit()
    rows = dict(worker.rows)
    fourth, sends = worker.admit()  # at least once: the call that was cut off is made again
    assert fourth is not None
    assert fourth.n == MAX_ATTEMPTS + 2
    assert told(sends) == [("unknown", "call_cut_off", MAX_ATTEMPTS + 1)]
    assert len(effects.reopenings(worker.rows, worker.parcel.effect)) == 1
    worker.rows.clear()
    worker.rows.update(rows)
    worker.parcel = worker.parcel._replace(message=Worker(doubt=Doubt.AT_MOST_ONCE).parcel.message)
    attempt, sends = worker.admit()
    assert attempt is None
    assert told(sends) == [("unknown", "call_cut_off", MAX_ATTEMPTS + 1)]


def test_a_result_that_could_not_be_said_is_said_at_the_redelivery_and_no_older_one() -> None:
    worker = failed(BUSY)
    redriven(worker)
    attempt, _ = worker.admit()
    lost, _ = worker.settle(attempt, BUSY)
    following, sends = worker.admit()
    assert following is not None
    assert sends == lost


def test_the_first_record_goes_on_with_the_reopened_attempts_where_it_comes_up_again() -> None:
    worker = failed(BUSY)
    redriven(worker)
    worker.try_once(BUSY)
    worker.parcel = worker.parcel._replace(redrive=None, origin=ORIGIN)
    attempt, _ = worker.admit()
    assert attempt is not None
    assert attempt.n == MAX_ATTEMPTS + 2


def test_what_has_expired_is_not_sent_and_makes_no_further_letter() -> None:
    worker = failed(REFUSED, expires_at=NOW + 5)
    redriven(worker)
    attempt, sends = worker.admit(NOW + 6)
    assert attempt is None
    assert [state for state, _, _ in told(sends)] == ["expired"]
    assert dead(sends) == []
    assert effects.reopenings(worker.rows, worker.parcel.effect) == []


def test_an_effect_is_opened_so_often_and_no_more() -> None:
    worker = failed(REFUSED)
    for number in range(effects.MOST_REOPENINGS + 3):
        redriven(worker, f"dlq-sms-0-{number}")
        attempt, _ = worker.admit()
        if attempt is None:
            break
        worker.settle(attempt, REFUSED)
    assert number == effects.MOST_REOPENINGS


# -- to another provider


def handed(worker: Worker, provider: str = "backup", letter: str = "dlq-sms-0-1", offset: int = 9) -> None:
    """From now on the worker reads the message as redriven for a provider, which delivery obeys."""
    redriven(worker, letter, offset)
    worker.parcel, worker.provider = worker.parcel._replace(provider=provider), provider


SMS = To("backup", ("dlq-sms",))


def a_dead_message(original: Headers | None = None) -> Letter:
    send = intake.dead(b"{}", b"u", Unreadable("no"), Origin("sms", 0, 1, NOON), "dlq-sms", original or [])
    return Letter("p.dlq-sms", "dlq-sms", 0, 4, NOON, send.key, send.value, send.headers or [])


def test_what_goes_back_names_the_provider_and_the_stage_reads_it() -> None:
    headers = back(a_dead_message(), {"sms": 1}, SMS).headers
    assert headers[-1] == ("provider", b"backup")
    parcel = deliver.read(a_message().to_json(), ORIGIN, headers)
    assert (parcel.redrive, parcel.provider) == ("p.dlq-sms-0-4", "backup")


def test_a_letter_of_a_channel_without_that_provider_stays() -> None:
    for letter in (a_letter(request()), a_dead_message()._replace(plain="dlq-email")):
        with pytest.raises(NotRedrivable, match="not sent by a provider 'backup'"):
            back(letter, {**KNOWN, "sms": 1}, SMS)


def test_the_provider_of_one_redrive_is_not_that_of_the_next() -> None:
    letter = a_dead_message(back(a_dead_message(), {"sms": 1}, SMS).headers)
    assert "original-provider" in dict(letter.headers)
    assert "provider" not in dict(back(letter, {"sms": 1}).headers)
    copy = narrow.of_message(back(a_dead_message(), {"sms": 1}, SMS).headers, ORIGIN, "request")
    assert redrive.name(copy) == "request" and "provider" not in dict(copy)


def test_an_event_keeps_a_header_of_that_name_of_its_own() -> None:
    assert dict(again(request(), [("provider", b"theirs")]).headers)["provider"] == b"theirs"


@pytest.mark.parametrize(
    "headers",
    [[("provider", b"x")], [("replay", b"r"), ("provider", b"x")], [("redrive", b"l"), ("provider", b"")],
     [("redrive", b"l"), ("provider", b"x" * 401)]],
)  # fmt: skip
def test_only_what_was_redriven_is_for_a_provider(headers: Headers) -> None:
    assert redrive.provider(headers) is None


@pytest.mark.parametrize("answer", [REFUSED, BUSY])
def test_another_provider_sends_what_surely_failed_and_its_retries_are_for_it_too(answer: Outcome) -> None:
    worker = failed(answer)
    handed(worker)
    attempt, _ = worker.admit()
    assert attempt is not None and attempt.provider == "backup"
    assert effects.asked_provider(worker.rows, worker.parcel.effect) == "backup"
    worker.settle(attempt, BUSY)
    worker.parcel = worker.parcel._replace(redrive=None, provider=None)  # a wait keeps no such headers
    assert effects.asked_provider(worker.rows, worker.parcel.effect) == "backup"
    sends, _ = worker.settle(worker.admit()[0], Outcome(kind="refused", reason="no", code="9"))
    assert (dead(sends)[0]["provider"], dead(sends)[0]["code"]) == (b"backup", b"9")
    redriven(worker, "dlq-sms-0-2", 10)
    worker.admit()
    assert effects.asked_provider(worker.rows, worker.parcel.effect) is None


def test_what_is_remembered_no_more_is_for_that_provider_too() -> None:
    worker = Worker()
    handed(worker)
    attempt, _ = worker.admit()
    assert attempt is not None
    assert effects.asked_provider(worker.rows, worker.parcel.effect) == "backup"
    worker.settle(attempt, REFUSED)
    handed(worker, offset=10)
    assert worker.admit() == (None, [])


@pytest.mark.parametrize("doubt", Doubt)
@pytest.mark.parametrize("answer", [outcome.doubtful("?"), None])
def test_what_another_provider_left_in_doubt_is_not_sent_by_this_one(
    doubt: Doubt, answer: Outcome | None
) -> None:
    worker = Worker(doubt=doubt)
    attempt, _ = worker.admit()
    if answer is not None:
        worker.settle(attempt, answer)
    handed(worker)
    rows = dict(worker.rows)
    attempt, sends = worker.admit()
    assert attempt is None
    assert {state for state, _, _ in told(sends)} <= {"unknown"} and dead(sends) == []
    assert worker.rows == rows


@pytest.mark.parametrize("doubt", Doubt)
def test_nor_is_what_failed_after_a_doubt_and_its_letter_says_so(doubt: Doubt) -> None:
    worker = Worker(doubt=doubt, honours_keys=True)
    worker.try_once(outcome.doubtful("?"))
    worker.try_once(Outcome(kind="refused", reason="no", code="550"))
    handed(worker)
    attempt, sends = worker.admit()
    assert attempt is None
    (letter,) = dead(sends)
    assert b"nobody knows whether" in letter["error"]
    assert (letter["reason"], letter["provider"], letter["code"]) == (b"refused", b"main", b"550")
    assert worker.admit() == (None, sends), "a redelivery says the same"
    handed(worker, "main", "dlq-sms-0-2", 10)
    assert worker.admit()[0] is not None, "by its key the first provider still knows it"


moved = st.tuples(st.sampled_from(["main", "backup", "third"]), st.booleans())


@given_these(
    st.lists(st.sampled_from(["cut off", outcome.sent("p"), REFUSED, BUSY, outcome.doubtful("?")]) | moved,
             min_size=1, max_size=20),
    st.sampled_from(Doubt), st.booleans(),
)  # fmt: skip
def test_whatever_is_redriven_to_whom_no_provider_follows_a_doubt_of_anothers(
    story: list[Any], doubt: Doubt, honours_keys: bool
) -> None:
    worker, offset, doubted = Worker(doubt=doubt, honours_keys=honours_keys), 9, set[str]()
    for move in story:
        if isinstance(move, tuple):
            provider, is_new = move
            offset += is_new
            handed(worker, provider, f"dlq-sms-0-{offset}", offset)
            continue
        attempt, _ = worker.admit()
        if attempt is None:
            continue
        assert not doubted - {attempt.provider}
        if move == "cut off" or move.kind in ("sent", "doubtful"):
            doubted.add(attempt.provider)
        if isinstance(move, Outcome):
            worker.settle(attempt, move)


ANSWERS = [outcome.sent("p"), REFUSED, BUSY, outcome.doubtful("?")]
moves = st.sampled_from(["cut off", "letter 1", "letter 2", "same letter", *ANSWERS])


@given_these(st.lists(moves, min_size=1, max_size=20), st.booleans(), st.sampled_from(Doubt))
def test_whatever_is_redriven_what_took_effect_is_never_called_again(
    story: list[Any], honours_keys: bool, doubt: Doubt
) -> None:
    worker = Worker(doubt=doubt, honours_keys=honours_keys)
    took_effect, offset = False, 9
    for move in story:
        if isinstance(move, str) and move != "cut off":
            offset += move != "same letter"
            redriven(worker, move if move != "same letter" else worker.parcel.redrive or "letter", offset)
            continue
        attempt, _ = worker.admit()
        if attempt is None:
            continue
        assert not took_effect
        if isinstance(move, Outcome):
            took_effect = move.kind in ("sent", "delivered")
            worker.settle(attempt, move)
    assert len(effects.reopenings(worker.rows, worker.parcel.effect)) <= 3
