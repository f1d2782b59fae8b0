"""The desk over the status role's own databases."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rocksdict import Rdict

from pipeline.engine.store import options
from pipeline.web.views import NotHeld, StoreDesk, StoredRows
from schemas.ids import hash_in, notification_id, partition_of
from schemas.kinds import Channel, State
from schemas.notification import EventRef
from schemas.status import Status, rfc3339
from tables import history

NOON = 1_790_000_000_000


class Writing(StoredRows):
    """As a unit of work writes."""

    def put(self, key: bytes, value: bytes) -> None:
        self._db.put(key, value)

    def delete(self, key: bytes) -> None:
        self._db.delete(key)


class App:
    """What the desk needs of a UnitApp."""

    def __init__(self, folder: Path, partitions: int) -> None:
        self.partitions, self.store = partitions, self
        self.dbs: dict[int, Any] = {n: Rdict(str(folder / str(n)), options()) for n in range(partitions)}

    def opened(self) -> Mapping[int, Any]:
        return dict(self.dbs)


class Desktop:
    def __init__(self, folder: Path) -> None:
        self.app: App | None = App(folder, 3)
        self.dbs, self.now = dict(self.app.dbs), NOON / 1000
        self.desk = StoreDesk(lambda: self.app, folder, clock=lambda: self.now)

    def tell(self, user: str, event: str, state: State = State.SENT, at: int = NOON) -> str:
        found = notification_id(user, "s", event, "w")
        status = Status(
            notification_id=found, user_id=user, channel=Channel.EMAIL, target_id="t", state=state,
            at=rfc3339(at), event_at=at, event=EventRef(source="s", id=event, type="t"),
        )  # fmt: skip
        history.tell(Writing(self.dbs[partition_of(hash_in(found), 3)]), status, at + 20)
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Desktop]:
    found = Desktop(tmp_path)
    yield found
    for db in found.dbs.values():
        db.close()


def test_it_finds_a_notification_from_its_id_alone(place: Desktop) -> None:
    ids = [place.tell(f"user-{n}", "e") for n in range(12)]
    for n, found in enumerate(ids):
        told = place.desk.notification(found)
        assert told is not None and told["user_id"] == f"user-{n}"
    assert place.desk.notification(notification_id("user-0", "s", "other", "w")) is None


def test_a_users_history_is_read_newest_first_from_where_one_stopped(place: Desktop) -> None:
    for n in range(10):
        place.tell("ada", f"e{n}", at=NOON + n)
    first = place.desk.of_user("ada", 4)
    rest = place.desk.of_user("ada", 99, first[-1])
    assert [told["event"]["id"] for told in first + rest] == [f"e{n}" for n in reversed(range(10))]
    assert place.desk.of_user("ada", 4, rest[-1]) == []


def test_a_user_whose_id_begins_anothers_is_another(place: Desktop) -> None:
    place.tell("ada", "e")
    place.tell("adam", "e")
    assert [told["user_id"] for told in place.desk.of_user("ada", 9)] == ["ada"]


def test_an_events_notifications_come_from_all_partitions(place: Desktop) -> None:
    for n in range(12):
        place.tell(f"user-{n}", "launch")
        place.tell(f"user-{n}", "launched")
    assert len(place.desk.of_event("s", "launch", 99)) == 12
    assert len(place.desk.of_event("s", "launch", 5)) == 5
    assert place.desk.of_event("s", "none", 5) == []


def test_figures_sum_over_the_partitions_and_are_read_once_a_moment(place: Desktop) -> None:
    for n in range(12):
        place.tell(f"user-{n}", "e")
    before = place.desk.figures()
    assert before.counts == {("email", "sent"): 12} and before.latencies == {("email", 25): 12}
    assert sum(before.minutes.values()) == 12
    place.tell("late", "e")
    assert place.desk.figures() is before
    place.now += 0.6
    assert place.desk.figures().counts == {("email", "sent"): 13}
    assert sum(place.desk.figures().minutes.values()) == 13


def test_minutes_older_than_an_hour_are_left_out_and_late_ones_come_in_time(place: Desktop) -> None:
    place.tell("old", "e", at=NOON - 3_700_000)
    place.tell("recent", "e", at=NOON - 1_000_000)
    assert sum(place.desk.figures().minutes.values()) == 1
    place.tell("late", "e", at=NOON - 1_000_000)
    place.now += 11
    assert sum(place.desk.figures().minutes.values()) == 2


def test_what_is_not_held_is_not_missing(place: Desktop) -> None:
    assert place.app is not None
    found = place.tell("ada", "e")
    del place.app.dbs[partition_of(hash_in(found), 3)]
    for ask in (lambda: place.desk.notification(found), lambda: place.desk.of_user("ada", 1)):
        with pytest.raises(NotHeld, match="holds 2 of 3"):
            ask()
    assert place.desk.of_event("s", "e", 1) == []
    place.app.dbs.clear()
    with pytest.raises(NotHeld, match="0 of 3"):
        place.desk.of_event("s", "e", 1)
    place.app = None
    with pytest.raises(NotHeld, match="does not run"):
        place.desk.of_user("ada", 1)
    place.now += 1
    assert (place.desk.figures().open, place.desk.figures().of) == (0, 0)


@pytest.mark.parametrize(
    "bad", ["", "x", "0" * 36, "0f3a9c21-7d10-4c44-9a1b-5e0c77d1f2a3", "0f3a9c21-7d10-8c44-9a1b 5e0c77d1f2a"]
)
def test_what_is_no_id_is_refused(place: Desktop, bad: str) -> None:
    with pytest.raises(ValueError, match="no notification id"):
        place.desk.notification(bad)


def test_it_cannot_write(place: Desktop) -> None:
    rows = StoredRows(place.dbs[0])
    with pytest.raises(TypeError):
        rows.put(b"n|", b"")
    with pytest.raises(TypeError):
        rows.delete(b"n|")


def test_reading_leaves_no_database_open(place: Desktop, tmp_path: Path) -> None:
    for n in range(12):
        place.tell("ada", f"e{n}", at=NOON + n)
    place.desk.of_user("ada", 2)
    place.desk.of_event("s", "e1", 1)
    place.desk.figures()
    for number, db in place.dbs.items():
        db.close()
        place.dbs[number] = Rdict(
            str(tmp_path / str(number)), options()
        )  # raises where anything holds its lock


def test_without_an_outbox_there_are_no_messages(place: Desktop) -> None:
    assert place.desk.messages(10, None, None) == [] and place.desk.message("key") is None
