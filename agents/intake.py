"""Intake: reads `events`, writes `notifications` (one a recipient) and, for what nobody wants, a status.

What is for a segment becomes a fan-out, which goes to each partition: the users are there.

Stateless: who was told what before is decided by plan, where the user's state is.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import jmespath
import msgspec
from pydantic import TypeAdapter, ValidationError

from agents import redrive, topics
from agents.catalogue import Catalogue
from agents.sending import RANKS, Send
from schemas import dead_letter
from schemas.base import encode
from schemas.event import (
    MAX_RECIPIENTS,
    Contact,
    Event,
    Unreadable,
    UserText,
    first_problem,
    milliseconds,
    read_event,
)
from schemas.ids import broadcast_id, notification_id, user_hash
from schemas.kinds import Channel, Priority, Reason, State
from schemas.notification import (
    PLAN,
    Addresses,
    Escalation,
    EventRef,
    FanOut,
    Gathering,
    GivenContent,
    Limit,
    Notification,
)
from schemas.status import Status, rfc3339
from schemas.workflow import Workflow
from tables.claims import Origin

MAX_FAN_OUT_BYTES = 64_000_000
"""What one event may become: each of its notifications carries all of its data."""

MAX_KEY = 512
"""Characters of a digest's key."""

DIRECT = Workflow.model_construct(
    name="direct", id="direct", on="", recipients=(), template="", channels=tuple(Channel),
    category="general", priority=Priority.NORMAL,
)  # fmt: skip
"""What stands in for a workflow where a request of our own brings its template or its words."""


def take_in(
    value: bytes | None, headers: Sequence[tuple[str, bytes]], origin: Origin, catalogue: Catalogue
) -> list[Send]:
    """What an `events` record becomes: notifications, or an ignored status.

    A copy counts as the record that it first was, and may be for some of its notifications alone, of which
    there may be none by now (agents/redrive.py). Raises Unreadable, which names the field; nothing else for
    any bytes at all.
    """
    at, generation, only = origin.at, 0, None
    if headers:
        origin, at, generation, only = redrive.intent(headers, origin)
    position = f"{origin.topic}-{origin.partition}-{origin.offset}"
    event = read_event(value, headers, position, origin.at)
    workflows = catalogue.wanting(event.type)
    if not workflows and event.request is not None and (event.request.template_id or event.request.content):
        workflows = (DIRECT,)
    if not workflows:
        return [ignored(event, origin, Reason.NO_WORKFLOW)] if only is None else []
    found: list[Send] = []
    size = 0
    for workflow in workflows:
        digest = gathering(event, workflow)
        for user_id, contact in recipients(event, workflow):
            if only is not None and (
                notification_id(user_id, event.source, event.id, workflow.id, generation) not in only
            ):
                continue
            found.append(notify(event, workflow, user_id, contact, position, at, generation, digest))
            size += len(found[-1].value or b"")
            if size > MAX_FAN_OUT_BYTES:
                raise Unreadable(
                    f"recipients: too many for an event of {len(value or b'')} bytes", Reason.TOO_LARGE
                )
        segment = workflow.segment if event.request is None else event.request.segment
        if segment is not None and only is None:
            found.append(tell_all(event, workflow, segment, position, at, generation, digest, catalogue))
    if found or only is not None:
        return found
    return [ignored(event, origin, Reason.NO_RECIPIENT)]


def recipients(event: Event, workflow: Workflow) -> Iterable[tuple[str, Contact | None]]:
    """Who an event is for, each once: named by the request, else found by the workflow's expressions."""
    request = event.request
    if request is not None and request.user_id is not None:
        return [(request.user_id, None)]
    if request is not None and request.segment is not None:
        return ()
    found: dict[str, Contact | None] = {}
    if request is not None and request.recipients is not None:
        for one in request.recipients:
            if isinstance(one, Contact):
                found[one.identity] = one
            else:
                found.setdefault(one, None)
        return found.items()
    found.update(dict.fromkeys(workflow.users))
    for path in workflow.recipients:
        for user_id in _found_at(path, event.data):
            found[user_id] = None
    if len(found) > MAX_RECIPIENTS:
        raise Unreadable(f"{len(found)} recipients; an event has at most {MAX_RECIPIENTS}", Reason.TOO_LARGE)
    return found.items()


def _found_at(path: str, data: Any) -> Iterable[str]:
    """The user ids that an expression finds. Raises Unreadable for what cannot be one."""
    try:
        return [_user_id(one) for one in _flat(_compiled(path)(data))]
    except ValidationError as error:
        raise Unreadable(f"recipients, {path}: {first_problem(error).removeprefix('(whole): ')}") from None
    except Exception as error:  # an expression runs over whatever upstream sends
        raise Unreadable(f"recipients, {path}: {error}") from None


_user_id: Callable[[Any], str] = TypeAdapter(UserText).validator.validate_python
_is_plain = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*").fullmatch


@lru_cache(maxsize=1_000)
def _compiled(path: str) -> Callable[[Any], Any]:
    if not _is_plain(path):
        found: Callable[[Any], Any] = jmespath.compile(path).search
        return found
    names = path.split(".")

    def walk(data: Any) -> Any:  # a tenth of what jmespath takes for the same
        for name in names:
            data = data.get(name) if isinstance(data, dict) else None
        return data

    return walk


def _flat(found: Any) -> Iterable[str]:
    if isinstance(found, list):
        for one in found:
            yield from _flat(one)
    elif isinstance(found, (str, int)) and not isinstance(found, bool) and found != "":
        yield str(found)


def notify(
    event: Event,
    workflow: Workflow,
    user_id: str,
    contact: Contact | None,
    position: str,
    at: int,
    generation: int = 0,
    digest: Gathering | None = None,
) -> Send:
    """The `notifications` record of one recipient: everything that planning needs of workflow and request."""
    id = notification_id(user_id, event.source, event.id, workflow.id, generation)
    found = _notification(event, workflow, id, user_id, contact, position, at, generation, digest)
    lane, key = topics.NOTIFICATION_LANES[found.priority], user_id.encode()
    return Send(lane, key, encode(found), user_hash(user_id), RANKS[found.priority])


def tell_all(
    event: Event, workflow: Workflow, segment: str, position: str, at: int, generation: int,
    digest: Gathering | None, catalogue: Catalogue,
) -> Send:  # fmt: skip
    """The fan-out to a segment, with its rule as it is now: every partition goes by the same."""
    id, known = broadcast_id(event.source, event.id, workflow.id), catalogue.segments.get(segment)
    pattern = _notification(event, workflow, "", "", None, position, at, generation, digest)
    pattern = msgspec.structs.replace(pattern, broadcast=id)
    found = FanOut(
        id=id, n=0, segment=segment, rule=known.rule if known else None, workflow_id=workflow.id,
        pattern=pattern,
    )  # fmt: skip
    return Send(
        topics.NOTIFICATION_LANES[pattern.priority],
        id.encode(),
        encode(found),
        None,
        RANKS[pattern.priority],
        True,
    )


def _notification(
    event: Event, workflow: Workflow, id: str, user_id: str, contact: Contact | None, position: str,
    at: int, generation: int, digest: Gathering | None,
) -> Notification:  # fmt: skip
    request = event.request
    priority, category, channels = workflow.priority, workflow.category, workflow.channels
    template: str | None = workflow.template
    expires = None if workflow.expires_after is None else at + workflow.expires_after * 1000
    content = addresses = locale = metadata = scheduled = attachments = None
    if request is not None:
        priority, category = request.priority or priority, request.category or category
        channels, locale = request.channels or channels, request.locale
        if request.metadata:
            metadata = request.metadata
        if request.attachments:
            attachments = request.attachments
        if request.expires_at is not None:
            expires = milliseconds(request.expires_at)
        if request.scheduled_at is not None:
            scheduled = milliseconds(request.scheduled_at)
        if request.template_id is not None:
            template = request.template_id
        elif request.content is not None:
            template = None
            content = GivenContent(subject=request.content.subject, body=request.content.body)
        if contact is not None:
            addresses = Addresses(
                email=contact.email, phone=contact.phone, slack=contact.slack, webhook_url=contact.webhook_url
            )
    return Notification(
        id=id, step=PLAN, user_id=user_id,
        event=EventRef(source=event.source, id=event.id, type=event.type), event_at=at, position=position,
        workflow=workflow.name, category=category, priority=priority, channels=channels, template=template,
        content=content, variables=event.data, contact=addresses, locale=locale, doubt=workflow.doubt,
        mandatory=workflow.mandatory, expires_at=expires, generation=generation, metadata=metadata,
        scheduled_at=scheduled, digest=digest, fallback=workflow.fallback or None,
        escalate=_escalations(workflow) if workflow.escalate else None,
        throttle=_throttle(workflow) if workflow.throttle else None, attachments=attachments,
    )  # fmt: skip


def gathering(event: Event, workflow: Workflow) -> Gathering | None:
    """The digest that a workflow gathers an event into, None for one that goes by itself."""
    rule = workflow.digest
    if rule is None:
        return None
    found = "" if rule.by is None else _compiled(rule.by)(event.data)
    key = found if isinstance(found, str) else encode(found).decode()
    return Gathering(
        key=key[:MAX_KEY], window=rule.window * 1000, flush_at=rule.flush_at, template=rule.template
    )


def _escalations(workflow: Workflow) -> tuple[Escalation, ...]:
    return tuple(Escalation(after=one.after * 1000, channels=one.channels) for one in workflow.escalate)


def _throttle(workflow: Workflow) -> Limit | None:
    rule = workflow.throttle
    return None if rule is None else Limit(limit=rule.limit, per=rule.per * 1000)


def ignored(event: Event, origin: Origin, reason: Reason) -> Send:
    """The status of an event that made no notification; its id is made of the event alone."""
    name = f"{event.source}|{event.id}"
    status = Status(
        notification_id=notification_id(name, event.source, event.id, ""),
        user_id="",
        state=State.IGNORED,
        reason=reason,
        at=rfc3339(origin.at),
        event_at=origin.at,
        event=EventRef(source=event.source, id=event.id, type=event.type),
    )
    return Send(topics.DELIVERY_STATUS, name.encode(), status.to_json(), user_hash(name))


def dead(
    value: bytes | None,
    key: bytes | None,
    error: Exception,
    origin: Origin,
    topic: str,
    headers: Sequence[tuple[str, bytes]] = (),
) -> Send:
    """The dead letter of a record that could not be read or decided: its bytes, key and own headers."""
    try:
        reason = Reason(getattr(error, "reason", Reason.RAISED))
    except ValueError:  # an error of Python's own may have a reason too, in words of its own
        reason = Reason.RAISED
    what = str(error) if isinstance(error, Unreadable) else f"{type(error).__name__}: {error}"
    first = redrive.origin(headers, origin)
    found = dead_letter.headers(
        reason, what, first.topic, first.partition, first.offset, first.at,
        original=redrive.original(headers),
    )  # fmt: skip
    return Send(topic, key or b"", value, None, found)
