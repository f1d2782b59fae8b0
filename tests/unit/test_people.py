"""People: an older word never replaces a newer one, and what was erased stays erased."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import topics
from agents.know import astray, know
from schemas.event import Unreadable
from tables import people
from tests.journeys.memory import NOON, MemoryRows

KEY = people.USERS + b"u"


def user(**fields: Any) -> bytes:
    return orjson.dumps({"user_id": "u"} | fields)


@given(st.lists(st.tuples(st.integers(0, 20), st.none() | st.binary(min_size=1, max_size=3)), max_size=12))
def test_the_newest_word_counts_in_whatever_order_it_comes(words: list[tuple[int, bytes | None]]) -> None:
    """Of two with the same time the later record counts."""
    rows = MemoryRows()
    expected: tuple[int, bytes | None] | None = None
    for at, value in words:
        taken = people.upsert(rows, KEY, at, value)
        assert taken == (expected is None or at >= expected[0])
        if taken:
            expected = (at, value)
    if expected is not None:
        assert rows[KEY] == expected[0].to_bytes(8) + (expected[1] or b"")


def test_a_tombstone_keeps_its_time_so_that_a_rewind_revives_nobody() -> None:
    rows = MemoryRows()
    know(topics.USERS, b"u", user(email="a@example.com"), NOON, rows)
    know(topics.USERS, b"u", None, NOON + 5, rows)
    assert people.user(rows, "u") is None
    know(topics.USERS, b"u", user(email="a@example.com"), NOON, rows)
    assert people.user(rows, "u") is None
    know(topics.USERS, b"u", user(email="b@example.com"), NOON + 6, rows)
    found = people.user(rows, "u")
    assert found is not None
    assert found.email == "b@example.com"


def test_a_record_without_a_time_is_the_oldest_of_all() -> None:
    rows = MemoryRows()
    assert people.upsert(rows, KEY, -1, b"old")
    assert people.upsert(rows, KEY, 1, b"new")
    assert not people.upsert(rows, KEY, -1, b"old")


@pytest.mark.parametrize(
    ("topic", "value", "field"),
    [
        (topics.USERS, b"{}", "user_id"),
        (topics.USERS, b"not JSON", "(whole)"),
        (topics.USERS, user(email=5), "email"),
        (topics.USERS, user(email="a@example.com\r\nBcc: b@example.com"), "email"),
        (topics.USERS, user(user_id="somebody else"), "user_id"),
        (topics.PREFERENCES, user(user_id="somebody else"), "user_id"),
        (topics.PREFERENCES, user(channels={"fax": True}), "^channels.fax: Input should be 'email'"),
        (topics.PREFERENCES, b"[]", "^.whole.: Input should be an object$"),
        (topics.PREFERENCES, user(frequency_limit=-1), "frequency_limit"),
        (topics.PREFERENCES, user(quiet_hours={"start": "25:00", "end": "07:00"}), "quiet_hours.start"),
        (topics.PREFERENCES, user(quiet_hours={"start": "22:00", "end": "0٧:00"}), "quiet_hours.end"),
        (topics.PREFERENCES, user(quiet_hours={"start": 79_200, "end": "07:00"}), "quiet_hours.start"),
        (topics.DEVICES, user(token="t", platform="toaster"), "platform"),
    ],
)
def test_a_broken_record_is_refused_by_its_field_and_changes_nothing(
    topic: str, value: bytes, field: str
) -> None:
    rows = MemoryRows()
    with pytest.raises(Unreadable, match=field.replace("(", r"\(").replace(")", r"\)")):
        know(topic, b"u", value, NOON, rows)
    assert rows == {}


@pytest.mark.parametrize("key", [None, b""])
def test_a_record_without_a_key_is_refused(key: bytes | None) -> None:
    with pytest.raises(Unreadable, match="key"):
        know(topics.USERS, key, user(), NOON, MemoryRows())


@pytest.mark.parametrize("value", [b'{"user_id": 7}', b'{"user_id": "7"}', b"{}"])
def test_preferences_are_found_by_their_key(value: bytes) -> None:
    rows = MemoryRows()
    know(topics.PREFERENCES, b"7", value, NOON, rows)
    assert people.preferences(rows, "7").frequency_limit == 50
    assert people.PREFERENCES + b"7" in rows


def test_who_said_nothing_wants_everything() -> None:
    assert people.preferences(MemoryRows(), "u") == people.Wishes()


def test_devices_are_those_of_one_user_without_the_erased() -> None:
    rows = MemoryRows()
    for who, token in (("u", "b"), ("u", "a"), ("u", "c"), ("u2", "d")):
        value = orjson.dumps({"user_id": who, "token": token, "platform": "ios"})
        know(topics.DEVICES, f"{who}\0{token}".encode(), value, NOON, rows)
    know(topics.DEVICES, b"u\0c", None, NOON + 1, rows)
    assert [device.token for device in people.devices(rows, "u")] == ["a", "b"]


def test_what_came_astray_is_sent_home_as_it_is() -> None:
    sent = astray(topics.USERS, b"u", b"value", 77)
    assert (sent.topic, sent.key, sent.value, sent.hashed) == (topics.USERS, b"u", b"value", 77)
