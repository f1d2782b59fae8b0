"""The schemas of what travels, for others: JSON Schema a topic."""

from typing import Any

import msgspec
from pydantic import TypeAdapter

from agents import topics
from schemas.base import Record
from schemas.control import Replay
from schemas.event import CloudEvent, Request
from schemas.kinds import Channel
from schemas.message import Contents, Message
from schemas.notification import Notification
from schemas.segment import Segment
from schemas.status import Status
from schemas.template import Template
from schemas.user import Device, Preferences, User
from schemas.workflow import Workflow

VALUES: dict[str, Any] = {
    topics.EVENTS: CloudEvent | Request,
    topics.NOTIFICATIONS: Notification,
    topics.USERS: User,
    topics.PREFERENCES: Preferences,
    topics.DEVICES: Device,
    topics.WORKFLOWS: Workflow,
    topics.TEMPLATES: Template,
    topics.SEGMENTS: Segment,
    topics.DELIVERY_STATUS: Status,
    topics.CONTENTS: Contents,
    topics.CONTROL: Replay,
    **{topics.MESSAGES[channel]: Message for channel in Channel},
}
VALUES |= {
    name + topics.EXPRESS: VALUES[name]
    for name in (topics.EVENTS, topics.NOTIFICATIONS, *topics.MESSAGES.values())
}


def document() -> dict[str, Any]:
    """AsyncAPI 3.0 of all topics, with the JSON Schema of each one's values."""
    channels, schemas = {}, {}
    for topic, model in VALUES.items():
        schema = _schema(model, f"#/components/schemas/{topic}/$defs/")
        schemas[topic] = schema
        channels[topic] = {
            "address": topic,
            "messages": {
                "value": {
                    "contentType": "application/json",
                    "payload": {"$ref": f"#/components/schemas/{topic}"},
                }
            },
        }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Carillon", "version": "1"},
        "channels": channels,
        "components": {"schemas": schemas},
    }


def _schema(model: Any, within: str) -> dict[str, Any]:
    """The JSON Schema of a value; what it refers to is in its own `$defs`, found under `within`."""
    if isinstance(model, type) and issubclass(model, Record):
        _, found = msgspec.json.schema_components([model], ref_template=within + "{name}")
        own: dict[str, Any] = found.pop(model.__name__)
        return own | {"$defs": found}
    schema: dict[str, Any] = TypeAdapter(model).json_schema(ref_template=within + "{model}")
    return schema
