"""Stops: what closed is called no more, what was decided later is, and what is said again is the same."""

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import deliver, know, signals, stops, topics
from agents.catalogue import Catalogue
from agents.plan import Policy, Work
from agents.sending import Send
from pipeline.app import Roles
from pipeline.metrics import Metrics
from pipeline.settings import given as settings_of
from schemas import outcome
from schemas.base import RecordUnreadable
from schemas.event import Unreadable
from schemas.ids import phone_id, user_hash
from schemas.kinds import Channel, Doubt, Reason, State
from schemas.message import BROADCAST, CATEGORY, CHANNEL, NOTIFICATION, NUMBER, TARGET, USER, Stop
from schemas.notification import CANCEL_BROADCAST, LIFT, SUPPRESS, Signal
from schemas.status import Status
from tables import effects
from tables import stops as table
from tables.claims import Origin
from tests.journeys.memory import NOON, MemoryRows, One
from tests.journeys.samples import ID, a_message, an_origin

AT = NOON + 10
"""When the message was planned."""
CLOSED = AT + 5
ORIGIN = an_origin(topic="sms-notifications")


def a_stop(kind: str, *names: str, at: int = CLOSED, **fields: Any) -> Stop:
    return Stop(kind=kind, user_id="u-1", channel=Channel.SMS, at=at, names=names or None, **fields)


STOPS = {
    "channel": (a_stop(CHANNEL), State.SUPPRESSED, Reason.CHANNEL_OPTED_OUT, "channels.sms: false"),
    "category": (
        a_stop(CATEGORY, "news", "orders"), State.SUPPRESSED, Reason.CATEGORY_OPTED_OUT,
        "categories.orders.sms: false",
    ),
    "address": (
        a_stop(TARGET, "t-1", reason="bounced"), State.SUPPRESSED, Reason.ADDRESS_SUPPRESSED, "bounced",
    ),
    "address, of a category": (
        a_stop(TARGET, "t-1:orders", reason="unsubscribed"), State.SUPPRESSED, Reason.ADDRESS_SUPPRESSED,
        "unsubscribed",
    ),
    "number": (
        Stop(
            kind=NUMBER, user_id="", channel=Channel.SMS, at=CLOSED, names=(phone_id("0015550100"),),
            reason="unsubscribed",
        ), State.SUPPRESSED, Reason.ADDRESS_SUPPRESSED, "unsubscribed",
    ),
    "user": (a_stop(USER), State.SUPPRESSED, Reason.USER_ERASED, None),
    "notification": (a_stop(NOTIFICATION, id=ID), State.CANCELLED, Reason.CANCELLED, None),
    "broadcast": (a_stop(BROADCAST, id="b-1"), State.CANCELLED, Reason.CANCELLED, None),
}  # fmt: skip
WISHES = {"channel", "category", "address", "address, of a category", "number"}
every_stop = pytest.mark.parametrize("name", STOPS)


class Worker:
    """A channel's ledger and its gate."""

    def __init__(self, *, honours_keys: bool = False, **fields: Any) -> None:
        self.rows, self.keys = MemoryRows(), honours_keys
        given = {"broadcast": "b-1"} | fields
        self.parcel = deliver.read(a_message(**given).to_json(), ORIGIN)

    def hear(self, stop: Stop) -> list[tuple[Any, ...]]:
        return said(stops.hear(stop, self.rows))

    def admit(self, now: int = NOON + 1_000, **fields: Any) -> tuple[bool, list[Send]]:
        parcel = self.parcel._replace(**fields)
        admitted = deliver.admit(parcel, self.rows, now, One("main", self.keys), told=True)
        return admitted.attempt is not None, list(admitted.sends)

    def call(self, answer: outcome.Outcome) -> list[Send]:
        admitted = deliver.admit(self.parcel, self.rows, NOON + 900, One("main", self.keys), told=True)
        assert admitted.attempt is not None
        sends, _ = deliver.settle(
            self.parcel, admitted.attempt, answer, self.rows, NOON + 950,
            honours_keys=self.keys, jitter=0.5,
        )  # fmt: skip
        return list(sends)


def statuses(sends: Sequence[Send]) -> list[Status]:
    return [Status.from_json(send.value) for send in sends if send.topic == topics.DELIVERY_STATUS]


def said(sends: Sequence[Send]) -> list[tuple[Any, ...]]:
    return [(one.state, one.reason, one.detail) for one in statuses(sends)]


# -- the gate


@every_stop
def test_what_was_planned_before_is_not_called_and_says_so_alike_again(name: str) -> None:
    stop, *verdict = STOPS[name]
    worker = Worker()
    assert worker.hear(stop) == []
    called, sends = worker.admit()
    assert not called
    assert said(sends) == [tuple(verdict)]
    rows = dict(worker.rows)
    worker.hear(stop)
    worker.hear(a_stop(stop.kind, *(stop.names or ()), at=CLOSED + 99, id=stop.id))
    assert worker.admit(NOON + 99_999) == (False, sends)
    assert not effects.of_notification(worker.rows, ID)
    worker.rows = MemoryRows(rows)
    assert worker.admit(NOON + 99_999) == (False, sends)


@pytest.mark.parametrize("name", [name for name in STOPS if STOPS[name][0].id is None])
def test_what_was_planned_later_was_decided_with_it_and_goes(name: str) -> None:
    worker = Worker(at=CLOSED + 1)
    worker.hear(STOPS[name][0])
    assert worker.admit() == (True, [])
    same_moment = Worker(at=CLOSED)
    same_moment.hear(STOPS[name][0])
    assert not same_moment.admit()[0]


@pytest.mark.parametrize(
    "fields",
    [{"user_id": "u-2"}, {"category": "other"}, {"target_id": "t-2"}, {"id": ID[:-1] + "0"},
     {"broadcast": None}, {"target": "+15550101"}],
)  # fmt: skip
def test_what_a_stop_does_not_name_goes(fields: dict[str, Any]) -> None:
    worker = Worker(**fields)
    of_it = {"user_id": USER, "category": CATEGORY, "target_id": TARGET, "target": NUMBER,
             "id": NOTIFICATION, "broadcast": BROADCAST}  # fmt: skip
    (name,) = fields
    for stop in [stop for stop, *_ in STOPS.values() if stop.kind == of_it[name]]:
        worker.hear(stop)
    assert worker.admit() == (True, [])


@every_stop
def test_mandatory_ones_pass_the_wishes_as_in_planning(name: str) -> None:
    worker = Worker(mandatory=True)
    worker.hear(STOPS[name][0])
    assert worker.admit()[0] == (name in WISHES)


@every_stop
def test_a_retry_of_what_surely_was_not_sent_is_stopped(name: str) -> None:
    stop, state, *_ = STOPS[name]
    worker = Worker()
    worker.call(outcome.deferred("busy"))
    assert worker.hear(stop) == []  # nor was a cancel too late
    called, sends = worker.admit()
    assert not called
    assert [(one.state, one.attempt) for one in statuses(sends)] == [(state, 1)]


@every_stop
@pytest.mark.parametrize("keyed", [False, True])
def test_what_is_in_doubt_stays_so_and_is_not_called_again(name: str, keyed: bool) -> None:
    stop, _, reason, _ = STOPS[name]
    answered = Worker(doubt=Doubt.AT_LEAST_ONCE, honours_keys=keyed)
    answered.call(outcome.doubtful("time-out"))
    cut_off = Worker(doubt=Doubt.AT_LEAST_ONCE, honours_keys=keyed)
    assert cut_off.admit()[0]
    for worker in (answered, cut_off):
        worker.hear(stop)
        called, sends = worker.admit()
        assert not called
        first = [one for one in statuses(sends) if one.state is State.UNKNOWN][-1]
        assert (first.reason, first.attempt) == (reason, 1)
        assert State.SUPPRESSED not in [one.state for one in statuses(sends)]
        assert worker.admit(NOON + 99_999) == (False, sends)
        assert effects.attempt(worker.rows, worker.parcel.effect, 2) is None


def test_a_letter_that_is_put_back_is_stopped_too() -> None:
    worker = Worker()
    worker.call(outcome.refused("no"))
    worker.hear(a_stop(CHANNEL))
    called, sends = worker.admit(redrive="dlq-sms-0-1")
    assert (called, said(sends)) == (False, [tuple(STOPS["channel"][1:])])


def test_what_expired_before_it_closed_has_expired() -> None:
    for expires_at, expected in ((CLOSED, State.EXPIRED), (CLOSED + 1, State.SUPPRESSED)):
        worker = Worker(expires_at=expires_at)
        worker.hear(a_stop(CHANNEL))
        assert [one.state for one in statuses(worker.admit()[1])] == [expected]


@every_stop
def test_a_chain_goes_on_where_planning_would_have_and_not_from_what_is_cancelled(name: str) -> None:
    worker = Worker(has_fallback=True)
    worker.hear(STOPS[name][0])
    _, sends = worker.admit()
    told = [send for send in sends if send.topic == topics.NOTIFICATIONS]
    assert bool(told) == (name in WISHES)


# -- a cancel says whether it was in time


@pytest.mark.parametrize(
    ("answer", "too_late"),
    [(outcome.sent(), True), (outcome.delivered(), True), (outcome.doubtful("?"), True),
     (outcome.deferred("busy"), False), (outcome.refused("no"), False)],
)  # fmt: skip
@pytest.mark.parametrize("during", [False, True])
def test_a_cancel_was_too_late_for_what_may_have_been_sent(
    answer: outcome.Outcome, too_late: bool, during: bool
) -> None:
    worker, stop = Worker(doubt=Doubt.AT_MOST_ONCE), a_stop(NOTIFICATION, id=ID)
    admitted = deliver.admit(worker.parcel, worker.rows, NOON + 900, One("main", False), told=True)
    assert admitted.attempt is not None
    told = stops.hear(stop, worker.rows) if during else []
    assert told == []
    sends, _ = deliver.settle(
        worker.parcel, admitted.attempt, answer, worker.rows, NOON + 950, honours_keys=False, jitter=0.5
    )
    late = [one for one in statuses(sends) if one.reason == Reason.CANCELLED_TOO_LATE]
    assert bool(late) == (during and too_late)
    heard = stops.hear(stop, worker.rows)
    assert [one.reason for one in statuses(heard)] == [Reason.CANCELLED_TOO_LATE] * too_late
    if during:
        assert statuses(heard) == late
    _, again = worker.admit()
    assert [one for one in statuses(again) if one.reason == Reason.CANCELLED_TOO_LATE] == statuses(heard)


# -- rows


@given(
    st.lists(st.tuples(st.sampled_from([CHANNEL, USER]), st.integers(0, 20)), max_size=12), st.integers(0, 20)
)
def test_of_several_the_earliest_that_covers_a_message_counts_in_whatever_order_they_came(
    heard: list[tuple[str, int]], at: int
) -> None:
    rows = MemoryRows()
    for kind, closed in heard:
        table.put(rows, a_stop(kind, at=closed))
    found = table.against(rows, a_message(at=at))
    expected = min((closed for _, closed in heard if closed >= at), default=None)
    assert (found.at if found else None) == expected


def test_a_users_row_is_bounded_and_loses_first_what_a_later_one_stands_for() -> None:
    rows = MemoryRows()
    for n in range(5):
        table.put(rows, a_stop(CHANNEL, at=CLOSED + 2 + n))
    table.put(rows, a_stop(USER, at=CLOSED))
    table.put(rows, a_stop(CATEGORY, *[f"c{n}" for n in range(table.MOST - 2)], at=CLOSED + 1))
    (row,) = rows.values()
    kept = orjson.loads(row)
    assert len(kept) == table.MOST
    assert [one for one in kept if one[0] == USER]
    assert [one[2] for one in kept if one[0] == CHANNEL] == [CLOSED + 6]


def test_stops_are_forgotten_when_their_window_is_past() -> None:
    rows = MemoryRows()
    for stop in (a_stop(CHANNEL), a_stop(USER, at=CLOSED + 9), a_stop(NOTIFICATION, id=ID)):
        table.put(rows, stop)
    for oldest, left in ((CLOSED, 3), (CLOSED + 1, 1), (CLOSED + 10, 0)):
        for key, value in list(rows.items()):
            table.forget(rows, key, value, oldest)
        entries = sum(len(orjson.loads(v)) if key.startswith(b"z|user") else 1 for key, v in rows.items())
        assert entries == left


def test_a_stop_is_no_message_and_an_odd_one_is_unreadable() -> None:
    value = a_stop(CHANNEL).to_json()
    assert stops.read(value) == a_stop(CHANNEL)
    with pytest.raises(Unreadable):
        deliver.read(value, ORIGIN)
    for broken in (None, b"{}", b'{"v":3}', b'{"v":2,"kind":7}'):
        with pytest.raises(RecordUnreadable):
            stops.read(broken)
    rows = MemoryRows()
    assert stops.hear(a_stop("of another time"), rows) == stops.hear(a_stop("odd", id="x"), rows) == []
    assert table.against(rows, a_message()) is None


# -- core


def prefer(rows: MemoryRows, at: int, number: int = 1, mark: int = 0, **wishes: Any) -> list[Stop]:
    value = orjson.dumps(wishes)
    return heard(know.know(topics.PREFERENCES, b"u-1", value, at, rows, number, mark))


def heard(sends: Sequence[Send]) -> list[Stop]:
    for send in sends:
        assert send.topic.endswith("-notifications-express")
        assert send.headers == [("rank", b"0")]
        assert send.hashed == user_hash("u-1")
    found = [stops.read(send.value) for send in sends]
    assert all(isinstance(one, Stop) and send.topic.startswith(one.channel)
               for one, send in zip(found, sends, strict=True))  # fmt: skip
    return [one for one in found if isinstance(one, Stop)]


def kinds(found: Sequence[Stop]) -> list[tuple[str, str, tuple[str, ...] | None]]:
    return [(stop.channel, stop.kind, stop.names) for stop in found]


def test_only_what_changes_to_closed_is_stopped() -> None:
    rows = MemoryRows()
    assert prefer(rows, 1, channels={"sms": True}, frequency_limit=3) == []
    off: dict[str, Any] = {"channels": {"sms": False}, "categories": {"news": {"email": False, "web": True}}}
    first = prefer(rows, 2, 2, 1, **off)
    assert kinds(first) == [("email", CATEGORY, ("news",)), ("sms", CHANNEL, None)]
    assert {stop.at for stop in first} == {2}
    assert prefer(rows, 3, 3, 2, **off, frequency_limit=9) == []
    assert prefer(rows, 4, 4, 3) == []
    assert [stop.at for stop in prefer(rows, 5, 5, 4, channels={"sms": False})] == [5]


def test_a_redelivery_says_the_same_and_a_rewind_nothing() -> None:
    rows = MemoryRows()
    off = {"sms": False}
    first = prefer(rows, 2, 7, 6, channels=off)
    kept = dict(rows)
    assert prefer(rows, 2, 8, 6, channels=off) == first != []
    assert rows == kept
    assert prefer(rows, 2, 9, 8, channels=off) == []
    assert prefer(rows, 1, 10, 9, channels={"email": False}) == []


def test_an_erasure_stops_every_channel_once() -> None:
    rows = MemoryRows()

    def erase(at: int, mark: int) -> list[Stop]:
        return heard(know.know(topics.USERS, b"u-1", None, at, rows, mark + 1, mark))

    know.know(topics.USERS, b"u-1", b'{"user_id":"u-1"}', 1, rows)
    assert kinds(erase(2, 1)) == [(channel, USER, None) for channel in Channel]
    assert erase(2, 5) == erase(3, 6) == []
    know.know(topics.USERS, b"u-1", b'{"user_id":"u-1"}', 4, rows)
    assert len(erase(5, 7)) == len(Channel)


def test_a_suppressed_address_is_stopped_by_the_signal_that_did_it() -> None:
    rows = MemoryRows()
    signal = Signal(
        kind=SUPPRESS, id=ID, user_id="u-1", channel=Channel.SMS, target_id="t-1", reason="bounced"
    )
    work = Work(rows, 1, 0, Catalogue())
    first = signals.hear(signal, Origin("notifications", 0, 1, CLOSED), work)
    (stop,) = heard(list(first))
    assert stop == a_stop(TARGET, "t-1", reason="bounced")
    assert signals.hear(signal, Origin("notifications", 0, 1, CLOSED), work) == first
    assert signals.hear(signal, Origin("notifications", 0, 2, CLOSED + 1), work) == ()


def test_what_is_suppressed_already_or_lifted_since_stops_nothing_more() -> None:
    rows = MemoryRows()
    work = Work(rows, 1, 0, Catalogue())

    def hear(kind: str, offset: int, at: int | None, **fields: Any) -> Sequence[Send]:
        signal = Signal(
            kind=kind,
            id=ID,
            user_id="u-1",
            channel=Channel.SMS,
            target_id="t-1",
            reason="bounced",
            at=at,
            **fields,
        )
        return signals.hear(signal, Origin("notifications", 0, offset, CLOSED + offset), work)

    (stop,) = heard(list(hear(SUPPRESS, 0, CLOSED - 5, category="orders")))
    assert stop == a_stop(TARGET, "t-1:orders", reason="bounced")
    assert hear(SUPPRESS, 1, CLOSED - 4, category="orders") == ()
    assert hear(LIFT, 2, None, category="orders") == ()
    assert hear(SUPPRESS, 3, CLOSED - 5, category="orders") == ()


def test_a_phone_number_is_stopped_everywhere_by_one_partition_of_core() -> None:
    number = phone_id("+15550100")
    signal = Signal(
        kind=SUPPRESS, id="", user_id="", channel=Channel.SMS, target_id=number, reason="unsubscribed"
    )
    sends: list[Send] = []
    for partition in range(4):
        work = Work(MemoryRows(), 1, 0, Catalogue(), policy=Policy(partitions=4))
        sends += signals.hear(signal, Origin("notifications", partition, 1, CLOSED), work)
    (send,) = sends
    assert (send.topic, send.everywhere) == ("sms-notifications-express", True)
    assert stops.read(send.value) == STOPS["number"][0]


def test_a_broadcasts_cancel_goes_to_every_partition_of_every_channel_from_one_of_core() -> None:
    signal = Signal(kind=CANCEL_BROADCAST, id=ID, user_id="")
    origin = Origin("notifications", 0, 1, CLOSED)
    found = signals.hear(signal, origin, Work(MemoryRows(), 1, 0, Catalogue()))
    assert [(send.everywhere, send.hashed) for send in found] == [(True, None)] * len(Channel)
    assert {stops.read(send.value) for send in found} == {
        Stop(kind=BROADCAST, user_id="", channel=channel, at=CLOSED, id=ID) for channel in Channel
    }


def test_every_delivery_role_reads_its_express_topic_first() -> None:
    roles = Roles(settings_of(), Catalogue(), Metrics())
    for role in set(roles.names()) - {"core", "status"}:
        app = roles.build(role)
        assert app.gates == {f"{role}-notifications-express"}
        assert app.reads == [f"{role}-notifications-express", f"{role}-notifications"]
