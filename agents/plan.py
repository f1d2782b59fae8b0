"""Plan: reads `notifications`, claims each step, decides whom it reaches where, and why not elsewhere.

The claim is looked up first, and every outcome is claimed. Writes the channel topics, `contents` and
`delivery-status`; state: claims, users, preferences, caps.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter

import orjson
from pydantic import ValidationError

from agents.catalogue import Catalogue
from agents.render import Contexts, Rendering, TemplateBroken, render
from agents.route import Router, Words
from agents.sending import MAX_BYTES, Send
from schemas.event import Contact, Unreadable, first_problem
from schemas.ids import hash_in, target_id
from schemas.kinds import Channel, Priority, Reason, State
from schemas.notification import EventRef, Notification
from schemas.user import Preferences, User
from tables import caps, claims, people
from tables.claims import Claim, Origin, Pinned
from tables.rows import Rows

MAX_DETAIL = 500
Told = tuple[str, str, str | None, str]
"""Channel, state, reason, and what the rule saw."""
_PLAIN = {
    "id": str, "step": str, "user_id": str, "event": dict, "event_at": int, "position": str, "workflow": str,
    "category": str, "priority": str, "channels": list, "variables": dict,
}  # fmt: skip
"""What intake always writes; a record with all of it needs no model, which costs four times as much."""
_PRIORITIES, _CHANNELS = frozenset(map(str, Priority)), frozenset(map(str, Channel))
_plain_of, _PLAIN_TYPES = itemgetter(*_PLAIN), tuple(_PLAIN.values())


def read(value: bytes | None) -> Notification:
    """Reads a record of `notifications`. Raises Unreadable, which names the field."""
    try:
        body = orjson.loads(value or b"")
        if (
            tuple(map(type, _plain_of(body))) == _PLAIN_TYPES
            and "content" not in body
            and "contact" not in body
            and body["priority"] in _PRIORITIES
            and _CHANNELS.issuperset(body["channels"])
        ):
            body["event"] = EventRef.trusted(body["event"])
            body["channels"] = tuple(body["channels"])
            return Notification.trusted(body)
    except (ValueError, TypeError, KeyError):
        pass  # the model says what is wrong
    try:  # orjson takes what is nested deeper than pydantic's own parser does, and intake writes it
        return Notification.model_validate(orjson.loads(value or b""))
    except ValidationError as error:
        raise Unreadable(first_problem(error)) from None
    except ValueError as error:
        raise Unreadable(f"not JSON: {error}") from None


def plan(
    notification: Notification, origin: Origin, rows: Rows, number: int, mark: int, catalogue: Catalogue
) -> Sequence[Send]:
    """Claims the step and decides it; what a claim implies is sent again where it may not be out.

    `number` is the unit's, `mark` the highest whose outputs are all out (DESIGN, section 3.3).
    """
    claim = claims.find(rows, notification.id, notification.step)
    if claim is None or claim.mendable:
        return _decide(notification, origin, rows, number, mark, catalogue, claim)
    if claim.origin == origin:
        return emit(notification, claim, catalogue) if claim.number > mark else ()
    if claim.position == notification.position:
        return ()  # the same event came down again: a replay, or a redelivery of intake
    return (_status(notification, State.DUPLICATE, origin.at, Reason.ALREADY_PLANNED, notification.position),)


def _decide(
    notification: Notification,
    origin: Origin,
    rows: Rows,
    number: int,
    mark: int,
    catalogue: Catalogue,
    before: Claim | None,
) -> Sequence[Send]:
    version, failure, detail = _version(notification, catalogue), None, None
    pinned: tuple[Pinned, ...] = ()
    if version is None:
        failure, detail = Reason.UNKNOWN_TEMPLATE, notification.template
    else:
        try:
            pinned = _with_words(notification, version, choose(notification, origin.at, rows), catalogue)
            claim = Claim(origin, notification.position, number, version, pinned)
            sends = emit(notification, claim, catalogue)
        except TemplateBroken as error:
            failure, detail = Reason.TEMPLATE_FAILED, str(error)[:MAX_DETAIL]
    if failure is None:
        if any(p.reason is None for p in pinned):
            counter = caps.key(notification.user_id, origin.at)
            caps.raise_by_one(rows, counter, caps.count(rows, counter))
        claims.put(rows, notification.id, notification.step, claim)
        return sends
    told = f"{failure}: {detail}"
    if before is not None and before.failure == told and before.number <= mark:
        return ()  # still broken in the same way, and said so already
    claims.put(
        rows, notification.id, notification.step,
        Claim(origin, notification.position, number, version or 0, (), mendable=True, failure=told),
    )  # fmt: skip
    return (_status(notification, State.FAILED, origin.at, failure, detail),)


def _version(notification: Notification, catalogue: Catalogue) -> int | None:
    if notification.content is not None:
        return 0
    return catalogue.current(notification.template or "")


def _with_words(
    notification: Notification, version: int, pinned: tuple[Pinned, ...], catalogue: Catalogue
) -> tuple[Pinned, ...]:
    """The outcomes, where a channel that the template has no words for is suppressed, and so not counted."""
    if notification.content is not None:
        return pinned
    renderings = _renderings(notification, version, catalogue)
    if all(p.reason is not None or p.channel in renderings for p in pinned):
        return pinned
    return tuple(
        p
        if p.reason is not None or p.channel in renderings
        else p._replace(reason=Reason.NO_TEMPLATE_FOR_CHANNEL)
        for p in pinned
    )


def choose(notification: Notification, now: int, rows: Rows) -> tuple[Pinned, ...]:
    """Each channel's outcome, exactly one a channel: a target, or the rule that stands against it."""
    user = people.user(rows, notification.user_id)
    contact = notification.contact
    channels = dict.fromkeys(notification.channels)  # a request may name one twice
    if user is None and contact is None:
        return tuple(Pinned(c, None, Reason.UNKNOWN_USER) for c in channels)
    if notification.expires_at is not None and now >= notification.expires_at:
        return tuple(Pinned(c, None, Reason.EXPIRED) for c in channels)
    wanted = people.preferences(rows, notification.user_id)
    capped = _capped(notification, wanted, now, rows)
    return tuple(_outcome(channel, notification, user, contact, wanted, capped) for channel in channels)


def _capped(notification: Notification, wanted: Preferences, now: int, rows: Rows) -> str | None:
    """What the daily cap saw where it says no. Critical and mandatory ones pass, and are counted."""
    if notification.mandatory or notification.priority == "critical":
        return None
    counted = caps.count(rows, caps.key(notification.user_id, now))
    return f"{counted} of {wanted.frequency_limit}" if counted >= wanted.frequency_limit else None


def _outcome(
    channel: Channel,
    notification: Notification,
    user: User | None,
    contact: Contact | None,
    wanted: Preferences,
    capped: str | None,
) -> Pinned:
    target = address(channel, notification.user_id, user, contact)
    if target is None:
        return Pinned(channel, None, Reason.NO_ADDRESS)
    if not notification.mandatory:
        if not wanted.channels.get(channel, True):
            return Pinned(channel, None, Reason.CHANNEL_OPTED_OUT, f"channels.{channel}: false")
        by_category = wanted.categories.get(notification.category)
        if by_category is not None and not by_category.get(channel, True):
            saw = f"categories.{notification.category}.{channel}: false"
            return Pinned(channel, None, Reason.CATEGORY_OPTED_OUT, saw)
    if capped is not None:
        return Pinned(channel, None, Reason.DAILY_CAP, capped)
    return Pinned(channel, target)


def address(channel: Channel, user_id: str, user: User | None, contact: Contact | None) -> str | None:
    """Where the user is reached on a channel: the contact's address before the user's own."""
    if channel == Channel.WEB:
        return user_id
    field = _FIELDS.get(channel)
    if field is None:
        return None
    return (getattr(contact, field, None) if contact else None) or (
        getattr(user, field, None) if user else None
    )


_FIELDS = {
    Channel.EMAIL: "email",
    Channel.SMS: "phone",
    Channel.CHAT: "slack",
    Channel.WEBHOOK: "webhook_url",
}


def emit(notification: Notification, claim: Claim, catalogue: Catalogue) -> list[Send]:
    """Everything that a claim implies, from what it pinned and nothing that may have changed since.

    Raises TemplateBroken.
    """
    router = Router(notification, claim.origin.at, hash_in(notification.id))
    renderings = _renderings(notification, claim.version, catalogue)
    contexts = Contexts(notification.variables)
    rendered: dict[str, Words] = {}
    outcomes: list[Told] = []
    names: list[str | None] = []
    sends: list[Send] = []
    size = 0
    for channel, target, against, saw in claim.pinned:
        reason = against
        name, state = None, "expired" if reason == "expired" else "suppressed"
        if reason is None and target is not None:
            words = _words(notification, channel, renderings, contexts)
            if words is None:
                reason = Reason.NO_TEMPLATE_FOR_CHANNEL
            else:
                name, state = target_id(target), "queued"
                rendered[channel] = words
                send = router.message(channel, target, name, words)
                sends.append(send)
                size += len(send.value or b"")
        outcomes.append((channel, state, reason, saw))
        names.append(name)
    if size > MAX_BYTES:  # all of the words travel once more, together, on `contents`
        raise TemplateBroken(f"{size} bytes for all channels; they may have {MAX_BYTES}")
    if rendered:
        sends.append(router.contents(rendered))
    why: bytes | None = explain(notification.event.type, notification.workflow, tuple(outcomes))
    for pinned, name, (channel, state, reason, saw) in zip(claim.pinned, names, outcomes, strict=True):
        sends.append(
            router.status(state, channel, pinned.target, name, reason=reason, detail=saw or None, why=why)
        )
        why = None
    return sends


def _renderings(
    notification: Notification, version: int, catalogue: Catalogue
) -> Mapping[Channel, Rendering]:
    if notification.content is not None:
        return {}
    found = catalogue.renderings(notification.template or "", version)
    if found is None:
        raise TemplateBroken(f"version {version} of {notification.template} is gone")
    return found


def _words(
    notification: Notification, channel: str, renderings: Mapping[Channel, Rendering], contexts: Contexts
) -> Words:
    direct = notification.content
    if direct is not None:
        if direct.subject is not None and channel == "email":
            return {"subject": direct.subject, "text": direct.body}
        return {"text": direct.body}
    rendering: Rendering | None = renderings.get(channel)  # type: ignore[call-overload]
    if rendering is None:
        raise TemplateBroken(f"{notification.template} has no words for {channel}")
    return render(rendering, contexts)


@lru_cache(maxsize=4_096)
def explain(event_type: str, workflow: str, outcomes: tuple[Told, ...]) -> bytes:
    """The decision, rule by rule, as JSON (schemas.status.Verdict).

    Few decisions differ in this, so most are explained already.
    """
    rules = [
        {"rule": channel, "saw": saw, "verdict": state if reason is None else f"{state}: {reason}"}
        for channel, state, reason, saw in outcomes
    ]
    return orjson.dumps([{"rule": "workflow", "saw": event_type, "verdict": workflow}, *rules])


def _status(
    notification: Notification, state: State, at: int, reason: str, detail: str | None = None
) -> Send:
    return Router(notification, at, hash_in(notification.id)).status(state, reason=reason, detail=detail)
