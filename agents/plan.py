"""Plan: reads `notifications`, claims each step, decides whom it reaches where, and why not elsewhere.

The claim is looked up first, and every outcome is claimed. Writes the channel topics, `contents` and
`delivery-status`; state: claims, users, preferences, devices, suppressed addresses, caps, waits, digests,
watches.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec

from agents import gather, rules, topics
from agents.catalogue import Catalogue
from agents.mailing import PLAIN, Mailing, dress
from agents.render import Contexts, Rendering, TemplateBroken, render
from agents.route import Router
from agents.rules import Known
from agents.sending import MAX_BYTES, RANKS, Send
from schemas.base import Record, encode, problem
from schemas.event import Unreadable
from schemas.ids import target_id
from schemas.kinds import Channel, Priority, Reason, State
from schemas.message import ChannelContent
from schemas.notification import (
    CANCEL_BROADCAST,
    COLLECT,
    DIGEST,
    ESCALATE,
    FALLBACK,
    PLAN,
    RESUME,
    FanOut,
    Notification,
    Signal,
)
from schemas.status import STEP, Verdict, rfc3339
from tables import caps, claims, effects, people, waits, watches
from tables.claims import DEFAULT, Claim, Instead, Manner, Note, Origin, Pinned
from tables.rows import PagedRows, Rows
from tables.waits import Wait
from tables.watches import Watch

MAX_DETAIL = 500
MOST_RESUMES = 100
"""So often a step is put off; then quiet hours count no more."""
Told = tuple[str, str | None, str]
"""A channel, or a rule of the whole; the reason against it or what it said; and what the rule saw."""
Renderings = Mapping[Channel, Rendering]

_read: Callable[[bytes], Notification | Signal | FanOut] = msgspec.json.Decoder(
    Notification | Signal | FanOut
).decode


def read(value: bytes | None) -> Notification | Signal | FanOut:
    """Reads a record of `notifications`. Raises Unreadable, which names the field."""
    try:
        return _read(value or b"")
    except (ValueError, RecursionError) as error:
        raise Unreadable(problem(error)) from None


class Policy(msgspec.Struct, frozen=True):
    """What whoever runs core has set: the grace of unknown users (ms), and caps a day by category.

    Broadcasts look at `page` users in a step and tell `per_second`, all `partitions` of core together.
    """

    grace: int = 0
    category_caps: Mapping[str, int] = {}
    partitions: int = 1
    page: int = 200
    per_second: float = 2_000.0
    mailing: Mailing = PLAIN


class Work(msgspec.Struct, gc=False):
    """What planning stands on in one unit of work.

    `number` is the unit's, `mark` the highest whose outputs are all out (DESIGN, section 3.3), `epoch` its
    owner's; `name` gives a topic's name on the broker. Claims of before `oldest` are forgotten, so that what
    is older and has none may have been told.
    """

    rows: PagedRows
    number: int
    mark: int
    catalogue: Catalogue
    epoch: int = 0
    policy: Policy = Policy()
    name: Callable[[str], str] = str
    oldest: int = 0

    def wait(self, id: bytes, due: int, following: Notification) -> None:
        """Lets a record come up at `due` (ms)."""
        self.wait_in(following.priority, id, due, following.user_id, following)

    def wait_in(self, priority: Priority, id: bytes, due: int, key: str, following: Record) -> None:
        """Lets any record come up in the lane of a priority at `due` (ms)."""
        topic, headers = self.name(topics.NOTIFICATION_LANES[priority]), tuple(RANKS[priority] or ())
        record = Wait(topic, key.encode(), encode(following), self.epoch, headers)
        waits.put(self.rows, id, due, record)


def wait_id(notification: str, step: str) -> bytes:
    """The name under which a step waits."""
    return effects.effect(notification, step, "")


def plan(notification: Notification, origin: Origin, work: Work, due: int | None = None) -> Sequence[Send]:
    """Claims the step and decides it; what a claim implies is sent again where it may not be out.

    `due` is the moment that the record carries if it waited for it.
    """
    key = claims.key(notification.id, notification.step)
    claim = claims.find(work.rows, key)
    if claim is None and (notification.event_at if notification.step == PLAN else origin.at) < work.oldest:
        return _too_old(notification, origin, key, work)
    if claim is None or claim.mendable:
        if due is not None and claim is None and not _was_waiting(notification, due, work.rows):
            return ()  # cancelled, seen or put off anew since; or a copy of what came already
        return _decide(notification, origin, key, work, claim)
    if claim.origin == origin:
        return emit(notification, claim, work) if claim.number > work.mark else ()
    if claim.cancelled_first:
        return _claimed(notification, origin, key, work, claim.instead)
    if due is not None or claim.position == notification.position:
        return ()  # the same event came down again: a replay, or a redelivery of intake
    router = Router(notification, notification.event_at)  # not this record's time: a replay makes it anew
    return (router.status(State.DUPLICATE, reason=Reason.ALREADY_PLANNED, detail=notification.position),)


def _was_waiting(notification: Notification, due: int, rows: Rows) -> bool:
    """Whether the record is what waited for that moment; it waits no more."""
    id = wait_id(notification.id, notification.step)
    if waits.find(rows, id) != due:
        return False
    waits.drop(rows, id)
    if notification.waited_for == Reason.UNKNOWN_USER:
        people.stop_awaiting(rows, notification.user_id)
    return True


def _decide(
    notification: Notification, origin: Origin, key: bytes, work: Work, before: Claim | None
) -> Sequence[Send]:
    if notification.step == COLLECT:
        return _claimed(notification, origin, key, work, gather.close(notification, work.rows))
    if notification.broadcast is not None and _was_called_off(notification.broadcast, work.rows):
        return _claimed(notification, origin, key, work, Instead(State.CANCELLED, Reason.CANCELLED))
    version = 0
    try:
        of = rules.known(work.rows, notification.user_id)
        words = _NO_WORDS
        if notification.content is None:
            template = template_of(notification)
            version = work.catalogue.current(template) or 0
            if not version:
                raise _Fails(Reason.UNKNOWN_TEMPLATE, template)
            words = _chosen_words(notification, of, template, version, work.catalogue)
        due = _put_off_at_once(notification, of, origin.at, work.policy)
        if due is not None:
            return _put_off(notification, origin, key, work, due)
        return _choose(notification, origin, key, work, of, words)
    except TemplateBroken as error:
        failure, detail = Reason.TEMPLATE_FAILED, str(error)[:MAX_DETAIL]
    except _Fails as error:
        failure, detail = error.reason, error.detail[:MAX_DETAIL]
    told = f"{failure}: {detail}"
    if before is not None and before.failure == told and before.number <= work.mark:
        return ()  # still broken in the same way, and said so already
    failed = Claim(origin, notification.position, work.number, version, (), failure=told)
    claims.put(work.rows, key, failed)
    return (Router(notification, origin.at).status(State.FAILED, reason=failure, detail=detail),)


def _was_called_off(broadcast: str, rows: Rows) -> bool:
    return claims.find(rows, claims.key(broadcast, CANCEL_BROADCAST)) is not None


class _Fails(Exception):
    """A failure that can be mended."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def _claimed(
    notification: Notification, origin: Origin, key: bytes, work: Work, instead: Instead | None
) -> Sequence[Send]:
    """Claims a step that reaches no channel now, and says so."""
    claim = Claim(origin, notification.position, work.number, 0, (), instead=instead)
    claims.put(work.rows, key, claim)
    return emit(notification, claim, work)


def _too_old(notification: Notification, origin: Origin, key: bytes, work: Work) -> Sequence[Send]:
    """Claims that nothing is sent."""
    pinned = tuple(against(notification, Reason.TOO_OLD))
    claim = Claim(origin, notification.position, work.number, 0, pinned)
    claims.put(work.rows, key, claim)
    return _emit(notification, claim, None)


# -- waiting


def _put_off_at_once(notification: Notification, of: Known, now: int, policy: Policy) -> Instead | None:
    """What is not even looked at yet: scheduled for later, or for a user whose record may be on its way."""
    due = notification.scheduled_at
    if due is not None and due > now:
        return Instead(State.SCHEDULED, Reason.SCHEDULED, "", due)
    if of.user is not None or notification.contact is not None or not policy.grace:
        return None
    if notification.waited_for == Reason.UNKNOWN_USER:
        return None
    return Instead(State.SCHEDULED, Reason.UNKNOWN_USER, "", now + policy.grace)


def _put_off(
    notification: Notification, origin: Origin, key: bytes, work: Work, instead: Instead
) -> Sequence[Send]:
    """Lets the next step come up when it is due."""
    following = msgspec.structs.replace(
        notification, step=resumed(notification.step), waited_for=instead.reason, scheduled_at=None
    )
    id = wait_id(following.id, following.step)
    work.wait(id, instead.due or 0, following)
    if instead.reason == Reason.UNKNOWN_USER:
        people.await_user(work.rows, notification.user_id, id)
    return _claimed(notification, origin, key, work, instead)


def resumed(step: str) -> str:
    """The step that follows one that was put off."""
    base, is_resume, n = step.rpartition(RESUME)
    if is_resume:
        return f"{base}{RESUME}{int(n) + 1}"
    return f"{RESUME}1" if step in (PLAN, DIGEST) else f"{step}/{RESUME}1"


def _resumes(step: str) -> int:
    _, is_resume, n = step.rpartition(RESUME)
    return int(n) if is_resume else 0


def numbered(step: str, kind: str) -> int:
    """The number of a step of that kind, 0 for any other."""
    return int(step.removeprefix(kind).partition("/")[0]) if step.startswith(kind) else 0


# -- choosing


def _choose(
    notification: Notification,
    origin: Origin,
    key: bytes,
    work: Work,
    of: Known,
    words: "_Words",
) -> Sequence[Send]:
    now, rows, manner = origin.at, work.rows, words.manner
    if of.user is None and notification.contact is None:
        pinned = against(notification, Reason.UNKNOWN_USER)
    elif notification.expires_at is not None and now >= notification.expires_at:
        pinned = against(notification, Reason.EXPIRED)
    else:
        pinned = reached(notification, of, rows, words.renderings)
    notes: Sequence[Note] = ()
    counters: Sequence[rules.Counter] = ()
    if is_open(pinned):
        if notification.digest is not None:
            return _claimed(notification, origin, key, work, gather.add(notification, now, work))
        if _resumes(notification.step) < MOST_RESUMES:
            until, note = rules.quiet(notification, of, now)
            if until is not None:
                return _put_off(
                    notification, origin, key, work,
                    Instead(State.SCHEDULED, Reason.QUIET_HOURS, note[1] if note else "", until),
                )  # fmt: skip
            if note is not None:
                notes = (note,)
        if _is_counted(notification.step):
            cap = work.policy.category_caps.get(notification.category)
            counters, reason, noted = rules.capping(notification, of, now, rows, cap)
            notes = (*notes, *noted)
            if reason is not None:
                saw = next((saw for _, saw, verdict in noted if verdict == rules.AGAINST), "")
                pinned, counters = [_capped(one, reason, saw) for one in pinned], ()
    if manner is not DEFAULT:
        notes = (*notes, *_told_of(words))
    claim = Claim(
        origin, notification.position, work.number, words.version, tuple(pinned), notes=tuple(notes),
        manner=None if manner is DEFAULT else manner,
    )  # fmt: skip
    sends = _emit(notification, claim, words.renderings, work.policy.mailing)
    for counter in counters:
        caps.raise_by_one(rows, counter.row, counter.counted)
    if (notification.fallback or notification.escalate) and any(one.target for one in pinned):
        _follow_up(notification, pinned, now, work)
    if notification.step == DIGEST:
        gather.forget(notification, rows)
    claims.put(rows, key, claim)
    return sends


def is_open(pinned: Sequence[Pinned]) -> bool:
    """Whether any target is left."""
    return None in [one.reason for one in pinned]


def against(notification: Notification, reason: Reason) -> list[Pinned]:
    """The same reason against every channel."""
    channels = notification.channels or notification.fallback or ()
    return [Pinned(channel, None, reason) for channel in dict.fromkeys(channels)]


def reached(notification: Notification, of: Known, rows: Rows, words: Renderings | None) -> list[Pinned]:
    """Every channel's outcome; where none is open, those of the fallback chain up to the first that is."""
    channels = dict.fromkeys(notification.channels)  # a request may name one twice
    pinned = rules.each(channels, notification, of, rows, words)
    for channel in notification.fallback or ():
        if is_open(pinned):
            break
        if channel not in channels:
            pinned += rules.each([channel], notification, of, rows, words)
    return pinned


def _is_counted(step: str) -> bool:
    """Whether caps are of this step: each notification is counted once, where it is queued first."""
    return not step.startswith((FALLBACK, ESCALATE))


def _capped(pinned: Pinned, reason: Reason, saw: str) -> Pinned:
    return pinned if pinned.reason is not None else Pinned(pinned.channel, None, reason, saw)


def _follow_up(notification: Notification, pinned: Sequence[Pinned], now: int, work: Work) -> None:
    """Escalations wait from the moment of queueing; a chain is gone on with where every target fails."""
    remaining = _remaining(notification, pinned)
    if remaining:
        targets = tuple(f"{p.channel}:{target_id(p.target)}" for p in pinned if p.target is not None)
        step = f"{FALLBACK}{numbered(notification.step, FALLBACK) + 1}"
        following = msgspec.structs.replace(
            notification, step=step, channels=(), fallback=remaining, escalate=None, digest=None
        )
        watch = Watch(encode(following), targets, now)
        watches.put(work.rows, watches.key(notification.id, notification.step), watch)
    for n, escalation in enumerate(notification.escalate or (), 1):
        following = msgspec.structs.replace(
            notification, step=f"{ESCALATE}{n}", channels=escalation.channels, escalate=None, digest=None,
            fallback=None, waited_for=None,
        )  # fmt: skip
        work.wait(wait_id(following.id, following.step), now + escalation.after, following)


def _remaining(notification: Notification, pinned: Sequence[Pinned]) -> tuple[Channel, ...]:
    """The channels of the chain that have not been looked at."""
    if not notification.fallback:
        return ()
    seen = {one.channel for one in pinned}
    return tuple(channel for channel in notification.fallback if channel not in seen)


# -- emitting


def emit(notification: Notification, claim: Claim, work: Work) -> Sequence[Send]:
    """Everything that a claim implies, from what it pinned and nothing that may have changed since.

    Raises TemplateBroken.
    """
    if claim.instead is not None:
        return _emit_instead(notification, claim, claim.instead, work.rows)
    is_sent = any(pinned.target is not None for pinned in claim.pinned)
    manner = claim.manner or DEFAULT
    renderings = None
    if is_sent and notification.content is None:
        renderings = _renderings(template_of(notification), claim.version, manner, work.catalogue)
    return _emit(notification, claim, renderings, work.policy.mailing)


def _emit_instead(notification: Notification, claim: Claim, instead: Instead, rows: Rows) -> list[Send]:
    sends = []
    if instead.flushes and claims.find(rows, claims.key(instead.digest or "", DIGEST)) is None:
        sends.append(gather.whole(notification, instead, claim.origin.at, rows))
    if notification.step == COLLECT:
        return sends
    if instead.due is not None:
        detail, verdict = rfc3339(instead.due), "waits"
    else:
        detail, verdict = instead.digest or instead.saw, str(instead.state)
    saw = f"{instead.saw}, until {detail}" if instead.due is not None and instead.saw else detail
    why = explain(notification.event.type, notification.workflow, ((instead.reason, saw, verdict),), ())
    router = Router(notification, claim.origin.at)
    sends.append(router.status(instead.state, reason=instead.reason, detail=detail or None, why=why))
    return sends


def _emit(
    notification: Notification, claim: Claim, renderings: Renderings | None, mailing: Mailing = PLAIN
) -> list[Send]:
    router = Router(notification, claim.origin.at)
    manner = claim.manner or DEFAULT
    contexts = Contexts(notification.variables, manner.locale, manner.zone)
    rendered: dict[Channel, ChannelContent] = {}
    why: tuple[Verdict, ...] | None = explain(
        notification.event.type,
        notification.workflow,
        _of_step(notification.step) + claim.notes,
        tuple([(pinned.channel, pinned.reason, pinned.saw) for pinned in claim.pinned]),
    )
    has_fallback = bool(_remaining(notification, claim.pinned)) or None
    sends: list[Send] = []
    told: list[Send] = []
    size = 0
    for pinned in claim.pinned:
        channel, reason = pinned.channel, pinned.reason
        if pinned.target is not None:
            words = rendered.get(channel)
            if words is None:
                words = rendered[channel] = _words(notification, channel, renderings, contexts)
            unsubscribe = None
            if channel is Channel.EMAIL:
                words, unsubscribe = dress(words, notification, pinned.target, mailing)
            message, status = router.queued(
                pinned, words, why, has_fallback=has_fallback, variant=manner.variant, unsubscribe=unsubscribe
            )
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


def _of_step(step: str) -> tuple[Note, ...]:
    """What says that a decision goes on from the first one, and does not take its place."""
    return ((STEP, "", step),) if step.startswith((FALLBACK, ESCALATE)) else ()


def template_of(notification: Notification) -> str:
    """The template that is rendered in the end: of what is gathered, the digest's."""
    rule = notification.digest
    return (rule.template if rule is not None else None) or notification.template or ""


class _Words(NamedTuple):
    """The words that were chosen; `renderings` is None where they came with the request."""

    template: str
    version: int
    manner: Manner
    renderings: Renderings | None


_NO_WORDS = _Words("", 0, DEFAULT, None)


def _chosen_words(
    notification: Notification, of: Known, template: str, version: int, catalogue: Catalogue
) -> _Words:
    """Raises _Fails for variables that the template's schema does not take, and TemplateBroken."""
    variant = catalogue.variant_of(template, version, notification.user_id)
    locale, manner = notification.locale or of.locale, DEFAULT
    if variant is not None or locale != DEFAULT.locale or of.zone != DEFAULT.zone:
        manner = Manner(locale, of.zone, variant)
    if notification.digest is None:  # else the digest is checked, when it is whole
        problems = catalogue.check(template, version, notification.variables)
        if problems:
            raise _Fails(
                Reason.INVALID_VARIABLES, "; ".join(f"{one.field}: {one.message}" for one in problems)
            )
    return _Words(template, version, manner, _renderings(template, version, manner, catalogue))


def _told_of(words: _Words) -> list[Note]:
    """What there is to tell of the choice of words."""
    found: list[Note] = []
    manner = words.manner
    if manner.variant is not None:
        found.append(("variant", words.template, manner.variant))
    for locale in {rendering.locale for rendering in (words.renderings or {}).values()} - {manner.locale}:
        found.append(("locale", manner.locale, locale))
    return sorted(found)


def _renderings(template: str, version: int, manner: Manner, catalogue: Catalogue) -> Renderings:
    found = catalogue.renderings(template, version, manner.locale, manner.variant)
    if found is None:
        raise TemplateBroken(f"version {version} of {template} is gone")
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
def explain(
    event_type: str, workflow: str, notes: tuple[Note, ...], outcomes: tuple[Told, ...]
) -> tuple[Verdict, ...]:
    """The decision, rule by rule.

    Few decisions differ in this, so most are explained already.
    """
    whole = [Verdict(rule=rule, saw=saw or None, verdict=verdict) for rule, saw, verdict in notes]
    rules = [
        Verdict(rule=channel, saw=saw or None, verdict=_verdict(reason)) for channel, reason, saw in outcomes
    ]
    return (Verdict(rule="workflow", saw=event_type, verdict=workflow), *whole, *rules)


def _verdict(reason: str | None) -> str:
    if reason is None:
        return State.QUEUED
    return f"{_state(reason)}: {reason}"


def _state(reason: str | None) -> State:
    return _UNSENT.get(reason or "", State.SUPPRESSED)


_UNSENT: Mapping[str, State] = {Reason.EXPIRED: State.EXPIRED, Reason.TOO_OLD: State.TOO_OLD}
