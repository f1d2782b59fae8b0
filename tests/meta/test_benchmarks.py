"""The benchmarks measure what they say: all sides do the same job, and the figures are those of CONTRACT."""

from collections.abc import Iterator
from itertools import islice
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from agents import intake, plan, topics
from benchmarks import carillon_job, core_job, lanes, quix_job, rebalance, restore, simple_job, stock_job
from benchmarks import waits as waits_bench
from benchmarks.__main__ import REGISTRY, arguments
from benchmarks.comparison import spread, summary, table
from benchmarks.desk import Tally
from benchmarks.sides import QUIX_LOCK, ROOT, Measure, decided, rendered
from benchmarks.simple_job import CHANNELS, DEFAULT_PREFERENCE, Request, all_events, words
from pipeline.engine import Unit
from schemas.ids import partition_of, user_hash
from schemas.message import Message
from schemas.notification import Notification
from tables import claims, waits
from tables.claims import Origin
from tables.people import PREFERENCES, USERS, upsert

NAMED_IN_CONTRACT = {
    "engine", "planning", "chain", "restore", "rebalance", "waits", "lanes", "delivery", "sockets",
}  # fmt: skip
OUTPUTS = {channel: f"to-{channel}" for channel in CHANNELS}
NOON = 1_790_000_000_000
Sent = list[tuple[str, bytes, bytes]]


class Rows(dict[bytes, bytes]):
    """Rows in memory; also what a Unit takes for a database."""

    put = dict.__setitem__
    delete = dict.__delitem__

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        yield from sorted((key, value) for key, value in self.items() if key.startswith(prefix))

    def page(self, prefix: bytes, after: bytes, limit: int) -> Iterator[tuple[bytes, bytes]]:
        return islice(((key, value) for key, value in self.scan(prefix) if key > after), limit)


class QuixState:
    """The state of one key, as Quix Streams has it."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}
        self.exists, self.get_bytes, self.set_bytes = (
            self.rows.__contains__, self.rows.get, self.rows.__setitem__,
        )  # fmt: skip


def some_events() -> list[tuple[bytes, bytes]]:
    """A few users with several events each, and one event twice."""
    found = list(all_events(60))
    return [*found, found[7]]


def decided_by_carillon(events: list[tuple[bytes, bytes]], mark: int = 0) -> tuple[Sent, Rows]:
    """Each event a unit of its own."""
    db, sent = Rows(), []
    for number, (key, value) in enumerate(events):
        record = SimpleNamespace(
            topic="events", partition=0, offset=number, timestamp=5, key=key, value=value
        )
        unit = Unit(
            "events", 0, [record], db, dict.fromkeys(OUTPUTS.values(), 1), number=number + 1, mark=mark
        )
        carillon_job.decide(record, unit, OUTPUTS, b"1")
        db.update({row: value for row, value in unit.writes.items() if value is not None})
        for batch in unit.outbox.take():
            sent += [
                (batch.topic.removeprefix("to-"), made[0] or b"", made[1] or b"") for made in batch.records
            ]
    return sent, db


def decided_by_stock(
    events: list[tuple[bytes, bytes]], preferences: dict[bytes, bytes] | None = None
) -> Sent:
    seen: dict[bytes, bytes] = {}
    sent_today: dict[bytes, bytes] = {}
    known = {} if preferences is None else preferences
    return [made for _, value in events for made in stock_job.decide(value, seen, known, sent_today, b"1")]


def decided_by_quix(events: list[tuple[bytes, bytes]]) -> Sent:
    states: dict[bytes, QuixState] = {}
    return [
        (made["channel"], key, orjson.dumps(made))
        for key, value in events
        for made in quix_job.decide(value, states.setdefault(key, QuixState()), "1")
    ]


def test_the_registry_holds_benchmarks_of_the_contract() -> None:
    assert set(REGISTRY) <= NAMED_IN_CONTRACT
    for name in REGISTRY:
        assert arguments(["--only", name, "--json"]).only == name


def test_carillon_stock_and_quix_decide_the_same_outputs_byte_for_byte() -> None:
    events = some_events()
    expected = decided_by_stock(events)
    assert len(expected) == 60 * len(CHANNELS), "the repeated event sends nothing"
    assert decided_by_carillon(events)[0] == expected
    assert decided_by_quix(events) == expected


def test_every_side_stops_at_the_cap() -> None:
    user, value = next(all_events(6))
    body = orjson.loads(value)
    events = [(user, orjson.dumps(body | {"idempotency_key": f"k{n}"})) for n in range(70)]
    expected = decided_by_stock(events)
    assert len(expected) == 50 * len(CHANNELS)
    assert decided_by_carillon(events)[0] == expected
    assert decided_by_quix(events) == expected


def test_every_side_reads_the_preference_that_it_kept() -> None:
    events = list(all_events(12))
    only_email = DEFAULT_PREFERENCE.replace(b'"push":true', b'"push":false')
    sent = decided_by_stock(events, dict.fromkeys({key for key, _ in events}, only_email))
    assert {channel for channel, _, _ in sent} == {"email"}


def test_a_redelivered_event_above_the_mark_is_sent_again_the_same() -> None:
    key, value = next(all_events(6))
    first, db = decided_by_carillon([(key, value)])
    record: Any = SimpleNamespace(topic="events", partition=0, offset=0, timestamp=5, key=key, value=value)
    for mark, expected in ((0, first), (1, [])):
        unit = Unit("events", 0, [record], db, dict.fromkeys(OUTPUTS.values(), 1), number=2, mark=mark)
        carillon_job.decide(record, unit, OUTPUTS, b"1")
        again = [(b.topic.removeprefix("to-"), r[0], r[1]) for b in unit.outbox.take() for r in b.records]
        assert again == expected
        assert not unit.writes


def test_what_is_expected_is_what_stock_faust_decides() -> None:
    expected = {channel: Tally() for channel in CHANNELS}
    for channel, key, value in decided_by_stock(list(all_events(30))):
        expected[channel].add(key, value)
    assert decided(30) == expected


def test_the_core_role_makes_the_simple_jobs_words_of_the_same_events() -> None:
    catalogue, rows = core_job.catalogue(), Rows()
    for topic, key, value in core_job.people(30):
        upsert(rows, (USERS if topic == topics.USERS else PREFERENCES) + key, 1, value)
    found = {channel: Tally() for channel in core_job.CHANNELS}
    kinds: dict[str, int] = {}
    for number, (_, value) in enumerate(all_events(30)):
        notes = intake.take_in(value, (), Origin("events", 0, number, 5), catalogue)
        for note in notes:
            sends = plan.plan(
                Notification.from_json(note.value),
                Origin("notifications", 0, number, 6),
                plan.Work(rows, 1, 0, catalogue),
            )
            for send in sends:
                kinds[send.topic] = kinds.get(send.topic, 0) + 1
                for channel in core_job.CHANNELS:
                    if send.topic == topics.MESSAGES[channel]:
                        message = orjson.loads(send.value or b"")
                        found[channel].add(send.key, f"{message['subject']}\0{message['text']}".encode())
    assert found == dict.fromkeys(core_job.CHANNELS, rendered(30))
    assert kinds[topics.CONTENTS] == 30
    assert kinds[topics.DELIVERY_STATUS] == 60


def test_a_tally_sees_a_lost_a_doubled_and_a_changed_record_but_no_order() -> None:
    def tally(*records: bytes) -> Tally:
        found = Tally()
        for value in records:
            found.add(b"k", value)
        return found

    assert tally(b"a", b"b") == tally(b"b", b"a")
    assert (
        len(
            {repr(tally(*t)) for t in [(b"a",), (b"a", b"b"), (b"a", b"a"), (b"a", b"c"), (b"a", b"a", b"b")]}
        )
        == 5
    )


def test_the_figures_are_medians_with_their_ranges_and_the_ratios_are_theirs() -> None:
    measures = {
        "carillon": [Measure(100, 1.0, 2.0), Measure(100, 2.0, 2.0), Measure(100, 4.0, 5.0)],
        "stock_faust": [Measure(10, 1.0, 1.0), Measure(10, 0.5, 1.0), Measure(10, 2.0, 4.0)],
    }
    found = summary("engine", measures)
    figures = found["figures"]
    assert figures["carillon_per_second"] == 50
    assert (figures["carillon_per_second_min"], figures["carillon_per_second_max"]) == (25, 100)
    assert figures["carillon_per_wall_second"] == 50
    assert figures["stock_faust_events"] == 10
    assert found["ratios"] == {"stock_faust": 5.0}
    assert (figures["ratio_stock_faust_min"], figures["ratio_stock_faust_max"]) == (2.5, 10.0)
    assert "stock_faust" in table(found)


def test_figures_without_another_side_are_shown_one_a_line() -> None:
    figures = spread([{"seconds": 3.0}, {"seconds": 1.0}, {"seconds": 1.2345}])
    assert figures == {"seconds": 1.234, "seconds_min": 1.0, "seconds_max": 3.0}
    shown = table({"name": "restore", "figures": figures, "ratios": {}})
    assert [line.split() for line in shown.splitlines()[1:]] == [[k, str(v)] for k, v in figures.items()]


# -- restore


def test_the_rows_to_restore_are_claims_of_their_users_partition_each_once() -> None:
    found = list(restore.rows(600, 4))
    assert len({key for _, (key, _) in found}) == 600
    assert {partition for partition, _ in found} == {0, 1, 2, 3}
    sizes = [len(key) + len(value) for _, (key, value) in found]
    assert 180 <= sum(sizes) / len(sizes) <= 220
    for _, (key, value) in found:
        claim = claims.find(Rows({key: value}), key)
        assert claim is not None
        assert len(claim.pinned) == 2


# -- rebalance


def test_the_longest_gap_counts_where_it_touches_the_stretch() -> None:
    times = [1.0, 2.0, 2.5, 6.0, 6.1]
    assert rebalance.longest_gap(times, 2.1, 3.0) == 3.5
    assert rebalance.longest_gap(times, 1.5, 2.3) == 1.0
    assert rebalance.longest_gap([], 2.0, 5.0) == 3.0


def happenings(*told: tuple[float, str, str, int]) -> list[rebalance.Happening]:
    return [rebalance.Happening(*one) for one in told]


JOIN = happenings(
    (0.0, "b", "revoked", 0), (1.0, "a", "revoking", 4), (1.0, "a", "draining", 4), (1.2, "a", "drained", 4),
    (1.3, "a", "revoked", 4), (1.4, "a", "assigned", 2), (1.4, "b", "assigned", 2), (1.5, "a", "opening", 2),
    (1.6, "a", "opened", 2), (1.9, "b", "opening", 2), (2.3, "b", "opened", 2),
)  # fmt: skip
LEAVE = happenings(
    (5.0, "b", "stopping", 2), (5.0, "b", "draining", 2), (5.1, "b", "drained", 2), (5.2, "b", "draining", 0),
    (5.2, "b", "drained", 0), (6.1, "a", "revoking", 2), (6.1, "a", "draining", 2), (6.2, "a", "drained", 2),
    (6.2, "a", "revoked", 2), (6.3, "a", "assigned", 4), (6.4, "a", "opening", 4), (6.5, "a", "opened", 4),
)  # fmt: skip


def rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in seconds.items()}


def test_the_parts_of_a_joining_leave_out_what_the_newcomer_waits_for() -> None:
    assert rounded(rebalance.parts(JOIN + LEAVE, 0.0, 4.0)) == {
        "drain": 0.2, "notice": 0.0, "join": 0.1, "restore": 0.5, "open": 0.4,
    }  # fmt: skip


def test_the_parts_of_a_leaving_hold_the_time_until_the_other_hears_of_it() -> None:
    assert rounded(rebalance.parts(JOIN + LEAVE, 4.0, 9.0)) == {
        "drain": 0.1, "notice": 1.0, "join": 0.1, "restore": 0.1, "open": 0.1,
    }  # fmt: skip


def test_a_pause_is_the_longest_gap_of_a_partition_less_its_steady_one() -> None:
    def steps(begin: float, end: float) -> list[float]:
        return [begin + 0.1 * n for n in range(round((end - begin) / 0.1) + 1)]

    times = {0: steps(0, 9), 1: steps(0, 1) + steps(2.3, 5) + steps(6.5, 9)}
    moments = {
        "steady_alone": (0.0, 0.5), "join": (0.6, 3.0), "steady_together": (3.1, 4.5), "leave": (4.6, 8.0),
    }  # fmt: skip
    found = rounded(rebalance.figures(times, moments, JOIN + LEAVE))
    assert found["steady_gap_seconds"] == 0.1
    assert (found["join_pause_seconds"], found["join_shortest_pause_seconds"]) == (1.2, 0.0)
    assert found["pause_seconds"] == found["leave_pause_seconds"] == 1.4
    assert found["leave_notice_seconds"] == 1.0


def test_words_need_no_escaping_so_that_sides_with_and_without_it_agree() -> None:
    subject, body = words(Request.model_validate_json(next(all_events(6))[1]).variables)
    assert not set("&<>\"'") & set(subject + body)


def test_the_quix_lock_holds_hashes_for_what_is_asked_and_no_address() -> None:
    lock = QUIX_LOCK.read_text()
    asked = [line for line in (ROOT / "benchmarks" / "quix.in").read_text().splitlines() if "==" in line]
    assert asked
    for line in asked:
        assert f"\n{line} \\\n    --hash=sha256:" in lock
    assert "://" not in lock


@pytest.mark.parametrize("wrong", [["--runs", "0"], ["--events", "-1"], ["--only", "nothing"]])
def test_wrong_use_is_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        arguments(wrong)
    assert refused.value.code == 2


# -- lanes and waits


def test_a_percentile_is_a_value_that_so_many_do_not_exceed() -> None:
    values = [float(n) for n in range(1, 201)]
    assert [lanes.percentile(values[::-1], share) for share in (0.5, 0.99, 1.0)] == [100, 198, 200]
    assert lanes.percentile([3.0], 0.99) == 3.0


def test_the_backlog_is_bulk_for_both_roles_and_critical_ones_are_for_the_same_users() -> None:
    users = {name.encode() for name in map(simple_job.user, range(lanes.USERS))}
    found = [one for one in lanes.backlog(50) if one[0] not in (topics.USERS, topics.PREFERENCES)]
    assert [topic for topic, _, _ in found].count(topics.EVENTS) == 50
    messages = [Message.from_json(value) for topic, _, value in found if topic != topics.EVENTS]
    assert {(one.channel, one.priority) for one in messages} == {("email", "normal")}
    assert len({one.id for one in messages}) == len(messages) == 50 // lanes.MESSAGES_SHARE
    catalogue = core_job.catalogue((lanes.CHANNEL,))
    for number, (made, topic) in enumerate(
        [(lanes.bulk_event(7), "notifications"), (lanes.critical_event(7), "notifications-express")]
    ):
        key, value = made
        assert key in users
        (sent,) = intake.take_in(value, (), Origin("events", 0, number, 5), catalogue)
        assert (sent.topic, sent.key) == (topic, key)


def test_the_waits_to_store_are_what_planning_leaves_for_a_scheduled_event() -> None:
    _, value = waits_bench.scheduled(3, NOON + 5_000)
    (sent,) = intake.take_in(value, (), Origin("events", 0, 3, NOON), catalogue := core_job.catalogue())
    planned, notification = Rows(), Notification.from_json(sent.value)
    work = plan.Work(planned, 1, 0, catalogue, 1)
    plan.plan(notification, Origin("notifications", 0, 3, NOON), work)
    (mine,) = waits.read(planned.scan(waits.PREFIX))
    assert mine[1] == NOON + 5_000
    stored: dict[int, Rows] = {}
    for partition, (row, held) in waits_bench.rows(8, 4, "notifications", NOON):
        stored.setdefault(partition, Rows())[row] = held
    found = [one for rows in stored.values() for one in waits.read(rows.scan(waits.PREFIX))]
    assert len(found) == 8 and len({row for row, _, _ in found}) == 8
    for partition, rows in stored.items():
        for row, due, wait in waits.read(rows.scan(waits.PREFIX)):
            assert due >= NOON + waits_bench.FAR_SECONDS * 1000
            assert partition_of(user_hash(wait.key.decode()), 4) == partition
            assert waits.find(rows, row.removeprefix(waits.key(due, b""))) == due
            kept, made = Notification.from_json(wait.value), Notification.from_json(mine[2].value)
            same = ("step", "workflow", "category", "priority", "template", "waited_for")
            assert [getattr(kept, name) for name in same] == [getattr(made, name) for name in same]
            assert (wait.topic, wait.epoch, wait.headers) == (mine[2].topic, mine[2].epoch, mine[2].headers)
