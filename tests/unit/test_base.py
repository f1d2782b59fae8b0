"""The frozen model: quick to build, the same as a validated one, and the JSON that travels."""

from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from schemas.event import Request
from schemas.kinds import Channel, Doubt, Priority
from schemas.message import Message
from schemas.notification import EventRef

FIELDS: dict[str, Any] = {
    "id": "d24fdb77-1448-8c4e-bac4-c22078dfc79c", "user_id": "u", "channel": Channel.SMS, "target": "+1555",
    "target_id": "t", "text": "hello", "event": EventRef(source="s", id="e", type="t"), "event_at": 1,
    "at": 2, "category": "c", "priority": Priority.LOW, "doubt": Doubt.AT_MOST_ONCE,
}  # fmt: skip


def test_one_that_is_built_quickly_equals_a_validated_one() -> None:
    quick, validated = Message.of(**FIELDS), Message(**FIELDS)
    assert quick == validated
    assert quick.to_json() == validated.to_json()
    assert hash(quick) == hash(validated)
    assert quick.model_copy(update={"text": "bye"}).text == "bye"


def test_the_order_of_the_arguments_does_not_show_in_the_json() -> None:
    backwards = dict(reversed(FIELDS.items()))
    assert Message.of(**backwards).to_json() == Message.of(**FIELDS).to_json()


def test_a_forgotten_field_is_found_when_it_would_travel() -> None:
    with pytest.raises(PydanticSerializationError):
        EventRef.of(source="s", id="e").to_json()


def test_a_default_that_is_made_anew_is_not_shared() -> None:
    one, other = Request.of(event_type="a", user_id="u"), Request.of(event_type="b", user_id="u")
    one.variables["a"] = 1
    assert other.variables == {}


def test_a_frozen_one_does_not_change() -> None:
    with pytest.raises(ValidationError):
        EventRef.of(source="s", id="e", type="t").id = "f"  # type: ignore[misc]


def test_what_is_none_stays_at_home_but_for_what_upstream_sent() -> None:
    assert b"subject" not in Message.of(**FIELDS).to_json()
    request = Request(event_type="a", user_id="u", variables={"name": None})
    assert b'"variables":{"name":null}' in request.to_json()
