"""Routing: the plain dicts that planning writes are what the models would write, byte for byte."""

from typing import Any

import orjson
import pytest

from agents import topics
from agents.catalogue import Catalogue
from agents.intake import take_in
from agents.plan import plan, read
from agents.route import Router
from schemas.base import Frozen
from schemas.ids import hash_in, target_id
from schemas.kinds import State
from schemas.message import Contents, Message
from schemas.notification import Notification
from schemas.status import Status
from tests.journeys.memory import NOON, MemoryRows
from tests.journeys.samples import ID, a_notification, a_template, an_origin, request, shop

MODELS: dict[str, type[Frozen]] = {
    **dict.fromkeys(topics.MESSAGES.values(), Message),
    topics.DELIVERY_STATUS: Status, topics.CONTENTS: Contents,
}  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {
            "expires_at": NOON + 60_000,
            "metadata": {"a": [None, 1]},
            "doubt": "at_most_once",
            "priority": "low",
        },
        {"contact": {"email": "a@example.com", "phone": "+1", "webhook_url": "https://x.example"}},
        {"content": {"subject": "Hi", "body": "é\u2028"}, "template": None},
        {"channels": ["webhook", "push", "email"], "contact": {"email": "a@example.com"}},
        {"template": "missing"},
    ],
)
def test_everything_that_planning_sends_is_what_its_model_writes(fields: dict[str, Any]) -> None:
    contact = fields.pop("contact", {"email": "ada@example.com"})
    sends = plan(
        a_notification(contact=contact, **fields), an_origin(), MemoryRows(), 5, 4,
        Catalogue(templates=[a_template("{{ order.id }} é <b>")]),
    )  # fmt: skip
    assert sends
    for send in sends:
        model = MODELS[send.topic.removesuffix("-express")]
        assert model.model_validate_json(send.value or b"").to_json() == send.value
        assert (send.key, send.hashed) == (b"u-1", hash_in(ID))


def test_everything_that_intake_sends_is_what_its_model_writes() -> None:
    for value in (
        request(),
        request(
            variables={"a": None, "b": [1, 2.5, "é"]}, metadata={"m": None}, locale="de", channels=["sms"]
        ),
        request(user_id=None, recipients=[{"email": "a@example.com"}], content={"body": "b"}),
        request(expires_at="2030-01-01T00:00:00Z", event_type="unknown"),
    ):
        for send in take_in(value, [], an_origin(topic="events"), shop()):
            model: type[Frozen] = Notification if send.topic.startswith("notifications") else Status
            assert model.model_validate_json(send.value or b"").to_json() == send.value


@pytest.mark.parametrize("state", State)
def test_every_state_can_be_told(state: State) -> None:
    send = Router(a_notification(), NOON, hash_in(ID)).status(
        state, channel="sms", target="+15550100", reason="r"
    )
    told = Status.model_validate_json(send.value or b"")
    assert (told.state, told.channel, told.target) == (state, "sms", "+155•••00")
    assert told.target_id == target_id("+15550100")
    assert told.at == "2026-09-21T14:13:20.000Z"


def test_the_values_are_small() -> None:
    """What a pair costs on the topics; a jump here is a jump of the broker's disks."""
    catalogue = Catalogue(templates=[a_template()])
    contact = {"email": "ada@example.com"}
    sends = plan(
        a_notification(contact=contact, channels=["email"]), an_origin(), MemoryRows(), 5, 4, catalogue
    )
    assert [len(send.value or b"") < 700 for send in sends] == [True] * 3
    assert orjson.loads(sends[0].value or b"")["text"] == "Order C-1"


def test_what_planning_reads_back_is_plain() -> None:
    """Members of enums cost more than all of the rest (schemas/notification.py)."""
    (send,) = take_in(request(), [], an_origin(topic="events"), shop())
    found = read(send.value)
    assert type(found.priority) is str
    assert {type(channel) for channel in found.channels} == {str}
