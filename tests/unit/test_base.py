"""Records: checked where they are read, the same bytes every time, nothing lost between."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import NODEFAULT
from msgspec.structs import fields

from schemas.base import RecordUnreadable
from schemas.event import Request
from schemas.kinds import Channel, Doubt, Priority
from schemas.message import Contents, Message
from schemas.notification import EventRef, Notification
from schemas.outcome import Outcome
from schemas.status import Status, Verdict
from tests.journeys.samples import a_message, a_notification

RECORDS = (Notification, Message, Contents, Status, Verdict, EventRef, Outcome)


@pytest.mark.parametrize("kind", RECORDS)
def test_no_field_has_a_default_but_none(kind: type[Any]) -> None:
    """Another default would be left out or not by whether it is the very same object."""
    assert {field.default for field in fields(kind)} <= {NODEFAULT, None}


@given(
    st.text(),
    st.none() | st.text(),
    st.sampled_from(Channel),
    st.sampled_from(Priority),
    st.integers(0, 2**53),
)
def test_a_message_comes_back_as_it_went(
    text: str, subject: str | None, channel: Channel, priority: Priority, at: int
) -> None:
    text = text.encode(errors="replace").decode()
    subject = subject and subject.encode(errors="replace").decode()
    made = a_message(text=text, subject=subject, channel=channel, priority=priority, at=at)
    back = Message.from_json(made.to_json())
    assert back == made
    assert back.to_json() == made.to_json()


def test_what_is_built_of_plain_values_writes_what_members_write() -> None:
    plain = {"channel": "sms", "priority": "normal", "doubt": "at_least_once"}
    members = {"channel": Channel.SMS, "priority": Priority.NORMAL, "doubt": Doubt.AT_LEAST_ONCE}
    assert a_message(**plain).to_json() == a_message(**members).to_json()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"user_id": 7}, "user_id: Expected `str`, got `int`"),
        ({"channels": ["email", "pigeon"]}, "channels[1]: Invalid enum value 'pigeon'"),
        ({"event": {"source": "s", "id": "e"}}, "event.type: is missing"),
        ({"v": 2}, "v: Invalid value 2"),
    ],
)
def test_what_is_wrong_is_said_with_its_field(changed: dict[str, Any], said: str) -> None:
    import orjson

    value = orjson.dumps(orjson.loads(a_notification().to_json()) | changed)
    with pytest.raises(RecordUnreadable) as found:
        Notification.from_json(value)
    assert str(found.value) == said


@pytest.mark.parametrize("value", [None, b"", b"{", b"[]", b"\xff", b'{"id": "\\ud800"}', b"[" * 100_000])
def test_what_is_no_record_is_unreadable(value: bytes | None) -> None:
    with pytest.raises(RecordUnreadable):
        Notification.from_json(value)


def test_a_frozen_one_does_not_change() -> None:
    with pytest.raises(AttributeError):
        EventRef(source="s", id="e", type="t").id = "f"  # type: ignore[misc]


def test_what_is_none_stays_at_home_but_for_what_upstream_sent() -> None:
    assert b"subject" not in a_message().to_json()
    request = Request(event_type="a", user_id="u", variables={"name": None})
    assert b'"variables":{"name":null}' in request.to_json()
    assert b'"variables":{"name":null}' in a_notification(variables={"name": None}).to_json()
