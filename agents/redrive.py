"""Redrive: what a dead letter goes back as, and how a stage that reads a copy knows whose it is.

It is the original's key, bytes and headers, on the topic and the partition that they came from, with these
headers beside them: `redrive`, the place of the letter; `source-topic`, `source-partition`, `source-offset`
and `source-time` (the broker's, in ms), the place and time of the record when it first came. (Of a message it
is the time when it failed, for which nothing asks.) The copies of a narrowed replay have the same, with
`replay`, the request, in place of `redrive`; and of an event `replay-only`, the notifications that it is for,
and `replay-generation`, by which they are others than those that were sent. Without `redrive` or `replay` the
others say nothing.

- An event keeps its identity: intake takes the source's place and time for the record's own, so that one
  without an idempotency key has the same id, and the same age, as when it first came. One that came through
  after all is known by its claim. It fails again with that place too, so that it can be redriven again.
- A user or a preference keeps its time, so that it never replaces a newer one.
- A message is known by its ledger: one that has failed for good is opened again, once a letter (deliver). The
  header `provider` beside `redrive` names the provider that is to send it now. It is of this copy alone.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from agents import topics
from agents.letters import Letter
from schemas.dead_letter import MAX_PROVIDER, PROVIDER
from schemas.event import Unreadable
from tables.claims import Origin

REDRIVE = "redrive"
REPLAY = "replay"
ONLY = "replay-only"
GENERATION = "replay-generation"
ANEW = "replay-time"
"""When a generation was asked for, in ms; without it, when the record came."""
_PLACE = ("source-topic", "source-partition", "source-offset", "source-time")
OURS = frozenset((REDRIVE, REPLAY, ONLY, GENERATION, ANEW, *_PLACE))
"""Every header by which a copy says whose it is."""
_OF_A_LETTER = frozenset((REDRIVE, *_PLACE))
_DEAD_MESSAGES = frozenset(topics.DEAD_MESSAGES.values())
MOST_ONLY = 200
"""The most notifications that one copy is for."""
MAX_ONLY = 40 * MOST_ONLY
MAX_LETTER_NAME = 300
MAX_DIGITS = 18

Headers = Sequence[tuple[str, bytes]]


class NotRedrivable(ValueError):
    """A letter that cannot go back; the message says why."""


class To(NamedTuple):
    """The provider that is to send what goes back, and the dead letters' topics whose channel has it."""

    provider: str
    topics: Collection[str]


class Redriven(NamedTuple):
    """The record that a letter goes back as; `partition` None: by its key."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


def back(letter: Letter, known: Mapping[str, int], to: To | None = None) -> Redriven:
    """What goes back for a letter. `known`: the topics that there are for it, with their partitions.
    `to`: who is to send it; without, whoever delivery chooses.

    Raises NotRedrivable.
    """
    source = letter.source
    if source is None:
        raise NotRedrivable("its headers do not say where it came from")
    if source.topic not in known:
        raise NotRedrivable(f"source-topic {source.topic!r} is no topic that a stage reads")
    if to is not None and letter.plain not in to.topics:
        raise NotRedrivable(f"what {letter.plain} holds is not sent by a provider {to.provider!r}")
    partition = source.partition if source.partition < known[source.topic] else None
    is_message = letter.plain in _DEAD_MESSAGES
    own = [header for header in letter.original if not (is_message and header[0] == PROVIDER)]
    headers = [*own, *marked(REDRIVE, letter.name, source)]
    if to is not None:
        headers.append((PROVIDER, to.provider.encode()))
    return Redriven(source.topic, partition, letter.key, letter.value, headers)


def marked(mark: str, name: str, first: Origin) -> list[tuple[str, bytes]]:
    """The headers of a copy: what made it, and where and when its record first came."""
    place = zip(_PLACE, (first.topic, first.partition, first.offset, first.at), strict=True)
    return [(mark, name.encode()), *((header, str(value).encode()) for header, value in place)]


def name(headers: Headers) -> str | None:
    """The letter that a record was redriven from, or the replay that copied it; None for any other."""
    found = None
    for header, value in headers:
        if value and (header == REDRIVE or (header == REPLAY and found is None)):
            found = value.decode("utf-8", "replace")[:MAX_LETTER_NAME]
            if header == REDRIVE:
                break
    return found


def provider(headers: Headers) -> str | None:
    """The provider that is to send a redriven message; None where none was named, and for other records."""
    found = {header: value for header, value in headers if value}
    told = found.get(PROVIDER)
    if told is None or REDRIVE not in found or len(told) > 4 * MAX_PROVIDER:
        return None
    return told.decode("utf-8", "replace")


def origin(headers: Headers, here: Origin) -> Origin:
    """Where and when a record first came: its own origin, `here`, if it is no copy.

    Nothing is ever from the future: that time would win over everything that is yet to come.
    """
    if not headers or name(headers) is None:
        return here
    found = dict(headers)
    numbers = [found.get(header) or b"" for header in _PLACE[1:]]
    if found.get("source-topic") != here.topic.encode() or not all(map(_is_number, numbers)):
        return here
    partition, offset, at = map(int, numbers)
    return Origin(here.topic, partition, offset, min(at, here.at))


def original(headers: Headers) -> Headers:
    """The headers that a record came with before it was redriven: of a replay's copy, also whom it is for."""
    if not headers or name(headers) is None:
        return headers
    return [header for header in headers if header[0] not in _OF_A_LETTER]


class Intent(NamedTuple):
    """Whose event a record of `events` is: its first place, when its age begins (ms), which generation of
    its notifications is meant, and which of them (None: all)."""

    first: Origin
    at: int
    generation: int
    only: frozenset[str] | None


def intent(headers: Headers, here: Origin) -> Intent:
    """What a record of `events` is meant to be. Raises Unreadable where a copy does not say for whom it is:
    nobody else may be told because of it."""
    first = origin(headers, here)
    said = {header: value or b"" for header, value in headers}
    if not said.get(REPLAY):
        return Intent(first, first.at, 0, None)
    only, generation = said.get(ONLY), said.get(GENERATION, b"0")
    if only is not None and len(only) > MAX_ONLY:
        raise Unreadable(f"{ONLY}: {len(only)} bytes")
    if not _is_number(generation):
        raise Unreadable(f"{GENERATION}: not a number")
    named = None if only is None else frozenset(only.decode("ascii", "replace").split(","))
    at = first.at
    if int(generation):
        anew = said.get(ANEW, b"")
        at = min(int(anew), here.at) if _is_number(anew) else here.at
    return Intent(first, at, int(generation), named)


def _is_number(text: bytes) -> bool:
    return text.isdigit() and len(text) <= MAX_DIGITS
