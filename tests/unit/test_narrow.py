"""A narrowed replay: what is chosen, what its copies say, and what every stage makes of a copy."""

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka import TopicPartition
from hypothesis import given as given_these
from hypothesis import strategies as st

from agents import intake, narrow, redrive
from agents.catalogue import Catalogue
from agents.narrow import Narrowing
from agents.replay import Prospect, foresee_call
from pipeline import narrowed, replays
from pipeline.foresight import Calls
from pipeline.narrowed import Chosen, Narrowed, Pick, Reasoned, copies_of, events_of, message_of
from pipeline.replay import Misused, Plan, Span
from pipeline.replays import Request
from pipeline.settings import Settings, given
from schemas import outcome
from schemas.event import Unreadable
from schemas.ids import notification_id
from schemas.kinds import Channel, Reason
from schemas.notification import EventRef, Notification
from tables import claims, effects
from tables.claims import Claim, Origin, Pinned
from tables.effects import Attempt, Reopening, Result
from tests.journeys.memory import NOON, MemoryRows, NotingProvider, Pipeline
from tests.journeys.samples import SOURCE, a_message, a_template, a_workflow, cloud_event, request, shop

FIRST = Origin("events", 3, 42, NOON)
LATER = Origin("events", 3, 77, NOON + 99_000)
EVENT = EventRef(source="s", id="e", type="t")
ID = notification_id("u-1", SOURCE, "e-1", "order-confirmed")
Headers = list[tuple[str, bytes]]


@dataclass
class Standing:
    """A record as a consumer reads it."""

    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    topic: str = "events"
    partition: int = 3
    offset: int = 42
    timestamp: int = NOON
    key: bytes | None = field(default=b"k")


def for_many(**fields: Any) -> bytes:
    return request(user_id=None, recipients=["u-1", "u-2", "u-3"], **fields)


def made(value: bytes, headers: Headers | None = None, origin: Origin = LATER) -> list[Any]:
    return [
        Notification.from_json(send.value) for send in intake.take_in(value, headers or [], origin, shop())
    ]


def a_copy(
    headers: Headers | None = None, generation: int = 0, ids: Sequence[str] = (), origin: Origin = FIRST
) -> Headers:
    whole = narrow.of_event(headers or [], origin, "r-1", generation)
    return next(narrow.for_some(whole, ids)) if ids else whole


# -- what is chosen


@pytest.mark.parametrize(
    ("narrowing", "wanted"),
    [
        (Narrowing(), True),
        (Narrowing(ids=frozenset("ab")), True),
        (Narrowing(ids=frozenset("bc")), False),
        (Narrowing(users=frozenset("uv")), True),
        (Narrowing(users=frozenset("v")), False),
        (Narrowing(events=frozenset([("s", "e")])), True),
        (Narrowing(events=frozenset([("s", "x"), ("x", "e")])), False),
        (Narrowing(ids=frozenset("a"), users=frozenset("v")), False),
        (Narrowing(frozenset([("s", "e")]), frozenset("a"), frozenset("u"), frozenset("x")), True),
    ],
)
def test_kinds_must_agree_and_those_of_one_kind_are_alternatives(narrowing: Narrowing, wanted: bool) -> None:
    assert narrowing.wants("a", "u", EVENT) is wanted


def a_claim(*pinned: Pinned, failure: str | None = None) -> Claim:
    return Claim(FIRST, "p", 1, 1, pinned, failure)


def test_a_claim_gives_the_reason_that_it_failed_for_and_those_against_its_channels() -> None:
    assert narrow.reasons_of(a_claim(failure="template_failed: x: y")) == {"template_failed"}
    pinned = Pinned(Channel.SMS, None, "daily_cap"), Pinned(Channel.EMAIL, "a@b")
    assert narrow.reasons_of(a_claim(*pinned)) == {"daily_cap"}
    assert narrow.reasons_of(a_claim(pinned[1])) == set()


@pytest.mark.parametrize(
    ("kind", "words", "reasons"),
    [
        ("refused", "550 no", {"refused", "550 no"}),
        ("deferred", None, {"deferred", "retries_exhausted"}),
        ("cut_off", "call_cut_off", {"cut_off", "call_cut_off"}),
        ("sent", None, {"sent"}),
    ],
)
def test_a_call_gives_its_kind_its_words_and_the_reason_of_its_letter(
    kind: str, words: str | None, reasons: set[str]
) -> None:
    assert narrow.reasons_of_call(Result(1, kind, NOON, "box", None, words)) == reasons


def test_a_reason_is_looked_up_in_the_latest_row_of_a_claim() -> None:
    rows, key, seen = MemoryRows(), claims.key(ID, "plan"), Reasoned("core", frozenset(["template_failed"]))
    for claim, found in (
        (a_claim(failure="template_failed: x"), {key}),
        (a_claim(failure="unknown_template: x"), set()),
        (a_claim(failure="template_failed: y"), {key}),
        (a_claim(Pinned(Channel.SMS, "1")), set()),
    ):
        claims.put(rows, key, claim)
        seen.take(key, rows[key], {})
        seen.take(b"k|u|1", b"7", {})
        assert set(seen.found) == found
    claims.put(rows, key, a_claim(failure="template_failed: x"))
    seen.take(key, rows[key], {})
    seen.take(key, None, {})
    assert not seen.found


def test_a_reason_is_that_of_the_last_call() -> None:
    rows, name = MemoryRows(), effects.effect(ID, "plan", "t|1")
    seen = Reasoned("email", frozenset(["refused"]))
    for n, kind in ((1, "deferred"), (2, "refused")):
        effects.put_attempt(rows, name, Attempt(n, "k", "h", "box", NOON))
        effects.put_result(rows, name, Result(n, kind, NOON, "box"))
    effects.put_reopening(rows, name, Reopening(1, "r", 2, "p"))
    for row, value in [*rows.items(), (b"\0unit|x", b"1"), (b"r|odd", b"1"), (b"w|1|2", b"1")]:
        seen.take(row, value, {})
    assert set(seen.found) == {name}
    effects.put_result(rows, name, Result(3, "sent", NOON, "box"))
    seen.take(effects.RESULTS + name + b"3", rows[effects.RESULTS + name + b"3"], {})
    assert not seen.found


def test_a_reason_is_looked_up_of_those_that_are_wanted() -> None:
    rows, failed = MemoryRows(), a_claim(failure="template_failed: x")
    for role, key, value in (
        ("core", claims.key(ID, "plan"), claims),
        ("email", effects.effect(ID, "plan", "t"), effects),
    ):
        seen = Reasoned(role, frozenset(["template_failed", "refused"]))
        if value is claims:
            claims.put(rows, key, failed)
        else:
            effects.put_result(rows, key, Result(1, "refused", NOON, "box"))
        for wanted in ({b"other": ""}, {key: ""}):
            for row, content in rows.items():
                seen.take(row, content, wanted)
            assert set(seen.found) == ({key} & set(wanted))


def test_what_is_chosen_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrowed, "MOST", 2)
    chosen, pick = Chosen(), Pick(b"a", "a", TopicPartition("events", 0), 1, "w")
    for key in (b"a", b"b", b"a"):
        chosen.add(key, pick)
    with pytest.raises(Misused, match="more than 2 would be chosen"):
        chosen.add(b"c", pick)
    seen, rows = Reasoned("core", frozenset(["daily_cap"])), MemoryRows()
    with pytest.raises(Misused, match="more than 2 are remembered"):
        for n in range(3):
            key = claims.key(notification_id(f"u-{n}", "s", "e", "w"), "plan")
            claims.put(rows, key, a_claim(Pinned(Channel.SMS, None, "daily_cap")))
            seen.take(key, rows[key], {})


def test_of_an_event_those_are_chosen_whom_it_names_now() -> None:
    narrowing = Narrowing(users=frozenset(["u-2", "u-9"]))
    ((key, pick),) = events_of(Standing(for_many()), narrowing, shop(), 0, "r-1")
    (second,) = [one for one in made(for_many(), origin=FIRST) if one.user_id == "u-2"]
    assert (key, pick.id, pick.offset) == (claims.key(second.id, "plan"), second.id, 42)
    assert pick.remembered == key
    assert events_of(Standing(for_many()), narrowing, Catalogue(), 0, "r-1") == []
    with pytest.raises(Unreadable):
        events_of(Standing(b"x"), narrowing, shop(), 0, "r-1")


def test_what_goes_anew_is_known_by_the_id_that_intake_will_give_it() -> None:
    first = Standing(for_many())
    ((key, pick),) = events_of(first, Narrowing(users=frozenset(["u-2"])), shop(), 7, "r-1")
    (copy,) = copies_of(first, "core", [pick.id], 7, "r-1")
    (anew,) = made(for_many(), copy.headers)
    assert (anew.user_id, anew.id, anew.generation) == ("u-2", pick.id, 7)
    assert key == claims.key(anew.id, "plan") != pick.remembered
    # the copy stands in the range when the same is asked for again
    again = Standing(for_many(), copy.headers, offset=77, timestamp=LATER.at)
    ((same, _),) = events_of(again, Narrowing(users=frozenset(["u-2"])), shop(), 7, "r-2")
    assert same == key


def test_a_message_is_chosen_with_whether_it_has_expired() -> None:
    message = a_message(expires_at=NOON + 5)
    record = Standing(message.to_json(), topic="sms-notifications")
    for now, expired in ((NOON, False), (NOON + 5, True)):
        ((key, pick),) = message_of(record, Narrowing(ids=frozenset([message.id])), now)
        assert key == pick.remembered == effects.effect(message.id, "plan", "t-1")
        assert pick.expired is expired
    assert message_of(record, Narrowing(users=frozenset(["u-2"])), NOON) == []


# -- what its copies say


@pytest.mark.parametrize(
    "value", [cloud_event(), request(), request(idempotency_key="i"), for_many()], ids=range(4)
)
def test_a_copy_makes_what_the_record_made(value: bytes) -> None:
    assert made(value, a_copy()) == made(value, origin=FIRST)


def test_a_copy_of_a_copy_is_as_the_first() -> None:
    once = a_copy([("ce_x", b"1"), ("replay-generation", b"9")])
    twice = a_copy(once, origin=LATER)
    assert twice == once == [("ce_x", b"1"), *a_copy()]


def test_a_copy_is_for_those_that_it_names_and_for_nobody_else() -> None:
    one, two, three = made(for_many(), origin=FIRST)
    assert made(for_many(), a_copy(ids=[one.id, three.id])) == [one, three]
    other = notification_id("u-9", "s", "e", "w")
    assert intake.take_in(for_many(), a_copy(ids=[other]), LATER, shop()) == []
    assert intake.take_in(for_many(), a_copy(ids=[two.id]), LATER, Catalogue()) == []


def test_those_of_an_event_for_many_are_split_over_copies() -> None:
    ids = [notification_id(f"u-{n}", "s", "e", "w") for n in range(2 * redrive.MOST_ONLY + 1)]
    every = list(copies_of(Standing(request()), "core", ids, 0, "r-1"))
    named = [redrive.intent(copy.headers, LATER).only or frozenset() for copy in every]
    assert [len(some) for some in named] == [redrive.MOST_ONLY, redrive.MOST_ONLY, 1]
    assert frozenset().union(*named) == frozenset(ids)


def test_a_generation_has_ids_of_its_own_and_ages_from_when_it_was_asked_for() -> None:
    rules = Catalogue([a_workflow(expires_after=60)], [a_template()])
    first, fifth = (
        Notification.from_json(intake.take_in(request(), a_copy(generation=n), LATER, rules)[0].value)
        for n in (0, 5)
    )
    assert (first.event_at, first.expires_at) == (NOON, NOON + 60_000)
    assert (fifth.event_at, fifth.expires_at) == (LATER.at, LATER.at + 60_000)
    assert fifth.event == first.event
    assert fifth.position == first.position == "events-3-42"
    assert fifth.id == notification_id("u-1", first.event.source, first.event.id, "order-confirmed", 5)
    assert fifth.id != first.id


def test_what_went_anew_and_is_replayed_keeps_its_generation_and_its_age() -> None:
    fifth = a_copy(generation=5)
    much_later = Origin("events", 3, 99, LATER.at + 5_000)
    replayed = a_copy(fifth, origin=LATER)
    assert made(request(), replayed, much_later) == made(request(), fifth, LATER)
    sixth = a_copy(fifth, generation=6, origin=LATER)
    assert made(request(), sixth, much_later)[0].generation == 6


@pytest.mark.parametrize(
    ("name", "value"),
    [("replay-only", b"x" * 9_000), ("replay-generation", b"-1"), ("replay-generation", b"9" * 99)],
)
def test_a_copy_that_does_not_say_for_whom_is_for_nobody(name: str, value: bytes) -> None:
    with pytest.raises(Unreadable, match=name):
        intake.take_in(request(), [*a_copy(), (name, value)], LATER, shop())


def test_a_copy_that_fails_and_is_redriven_is_for_the_same_ones() -> None:
    one, _, three = made(for_many(), a_copy(generation=5))
    copy = a_copy([("x", b"1")], 5, [one.id, three.id])
    dead = intake.dead(for_many(), b"k", Unreadable("no"), LATER, "dlq-events", copy)
    pipeline = Pipeline(shop())
    pipeline.topics["dlq-events"].append(dead)
    again = redrive.back(pipeline.letter("dlq-events"), {"events": 12})
    assert redrive.name(again.headers) == "dlq-events-0-0"
    assert [n.id for n in made(for_many(), again.headers)] == [one.id, three.id]


def test_without_the_header_replay_the_others_say_nothing() -> None:
    ours = [header for header in a_copy(generation=5, ids=["x"]) if header[0] != "replay"]
    assert made(request(), ours) == made(request())


SOME = st.sampled_from([*sorted(redrive.OURS), "x"])
WORDS = st.one_of(st.binary(max_size=30), st.integers(0, 10**20).map(lambda n: b"%d" % n))


@given_these(st.lists(st.tuples(SOME, WORDS), max_size=8))
def test_any_headers_are_read_or_refused(headers: Headers) -> None:
    with contextlib.suppress(Unreadable):
        intake.take_in(request(), headers, LATER, shop())
    narrow.of_message(headers, LATER, "r-1")


# -- what comes of it


def test_what_was_sent_stays_sent_and_what_is_mended_goes_out_to_whom_it_is_for() -> None:
    provider = NotingProvider()
    pipeline = Pipeline(Catalogue([a_workflow()], [a_template("{{ order.id + no.thing }}")]), provider)
    for n in (1, 2, 3):
        pipeline.user(f"u-{n}", phone=f"+1555010{n}")
    value = for_many(channels=["sms"], variables={"order": {"id": "C"}})
    pipeline.event(value)
    assert not provider.calls
    pipeline.catalogue.set_template(a_template())
    first = Origin("events", 0, 0, pipeline.now)
    ids = [n.id for n in made(value, [], first) if n.user_id == "u-2"]
    for _ in range(2):
        pipeline.event(value, a_copy(ids=ids, origin=first))
        assert [message.user_id for _, message in provider.calls] == ["u-2"]


def test_a_generation_is_sent_once_however_often_it_is_asked_for() -> None:
    provider = NotingProvider()
    pipeline = Pipeline(shop(), provider)
    pipeline.user("u-1", phone="+15550100")
    value = request(channels=["sms"], variables={"order": {"id": "C"}})
    pipeline.event(value)
    first = Origin("events", 0, 0, NOON + 1)
    for generation, calls in ((5, 2), (5, 2), (6, 3), (0, 3)):
        pipeline.event(value, a_copy(generation=generation, origin=first))
        assert len(provider.calls) == calls
    assert len({key for key, _ in provider.calls}) == 3


def test_a_copy_of_a_message_opens_what_has_failed_once_a_request() -> None:
    provider = NotingProvider(outcome.refused("no"))
    pipeline = Pipeline(shop(), provider)
    pipeline.user("u-1", phone="+15550100")
    pipeline.event(request(channels=["sms"], variables={"order": {"id": "C"}}))
    (message,) = pipeline.topics["sms-notifications"]
    here = Origin("sms-notifications", 0, 0, NOON)
    for name, calls in (("r-1", 2), ("r-1", 2), ("r-2", 3)):
        copy = narrow.of_message([("redrive", b"old"), ("x", b"1")], here, name)
        list(pipeline._follow([type(message)(message.topic, message.key, message.value, headers=copy)]))
        assert len(provider.calls) == calls


@pytest.mark.parametrize(
    ("kind", "n", "since", "opened", "prospect"),
    [
        ("deferred", 3, 0, False, Prospect.AFRESH),
        ("deferred", 4, 0, False, Prospect.NOTHING),
        ("deferred", 4, 0, True, Prospect.AFRESH),
        ("deferred", 4, 1, False, Prospect.AFRESH),
        ("refused", 1, 0, False, Prospect.NOTHING),
        ("refused", 1, 0, True, Prospect.AFRESH),
        ("sent", 1, 0, True, Prospect.NOTHING),
        ("delivered", 2, 1, True, Prospect.NOTHING),
    ],
)
def test_a_call_is_foreseen_as_its_ledger_decides_it(
    kind: str, n: int, since: int, opened: bool, prospect: Prospect
) -> None:
    assert foresee_call(n, Result(n, kind, NOON, "box"), since, opened=opened).prospect is prospect
    rows, name, calls = MemoryRows(), effects.effect(ID, "plan", "t"), Calls(opened=opened)
    effects.put_attempt(rows, name, Attempt(n, "k", "h", "box", NOON))
    effects.put_result(rows, name, Result(n, kind, NOON, "box"))
    if since:
        effects.put_reopening(rows, name, Reopening(1, "r", since, "p"))
    for row, value in rows.items():
        calls.take(row, value, {name: ""})
    assert calls.foresee(name).prospect is prospect


# -- how it is asked for


def settings(tmp_path: Any) -> Settings:
    box = {"providers": {"box": {"kind": "outbox"}}}
    return given(state_dir=tmp_path, channels={"email": box}, kafka={"topic_prefix": "p."})


USER = Narrowing(users=frozenset(["u"]))


def test_what_is_narrowed_is_chosen_from_events_or_from_a_channels_messages(tmp_path: Any) -> None:
    core = replays.check(settings(tmp_path), Request("core", narrowing=USER))
    assert {part.topic for part in core.parts} == {"p.events", "p.events-express"}
    assert core.to == "earliest"
    email = replays.check(settings(tmp_path), Request("email", to="latest", narrowing=USER))
    assert {part.topic for part in email.parts} == {"p.email-notifications", "p.email-notifications-express"}
    one = replays.check(settings(tmp_path), Request(None, "events", 3, "7", USER, resend=True, generation=9))
    assert (one.parts, one.to) == ([TopicPartition("p.events", 3)], "7")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (Request(), "give --group"),
        (Request("core"), "--to"),
        (Request("core", to="earliest", resend=True), "--resend: only"),
        (Request("core", narrowing=USER, generation=5), "--generation: with --resend"),
        (Request("core", narrowing=USER, resend=True, generation=0), "--generation 0"),
        (Request("core", narrowing=USER, resend=True, generation=10**16), "--generation 1"),
        (Request("email", narrowing=USER, resend=True), "--resend: of core"),
        (Request("status", narrowing=USER), "--group status: it sends nothing"),
        (Request(None, "notifications", 0, narrowing=USER), "chosen from events"),
        (Request(None, "users", 0, narrowing=USER), "chosen from events"),
        (Request("core", narrowing=Narrowing(ids=frozenset(["x"]))), "--id x"),
        (Request("core", narrowing=Narrowing(reasons=frozenset(["x"]))), "--reason x.*template_failed"),
        (Request("core", narrowing=Narrowing(reasons=frozenset([Reason.REFUSED]))), "--reason refused"),
        (Request("core", narrowing=Narrowing(users=frozenset(map(str, range(10_001))))), "at most 10000"),
    ],
)
def test_what_cannot_be_is_refused_with_the_option_named(tmp_path: Any, asked: Request, told: str) -> None:
    with pytest.raises(Misused, match=told):
        replays.check(settings(tmp_path), asked)


def a_result(role: str, generation: int = 0, asked: str | None = None) -> Narrowed:
    plan = Plan(f"p.carillon-{role}", role, [Span(TopicPartition("p.events", 3), 5, 20, 8, 30)])
    counted = Counter({Prospect.NOTHING: 4, Prospect.AFRESH: 2, Prospect.NEW: 1})
    reasons, fresh = Counter({"template_failed: x": 2}), Counter({"order": 1})
    return Narrowed(plan, asked, generation, 7, counted, reasons, fresh, 3, 2, 1, 6)


def test_a_narrowed_replay_tells_what_it_chose_and_what_comes_of_it() -> None:
    text = a_result("core").text
    for told in ("7 notifications chosen; nothing was copied", "4 decided already", "2 failed",
                 "1 never", "1 have expired", "3 would be given to core again, in 2 copies",
                 "6 unreadable"):  # fmt: skip
        assert told in text
    done = a_result("core", 5, "r-1").text
    for told in ("request r-1", "4 were decided", "2 had failed", "3 are decided anew, as generation 5"):
        assert told in done
    figures = a_result("core", 5, "r-1").figures
    assert (figures["chosen"], figures["anew"], figures["generation"]) == (7, 3, 5)
    assert figures["partitions"] == [{"topic": "p.events", "partition": 3, "from": 8, "to": 20}]
    assert "anew" not in a_result("core").figures
    assert a_result("core").figures["dry_run"] is True
