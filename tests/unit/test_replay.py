"""Replay: what is asked for becomes places; what would come of them is foreseen as the stages decide it."""

import re
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import GroupAuthorizationFailedError, GroupCoordinatorNotAvailableError, KafkaError
from hypothesis import given
from hypothesis import strategies as st

from agents import intake, plan
from agents.catalogue import Catalogue
from agents.replay import NEW, NOTHING, Prospect, foresee, foresee_call
from pipeline import replay
from pipeline.app import Roles
from pipeline.control import ControlReader
from pipeline.engine.rewinds import NEVER, Rewind, Rewinds
from pipeline.foresight import Calls, Claims, Forecast, Range, note
from pipeline.metrics import Metrics
from pipeline.replay import GATES, READS, Asked, Misused, Plan, Span, moment, of_group, of_partition
from pipeline.settings import Settings
from pipeline.settings import given as settings_given
from pipeline.topics import group
from schemas.control import Place, Replay
from schemas.notification import FanOut, Signal
from tables import claims, effects
from tables.effects import Attempt, Result
from tests.journeys.memory import NOON, MemoryRows
from tests.journeys.samples import a_notification, a_template, a_workflow, an_origin, cloud_event

BOX = {"providers": {"box": {"kind": "outbox"}}}


def settings(tmp_path: Any, **kafka: Any) -> Settings:
    channels = {"email": BOX, "sms": BOX, "web": BOX}
    return settings_given(state_dir=tmp_path, channels=channels, kafka={"topic_prefix": "p.", **kafka})


# -- what is asked for


def test_what_a_role_is_rewound_on_is_what_it_reads_but_for_the_people(tmp_path: Any) -> None:
    roles = Roles(settings(tmp_path), Catalogue(), Metrics())
    for role in roles.names():
        app = roles.build(role)
        people = set(GATES) if role == "core" else set()
        assert {name.removeprefix("p.") for name in app.reads} == set(READS[role]) | people
        if role == "core":
            assert {name.removeprefix("p.") for name in app.gates} == people


def test_a_group_is_all_partitions_of_what_it_reads(tmp_path: Any) -> None:
    wanted = of_group(settings(tmp_path, partitions={"core": 3}), "core", "earliest")
    assert {part.topic for part in wanted.parts} == {f"p.{name}" for name in READS["core"]}
    assert [part.partition for part in wanted.parts if part.topic == "p.events"] == [0, 1, 2]


@pytest.mark.parametrize("topic", ["users", "p.users", "email-notifications-express", "contents"])
def test_a_topic_is_known_with_its_prefix_and_without(tmp_path: Any, topic: str) -> None:
    wanted = of_partition(settings(tmp_path), topic, 1, "7")
    assert [(part.topic, part.partition) for part in wanted.parts] == [(f"p.{topic.removeprefix('p.')}", 1)]


@pytest.mark.parametrize(
    "text",
    ["2026-01-31T12:00:00Z", "2026-01-31T13:00:00+01:00", "2026-01-31T12:00Z", "2026-01-31T13:00+01:00"],
)
def test_a_time_is_a_moment_in_any_zone(text: str) -> None:
    assert moment(text) == 1_769_860_800_000


@pytest.mark.parametrize(
    "text", ["", "now", "2026-01-31", "12", "-5", "2026-01-31T12:00:00", "20260131T120000Z"]
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(Misused, match="--to"):
        moment(text)


NUMBERS = ["٣", "9" * 20, "9" * 5_000, str(2**63), "-1", "+1", "1.5"]


@pytest.mark.parametrize("to", NUMBERS)
def test_a_number_that_is_no_offset_is_told_what_one_is(tmp_path: Any, to: str) -> None:
    told = f"--to {re.escape(to)}: an offset is a number from 0 to 9223372036854775807"
    with pytest.raises(Misused, match=told):
        of_partition(settings(tmp_path), "events", 0, to)
    assert of_partition(settings(tmp_path), "events", 0, str(2**63 - 1)).to == str(2**63 - 1)


@pytest.mark.parametrize("to", ["²", "1²", "", "now", "20260131T120000Z"])
def test_an_offset_is_among_what_a_partition_may_begin_at(tmp_path: Any, to: str) -> None:
    with pytest.raises(Misused, match=f"--to {to}: not earliest, latest, an offset or a time such as"):
        of_partition(settings(tmp_path), "events", 0, to)


@pytest.mark.parametrize("to", ["²", "1²", *NUMBERS])
def test_a_group_begins_at_no_offset(tmp_path: Any, to: str) -> None:
    with pytest.raises(Misused, match="--to"):
        of_group(settings(tmp_path), "core", to)


class Coordinator:
    """Answers after it has refused so often."""

    def __init__(self, refusals: int, error: type[KafkaError]) -> None:
        self.refusals, self.error, self.asked = refusals, error, 0

    async def __call__(self) -> str:
        self.asked += 1
        if self.asked <= self.refusals:
            raise self.error
        return "offsets"


async def test_a_coordinator_that_is_not_there_yet_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "COORDINATOR_PAUSE", 0.001)
    asked = Coordinator(5, GroupCoordinatorNotAvailableError)
    assert (await replay.coordinated(asked), asked.asked) == ("offsets", 6)
    refused = Coordinator(1, GroupAuthorizationFailedError)
    with pytest.raises(GroupAuthorizationFailedError):
        await replay.coordinated(refused)
    assert refused.asked == 1
    monkeypatch.setattr(replay, "COORDINATOR_SECONDS", 0.05)
    with pytest.raises(GroupCoordinatorNotAvailableError):
        await replay.coordinated(Coordinator(10**9, GroupCoordinatorNotAvailableError))


# -- what is heard


requests = st.lists(
    st.tuples(st.integers(0, 2), st.tuples(st.integers(0, 9), st.integers(0, 9)), st.integers(0, 99))
)


@given(requests)
def test_the_latest_request_counts_in_whatever_order_they_are_heard(
    heard: list[tuple[int, tuple[int, int], int]],
) -> None:
    rewinds = Rewinds()
    for number, place, offset in heard:
        rewinds.hear(_tp(number), Rewind(place, offset))
    due = rewinds.due([_tp(n) for n in range(3)], {})
    for number in range(3):
        places = [place for n, place, _ in heard if n == number]
        assert (due[_tp(number)].place if places else None) == max(places, default=None)
    obeyed = {tp: rewind.place for tp, rewind in due.items()}
    assert rewinds.due(obeyed, obeyed) == {}
    assert rewinds.due(due, dict.fromkeys(due, NEVER)) == due


def _tp(number: int) -> Any:
    from faust.types import TP

    return TP("p.events", number)


class Heard:
    """A record of `control`."""

    timestamp, offset, key = NOON, 5, None

    def __init__(self, value: bytes | None) -> None:
        self.value = value


def test_a_request_reaches_the_engines_of_its_group_and_no_place_that_is_not_there(tmp_path: Any) -> None:
    known = settings(tmp_path)
    reader = ControlReader(known)
    places = [("p.events", 0, 7), ("p.events", 12, 7), ("p.events", -1, 7), ("p.events", 1, -1), ("x", 0, 0)]
    for name in (group(known, "core"), "p.carillon-nobody"):
        asked = Replay(
            id="r", group=name, places=tuple(Place(topic=t, partition=p, offset=o) for t, p, o in places)
        )
        reader.hear(Heard(asked.to_json()))
    for broken in (None, b"", b"{}", b"[]", b'{"v":2}', b'{"v":1,"id":"r","group":"x","places":[1]}'):
        reader.hear(Heard(broken))
    assert reader.rewinds_of(group(known, "core")).latest == {_tp(0): Rewind((NOON, 5), 7)}
    assert reader.rewinds_of(group(known, "email")).latest == {}


# -- what is foreseen


def decided(catalogue: Catalogue, rows: MemoryRows) -> None:
    plan.plan(a_notification(template="hello"), an_origin(), plan.Work(rows, 1, 0, catalogue))


@pytest.mark.parametrize("mended", [True, False])
def test_what_is_foreseen_is_what_planning_does(mended: bool) -> None:
    rows, notification = MemoryRows(), a_notification(template="hello")
    key = claims.key(notification.id, notification.step)
    known = Catalogue(templates=[a_template(name="hello")])
    assert foresee(claims.find(rows, key)) == NEW
    decided(known if mended else Catalogue(), rows)
    foreseen = foresee(claims.find(rows, key))
    sends = plan.plan(notification, an_origin(), plan.Work(rows, 2, 1, known))
    if mended:
        assert foreseen == NOTHING
        assert not sends
    else:
        assert foreseen == (Prospect.AFRESH, "unknown_template: hello")
        assert sends


@pytest.mark.parametrize(
    ("kind", "prospect"),
    [
        ("sent", Prospect.NOTHING), ("delivered", Prospect.NOTHING), ("refused", Prospect.NOTHING),
        ("deferred", Prospect.AFRESH), ("doubtful", Prospect.DOUBTFUL), ("cut_off", Prospect.DOUBTFUL),
    ],
)  # fmt: skip
def test_a_call_is_foreseen_by_its_last_attempt(kind: str, prospect: Prospect) -> None:
    assert foresee_call(0, None) == NEW
    assert foresee_call(1, None).prospect is Prospect.DOUBTFUL
    assert foresee_call(1, Result(1, kind, NOON, "box")).prospect is prospect


def test_rows_of_a_changelog_are_taken_where_they_are_wanted(tmp_path: Any) -> None:
    rows, notification = MemoryRows(), a_notification(template="hello")
    decided(Catalogue(), rows)
    key = claims.key(notification.id, notification.step)
    memory = Claims()
    for row, value in rows.items():
        memory.take(row, value, {})
    assert memory.foresee(key) == NEW
    for row, value in rows.items():
        memory.take(row, value, {key: "workflow"})
    assert memory.foresee(key).prospect is Prospect.AFRESH
    memory.take(key, None, {key: "workflow"})
    assert memory.foresee(key) == NEW


def test_attempts_and_results_are_taken_where_they_are_wanted() -> None:
    rows, calls = MemoryRows(), Calls()
    name = effects.effect(a_notification().id, "plan", "t|1")
    for n in (1, 2):
        effects.put_attempt(rows, name, Attempt(n, "k", "h", "box", NOON))
    effects.put_result(rows, name, Result(1, "deferred", NOON, "box", None, "busy"))
    for row, value in rows.items():
        calls.take(row, value, {name: "word"})
    assert calls.foresee(name).prospect is Prospect.DOUBTFUL
    effects.put_result(rows, name, Result(2, "sent", NOON, "box"))
    for row, value in rows.items():
        calls.take(row, value, {name: "word"})
    assert calls.foresee(name) == NOTHING
    assert calls.foresee(name + b"other|") == NEW


def test_what_is_looked_up_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.foresight.MOST", 2)
    seen = Range()
    for key in (b"a", b"b", b"a", b"c", b"d"):
        seen.want(key, "word")
    assert (set(seen.wanted), seen.too_many) == ({b"a", b"b"}, 2)


def test_what_is_too_old_is_noted_by_the_time_that_counts() -> None:
    def noted(notification: Any, timestamp: int, headers: Any = ()) -> set[bytes]:
        seen = Range()
        record = SimpleNamespace(
            topic="p.notifications", value=notification.to_json(), timestamp=timestamp, headers=headers
        )
        note(record, "p.", Catalogue(), seen, NOON + 5)
        assert seen.wanted
        return seen.old

    planned, resumed = a_notification(event_at=NOON), a_notification(event_at=NOON, step="resume:1")
    assert noted(planned, NOON + 9) == {claims.key(planned.id, "plan")}
    assert noted(a_notification(event_at=NOON + 5), NOON + 9) == set()
    assert noted(resumed, NOON + 9) == set()
    assert noted(resumed, NOON + 4) == {claims.key(planned.id, "resume:1")}


def test_an_effect_that_was_forgotten_is_foreseen_as_if_it_had_never_been() -> None:
    calls, rows = Calls(), MemoryRows()
    name = effects.effect(a_notification().id, "plan", "t|1")
    effects.put_attempt(rows, name, Attempt(1, "k", "h", "box", NOON))
    effects.put_result(rows, name, Result(1, "sent", NOON, "box"))
    for row, value in rows.items():
        calls.take(row, value, {name: "word"})
    assert calls.foresee(name) == NOTHING
    for row in rows:
        calls.take(row, None, {name: "word"})
    assert calls.foresee(name) == NEW


# -- what is told


def test_a_fan_out_is_foreseen_by_the_claim_of_its_step() -> None:
    catalogue = Catalogue([a_workflow(recipients=[], segment="pro")])
    seen = Range()
    (send,) = intake.take_in(cloud_event(), [], an_origin(topic="events"), catalogue)
    found = FanOut.from_json(send.value)
    for topic, value in (("p.events", cloud_event()), ("p.notifications", send.value)):
        note(a_record(topic, value), "p.", catalogue, seen)
    signal = Signal(kind="seen", id=found.id, user_id="u-1")
    note(a_record("p.notifications-express", signal.to_json()), "p.", catalogue, seen)
    assert seen.wanted == {claims.key(found.id, "fan-out:0"): "order-confirmed"}
    assert not seen.unreadable


def a_record(topic: str, value: bytes | None) -> Any:
    return SimpleNamespace(topic=topic, partition=0, offset=3, timestamp=NOON, value=value, headers=[])


def a_plan(role: str) -> Plan:
    part = TopicPartition("p.events", 3)
    return Plan(f"p.carillon-{role}", role, [Span(part, 5, 20, 8, 30), Span(part, 0, None, 4, 4)])


def test_a_replay_is_told_with_what_it_reads_again_and_what_it_passes_over() -> None:
    asked = Asked(a_plan("core"), "r-1")
    assert (asked.plan.again, asked.plan.left_out) == (12, 4)
    assert "12 offsets once more, 4 passed over (request r-1)" in asked.text
    assert "p.events-3: from 20 to 8 of 30" in asked.text
    assert asked.figures["partitions"][1] == {
        "topic": "p.events", "partition": 3, "committed": None, "to": 4, "end": 4,
    }  # fmt: skip


def test_a_group_is_where_its_partition_begins_if_what_it_committed_is_gone() -> None:
    span = Span(TopicPartition("p.events", 0), 50, 20, 50, 60)
    plan = Plan("g", "core", [span])
    assert (span.now, plan.again, plan.left_out) == (50, 0, 0)


def test_a_forecast_tells_what_would_be_sent_and_why() -> None:
    seen = Range()
    seen.ignored, seen.unreadable, seen.too_many = 1, 2, 3
    counted = Counter(
        {Prospect.NOTHING: 40, Prospect.AFRESH: 6, Prospect.NEW: 5, Prospect.DOUBTFUL: 4, Prospect.TOO_OLD: 7}
    )
    reasons, fresh = Counter({"template_failed: x": 6}), Counter({"ordered": 5})
    lines = Forecast(a_plan("core"), seen, counted, reasons, fresh).text.splitlines()
    assert "nothing was asked of it" in lines[0]
    for told in ("40 decided already: nothing", "6 failed, and would be decided afresh", "6 template_failed",
                 "5 never decided", "5 ordered", "4 in doubt", "7 too old to tell: nothing",
                 "1 events that no workflow wants", "2 unreadable", "3 more than"):  # fmt: skip
        assert sum(told in line for line in lines) == 1, told
    nothing = Forecast(a_plan("status"), Range(), Counter(), Counter(), Counter())
    assert "It sends nothing" in nothing.text
