"""Events, notifications and messages to try things with."""

from functools import cache
from typing import Any

import orjson

from agents.catalogue import Catalogue
from schemas.kinds import Channel, Doubt, Priority
from schemas.message import Message
from schemas.notification import EventRef, Notification
from schemas.template import Template
from schemas.workflow import Workflow
from tables.claims import Origin
from tests.journeys.memory import NOON

SOURCE = "https://shop.example"
ID = "d24fdb77-1448-8c4e-bac4-c22078dfc79c"
"""The id of event e-1 for user u-1."""


def cloud_event(**fields: Any) -> bytes:
    """A CloudEvent, as its JSON."""
    event = {
        "specversion": "1.0", "id": "e-1", "source": SOURCE, "type": "shop.order.confirmed",
        "data": {"customer": {"id": "u-1", "name": "Ada"}, "order": {"id": "C-1"}},
    }  # fmt: skip
    return orjson.dumps(event | fields)


def request(**fields: Any) -> bytes:
    """A request of our own, as its JSON; a field that is None is left out."""
    given = {"event_type": "shop.order.confirmed", "user_id": "u-1"} | fields
    return orjson.dumps({name: value for name, value in given.items() if value is not None})


def a_workflow(**fields: Any) -> Workflow:
    given: dict[str, Any] = {
        "name": "order-confirmed", "on": "shop.order.confirmed", "recipients": ["customer.id"],
        "template": "order", "channels": ["email", "sms", "web"], "category": "orders",
    }  # fmt: skip
    return Workflow.model_validate(given | fields)


def a_template(text: str = "Order {{ order.id }}", name: str = "order", **channels: Any) -> Template:
    words = {"email": {"subject": text, "text": text, "html": f"<p>{text}</p>"}, "sms": {"text": text},
             "web": {"subject": text, "text": text}}  # fmt: skip
    return Template.model_validate({"name": name, "versions": {1: channels or words}})


@cache
def shop() -> Catalogue:
    """One rule and its template. Do not change it: it is shared."""
    return Catalogue([a_workflow()], [a_template()])


def a_notification(**fields: Any) -> Notification:
    given: dict[str, Any] = {
        "id": ID, "step": "plan", "user_id": "u-1",
        "event": {"source": SOURCE, "id": "e-1", "type": "shop.order.confirmed"},
        "event_at": NOON, "position": "events-0-7", "workflow": "order-confirmed", "category": "orders",
        "priority": "normal", "channels": ["email", "sms", "web"], "template": "order",
        "variables": {"order": {"id": "C-1"}}, "doubt": "at_least_once", "mandatory": False, "generation": 0,
    }  # fmt: skip
    return Notification.from_dict(given | fields)


def an_origin(offset: int = 3, at: int = NOON + 10, topic: str = "notifications") -> Origin:
    return Origin(topic, 0, offset, at)


def a_message(**fields: Any) -> Message:
    given: dict[str, Any] = {
        "id": ID, "step": "plan", "user_id": "u-1", "channel": Channel.SMS,
        "target": "+15550100", "target_id": "t-1",
        "text": "Order C-1", "event": EventRef(source=SOURCE, id="e-1", type="shop.order.confirmed"),
        "event_at": NOON, "at": NOON + 10, "category": "orders", "priority": Priority.NORMAL,
        "doubt": Doubt.AT_LEAST_ONCE,
    }  # fmt: skip
    return Message(**(given | fields))
