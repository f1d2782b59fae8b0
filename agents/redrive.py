"""Redrive: what a dead letter goes back as, and how a stage that reads it again knows whose it is.

It is the original's key, bytes and headers, on the topic and the partition that they came from, with these
headers beside them: `redrive`, the place of the letter; `source-topic`, `source-partition`, `source-offset`
and `source-time` (the broker's, in ms), the place and time of the record when it first came. (Of a message it
is the time when it failed, for which nothing asks.) Without `redrive` the others say nothing.

- An event keeps its identity: intake takes the source's place and time for the record's own, so that one
  without an idempotency key has the same id, and the same age, as when it first came. One that came through
  after all is known by its claim. It fails again with that place too, so that it can be redriven again.
- A user or a preference keeps its time, so that it never replaces a newer one.
- A message is known by its ledger: one that has failed for good is opened again, once a letter (deliver).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agents.letters import Letter
from tables.claims import Origin

REDRIVE = "redrive"
TIME = "source-time"
_OURS = (REDRIVE, "source-topic", "source-partition", "source-offset", TIME)
MAX_LETTER_NAME = 300
MAX_DIGITS = 18

Headers = Sequence[tuple[str, bytes]]


class NotRedrivable(ValueError):
    """A letter that cannot go back; the message says why."""


class Redriven(NamedTuple):
    """The record that a letter goes back as; `partition` None: by its key."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


def back(letter: Letter, known: Mapping[str, int]) -> Redriven:
    """What goes back for a letter. `known`: the topics that there are for it, with their partitions.

    Raises NotRedrivable.
    """
    source = letter.source
    if source is None:
        raise NotRedrivable("its headers do not say where it came from")
    if source.topic not in known:
        raise NotRedrivable(f"source-topic {source.topic!r} is no topic that a stage reads")
    ours = [letter.name, source.topic, source.partition, source.offset, source.at]
    headers = [(name, str(value).encode()) for name, value in zip(_OURS, ours, strict=True)]
    partition = source.partition if source.partition < known[source.topic] else None
    return Redriven(source.topic, partition, letter.key, letter.value, [*letter.original, *headers])


def name(headers: Headers) -> str | None:
    """The letter that a record was redriven from; None for any other."""
    for header, value in headers:
        if header == REDRIVE and value:
            return value.decode("utf-8", "replace")[:MAX_LETTER_NAME]
    return None


def origin(headers: Headers, here: Origin) -> Origin:
    """Where and when a record first came: its own origin, `here`, if it was not redriven.

    Nothing is ever from the future: that time would win over everything that is yet to come.
    """
    if not headers or name(headers) is None:
        return here
    found = dict(headers)
    numbers = [found.get(header) or b"" for header in _OURS[2:]]
    if found.get("source-topic") != here.topic.encode() or not all(map(_is_number, numbers)):
        return here
    partition, offset, at = map(int, numbers)
    return Origin(here.topic, partition, offset, min(at, here.at))


def original(headers: Headers) -> Headers:
    """The headers that a record came with before it was redriven."""
    if not headers or name(headers) is None:
        return headers
    return [header for header in headers if header[0] not in _OURS]


def _is_number(text: bytes) -> bool:
    return text.isdigit() and len(text) <= MAX_DIGITS
