"""Stories: why somebody was told of something, or was not, in sentences for people."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from agents.letters import redacted
from pipeline.web import shown
from schemas.kinds import Channel, Doubt, Reason, State
from schemas.notification import ESCALATE
from schemas.status import STEP, rfc3339
from tables.history import MOST_TIMELINE, History

MOST_STORIES = 20
"""Of one event; whoever wants another asks for its user."""
DIGEST_SOURCE = "carillon:digest"

SENTENCES: Mapping[tuple[State, str | None], str] = {
    (State.ACCEPTED, None): "It was accepted.",
    (State.IGNORED, None): "Nobody was to be told of it.",
    (State.IGNORED, Reason.NO_WORKFLOW): "No workflow wanted events of the type {type}, so nobody was told.",
    (State.IGNORED, Reason.NO_RECIPIENT):
        "A workflow wanted events of the type {type}, but found nobody in this one who was to be told.",
    (State.DUPLICATE, None): "The same event came once more ({detail}), and that repeat was dropped.",
    (State.DUPLICATE, Reason.ALREADY_PLANNED):
        "The same event came once more (at {detail}), and that repeat was dropped.",
    (State.SUPPRESSED, None): "It was held back.",
    (State.SUPPRESSED, Reason.UNKNOWN_USER): "No user of this id was known when it was decided.",
    (State.SUPPRESSED, Reason.NO_ADDRESS): "No address of the user was known for this.",
    (State.SUPPRESSED, Reason.CHANNEL_OPTED_OUT): "The user has switched this channel off ({detail}).",
    (State.SUPPRESSED, Reason.CATEGORY_OPTED_OUT):
        "The user does not want this category on this channel ({detail}).",
    (State.SUPPRESSED, Reason.ADDRESS_SUPPRESSED):
        "The address is not used any more, because of what became of an earlier message to it ({detail}).",
    (State.SUPPRESSED, Reason.USER_ERASED): "The user was erased before it was sent.",
    (State.SUPPRESSED, Reason.DAILY_CAP):
        "The user had been sent as many that day as their limit allows ({detail}).",
    (State.SUPPRESSED, Reason.CATEGORY_CAP):
        "The user had been sent as many of this category that day as are allowed ({detail}).",
    (State.SUPPRESSED, Reason.THROTTLED):
        "The workflow had told the user as often as it may in that span of time ({detail}).",
    (State.SUPPRESSED, Reason.NO_TEMPLATE_FOR_CHANNEL): "The template has no words for this channel.",
    (State.SCHEDULED, None): "It was put off until {until}.",
    (State.SCHEDULED, Reason.SCHEDULED): "It was put off until {until}, the time that it was scheduled for.",
    (State.SCHEDULED, Reason.QUIET_HOURS): "It was put off until {until}, when the user's quiet hours end.",
    (State.SCHEDULED, Reason.UNKNOWN_USER):
        "No user of this id was known yet, so it was put off until {until}, should one appear.",
    (State.DIGESTED, None): "It went into a digest.",
    (State.DIGESTED, Reason.IN_DIGEST): "It went into the digest {detail}, to be told together with others.",
    (State.QUEUED, None): "It was queued for delivery.",
    (State.QUEUED, Reason.FALLBACK):
        "It was queued as a fallback: the channels before this one could not be used, or had failed.",
    (State.QUEUED, Reason.ESCALATED): "It was queued here too, because it had not been seen in time.",
    (State.SENDING, None): "It was being sent by {provider}.",
    (State.RETRYING, None): "Attempt {attempt} by {provider} did not get through, and another was to follow.",
    (State.SENT, None): "It was sent: {provider} took it over at attempt {attempt}.",
    (State.DELIVERED, None): "It was delivered by {provider} at attempt {attempt}.",
    (State.OPENED, None): "It was opened.",
    (State.CLICKED, None): "A link in it was followed.",
    (State.BOUNCED, None): "It came back: the address did not take it.",
    (State.COMPLAINED, None): "The receiver complained of it.",
    (State.UNSUBSCRIBED, None): "The receiver unsubscribed by it.",
    (State.FAILED, None): "It failed.",
    (State.FAILED, Reason.REFUSED): "{provider} refused attempt {attempt} for good ({detail}).",
    (State.FAILED, Reason.RETRIES_EXHAUSTED):
        "Attempt {attempt} by {provider} failed like those before it ({detail}), and was the last.",
    (State.FAILED, Reason.NO_PROVIDER): "There was no provider that could have sent it.",
    (State.FAILED, Reason.UNDELIVERED): "{provider} took it over and says that it never arrived ({detail}).",
    (State.FAILED, Reason.UNKNOWN_SEGMENT):
        "Its segment is unknown ({detail}). Once it is there, a replay of the event decides it afresh.",
    (State.FAILED, Reason.UNKNOWN_TEMPLATE):
        "There was no template {detail}. Once there is one, a replay of the event decides it afresh.",
    (State.FAILED, Reason.TEMPLATE_FAILED):
        "Its template could not be filled ({detail}). Once that is mended, a replay of the event decides it "
        "afresh.",
    (State.FAILED, Reason.INVALID_VARIABLES):
        "The event's data is not what its template asks for ({detail}). Once that is mended, a replay of "
        "the event decides it afresh.",
    (State.EXPIRED, None): "It was not sent, because it had expired.",
    (State.EXPIRED, Reason.EXPIRED): "It was not sent, because it had expired.",
    (State.CANCELLED, None): "It was cancelled.",
    (State.CANCELLED, Reason.CANCELLED):
        "It was cancelled in time: what was yet to come of it was dropped.",
    (State.CANCELLED, Reason.CANCELLED_TOO_LATE):
        "Somebody cancelled it, but too late: it had been decided, and nothing of it was waiting any more.",
    (State.CANCELLED, Reason.CANCEL_ASKED):
        "Somebody cancelled it when it was queued already: what was yet to come was dropped, and its "
        "channels were told to send no more of it.",
    (State.TOO_OLD, None): "It was too old to be sent.",
    (State.TOO_OLD, Reason.TOO_OLD):
        "It was not sent: its event was older than what is remembered of events, so that nobody could tell "
        "whether it had been sent before.",
    (State.UNKNOWN, None): "Whether attempt {attempt} by {provider} got through is not known.",
    (State.UNKNOWN, Reason.CALL_CUT_OFF):
        "The process ended during attempt {attempt} by {provider}; nobody knows if it got through.",
    (State.UNKNOWN, Reason.CANCELLED):
        "Whether attempt {attempt} got through is not known, and it was not tried "
        "again: it was cancelled.",
    (State.UNKNOWN, Reason.CHANNEL_OPTED_OUT):
        "Whether attempt {attempt} got through is not known, and it was not tried "
        "again: the user has switched this channel off since.",
    (State.UNKNOWN, Reason.CATEGORY_OPTED_OUT):
        "Whether attempt {attempt} got through is not known, and it was not tried "
        "again: the user does not want this category on this channel any more.",
    (State.UNKNOWN, Reason.ADDRESS_SUPPRESSED):
        "Whether attempt {attempt} got through is not known, and it was not tried "
        "again: the address is not used any more.",
    (State.UNKNOWN, Reason.USER_ERASED):
        "Whether attempt {attempt} got through is not known, and it was not tried "
        "again: the user was erased.",
}  # fmt: skip
"""What an entry of a timeline says; a reason without a sentence of its own stands behind its state's."""

LETTERS: Mapping[str, str] = {
    Reason.UNREADABLE: "could not be read",
    Reason.TOO_LARGE: "was too large",
    Reason.NOT_SUPPORTED: "asked for something that this version cannot do",
    Reason.RAISED: "made the stage that read it fail",
    Reason.DEADLY: "ended the process that read it, time after time",
    Reason.REFUSED: "was refused for good",
    Reason.RETRIES_EXHAUSTED: "failed at every attempt",
    Reason.NO_PROVIDER: "had nobody who could send it",
}
"""What became of the record that a dead letter keeps, by the letter's reason."""

RULES: Mapping[str, str] = {
    "daily_cap": "of what the user may be sent in a day, {saw} had been",
    "category_cap": "of what may be sent of the category in a day, {saw} had been",
    "throttle": "of what the workflow may send in its span of time, {saw} had been",
    "quiet_hours": "the user's quiet hours are {saw}",
    "variant": "the user's variant of {saw}",
    "locale": "the words nearest to {saw}",
}
"""What a rule of the whole decision saw; the rule's name stands for itself where it is not here."""

DOUBTS: Mapping[Doubt, str] = {
    Doubt.AT_LEAST_ONCE:
        "The workflow's policy for such a doubt is at_least_once: rather twice than not at all.",
    Doubt.AT_MOST_ONCE:
        "The workflow's policy for such a doubt is at_most_once: rather not at all than twice.",
}  # fmt: skip

WAYS: Mapping[str, str] = {
    Channel.EMAIL: "by e-mail", Channel.SMS: "by SMS", Channel.PUSH: "by push", Channel.WEB: "in the inbox",
    Channel.CHAT: "by chat", Channel.WEBHOOK: "by webhook",
}  # fmt: skip


class Asked(NamedTuple):
    """What somebody wants explained: a notification by its `id`, or what came of an event, for a user."""

    id: str | None = None
    source: str = ""
    event: str = ""
    user: str | None = None


class Beside(NamedTuple):
    """What is known beside histories.

    `letters` are summaries of dead letters (agents/letters.py) of what is asked for; `searched` says how
    far they were looked for: None: not at all, else whether to the end. `behind` is how many records core
    has not come to (None: not known). `whole` says whether every partition of status was looked at.
    """

    doubts: Mapping[str, Doubt] = {}
    digests: Mapping[str, History] = {}
    letters: Sequence[Mapping[str, Any]] = ()
    searched: bool | None = None
    behind: int | None = None
    whole: bool = True


class Story(NamedTuple):
    """What became of one notification."""

    notification_id: str
    user_id: str
    state: str | None
    sentences: tuple[str, ...]


class Explanation(NamedTuple):
    """The answer: `sentences` of the whole, then a story each."""

    found: bool
    sentences: tuple[str, ...]
    stories: tuple[Story, ...]

    @property
    def text(self) -> str:
        """For a terminal."""
        parts = [self.sentences, *(story.sentences for story in self.stories)]
        return "\n\n".join("\n".join(part) for part in parts if part)


def explain(asked: Asked, histories: Sequence[History], beside: Beside) -> Explanation:
    """Why. `histories` are all that were found of what is asked; total for whatever they hold."""
    chosen = meant(asked, histories)
    stories: list[Story] = []
    for history in chosen[:MOST_STORIES]:
        stories.append(_story(history, beside))
        known = [beside.digests[digest] for digest in digests_of(history) if digest in beside.digests]
        stories += [_story(digest, beside) for digest in known]
    return Explanation(bool(chosen), tuple(_of_whole(asked, histories, chosen, beside)), tuple(stories))


def meant(asked: Asked, histories: Sequence[History]) -> list[History]:
    """Those that are of the user who is asked for; an event that nobody wanted is everybody's."""
    return [
        one
        for one in histories
        if asked.id is not None or asked.user is None or one["user_id"] in (asked.user, "")
    ]


def digests_of(history: History) -> list[str]:
    """The digests that a notification went into."""
    found = [
        entry.detail
        for entry in _entries(history)
        if entry.state == State.DIGESTED and entry.reason == Reason.IN_DIGEST and entry.detail
    ]
    return list(dict.fromkeys(found))


# -- of the whole


def _of_whole(
    asked: Asked, histories: Sequence[History], chosen: Sequence[History], beside: Beside
) -> Iterator[str]:
    if asked.id is None and len(chosen) > 1:
        whom = f" for {asked.user}" if asked.user is not None else ""
        yield f"The event {asked.event} of {asked.source} made {len(chosen)} notifications{whom}."
        if len(chosen) > MOST_STORIES:
            yield f"These are the first {MOST_STORIES}; name a user to hear of another."
    elif not chosen:
        yield from _nothing(asked, len(histories), beside)
    for letter in beside.letters:
        yield _letter(letter, beside)
    if beside.searched is False:
        yield "There are more dead letters than could be looked through; `carillon dlq list` shows them."
    if not beside.whole:
        yield "Not every partition of status could be asked, so there may be more."


def _nothing(asked: Asked, others: int, beside: Beside) -> Iterator[str]:
    if asked.id is not None:
        yield f"Nothing is known of a notification {asked.id}."
        if not beside.letters:
            yield "None of that id was decided, or so long ago that it is not kept any more."
    elif others:
        people = (
            "one notification, for somebody else" if others == 1 else f"{others} notifications for others"
        )
        yield f"{asked.user} was not told."
        yield (
            f"The event {asked.event} of {asked.source} came and made {people}: no workflow found "
            f"{asked.user} among those who were to be told."
        )
    else:
        yield f"Nobody was told of an event {asked.event} of {asked.source}."
        if not beside.letters:
            yield "No such event came, or so long ago that it is not kept any more."
    if beside.behind:
        records = "1 record" if beside.behind == 1 else f"{beside.behind:,} records"
        yield f"It may still be on its way: core has not come to {records} yet."


def _letter(letter: Mapping[str, Any], beside: Beside) -> str:
    reason = str(letter["reason"])
    what = "The event" if letter["event"] is not None else "A record of it"
    clause = LETTERS.get(reason, f"was given up ({_words(reason)})")
    error = f": {letter['error']}" if letter["error"] else ""
    by = f" by {letter['provider']}" if letter.get("provider") else ""
    code = f" (code {letter['code']})" if letter.get("code") else ""
    place = f"{letter['topic']} {letter['partition']} {letter['offset']}"
    return f"{what} {clause}{by}{code}{error}. It is kept as a dead letter: `carillon dlq show {place}`."


# -- of one notification


class _Entry(NamedTuple):
    """One entry of a timeline, as tables/history.py writes it."""

    at: str
    channel: str | None
    target_id: str | None
    state: str
    reason: str | None = None
    provider: str | None = None
    attempt: int | None = None
    detail: str | None = None


def _entries(history: History) -> list[_Entry]:
    return [_Entry(*entry[: len(_Entry._fields)]) for entry in history["timeline"]]


def _story(history: History, beside: Beside) -> Story:
    state = shown.whole(history)
    return Story(history["id"], history["user_id"], state, tuple(_sentences(history, state, beside)))


def _sentences(history: History, state: str | None, beside: Beside) -> Iterator[str]:
    yield _answer(history, state)
    if not history["event"]:
        yield "What was written is known, but nothing of what became of it yet."
        return
    yield _event(history, state)
    entries = _entries(history)
    for entry in entries:
        yield _entry(entry, history)
    if history["left_out"]:
        yield f"More was told of it, but only the first {MOST_TIMELINE} entries are kept."
    if state == State.DIGESTED and not any(digest in beside.digests for digest in digests_of(history)):
        yield "That digest still gathers, or is not decided yet."
    if any(entry.state == State.UNKNOWN for entry in entries):
        doubt = beside.doubts.get(history["workflow"] or "")
        if doubt is not None:
            yield DOUBTS[doubt]
    if rules := _rules(history):
        yield rules
    if history.get("awaits_seen"):
        yield from _escalation(history, entries)


def _answer(history: History, state: str | None) -> str:
    """The answer in one sentence."""
    user, group = history["user_id"], shown.group_of(state)
    if state == State.IGNORED:
        return "Nobody was told."
    if group == "reached":
        reached = dict.fromkeys(
            pair["channel"] for pair in history["pairs"].values() if shown.group_of(pair["state"]) == group
        )
        return f"{user} was told {_listed([WAYS.get(channel, channel) for channel in reached])}."
    if group == "in doubt":
        return f"It is not known whether {user} was told."
    if group == "under way" or state is None:
        return f"{user} has not been told yet."
    if state == State.DIGESTED:
        return f"{user} is told of it in a digest."
    if state == State.BOUNCED:
        return f"It did not reach {user}."
    return f"{user} was not told."


def _event(history: History, state: str | None) -> str:
    event, when = history["event"], _moment(rfc3339(history["event_at"]))
    if event["source"] == DIGEST_SOURCE:
        return f"It is the digest {event['id']} of the workflow {history['workflow']}, closed on {when}."
    came = f"The event {event['type']} ({event['id']} of {event['source']}) came on {when}"
    if state == State.IGNORED or not history["workflow"]:
        return f"{came}."
    return f"{came}, and the workflow {history['workflow']} chose {history['user_id']} to be told."


def _entry(entry: _Entry, history: History) -> str:
    said = sentence(entry, history["event"]["type"])
    pair = history["pairs"].get(f"{entry.channel or ''}:{entry.target_id or ''}")
    where = f", {WAYS.get(entry.channel, entry.channel)}" if entry.channel else ""
    if pair is not None and pair["target"] and entry.channel != Channel.WEB:
        where += f" to {pair['target']}"
    return f"{_clock(entry.at, history['event_at'])}{where}: {said}"


def sentence(entry: _Entry, type: str) -> str:
    """What an entry says. Total: a reason that has no sentence stands behind that of its state."""
    reason, detail = entry.reason, entry.detail
    if entry.provider is not None:  # its words may repeat an address
        reason, detail = reason and redacted(reason), detail and redacted(detail)
    try:
        state = State(entry.state)
    except ValueError:
        return f"It is {_words(entry.state)}{_behind(reason, detail)}."
    values = {
        "type": type, "detail": detail, "until": _moment(detail or "") or "later",
        "provider": entry.provider or "the provider", "attempt": entry.attempt,
    }  # fmt: skip
    known = SENTENCES.get((state, entry.reason))
    template = SENTENCES[state, None] if known is None else known
    for piece, name in _OPTIONAL:
        if not values[name]:
            template = template.replace(piece, "")
    said = template.format(**values)
    if known is None and "{detail}" not in SENTENCES[state, None]:
        said = said.removesuffix(".") + _behind(reason, detail) + "."
    is_name = template.startswith("{provider}") and entry.provider is not None
    return said if is_name else said[:1].upper() + said[1:]


_OPTIONAL = (
    (" ({detail})", "detail"), (" (at {detail})", "detail"), (" {detail}", "detail"),
    (" at attempt {attempt}", "attempt"), (" {attempt}", "attempt"),
)  # fmt: skip
"""What is left out of a sentence where its value is not known."""


def _behind(reason: str | None, detail: str | None) -> str:
    told = ": ".join(_words(one) for one in (reason, detail) if one)
    return f" ({told})" if told else ""


def _rules(history: History) -> str:
    """What the rules of the whole decision saw; those of channels stand in the timeline."""
    told = []
    for one in history["why"]:
        if one["rule"] in _ELSEWHERE:
            continue
        known, saw = RULES.get(one["rule"]), one["saw"].partition(", until ")[0]
        what = f"{_words(one['rule'])} saw {saw}" if known is None else known.format(saw=saw)
        told.append(f"{what} ({one['verdict']})")
    return f"The rules: {'; '.join(told)}." if told else ""


_ELSEWHERE = frozenset(
    (*Channel, "workflow", STEP, Reason.SCHEDULED, Reason.UNKNOWN_USER, Reason.IN_DIGEST, Reason.CANCELLED)
)
"""What stands in `why` and is told by other sentences."""


def _escalation(history: History, entries: Sequence[_Entry]) -> Iterator[str]:
    states = {entry.state for entry in entries}
    escalated = any(one["rule"] == STEP and one["verdict"].startswith(ESCALATE) for one in history["why"])
    if escalated or State.CANCELLED in states:
        return
    if states & {State.OPENED, State.CLICKED}:
        yield "It was seen, so it was not escalated to further channels."
    else:
        yield "It has not been seen yet; if it stays so, it is escalated to further channels."


# -- words


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _words(text: str) -> str:
    return text.replace("_", " ")


def _moment(at: str) -> str:
    """A time as people say it; what is none stays as it is."""
    return f"{at[:10]} at {at[11:19]} UTC" if _is_time(at) else at


def _clock(at: str, since: int) -> str:
    """A time of day, with its date where that is not the event's."""
    if not _is_time(at):
        return at
    return at[11:23] if at[:10] == rfc3339(since)[:10] else f"{at[:10]} {at[11:23]}"


def _is_time(at: str) -> bool:
    try:
        datetime.fromisoformat(at)
    except ValueError:
        return False
    return at.endswith("Z")
