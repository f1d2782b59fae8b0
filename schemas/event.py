"""What comes in on `events`: CloudEvents 1.0 or our own request, read into one form."""

import binascii
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Annotated, Any, NamedTuple, Self

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import Discriminator, Field, StringConstraints, Tag, ValidationError, model_validator
from pydantic_core import CoreSchema, core_schema

from schemas import attachment
from schemas.attachment import MAX_ATTACHMENTS
from schemas.base import Frozen, encode
from schemas.kinds import Channel, Priority, Reason
from schemas.times import Time

MAX_EVENT_BYTES = 1_000_000
MAX_RECIPIENTS = 1_000
MAX_METADATA_BYTES = 32_000
"""Every status carries it."""
MAX_NAME = 512
DAY = 86_400_000
MAX_AHEAD = 366 * DAY
"""Milliseconds that something may be scheduled ahead."""
MAX_LEVELS = 200
"""Of lists and objects within each other: far below what any of our readers takes."""
_TOO_DEEP = f"more than {MAX_LEVELS} lists and objects within each other"

_PRINTABLE = "^[^\\x00-\\x1f\\x7f-\\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]*$"
Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME, pattern=_PRINTABLE)]
"""Names and ids: no control characters or bidi controls, for they stand in keys, headers and logs."""
_is_printable = re.compile(_PRINTABLE.removesuffix("$")).fullmatch


def is_printable(text: str) -> bool:
    """Whether a name is free of control characters and bidi controls."""
    return _is_printable(text) is not None


class _UserId:
    """Text, or an integer, which becomes its digits: all in pydantic's core, without a call to Python."""

    @staticmethod
    def __get_pydantic_core_schema__(_source: Any, _handler: Any) -> CoreSchema:
        either = core_schema.union_schema(
            [core_schema.str_schema(strict=True), core_schema.int_schema(strict=True)],
            custom_error_type="user_id",
            custom_error_message="Input should be a string or an integer",
        )
        text = core_schema.str_schema(
            coerce_numbers_to_str=True, min_length=1, max_length=MAX_NAME, pattern=_PRINTABLE
        )
        return core_schema.chain_schema([either, text])


UserText = Annotated[str, _UserId]
"""User ids are text: 123 and "123" are one user."""
PriorityText = Priority
"""What takes `medium` for `normal`; every Priority does."""


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


_CONTACT, _USER_ID = "[contact]", "[user id]"


def _kind_of_recipient(given: object) -> str | None:
    if isinstance(given, (dict, Contact)):
        return _CONTACT
    return _USER_ID if isinstance(given, (str, int)) else None


Recipient = Annotated[
    Annotated[Contact, Tag(_CONTACT)] | Annotated[UserText, Tag(_USER_ID)],
    Discriminator(
        _kind_of_recipient,
        custom_error_type="recipient",
        custom_error_message="Input should be a user id or a contact",
    ),
]
"""Told apart by its form, so that of a contact that is wrong its own field is named."""


class DirectContent(Frozen):
    """Words given with the request, instead of a template."""

    subject: Annotated[str, StringConstraints(max_length=998, pattern=_PRINTABLE)] | None = None
    body: Annotated[str, StringConstraints(min_length=1, max_length=256_000)]


class Request(Frozen):
    """Our own request to tell somebody something (CONTRACT, section 2)."""

    event_type: Text
    user_id: UserText | None = None
    recipients: tuple[Recipient, ...] | None = Field(default=None, max_length=MAX_RECIPIENTS)
    segment: Text | None = None
    template_id: Text | None = None
    content: DirectContent | None = None
    variables: dict[str, Any] = Field(default_factory=dict)
    priority: PriorityText | None = None
    idempotency_key: Text | None = None
    channels: tuple[Channel, ...] | None = None
    category: Text | None = None
    scheduled_at: Time | None = None
    expires_at: Time | None = None
    locale: Text | None = None
    attachments: tuple[Text, ...] | None = Field(default=None, max_length=MAX_ATTACHMENTS)
    metadata: dict[str, Any] | None = None
    source: Text = "carillon"

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.user_id is None) + (self.recipients is None) + (self.segment is None) != 2:
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
    data_base64: str | None = None
    datacontenttype: str | None = None
    time: Time | None = None


class PlainRequest(msgspec.Struct, gc=False):
    """A Request of the commonest kind, read at a third of the cost; what is any other is left to the model.

    A field that may only be null is one that asks for more.
    """

    event_type: str
    user_id: str
    idempotency_key: str
    template_id: str | None = None
    category: str | None = None
    locale: str | None = None
    source: str = "carillon"
    variables: dict[str, Any] = {}
    priority: Priority | None = None
    channels: tuple[Channel, ...] | None = None
    recipients: None = None
    segment: None = None
    content: None = None
    scheduled_at: None = None
    expires_at: None = None
    attachments: None = None
    metadata: None = None
    specversion: UnsetType | None = UNSET


class Event(NamedTuple):
    """One event in the one form that intake works on."""

    source: str
    id: str
    type: str
    data: dict[str, Any]
    request: Request | PlainRequest | None = None


_read_cloud_event = CloudEvent.__pydantic_validator__.validate_python
_read_request = Request.__pydantic_validator__.validate_python
_read_plain = msgspec.json.Decoder(PlainRequest).decode


def _plain_request(value: bytes) -> PlainRequest | None:
    """The request, if it is a plain one beyond doubt; None says nothing yet."""
    if _needs_a_look(value):
        return None
    try:
        found = _read_plain(value)
    except (ValueError, RecursionError):
        return None
    if found.specversion is not UNSET:
        return None
    names = (found.event_type, found.user_id, found.idempotency_key, found.source, found.template_id,
             found.category, found.locale)  # fmt: skip
    for name in names:
        if name is not None and not (name.isprintable() and 0 < len(name) <= MAX_NAME):
            return None
    return found


def read_event(value: bytes | None, headers: Sequence[tuple[str, bytes]], position: str, at: int) -> Event:
    """Reads a record of `events`; `position` and `at` identify a request without an idempotency key.

    Raises Unreadable, which names the field.
    """
    plain = _plain_request(value) if value and not headers else None
    if plain is not None:
        return Event(plain.source, plain.idempotency_key, plain.event_type, plain.variables, plain)
    structured, attributes = _told_by(headers) if headers else (False, None)
    body = _parse(value, may_be_absent=attributes is not None)
    if attributes is not None:
        body = attributes | {"data": body, "data_base64": None}
    elif not isinstance(body, dict):
        raise Unreadable("not a JSON object")
    try:
        if attributes is not None or structured or "specversion" in body:
            return _of_cloud_event(_read_cloud_event(body))
        request: Request = _read_request(body)
    except ValidationError as error:
        raise Unreadable(first_problem(error)) from None
    if request.attachments:
        _check_attachments(request.attachments, max(at, milliseconds(request.scheduled_at) or 0))
    if request.scheduled_at is not None and (milliseconds(request.scheduled_at) or 0) > at + MAX_AHEAD:
        raise Unreadable(f"scheduled_at: more than {MAX_AHEAD // DAY} days ahead")
    if request.metadata and len(encode(request.metadata)) > MAX_METADATA_BYTES:
        raise Unreadable(f"metadata: more than {MAX_METADATA_BYTES} bytes", Reason.TOO_LARGE)
    key = request.idempotency_key
    if key is None:
        key = f"{position}@{at}:{blake2b(value or b'', digest_size=8).hexdigest()}"
    return Event(request.source, key, request.event_type, request.variables, request)


def _check_attachments(ids: Sequence[str], due: int) -> None:
    """Raises Unreadable for what is no id, and for what may be gone when it is due."""
    for n, text in enumerate(ids):
        id = attachment.read(text)
        if id is None:
            raise Unreadable(f"attachments.{n}: not the id of an attachment")
        if due // DAY > id.last_day:
            last = datetime.fromtimestamp(id.last_day * attachment.DAY, UTC).date()
            raise Unreadable(f"attachments.{n}: is kept for what is due until {last}")


def _told_by(headers: Sequence[tuple[str, bytes | None]]) -> tuple[bool, dict[str, Any] | None]:
    """Whether headers say that it is a structured CloudEvent; else the attributes of a binary one."""
    attributes: dict[str, Any] = {}
    for name, value in headers:
        if name.startswith("ce_"):
            try:
                attributes[name[3:]] = (value or b"").decode()
            except UnicodeDecodeError:
                raise Unreadable(f"{name}: not UTF-8") from None
        elif name.lower() == "content-type" and (value or b"").lower().startswith(b"application/cloudevents"):
            return True, None
    return False, attributes or None


def _parse(value: bytes | None, *, may_be_absent: bool) -> Any:
    if value is None:
        if may_be_absent:
            return None
        raise Unreadable("the record has no value")
    if len(value) > MAX_EVENT_BYTES:
        raise Unreadable(f"{len(value)} bytes; an event has at most {MAX_EVENT_BYTES}", Reason.TOO_LARGE)
    try:
        body = msgspec.json.decode(value)
    except RecursionError as error:
        raise Unreadable(f"(whole): {_no_json(error, value)}") from None
    except ValueError as error:
        raise Unreadable(_no_json(error, value)) from None
    if _needs_a_look(value):
        _check_inside(body)
    return body


def _no_json(error: Exception, value: bytes) -> str:
    """Why bytes could not be read as JSON."""
    if isinstance(error, RecursionError):
        return _TOO_DEEP
    if isinstance(error, UnicodeDecodeError):  # it counts from the text's beginning, inside the record
        try:
            value.decode()
        except UnicodeDecodeError as whole:
            error = whole
    return f"not JSON: {error}"


def _needs_a_look(value: bytes) -> bool:
    """Whether there may be a NUL inside, or too many levels: for that there must be so many brackets."""
    return b"\\u0000" in value or (
        len(value) > 2 * MAX_LEVELS and value.count(b"[") + value.count(b"{") > MAX_LEVELS
    )


def _check_inside(body: Any) -> None:
    """Raises Unreadable for a NUL, and for what is nested so deeply that who comes next could not read it."""
    open_ones: list[tuple[str, int, Any]] = [("", 1, body)]
    while open_ones:
        path, level, value = open_ones.pop()
        if isinstance(value, str) and "\0" in value:
            raise Unreadable(f"{path or '(whole)'}: holds a NUL")
        if level > MAX_LEVELS and isinstance(value, (dict, list)):
            raise Unreadable(f"{path[:MAX_NAME]}: {_TOO_DEEP}")
        if isinstance(value, dict):
            for name, inner in value.items():
                if "\0" in name:
                    raise Unreadable(f"{path or '(whole)'}: holds a NUL")
                open_ones.append((f"{path}.{name}" if path else name, level + 1, inner))
        elif isinstance(value, list):
            open_ones.extend(
                (f"{path}.{n}" if path else str(n), level + 1, inner) for n, inner in enumerate(value)
            )


def _of_cloud_event(event: CloudEvent) -> Event:
    data = event.data
    if event.data_base64 is not None:
        if data is not None:
            raise Unreadable("data_base64: give data or data_base64, not both")
        data = _decoded(event.data_base64, event.datacontenttype)
    if data is None:
        data = {}
    elif not isinstance(data, dict):
        data = {"value": data}
    return Event(event.source, event.id, event.type, data)


def _decoded(given: str, media_type: str | None) -> Any:
    """The JSON that `data_base64` holds. It is bounded as the event around it is."""
    if media_type is not None and not _is_json(media_type):
        raise Unreadable("data_base64: holds no JSON, says datacontenttype; other data is not read")
    try:
        value = binascii.a2b_base64(given, strict_mode=True)
    except ValueError:
        raise Unreadable("data_base64: not base64") from None
    try:
        data = msgspec.json.decode(value)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"data_base64: {_no_json(error, value)}") from None
    if _needs_a_look(value):
        _check_inside({"data_base64": data})
    return data


_is_json = re.compile(r"\s*([\w.+-]+/([\w.+-]+\+)?json)\s*(;.*)?", re.ASCII | re.I | re.S).fullmatch


_NO_FIELDS = {_CONTACT, _USER_ID, "[key]"}
"""What stands in pydantic's paths between the names that the sender knows."""
_WORDS = {
    "model_type": "Input should be an object", "dict_type": "Input should be an object",
    "tuple_type": "Input should be a list", "list_type": "Input should be a list",
}  # fmt: skip


def first_problem(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, as `field: what`, in words of JSON, without the value.

    A rule over several fields names them itself.
    """
    found = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field, what = ".".join(str(part) for part in found["loc"] if part not in _NO_FIELDS), found["msg"]
    if found["type"] == "value_error":
        what = what.removeprefix("Value error, ")
        return f"{field}: {what}" if field else what
    if _PRINTABLE in what:
        what = "holds a control character"
    elif found["type"] == "too_long":
        what = what.replace("Tuple", "List", 1)
    return f"{field or '(whole)'}: {_WORDS.get(found['type'], what)}"


def milliseconds(moment: datetime | None) -> int | None:
    """A time as milliseconds since the epoch."""
    return None if moment is None else (moment - _EPOCH) // timedelta(milliseconds=1)


_EPOCH = datetime.fromtimestamp(0, UTC)


Variables = Mapping[str, Any]
