"""Routing: what planning writes is read as it was meant, and written again byte for byte."""

from typing import Any

import orjson
import pytest

from agents import topics
from agents.catalogue import Catalogue
from agents.intake import take_in
from agents.plan import Work, plan
from agents.route import Router
from schemas.base import Record
from schemas.ids import hash_in, target_id
from schemas.kinds import Channel, State
from schemas.message import ChannelContent, Contents, Message
from schemas.notification import Notification
from schemas.status import Status
from tables.claims import Pinned
from tests.journeys.memory import NOON, MemoryRows
from tests.journeys.samples import ID, a_notification, a_template, an_origin, request, shop

MODELS: dict[str, type[Record]] = {
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
    contact = {"contact": {"email": "ada@example.com"}}
    catalogue = Catalogue(templates=[a_template("{{ order.id }} é <b>")])
    sends = plan(
        a_notification(**(contact | fields)), an_origin(), Work(MemoryRows(), 5, 4, catalogue),
    )  # fmt: skip
    assert sends
    for send in sends:
        model = MODELS[send.topic.removesuffix("-express")]
        assert model.from_json(send.value).to_json() == send.value
        assert (send.key, send.hashed) == (b"u-1", hash_in(ID))


REQUESTS = [
    request(),
    request(variables={"a": None, "b": [1, 2.5, "é"]}, metadata={"m": None}, locale="de", channels=["sms"]),
    request(user_id=None, recipients=[{"email": "a@example.com"}], content={"body": "b"}),
    request(expires_at="2030-01-01T00:00:00Z", event_type="unknown"),
]


def test_everything_that_intake_sends_is_what_its_model_writes() -> None:
    for value in REQUESTS:
        for send in take_in(value, [], an_origin(topic="events"), shop()):
            model: type[Record] = Notification if send.topic.startswith("notifications") else Status
            assert model.from_json(send.value).to_json() == send.value


@pytest.mark.parametrize("state", State)
def test_every_state_can_be_told(state: State) -> None:
    send = Router(a_notification(), NOON).status(state, Channel.SMS, reason="r", detail="d")
    told = Status.from_json(send.value)
    assert (told.state, told.channel, told.reason, told.detail) == (state, "sms", "r", "d")
    assert told.at == "2026-09-21T14:13:20.000Z"


def test_a_queued_status_names_its_target_without_showing_it() -> None:
    words = ChannelContent(text="t")
    message, status = Router(a_notification(), NOON).queued(Pinned(Channel.SMS, "+15550100"), words)
    told = Status.from_json(status.value)
    assert (told.state, told.target, told.target_id) == ("queued", "+155•••00", target_id("+15550100"))
    assert Message.from_json(message.value).target_id == told.target_id


def test_the_values_are_small() -> None:
    """What a pair costs on the topics; a jump here is a jump of the broker's disks."""
    catalogue = Catalogue(templates=[a_template()])
    contact = {"email": "ada@example.com"}
    sends = plan(
        a_notification(contact=contact, channels=["email"]), an_origin(), Work(MemoryRows(), 5, 4, catalogue)
    )
    assert [len(send.value or b"") < 700 for send in sends] == [True] * 3
    assert orjson.loads(sends[0].value or b"")["text"] == "Order C-1"


def test_a_message_carries_what_delivery_needs_of_its_notification() -> None:
    notification = a_notification(
        contact={"phone": "+15550100"}, channels=["sms"], expires_at=NOON + 60_000, doubt="at_most_once",
        priority="high", category="c", step="resume:1",
    )  # fmt: skip
    catalogue = Catalogue(templates=[a_template()])
    sent, contents, status = plan(notification, an_origin(), Work(MemoryRows(), 5, 4, catalogue))
    message = Message.from_json(sent.value)
    for name in ("id", "step", "user_id", "event", "event_at", "category", "priority", "doubt", "expires_at"):
        assert getattr(message, name) == getattr(notification, name), name
    assert (message.at, message.target, message.target_id) == (
        an_origin().at, "+15550100", target_id("+15550100"),
    )  # fmt: skip
    words = Contents.from_json(contents.value).channels
    assert {channel: content.text for channel, content in words.items()} == {"sms": "Order C-1"}
    told = Status.from_json(status.value)
    assert (told.state, told.target_id, told.workflow) == ("queued", message.target_id, "order-confirmed")


def test_attachments_go_with_the_e_mail_alone() -> None:
    ids = ("a", "b")
    notification = a_notification(
        contact={"email": "ada@example.com", "phone": "+15550100"}, channels=["email", "sms"], attachments=ids
    )
    work = Work(MemoryRows(), 5, 4, Catalogue(templates=[a_template()]))
    sends = plan(notification, an_origin(), work)
    messages = [Message.from_json(send.value) for send in sends if send.topic in topics.MESSAGES.values()]
    assert {one.channel: one.attachments for one in messages} == {"email": ids, "sms": None}
    without = plan(a_notification(contact={"email": "ada@example.com"}), an_origin(), work)
    assert not [send for send in without if b"attachments" in (send.value or b"")]
