"""The simple job, pure: the events, what each side parses, remembers, renders and sends."""

import hashlib
from collections.abc import Iterator
from typing import Any

import jinja2.sandbox
import orjson
import pydantic

CHANNELS = ("email", "push")
EVENTS_A_USER = 6
SUBJECT_SOURCE = "Order {{ order_id }} confirmed"
BODY_SOURCE = (
    "Hi {{ name }}, your order {{ order_id }} for {{ total }} is confirmed.\n"
    "{% for i in items %}- {{ i.name }} x {{ i.qty }}\n{% endfor %}Thanks for shopping."
)
EMAIL = "a@example.com"
DEFAULT_PREFERENCE = orjson.dumps(
    {"email": EMAIL, "phone": "+15550100", "channels": dict.fromkeys(CHANNELS, True)}
)


class Request(pydantic.BaseModel):
    """What comes in."""

    event_id: str
    user_id: str
    event_type: str
    template: str
    variables: dict[str, Any]
    priority: str = "normal"
    idempotency_key: str


class Preference(pydantic.BaseModel):
    """What a user wants, and where."""

    email: str
    phone: str
    channels: dict[str, bool]
    tz: str = "UTC"
    cap: int = 50


class Rendered(pydantic.BaseModel):
    """What goes out."""

    id: str
    user_id: str
    channel: str
    to: str
    subject: str
    body: str
    priority: str


_environment = jinja2.sandbox.ImmutableSandboxedEnvironment(autoescape=True)
_subject = _environment.from_string(SUBJECT_SOURCE)
_body = _environment.from_string(BODY_SOURCE)


def words(variables: dict[str, Any]) -> tuple[str, str]:
    """Subject and body, by Jinja's quickest way, which every side takes."""
    subject = "".join(_subject.root_render_func(_subject.new_context(variables, shared=True)))
    body = "".join(_body.root_render_func(_body.new_context(variables, shared=True)))
    return subject, body


def identity(user: bytes, idempotency_key: str) -> str:
    """The id of a message pair."""
    return hashlib.blake2b(user + b"|" + idempotency_key.encode(), digest_size=16).hexdigest()


def message(request: Request, found: str, channel: str, to: str, subject: str, body: str) -> bytes:
    """The bytes that go out on a channel."""
    out = Rendered.model_construct(
        id=found, user_id=request.user_id, channel=channel, to=to, subject=subject, body=body,
        priority=request.priority,
    )  # fmt: skip
    made: bytes = out.__pydantic_serializer__.to_json(out)
    return made


def user(number: int) -> str:
    """The name of the n-th user."""
    return f"user-{number:06d}"


def users(events: int) -> int:
    """How many users so many events are about: the same number of events each, however many events."""
    return max(1, events // EVENTS_A_USER)


def event(number: int, events: int) -> tuple[bytes, bytes]:
    """Key and value of the n-th of so many events; the production role reads the same bytes."""
    name = user(number % users(events))
    value = {
        "event_id": f"e{number}", "user_id": name, "event_type": "order_confirmed",
        "template": "order-confirmed",
        "variables": {
            "name": "Ann", "order_id": f"ORD-{number}", "total": "$99.99",
            "items": [{"name": "Book", "qty": 1}, {"name": "Pen", "qty": 3}],
        },
        "priority": "normal", "idempotency_key": f"order-{number}-confirmed",
    }  # fmt: skip
    return name.encode(), orjson.dumps(value)


def all_events(events: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of so many events."""
    return (event(number, events) for number in range(events))
