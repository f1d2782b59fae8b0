"""What comes in on `events`: CloudEvents 1.0 or our own request, read into one form."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Annotated, Any, Self

import orjson
from pydantic import AwareDatetime, BeforeValidator, Field, StringConstraints, ValidationError, model_validator

from schemas.base import Frozen
from schemas.kinds import Channel, Priority, Reason

MAX_EVENT_BYTES = 1_000_000
MAX_RECIPIENTS = 1_000

Text = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""Names and ids: no control characters, so that they can stand in keys, headers and logs."""


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_priority(value: Any) -> Any:
    return "normal" if value == "medium" else value


UserText = Annotated[Text, BeforeValidator(_as_text)]
"""User ids are text: 123 and "123" are one user."""
PriorityText = Annotated[Priority, BeforeValidator(_as_priority)]


class Unreadable(ValueError):
    """An event that cannot be read: `reason` for programs, the message, which names the field, for people."""

    def __init__(self, message: str, reason: Reason = Reason.UNREADABLE) -> None:
        super().__init__(message)
        self.reason = reason


class Contact(Frozen):
    """Somebody to be told who need not be in `users`."""

    user_id: UserText | None = None
    email: Text | None = None
    phone: Text | None = None
    slack: Text | None = None
    webhook_url: Text | None = None

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if not (self.user_id or self.email or self.phone or self.slack or self.webhook_url):
            raise ValueError("a contact needs a user_id or an address")
        return self

    @property
    def identity(self) -> str:
        """The user id, or for one without it a name made of the address."""
        if self.user_id:
            return self.user_id
        address = self.email or self.phone or self.slack or self.webhook_url or ""
        return "contact:" + blake2b(address.encode(), digest_size=12).hexdigest()


class DirectContent(Frozen):
    """Words given with the request, instead of a template."""

    subject: Annotated[str, StringConstraints(max_length=998, pattern=r"^[^\x00-\x1f\x7f]*$")] | None = None
    body: Annotated[str, StringConstraints(min_length=1, max_length=256_000)]


class Request(Frozen):
    """Our own request to tell somebody something (CONTRACT, section 2)."""

    event_type: Text
    user_id: UserText | None = None
    recipients: tuple[Contact | UserText, ...] | None = Field(default=None, max_length=MAX_RECIPIENTS)
    segment: Text | None = None
    template_id: Text | None = None
    content: DirectContent | None = None
    variables: dict[str, Any] = Field(default_factory=dict)
    priority: PriorityText | None = None
    idempotency_key: Text | None = None
    channels: tuple[Channel, ...] | None = None
    category: Text | None = None
    scheduled_at: AwareDatetime | None = None
    expires_at: AwareDatetime | None = None
    locale: Text | None = None
    attachments: tuple[Text, ...] = ()
    metadata: dict[str, Any] = Field(default_factory=dict)
    source: Text = "carillon"

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if sum(x is not None for x in (self.user_id, self.recipients, self.segment)) != 1:
            raise ValueError("give exactly one of user_id, recipients, segment")
        if self.template_id is not None and self.content is not None:
            raise ValueError("give template_id or content, not both")
        if self.content and self.content.subject is not None and self.channels == (Channel.SMS,):
            raise ValueError("content.subject is for e-mail only")
        return self


class CloudEvent(Frozen):
    """The attributes of CloudEvents 1.0 that we read (https://cloudevents.io, spec.md 1.0.2)."""

    specversion: Annotated[str, StringConstraints(pattern=r"^1\.\d+$")]
    id: Text
    source: Text
    type: Text
    data: Any = None
    time: AwareDatetime | None = None


class Event(Frozen):
    """One event in the one form that intake works on."""

    source: str
    id: str
    type: str
    data: dict[str, Any]
    request: Request | None = None


def read_event(
    value: bytes | None, headers: Sequence[tuple[str, bytes]], position: str, at: int
) -> Event:
    """Reads a record of `events`; `position` and `at` identify a request without an idempotency key.

    Raises Unreadable, which names the field.
    """
    if value is None:
        raise Unreadable("the record has no value")
    if len(value) > MAX_EVENT_BYTES:
        raise Unreadable(f"{len(value)} bytes; an event has at most {MAX_EVENT_BYTES}", Reason.TOO_LARGE)
    try:
        body = orjson.loads(value)
    except ValueError as error:
        raise Unreadable(f"not JSON: {error}") from None
    attributes = {name[3:]: text for name, text in headers if name.startswith("ce_")} if headers else None
    if attributes:
        body = {name: text.decode("utf-8", "replace") for name, text in attributes.items()} | {"data": body}
    if not isinstance(body, dict):
        raise Unreadable("not a JSON object")
    try:
        if "specversion" in body:
            event = CloudEvent.model_validate(body)
            data = event.data
            if data is not None and not isinstance(data, dict):
                data = {"value": data}
            return Event.of(source=event.source, id=event.id, type=event.type, data=data or {}, request=None)
        request = Request.model_validate(body)
    except ValidationError as error:
        raise Unreadable(first_problem(error)) from None
    if request.segment is not None or request.scheduled_at is not None or request.attachments:
        name = "segment" if request.segment else "scheduled_at" if request.scheduled_at else "attachments"
        raise Unreadable(f"{name}: not supported by this version", Reason.NOT_SUPPORTED)
    key = request.idempotency_key
    if key is None:
        key = f"{position}@{at}:{blake2b(value, digest_size=8).hexdigest()}"
    return Event.of(
        source=request.source, id=key, type=request.event_type, data=request.variables, request=request
    )


def first_problem(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, as `field: what`, without the value."""
    found = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(str(part) for part in found["loc"]) or "(whole)"
    return f"{field}: {found['msg']}"


def milliseconds(moment: datetime | None) -> int | None:
    """A time as milliseconds since the epoch."""
    return None if moment is None else int(moment.timestamp() * 1000)


Variables = Mapping[str, Any]
