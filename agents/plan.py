"""Plan: reads `notifications`, claims each step, decides whom it reaches where, and why not elsewhere.

The claim is looked up first, and every outcome is claimed. Writes the channel topics, `contents` and
`delivery-status`; state: claims, users, preferences, caps.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from agents.catalogue import Catalogue
from agents.render import Contexts, Rendering, TemplateBroken, render
from agents.route import Router
from agents.sending import MAX_BYTES, Send
from schemas.base import RecordUnreadable
from schemas.event import Unreadable
from schemas.kinds import Channel, Priority, Reason, State
from schemas.message import ChannelContent
from schemas.notification import PLAN, Addresses, Notification
from schemas.status import Verdict
from tables import caps, claims, people
from tables.claims import Claim, Origin, Pinned
from tables.people import Person, Wishes
from tables.rows import Rows

MAX_DETAIL = 500
Told = tuple[Channel, str | None, str]
"""Channel, the reason against it, and what the rule saw."""
Renderings = Mapping[Channel, Rendering]


def read(value: bytes | None) -> Notification:
    """Reads a record of `notifications`. Raises Unreadable, which names the field."""
    try:
        return Notification.from_json(value)
    except RecordUnreadable as error:
        raise Unreadable(str(error)) from None


def plan(
    notification: Notification,
    origin: Origin,
    rows: Rows,
    number: int,
    mark: int,
    catalogue: Catalogue,
    oldest: int = 0,
) -> Sequence[Send]:
    """Claims the step and decides it; what a claim implies is sent again where it may not be out.

    `number` is the unit's, `mark` the highest whose outputs are all out (DESIGN, section 3.3); claims of
    before `oldest` are forgotten, so that what is older and has none may have been told.
    """
    key = claims.key(notification.id, notification.step)
    claim = claims.find(rows, key)
    if claim is None and (notification.event_at if notification.step == PLAN else origin.at) < oldest:
        return _too_old(notification, origin, key, rows, number)
    if claim is None or claim.mendable:
        return _decide(notification, origin, key, rows, number, mark, catalogue, claim)
    if claim.origin == origin:
        return emit(notification, claim, catalogue) if claim.number > mark else ()
    if claim.position == notification.position:
        return ()  # the same event came down again: a replay, or a redelivery of intake
    router = Router(notification, notification.event_at)  # not this record's time: a replay makes it anew
    return (router.status(State.DUPLICATE, reason=Reason.ALREADY_PLANNED, detail=notification.position),)


def _decide(
    notification: Notification,
    origin: Origin,
    key: bytes,
    rows: Rows,
    number: int,
    mark: int,
    catalogue: Catalogue,
    before: Claim | None,
) -> Sequence[Send]:
    version = 0 if notification.content is not None else catalogue.current(notification.template or "")
    if version is None:
        failure, detail = Reason.UNKNOWN_TEMPLATE, notification.template
    else:
        try:
            renderings = _renderings(notification, version, catalogue)
            counter = caps.key(notification.user_id, origin.at)
            counted = caps.count(rows, counter)
            pinned = choose(notification, origin.at, rows, counted, renderings)
            claim = Claim(origin, notification.position, number, version, pinned)
            sends = _emit(notification, claim, renderings)
        except TemplateBroken as error:
            failure, detail = Reason.TEMPLATE_FAILED, str(error)[:MAX_DETAIL]
        else:
            for outcome in pinned:
                if outcome.reason is None:
                    caps.raise_by_one(rows, counter, counted)
                    break
            claims.put(rows, key, claim)
            return sends
    told = f"{failure}: {detail}"
    if before is not None and before.failure == told and before.number <= mark:
        return ()  # still broken in the same way, and said so already
    failed = Claim(origin, notification.position, number, version or 0, (), mendable=True, failure=told)
    claims.put(rows, key, failed)
    return (Router(notification, origin.at).status(State.FAILED, reason=failure, detail=detail),)


def _too_old(
    notification: Notification, origin: Origin, key: bytes, rows: Rows, number: int
) -> Sequence[Send]:
    """Claims that nothing is sent."""
    pinned = tuple(
        [Pinned(channel, None, Reason.TOO_OLD) for channel in dict.fromkeys(notification.channels)]
    )
    claim = Claim(origin, notification.position, number, 0, pinned)
    claims.put(rows, key, claim)
    return _emit(notification, claim, None)


def choose(
    notification: Notification, now: int, rows: Rows, counted: int, renderings: Renderings | None
) -> tuple[Pinned, ...]:
    """Each channel's outcome, exactly one a channel: a target, or the rule that stands against it.

    `counted` is how much the user was sent today; `renderings` the template's, None where the words came
    with the request.
    """
    user, contact = people.user(rows, notification.user_id), notification.contact
    channels = dict.fromkeys(notification.channels)  # a request may name one twice
    if user is None and contact is None:
        return tuple([Pinned(channel, None, Reason.UNKNOWN_USER) for channel in channels])
    if notification.expires_at is not None and now >= notification.expires_at:
        return tuple([Pinned(channel, None, Reason.EXPIRED) for channel in channels])
    wishes = people.preferences(rows, notification.user_id)
    capped = _capped(notification, wishes, counted)
    found = []
    for channel in channels:
        target = address(channel, notification.user_id, user, contact)
        against = _opted_out(channel, notification, wishes)
        if target is None:
            found.append(Pinned(channel, None, Reason.NO_ADDRESS))
        elif against is not None:
            found.append(against)
        elif capped is not None:
            found.append(Pinned(channel, None, Reason.DAILY_CAP, capped))
        elif renderings is not None and channel not in renderings:
            found.append(Pinned(channel, None, Reason.NO_TEMPLATE_FOR_CHANNEL))
        else:
            found.append(Pinned(channel, target))
    return tuple(found)


def _capped(notification: Notification, wishes: Wishes, counted: int) -> str | None:
    """What the daily cap saw where it says no. Critical and mandatory ones pass, and are counted."""
    if counted < wishes.frequency_limit or notification.mandatory:
        return None
    if notification.priority is Priority.CRITICAL:
        return None
    return f"{counted} of {wishes.frequency_limit}"


def _opted_out(channel: Channel, notification: Notification, wishes: Wishes) -> Pinned | None:
    """What stands against a channel by the user's own wish. Mandatory ones pass."""
    if notification.mandatory:
        return None
    if not wishes.channels.get(channel, True):
        return Pinned(channel, None, Reason.CHANNEL_OPTED_OUT, f"channels.{channel}: false")
    if wishes.categories:
        by_category = wishes.categories.get(notification.category)
        if by_category is not None and not by_category.get(channel, True):
            saw = f"categories.{notification.category}.{channel}: false"
            return Pinned(channel, None, Reason.CATEGORY_OPTED_OUT, saw)
    return None


def address(channel: Channel, user_id: str, user: Person | None, contact: Addresses | None) -> str | None:
    """Where the user is reached on a channel: the contact's address before the user's own."""
    if channel is Channel.WEB:
        return user_id
    field = _FIELDS.get(channel)
    if field is None:
        return None
    if contact is not None and (found := getattr(contact, field)):
        return str(found)
    return getattr(user, field) if user is not None else None


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
    is_sent = any(pinned.target is not None for pinned in claim.pinned)
    return _emit(
        notification, claim, _renderings(notification, claim.version, catalogue) if is_sent else None
    )


def _emit(notification: Notification, claim: Claim, renderings: Renderings | None) -> list[Send]:
    router = Router(notification, claim.origin.at)
    contexts = Contexts(notification.variables)
    rendered: dict[Channel, ChannelContent] = {}
    why: tuple[Verdict, ...] | None = explain(
        notification.event.type,
        notification.workflow,
        tuple([(pinned.channel, pinned.reason, pinned.saw) for pinned in claim.pinned]),
    )
    sends: list[Send] = []
    told: list[Send] = []
    size = 0
    for pinned in claim.pinned:
        channel, target, reason = pinned.channel, pinned.target, pinned.reason
        if target is not None:
            words = rendered[channel] = _words(notification, channel, renderings, contexts)
            message, status = router.queued(channel, target, words, why)
            sends.append(message)
            told.append(status)
            size += len(message.value or b"")
        else:
            detail = pinned.saw or None
            told.append(router.status(_state(reason), channel, reason=reason, detail=detail, why=why))
        why = None
    if size > MAX_BYTES:  # all of the words travel once more, together, on `contents`
        raise TemplateBroken(f"{size} bytes for all channels; they may have {MAX_BYTES}")
    if rendered:
        sends.append(router.contents(rendered))
    sends += told
    return sends


def _renderings(notification: Notification, version: int, catalogue: Catalogue) -> Renderings | None:
    if notification.content is not None:
        return None
    found = catalogue.renderings(notification.template or "", version)
    if found is None:
        raise TemplateBroken(f"version {version} of {notification.template} is gone")
    return found


def _words(
    notification: Notification, channel: Channel, renderings: Renderings | None, contexts: Contexts
) -> ChannelContent:
    direct = notification.content
    if direct is not None:
        return ChannelContent(subject=direct.subject if channel is Channel.EMAIL else None, text=direct.body)
    rendering = renderings.get(channel) if renderings is not None else None
    if rendering is None:
        raise TemplateBroken(f"{notification.template} has no words for {channel}")
    return render(rendering, contexts)


@lru_cache(maxsize=4_096)
def explain(event_type: str, workflow: str, outcomes: tuple[Told, ...]) -> tuple[Verdict, ...]:
    """The decision, rule by rule.

    Few decisions differ in this, so most are explained already.
    """
    rules = [
        Verdict(rule=channel, saw=saw or None, verdict=_verdict(reason)) for channel, reason, saw in outcomes
    ]
    return (Verdict(rule="workflow", saw=event_type, verdict=workflow), *rules)


def _verdict(reason: str | None) -> str:
    if reason is None:
        return State.QUEUED
    return f"{_state(reason)}: {reason}"


def _state(reason: str | None) -> State:
    return _UNSENT.get(reason or "", State.SUPPRESSED)


_UNSENT: Mapping[str, State] = {Reason.EXPIRED: State.EXPIRED, Reason.TOO_OLD: State.TOO_OLD}
