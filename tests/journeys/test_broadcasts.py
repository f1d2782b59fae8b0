"""Broadcasts over several partitions: each member once, others never, whatever dies or changes on the way."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import know, topics
from agents.catalogue import Catalogue
from agents.plan import Policy
from agents.sending import Send
from schemas.broadcast import Stage
from schemas.ids import broadcast_id, notification_id, partition_of, user_hash
from schemas.kinds import Priority, Reason, State
from schemas.notification import CANCEL_BROADCAST, Signal
from schemas.segment import Segment
from schemas.status import Status, rfc3339
from tables import broadcasts, history, waits
from tables.broadcasts import Broadcast
from tables.claims import Origin
from tests.journeys.memory import NOON, MemoryRows
from tests.journeys.samples import a_template, a_workflow, request
from tests.journeys.test_shaky import Shaky, fates

SECOND, HOUR = 1_000, 3_600_000
RULE = 'user.attributes.plan == "pro"'
PRO, FREE = {"plan": "pro"}, {"plan": "free"}
ID = broadcast_id("carillon", "k", "order-confirmed")


class Wide(Shaky):
    """Core over several partitions; status is one."""

    def __init__(
        self, partitions: int = 3, page: int = 2, per_second: float = 1, fates: Sequence[str] = (),
        **workflow: Any,
    ) -> None:  # fmt: skip
        catalogue = Catalogue([a_workflow(channels=["email"], **workflow)], [a_template("x")])
        catalogue.set_segment(Segment(name="pro", rule=RULE))
        policy = Policy(partitions=partitions, page=page, per_second=per_second)
        super().__init__(catalogue, fates=fates, policy=policy)
        self.cores, self.number = [MemoryRows() for _ in range(partitions)], 0

    def has(self, user_id: str, attributes: Any = None) -> None:
        """Upserts a user; without attributes, erases them."""
        value = orjson.dumps(
            {"user_id": user_id, "email": f"{user_id}@example.com", "attributes": attributes}
        )
        rows = self.cores[partition_of(user_hash(user_id), len(self.cores))]
        self.now += 1
        know.know(topics.USERS, user_id.encode(), value if attributes is not None else None, self.now, rows)

    def ask(self, **fields: Any) -> list[Send]:
        return self.event(request(**{"user_id": None, "segment": "pro", "idempotency_key": "k"} | fields))

    def cancel(self) -> None:
        signal = Signal(kind=CANCEL_BROADCAST, id=ID, user_id="").to_json()
        lane = topics.NOTIFICATION_LANES[Priority.HIGH]
        list(self._follow([Send(lane, b"", signal, everywhere=True)]))

    def pass_time(self, milliseconds: int) -> list[Send]:
        end, sent = self.now + milliseconds, list[Send]()
        while True:
            first = [
                (rows[0], n) for n, core in enumerate(self.cores) if (rows := list(core.scan(waits.PREFIX)))
            ]
            if not first or (due := waits.due_of(min(first)[0][0])) > end:
                break
            (row, number) = min(first)
            self.now = max(self.now, due)
            [(_, _, wait)] = waits.read([row])
            send = Send(wait.topic, wait.key, wait.value, headers=[("due", b"%d" % due)])
            sent += list(self._at(number, send))
        self.now = max(self.now, end)
        return sent

    def _follow(self, sends: Iterable[Send]) -> Iterator[Send]:
        for send in sends:
            if not send.topic.startswith(topics.NOTIFICATIONS):
                yield from super()._follow([send])
                continue
            count = len(self.cores)
            one = partition_of(user_hash(send.key.decode()) if send.hashed is None else send.hashed, count)
            for number in range(count) if send.everywhere else (one,):
                yield from self._at(number, send)

    def _at(self, number: int, send: Send) -> Iterator[Send]:
        self.number, self.core = number, self.cores[number]
        yield from super()._follow([send])

    def _place(self, topic: str) -> Origin:
        return msgspec.structs.replace(super()._place(topic), partition=self.number)

    @property
    def told(self) -> Counter[str]:
        """How often each user was called."""
        return Counter(message.user_id for _, message in self.provider.calls)

    @property
    def progress(self) -> Broadcast:
        found = broadcasts.find(self.status, ID)
        assert found is not None
        return found


def outcomes(sends: Iterable[Send], id: str = ID) -> list[tuple[State, str | None]]:
    """What was said of the broadcast itself."""
    told = [Status.from_json(send.value) for send in sends if send.topic == topics.DELIVERY_STATUS]
    return [(status.state, status.reason) for status in told if status.notification_id == id]


def crowd(found: Wide, count: int = 30) -> set[str]:
    """Users of whom one in three is a member; returns those."""
    for n in range(count):
        found.has(f"u-{n}", PRO if n % 3 == 0 else FREE)
    return {f"u-{n}" for n in range(0, count, 3)}


def test_each_member_is_told_once_and_others_never_and_progress_says_so() -> None:
    found = Wide()
    members = crowd(found)
    found.has("silent", {"age": 3})
    found.has("gone", PRO)
    found.has("gone")
    assert found.ask()
    assert found.progress.stage is Stage.RUNNING
    assert len(found.told) < len(members)
    found.pass_time(HOUR)
    assert found.told == dict.fromkeys(members, 1)
    done = found.progress
    assert (done.stage, done.told, done.looked_at, done.undecided) == (Stage.DONE, 10, 31, 1)
    assert [part.partition for part in done.parts] == [0, 1, 2] and done.of == 3
    assert not any(list(core.scan(waits.PREFIX)) for core in found.cores)


user_ids = st.sampled_from([f"u-{n}" for n in range(12)] + ["é", "ü" * 9, "a|b", "z\U0001f600"])
attributes = st.sampled_from([PRO, FREE, {}, None])


@given(
    before=st.dictionaries(user_ids, attributes, max_size=14),
    partitions=st.integers(1, 4),
    page=st.integers(1, 6),
    fates=fates,
    changes=st.lists(st.tuples(st.integers(0, 6), user_ids, attributes), max_size=8),
    again=st.booleans(),
)
def test_each_member_exactly_once_for_any_users_pages_deaths_and_changes(
    before: dict[str, Any], partitions: int, page: int, fates: list[str],
    changes: list[tuple[int, str, Any]], again: bool,
) -> None:  # fmt: skip
    found = Wide(partitions, page, fates=fates)
    was: dict[str, list[Any]] = {user: [have] for user, have in before.items()}
    for user, have in before.items():
        found.has(user, have)
    found.ask()
    for seconds, user, have in changes:
        found.pass_time(seconds * SECOND)
        found.has(user, have)
        was.setdefault(user, [None]).append(have)
        if again:
            found.ask()  # the same request at another place: told as a duplicate, and no more
    found.pass_time(HOUR)
    always = {user for user, states in was.items() if all(have == PRO for have in states)}
    never = {user for user, states in was.items() if PRO not in states}
    assert set(found.told.values()) <= {1}
    assert always <= set(found.told)
    assert not never & set(found.told)
    done = found.progress
    assert done.stage is Stage.DONE
    assert done.told == len(found.told)


@given(fates=fates, seconds=st.integers(0, 40), page=st.integers(1, 6), twice=st.booleans())
def test_a_cancel_lets_nobody_else_be_told(fates: list[str], seconds: int, page: int, twice: bool) -> None:
    found = Wide(page=page, fates=fates)
    members = crowd(found, 24)
    found.ask()
    found.pass_time(seconds * SECOND)
    told = found.told
    found.cancel()
    if twice:
        found.cancel()
    found.pass_time(HOUR)
    assert found.told == told
    was_done = {part.stage for part in found.progress.parts} == {Stage.DONE}
    assert found.progress.stage is (Stage.DONE if was_done else Stage.CANCELLED)
    assert was_done <= (set(told) == members)
    assert found.progress.told == len(told)
    assert not any(list(core.scan(waits.PREFIX)) for core in found.cores)
    found.ask()
    found.pass_time(HOUR)
    assert found.told == told


def test_a_cancel_that_comes_first_leaves_its_mark() -> None:
    found = Wide()
    crowd(found)
    found.cancel()
    found.ask()
    found.pass_time(HOUR)
    assert not found.told
    assert found.progress.stage is Stage.CANCELLED


def test_a_cancel_stops_those_who_were_told_and_still_wait() -> None:
    found = Wide(page=100)
    members = crowd(found)
    for user in members:
        rows = found.cores[partition_of(user_hash(user), len(found.cores))]
        value = orjson.dumps({"user_id": user, "quiet_hours": {"start": "14:00", "end": "15:00"}})
        know.know(topics.PREFERENCES, user.encode(), value, NOON, rows)
    found.ask()
    assert found.progress.told == len(members) and not found.told
    found.cancel()
    found.pass_time(HOUR)
    assert not found.told
    one = history.find(found.status, notification_id("u-0", "carillon", "k", "order-confirmed"))
    assert one is not None
    assert [pair["state"] for pair in one["pairs"].values()][-1] == State.CANCELLED


def test_a_scheduled_broadcast_looks_at_its_users_when_it_is_due_and_can_be_cancelled() -> None:
    for cancelled in (False, True):
        found = Wide()
        members = crowd(found)
        found.ask(scheduled_at=rfc3339(NOON + HOUR))
        assert found.progress.stage is Stage.SCHEDULED
        found.has("late", PRO)
        if cancelled:
            found.cancel()
        found.pass_time(HOUR - SECOND)
        assert not found.told
        found.pass_time(HOUR)
        assert set(found.told) == (set() if cancelled else members | {"late"})
        assert found.progress.stage is (Stage.CANCELLED if cancelled else Stage.DONE)


def test_an_unknown_segment_fails_and_is_mended_by_a_replay() -> None:
    found = Wide()
    members = crowd(found)
    found.catalogue.drop_segment("pro")
    event = request(user_id=None, segment="pro", idempotency_key="k")
    sent = found.event(event)
    assert outcomes(sent) == [(State.FAILED, Reason.UNKNOWN_SEGMENT)]
    assert found.progress.stage == "failed" and not found.told
    first = next(send for send in sent if send.everywhere)
    found.catalogue.set_segment(Segment(name="pro", rule=RULE))
    again = list(found._follow([first]))
    assert outcomes(again) == [(State.ACCEPTED, None)]
    found.pass_time(HOUR)
    assert found.told == dict.fromkeys(members, 1)
    assert found.progress.stage == "done"
    story = history.find(found.status, ID)
    assert story is not None
    assert [pair["state"] for pair in story["pairs"].values()] == [State.ACCEPTED]


def test_a_segment_that_is_unknown_twice_is_said_once() -> None:
    found = Wide()
    found.catalogue.drop_segment("pro")
    sent = found.ask()
    first = next(send for send in sent if send.everywhere)
    found.unit += 5
    assert not outcomes(found._follow([first]))


def test_a_repeated_request_is_one_duplicate_and_tells_nobody() -> None:
    found = Wide()
    members = crowd(found)
    found.ask()
    found.pass_time(HOUR)
    assert outcomes(found.ask()) == [(State.DUPLICATE, Reason.ALREADY_PLANNED)]
    found.pass_time(HOUR)
    assert found.told == dict.fromkeys(members, 1)


def test_the_rule_is_that_of_the_moment_when_the_event_came() -> None:
    found = Wide()
    members = crowd(found)
    found.ask()
    found.catalogue.set_segment(Segment(name="pro", rule="true"))
    found.pass_time(HOUR)
    assert set(found.told) == members


def test_a_workflow_tells_its_segment_and_its_recipients_each_once() -> None:
    found = Wide(segment="pro", users=["u-0", "u-1"])
    members = crowd(found)
    event = orjson.dumps({
        "specversion": "1.0", "id": "k", "source": "carillon", "type": "shop.order.confirmed", "data": {}
    })  # fmt: skip
    found.event(event)
    found.pass_time(HOUR)
    assert found.told == dict.fromkeys(members | {"u-1"}, 1)


@pytest.mark.parametrize("per_second", [1, 5, 0.5])
def test_no_more_are_told_in_a_second_than_is_set(per_second: float) -> None:
    found = Wide(page=3, per_second=per_second)
    crowd(found, 60)
    found.ask()
    at, most = found.now, 3 * 3
    for _ in range(100):
        found.pass_time(SECOND)
        assert len(found.told) <= most + (found.now - at) / SECOND * per_second
    assert len(found.told) == 20


def test_an_event_with_much_data_is_told_in_smaller_pages() -> None:
    found = Wide(partitions=1, page=100, per_second=1e9)
    for n in range(20):
        found.has(f"u-{n:02}", PRO)
    found.ask(variables={"x": "y" * 600_000})
    assert 0 < len(found.told) < 10
    found.pass_time(HOUR)
    assert len(found.told) == 20 and set(found.told.values()) == {1}


def test_a_user_who_is_too_large_to_be_looked_into_is_not_told() -> None:
    found = Wide(partitions=1)
    found.has("large", {"plan": "pro", "x": "y" * 70_000})
    found.has("small", PRO)
    found.ask()
    found.pass_time(HOUR)
    assert set(found.told) == {"small"} and found.progress.undecided == 1


def test_what_was_erased_under_any_key_is_passed_over() -> None:
    found = Wide(partitions=1, page=1)
    know.know(topics.USERS, b"\xff\xfe", None, NOON, found.cores[0])
    know.know(topics.USERS, b"\xffz", None, NOON, found.cores[0])
    found.has("a", PRO)
    found.ask()
    found.pass_time(HOUR)
    assert found.told == {"a": 1} and found.progress.stage is Stage.DONE


def test_a_digest_that_began_with_a_broadcast_outlives_its_cancelling() -> None:
    found = Wide(partitions=1, page=9, digest={"window": 60})
    found.has("a", PRO)
    found.ask()
    found.event(request(user_id="a", idempotency_key="other"))
    found.cancel()
    found.pass_time(HOUR)
    assert found.told == {"a": 1}


def test_status_keeps_what_is_newest_in_whatever_order_it_comes() -> None:
    pipeline, rows = Wide(), MemoryRows()
    crowd(pipeline)
    sent = pipeline.ask() + pipeline.pass_time(HOUR)
    told = [send for send in sent if send.topic == topics.CONTENTS and b'"broadcast"' in (send.value or b"")]
    for send in [*told, *reversed(told)]:
        broadcasts.tell(rows, broadcasts._progress(send.value or b""))
    assert broadcasts.find(rows, ID) == pipeline.progress
    assert [one.id for one in broadcasts.newest(rows, 9)] == [ID]
