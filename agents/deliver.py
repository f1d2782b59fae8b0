"""Deliver: reads a channel's topic, decides calls by the effect ledger, writes `delivery-status` and the DLQ.

Pure: the calls themselves are the pipeline's. State: attempts, results and reopenings, all write-once; and
stops, which with expiry are the last gate before each call.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple, Protocol

from msgspec import structs

from agents import redrive, stops, topics
from agents.sending import RANKS, Send
from schemas import dead_letter
from schemas.base import RecordUnreadable, encode
from schemas.event import Unreadable
from schemas.ids import hash_in, masked
from schemas.kinds import Channel, Doubt, Priority, Reason, State
from schemas.message import Message, Stop
from schemas.notification import DEAD_DEVICE, FAILED, PLAN, SUPPRESS, Signal
from schemas.outcome import Outcome
from schemas.status import Status, rfc3339
from tables import effects
from tables import stops as closed
from tables.claims import Origin
from tables.effects import DOUBTFUL, MOST_ATTEMPTS, MOST_REOPENINGS, Attempt, Reopening, Result
from tables.rows import Rows
from tables.stops import Stopped

MAX_ATTEMPTS = 4
"""The first and three retries; of a message, and again from each time that it is redriven."""
MOST_CALLS = 100
"""Those included that are no attempts, because their provider was left alone or wanted fewer calls."""
FIRST_WAIT = 1.0
MOST_WAIT = 60.0
"""Seconds. Retry-After is honoured up to it."""
FORGOTTEN_EARLY = 300.0
"""Seconds by which a key counts as forgotten too early: a call takes a while, and clocks differ."""


class Parcel(NamedTuple):
    """A message as it came: its bytes are what the DLQ keeps, its hash what an attempt names.

    `redrive`: the dead letter that it was redriven from, or the replay that copied it; `provider`: who is to
    send it now, if that was said.
    """

    message: Message
    value: bytes
    origin: Origin
    redrive: str | None = None
    provider: str | None = None

    @property
    def effect(self) -> bytes:
        return effects.effect(self.message.id, self.message.step, self.message.target_id)

    @property
    def key(self) -> str:
        """The idempotency key: the same for every attempt of a step."""
        message = self.message
        if message.step == PLAN:
            return f"{message.id}.{message.target_id}"
        step = message.step.replace(":", "-").replace("/", ".")  # it stands in a Message-ID (RFC 5322, 3.6.4)
        return f"{message.id}.{message.target_id}.{step}"


class Admitted(NamedTuple):
    """What to call (None: nothing) and what to send; or `later`, the seconds after which to look again."""

    attempt: Attempt | None
    sends: Sequence[Send] = ()
    later: float | None = None
    asks: bool = False
    """Whether the last call there may have been taken, so that it is asked first, if it can be."""


class Providers(Protocol):
    """Who could be called for a message."""

    def honours_keys(self, provider: str) -> bool:
        """Whether a doubt can be settled there, by the key or by asking; False where it is unknown."""

    def settles_after(self, provider: str) -> float:
        """Seconds after a call from which on its doubt can be settled there."""

    def key_window(self, provider: str) -> float | None:
        """Seconds after a call for which its key is known there; None: we know of no end."""

    def choose(self, after: str | None = None, only: str | None = None) -> str | float | None:
        """Who is called now; else the seconds until someone may be; None: nobody ever takes such a message.

        `after` has surely not sent it, so that those behind it come first; `only`: no other.
        """


def read(value: bytes | None, origin: Origin, headers: Sequence[tuple[str, bytes]] = ()) -> Parcel:
    """Reads a message. Raises Unreadable, which names the field."""
    found = receive(value, origin, headers)
    if isinstance(found, Stop):
        raise Unreadable("v: is that of a stop, not of a message")
    return found


def receive(value: bytes | None, origin: Origin, headers: Sequence[tuple[str, bytes]] = ()) -> Parcel | Stop:
    """Reads a record of a channel topic, a message or a stop. Raises Unreadable, which names the field."""
    try:
        found = stops.read(value)
    except RecordUnreadable as error:
        raise Unreadable(str(error)) from None
    if isinstance(found, Stop):
        return found
    return Parcel(found, value or b"", origin, redrive.name(headers), redrive.provider(headers))


def admit(
    parcel: Parcel, rows: Rows, now: int, providers: Providers, *, told: bool = False, oldest: int = 0
) -> Admitted:
    """Whether to call for a message, by what the ledger knows of it; `now` is the worker's clock in ms.

    `told`: what the attempts until now implied is surely out; else it is sent again. Attempts of before
    `oldest` are forgotten: an older message without any may have been sent, a letter that was redriven not.
    """
    message, effect = parcel.message, parcel.effect
    expired = message.expires_at is not None and now >= message.expires_at
    stopped = closed.against(rows, message)
    if stopped is not None and expired and (message.expires_at or 0) <= stopped.at:
        stopped = None  # as was said of it before
    last = effects.last_attempt(rows, effect)
    if last is None:
        if parcel.origin.at < oldest and parcel.redrive is None:
            return Admitted(None, [_status(message, State.TOO_OLD, parcel.origin.at, Reason.TOO_OLD)])
        if stopped is not None:
            return Admitted(None, _stopped(message, stopped, None))
        if expired:
            return Admitted(None, [_expired(message, None)])
        attempted = _attempt(parcel, rows, 1, now, providers.choose(only=parcel.provider))
        if attempted is None:
            return _no_provider(parcel)
        if attempted.attempt is not None and parcel.redrive is not None and parcel.provider is not None:
            # its retries are to know for whom
            made = Reopening(1, parcel.redrive, 0, _place(parcel), parcel.provider)
            effects.put_reopening(rows, effect, made)
        return attempted
    result = effects.result(rows, effect, last.n)
    if _is_anothers(parcel, result, rows):
        return Admitted(None)
    asked = effects.asked_provider(rows, effect)
    if result is None:
        return _resolve_cut_off(parcel, rows, last, now, providers, asked, stopped, expired=expired)
    keyed = _can_settle(parcel, rows, result.provider, now, providers)
    if _may_go_on(parcel, result, rows, honours_keys=keyed):
        again = [] if told else _implied_so_far(parcel, rows, last.n)
        if stopped is not None:
            return Admitted(None, [*again, *_stopped(message, stopped, result)])
        if expired:
            if result.kind == "deferred":
                again = [*again, _expired(message, result)]
            return Admitted(None, again)
        if result.kind == "deferred" and _is_lost(parcel, rows, result.provider, now, providers):
            return Admitted(None, [*again, _stays_in_doubt(message, result)])
        in_doubt = keyed and result.kind == "doubtful"
        if in_doubt and (soon := _unsettled(providers, result.provider, result.at, now)):
            return Admitted(None, (), soon)
        chosen = _choose_after(parcel, result, rows, providers, asked, keyed=keyed)
        attempted = _attempt(parcel, rows, last.n + 1, now, chosen, again)
        if attempted is not None:
            return attempted._replace(asks=in_doubt)
    if parcel.redrive is not None and result.kind in FAILURES:
        if stopped is not None:
            return Admitted(None, _stopped(message, stopped, result))
        reopened = _reopen(parcel, parcel.redrive, result, rows, now, providers, expired=expired)
        if reopened is not None:
            return reopened
    # what was said before a call is surely out; a cut-off was found without one
    cut_off = result.kind == "cut_off"
    sends = _implied_so_far(parcel, rows, last.n) if cut_off else implied(parcel, result)
    if cut_off and stopped is not None and _would_go_on(message, keyed=keyed):
        sends += _stopped(message, stopped, result)
    return Admitted(None, sends + _too_late(parcel, result, rows))


def _can_settle(parcel: Parcel, rows: Rows, provider: str, now: int, providers: Providers) -> bool:
    """Whether a doubt can be settled where it arose, and still can: after a while a key is known no more."""
    return providers.honours_keys(provider) and not _is_forgotten(parcel, rows, provider, now, providers)


def _is_forgotten(parcel: Parcel, rows: Rows, provider: str, now: int, providers: Providers) -> bool:
    """Whether a provider may have sent it so long ago that it knows the key no more.

    The first call in doubt counts: it is not said that a key is remembered for longer because it came again.
    """
    window = providers.key_window(provider)
    if window is None:
        return False
    since = effects.in_doubt_since(rows, parcel.effect, provider)
    return since is not None and now - since >= (window - FORGOTTEN_EARLY) * 1000


def _is_lost(parcel: Parcel, rows: Rows, provider: str, now: int, providers: Providers) -> bool:
    """Whether another call there could send twice what must not be."""
    once = parcel.message.doubt is Doubt.AT_MOST_ONCE
    return once and _is_forgotten(parcel, rows, provider, now, providers)


def _stays_in_doubt(message: Message, last: Result) -> Send:
    """What is said where the last call surely sent nothing, and an earlier one cannot be settled any more."""
    why = "an earlier call may have sent it, and its key is forgotten"
    return _status(message, State.UNKNOWN, last.at, None, last, detail=why)


def _would_go_on(message: Message, *, keyed: bool) -> bool:
    """Whether a call that nobody saw end is followed by another."""
    return keyed or message.doubt is Doubt.AT_LEAST_ONCE


def _too_late(parcel: Parcel, result: Result, rows: Rows) -> list[Send]:
    """Says of a message that was cancelled that it had been called, if it was."""
    stop = stops.of_cancel(rows, parcel.message.id)
    return [] if stop is None else stops.too_late(stop, parcel.message.target_id, result)


def _stopped(message: Message, stopped: Stopped, last: Result | None) -> list[Send]:
    """What is said of a message that is not called (again) because something stands against it.

    What was in doubt stays so.
    """
    state, reason = stops.VERDICTS[stopped.kind]
    if last is not None and last.kind in DOUBTFUL:
        state = State.UNKNOWN
    saw = stops.saw(stopped, message.channel)
    attempt = last.n if last is not None else None
    sends = [_status(message, state, stopped.at, reason, attempt=attempt, detail=saw)]
    if message.has_fallback and state is State.SUPPRESSED and stops.goes_on(stopped):
        sends.append(_tell_core(message))
    return sends


def _choose_after(
    parcel: Parcel, result: Result, rows: Rows, providers: Providers, asked: str | None, *, keyed: bool
) -> str | float | None:
    """Who is called next: another only where nobody may have sent it, or it may be sent twice."""
    if result.kind != "deferred":
        return providers.choose(only=result.provider if keyed else asked)
    if parcel.message.doubt is Doubt.AT_MOST_ONCE and effects.in_doubt_elsewhere(rows, parcel.effect, ""):
        return providers.choose(only=result.provider)  # by its key alone it still goes on
    return providers.choose(after=result.provider, only=asked)


def _unsettled(providers: Providers, provider: str, at: int, now: int) -> float:
    """Seconds until the doubt of a call of `at` can be settled; 0: now."""
    return max(0.0, at / 1000 + providers.settles_after(provider) - now / 1000)


def _is_anothers(parcel: Parcel, result: Result | None, rows: Rows) -> bool:
    """Whether a message that was redriven for a provider may still be sent by another, which an attempt left
    in doubt: the record that it was made for goes on with that."""
    asked = parcel.provider
    if asked is None or not effects.in_doubt_elsewhere(rows, parcel.effect, asked):
        return False
    return result is None or _may_go_on(parcel, result, rows, honours_keys=False)


FAILURES = effects.UNSENT
"""The results that are surely without effect."""


def _reopen(
    parcel: Parcel, letter: str, last: Result, rows: Rows, now: int, providers: Providers, *, expired: bool
) -> Admitted | None:
    """Opens a failed effect again for a copied message, once a letter or replay; None: it goes as without it.

    The reopening and its first attempt are rows of one unit, so that a redelivery finds both or neither.
    A letter that is redriven once more says nothing: it would only fail into yet another letter. What another
    provider may have sent is not for this one: where the operator asked for it, whatever the policy says. Nor
    is what this one may have sent itself, where that must not be sent twice and its key is forgotten.
    """
    made, place = effects.reopenings(rows, parcel.effect), _place(parcel)
    before = next((one for one in made if one.redrive == letter), None)
    if before is not None:
        return None if before.place == place else Admitted(None)
    if len(made) >= MOST_REOPENINGS or last.n >= MOST_ATTEMPTS - MOST_CALLS:
        return None
    if expired:
        return Admitted(None, [_expired(parcel.message, last)])
    chosen = providers.choose(only=parcel.provider)
    once = parcel.provider is not None or parcel.message.doubt is Doubt.AT_MOST_ONCE
    if isinstance(chosen, str):
        if once and effects.in_doubt_elsewhere(rows, parcel.effect, chosen):
            return Admitted(None, [_stays(parcel, last, "by another provider")])
        if _is_lost(parcel, rows, chosen, now, providers):
            return Admitted(None, [_stays(parcel, last, "again")])
    attempted = _attempt(parcel, rows, last.n + 1, now, chosen)
    if attempted is not None and attempted.attempt is not None:
        reopening = Reopening(len(made) + 1, letter, last.n, place, parcel.provider)
        effects.put_reopening(rows, parcel.effect, reopening)
    return attempted


def _place(parcel: Parcel) -> str:
    origin = parcel.origin
    return f"{origin.topic}-{origin.partition}-{origin.offset}"


def _stays(parcel: Parcel, last: Result, how: str) -> Send:
    """The letter of a message that may not be sent by another provider, or again; it says so."""
    reason = Reason.REFUSED if last.kind == "refused" else Reason.RETRIES_EXHAUSTED
    error = f"not sent {how}: nobody knows whether an earlier attempt got through"
    return dead(parcel, reason, error, last.at, last.n, last.provider, last.code)


def _attempt(
    parcel: Parcel, rows: Rows, n: int, now: int, provider: str | float | None, sends: Sequence[Send] = ()
) -> Admitted | None:
    """Writes attempt `n` at whoever was chosen; None where there is nobody."""
    if provider is None:
        return None
    if not isinstance(provider, str):
        return Admitted(None, sends, provider)
    hashed = blake2b(parcel.value, digest_size=16).hexdigest()
    attempt = Attempt(n, parcel.key, hashed, provider, now)
    effects.put_attempt(rows, parcel.effect, attempt)
    return Admitted(attempt, sends)


def _no_provider(parcel: Parcel) -> Admitted:
    """Nobody who could ever be called: it fails, and may be redriven when there is somebody."""
    message, at = parcel.message, parcel.origin.at
    sends = [_status(message, State.FAILED, at, Reason.NO_PROVIDER)]
    sends.append(dead(parcel, Reason.NO_PROVIDER, "", at, 0))
    if message.has_fallback:
        sends.append(_tell_core(message))
    return Admitted(None, sends)


def _resolve_cut_off(
    parcel: Parcel,
    rows: Rows,
    last: Attempt,
    now: int,
    providers: Providers,
    asked: str | None,
    stopped: Stopped | None,
    *,
    expired: bool,
) -> Admitted:
    """An attempt of a former owner that nobody saw end: the provider's key settles it, else the policy.

    What has expired or is stopped is not called again, and stays in doubt.
    """
    keyed = _can_settle(parcel, rows, last.provider, now, providers)
    used_up = last.n - effects.counted_from(rows, parcel.effect) >= MOST_CALLS
    ends = expired or used_up or stopped is not None
    if keyed and not ends:
        if soon := _unsettled(providers, last.provider, last.at, now):
            return Admitted(None, (), soon)
        so_far = _implied_so_far(parcel, rows, last.n)
        attempted = _attempt(parcel, rows, last.n + 1, now, providers.choose(only=last.provider), so_far)
        if attempted is not None:
            return attempted._replace(asks=True)
    goes_on = not ends and parcel.message.doubt is Doubt.AT_LEAST_ONCE
    chosen = providers.choose(only=asked) if goes_on else None
    if chosen is not None and not isinstance(chosen, str):
        return Admitted(None, (), chosen)
    result = Result(last.n, "cut_off", last.at, last.provider, None, Reason.CALL_CUT_OFF)
    effects.put_result(rows, parcel.effect, result)
    so_far = _implied_so_far(parcel, rows, last.n)
    if stopped is not None and _would_go_on(parcel.message, keyed=keyed):
        so_far += _stopped(parcel.message, stopped, result)
    attempted = _attempt(parcel, rows, last.n + 1, now, chosen, so_far)
    return attempted or Admitted(None, so_far + _too_late(parcel, result, rows))


def _implied_so_far(parcel: Parcel, rows: Rows, last: int) -> list[Send]:
    """What the results up to attempt `last` imply, where another follows them: a former owner may have
    written them and been stopped before it could say so. What led to a letter that was redriven is out."""
    first = effects.counted_from(rows, parcel.effect) + 1
    results = (effects.result(rows, parcel.effect, n) for n in range(first, last + 1))
    return [
        send for result in results if result is not None for send in implied(parcel, result, goes_on=True)
    ]


def _may_go_on(parcel: Parcel, result: Result, rows: Rows, *, honours_keys: bool) -> bool:
    """Whether another attempt may follow a result."""
    if result.n >= MAX_ATTEMPTS and is_used_up(result, effects.counted_from(rows, parcel.effect)):
        return False
    if result.kind == "deferred":
        return True
    return result.kind == "doubtful" and (honours_keys or parcel.message.doubt is Doubt.AT_LEAST_ONCE)


def is_used_up(result: Result, counted_from: int) -> bool:
    """Whether a message has had all its attempts, of those after `counted_from`."""
    calls = result.n - counted_from
    tried = calls if result.tried is None else result.tried
    return tried >= MAX_ATTEMPTS or calls >= MOST_CALLS or result.n >= MOST_ATTEMPTS - 1


def settle(
    parcel: Parcel,
    attempt: Attempt,
    outcome: Outcome,
    rows: Rows,
    now: int,
    *,
    honours_keys: bool,
    jitter: float,
    counts: bool = True,
    elsewhere: bool = False,
    settles_after: float = 0.0,
) -> tuple[Sequence[Send], float | None]:
    """Writes how a call ended; what to send, and the seconds until the next attempt (None: it is over).

    `jitter` is a random number from 0 to 1 (full jitter: https://aws.amazon.com/blogs/architecture/
    exponential-backoff-and-jitter/). `counts`: whether it uses up one of the message's attempts;
    `elsewhere`: another provider may be called at once where this one surely did not send; `settles_after`:
    seconds from which on a doubt can be settled where it arose.
    """
    counted_from = effects.counted_from(rows, parcel.effect)
    all_of_them = attempt.n - counted_from
    tried = _tried_before(rows, parcel.effect, attempt.n, counted_from) + counts
    result = Result(
        attempt.n, outcome.kind, now, attempt.provider, outcome.provider_message_id, outcome.reason,
        outcome.code, None if tried == all_of_them else tried,
        outcome.dead_since if outcome.kind == "refused" else None,
    )  # fmt: skip
    effects.put_result(rows, parcel.effect, result)
    goes_on = _may_go_on(parcel, result, rows, honours_keys=honours_keys)
    sends = implied(parcel, result, goes_on=goes_on)
    if not goes_on:
        return sends + _too_late(parcel, result, rows), None
    if elsewhere and outcome.kind == "deferred":
        return sends, 0.0
    if outcome.retry_after is not None:
        return sends, min(max(0.0, outcome.retry_after), MOST_WAIT)
    wait = min(FIRST_WAIT * 2 ** max(0, tried - 1), MOST_WAIT) * jitter
    return sends, max(wait, settles_after) if outcome.kind == "doubtful" else wait


def _tried_before(rows: Rows, effect: bytes, n: int, counted_from: int) -> int:
    """How many attempts after `counted_from` and before the n-th count; those that were cut off do."""
    for before in range(n - 1, counted_from, -1):
        found = effects.result(rows, effect, before)
        if found is not None:
            tried = before - counted_from if found.tried is None else found.tried
            return tried + n - 1 - before
    return n - 1 - counted_from


def _expired(message: Message, after: Result | None) -> Send:
    attempt = after.n if after is not None else None
    return _status(message, State.EXPIRED, message.expires_at or 0, Reason.EXPIRED, attempt=attempt)


_STATES = {
    "sent": State.SENT,
    "delivered": State.DELIVERED,
    "refused": State.FAILED,
    "deferred": State.FAILED,
    "doubtful": State.UNKNOWN,
    "cut_off": State.UNKNOWN,
}


def implied(parcel: Parcel, result: Result, *, goes_on: bool = False) -> list[Send]:
    """Everything that a result implies, the same bytes every time: its status, and its dead letter."""
    message = parcel.message
    state = State.RETRYING if goes_on and result.kind == "deferred" else _STATES[result.kind]
    reason: str | None = None
    if result.kind == "refused":
        reason = Reason.REFUSED
    elif result.kind == "deferred" and not goes_on:
        reason = Reason.RETRIES_EXHAUSTED
    elif result.kind == "cut_off":
        reason = Reason.CALL_CUT_OFF
    sends = [_status(message, state, result.at, reason, result)]
    if state is State.FAILED:
        error = result.reason or ""
        sends.append(
            dead(parcel, reason or Reason.REFUSED, error, result.at, result.n, result.provider, result.code)
        )
        if message.has_fallback:
            sends.append(_tell_core(message))
    if result.dead_since is not None:
        sends += _dead_target(message, result)
    return sends


def _dead_target(message: Message, result: Result) -> list[Send]:
    """Tells core of a target that is dead for good: the device is dropped, the e-mail address suppressed.

    Where the vendor does not say since when, the message's own time counts: what was registered after it was
    planned is another registration.
    """
    found = Signal(
        kind=DEAD_DEVICE, id=message.id, user_id=message.user_id, channel=message.channel,
        target_id=message.target_id, since=result.dead_since or message.at,
    )  # fmt: skip
    if message.channel is Channel.EMAIL:
        found = structs.replace(found, kind=SUPPRESS, reason=State.BOUNCED, since=None)
    elif message.channel is not Channel.PUSH:
        return []
    lane = topics.NOTIFICATION_LANES[Priority.HIGH]
    return [Send(lane, message.user_id.encode(), encode(found), hash_in(message.id))]


def _tell_core(message: Message) -> Send:
    """Says that a target has failed, for the chain to go on."""
    signal = Signal(
        kind=FAILED, id=message.id, user_id=message.user_id, channel=message.channel,
        target_id=message.target_id, step=message.step,
    )  # fmt: skip
    topic = topics.NOTIFICATION_LANES[message.priority]
    key, headers = message.user_id.encode(), RANKS[message.priority]
    return Send(topic, key, encode(signal), hash_in(message.id), headers)


def dead(
    parcel: Parcel,
    reason: str,
    error: str,
    at: int,
    attempts: int,
    provider: str | None = None,
    code: str | None = None,
) -> Send:
    """The dead letter of a message that will not be sent: who tried it last, the vendor's code."""
    origin = parcel.origin
    message = parcel.message
    found = dead_letter.headers(
        Reason(reason), error, origin.topic, origin.partition, origin.offset, at, attempts,
        original=RANKS[message.priority] or (), provider=provider, code=code,
    )  # fmt: skip
    return Send(
        topics.DEAD_MESSAGES[message.channel],
        message.user_id.encode(),
        parcel.value,
        hash_in(message.id),
        found,
    )


def _status(
    message: Message,
    state: State,
    at: int,
    reason: str | None,
    result: Result | None = None,
    attempt: int | None = None,
    detail: str | None = None,
) -> Send:
    told = result.reason if result else None
    found = Status(
        notification_id=message.id, user_id=message.user_id, channel=message.channel,
        target=masked(message.target), target_id=message.target_id, state=state,
        reason=reason or told, detail=(told if reason else None) or detail,
        at=rfc3339(at), event_at=message.event_at, provider=result.provider if result else None,
        provider_message_id=result.provider_message_id if result else None,
        attempt=result.n if result else attempt, event=message.event, code=result.code if result else None,
    )  # fmt: skip
    return Send(topics.DELIVERY_STATUS, message.user_id.encode(), found.to_json(), hash_in(message.id))
