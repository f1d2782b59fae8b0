"""Dead letters as pages and programs get them: the newest first, page by page, and put back on demand."""

import heapq
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, NamedTuple, Protocol

from aiokafka import TopicPartition

from agents import letters
from agents.letters import Letter, Said
from agents.redrive import To
from pipeline import dead_letters
from pipeline.dead_letters import DeadLetterError, Redrive, Span
from pipeline.settings import Settings
from pipeline.web.apart import Apart
from schemas.kinds import Reason
from schemas.status import rfc3339

SCANNED = 20_000
"""How many letters a page looks at, at the most, for those that fit; the next one goes on from there."""
SCAN_SECONDS = 3.0
COUNTED = 10_000
"""Of how many letters the reasons are counted: the newest."""
COUNT_SECONDS = 3.0
FRESH_SECONDS = 5.0
"""How long counts are good for: several viewers share one reading."""
READ_SECONDS = 15.0
MOST_REDRIVEN = 10_000
REDRIVE_SECONDS = 20.0
"""After so long no more letters are begun with; those under way have PATIENCE_SECONDS to land."""
PATIENCE_SECONDS = 25.0
MOST_NAMED = 100
MOST_CODES = 20
MOST_FAILED = 500
MOST_REASONS = 50
MOST_WORD = 100
OTHER = "other reasons"

Spans = Mapping[TopicPartition, Span]
_Place = tuple[float, str, int, int]
"""Broker time, topic, partition, offset."""


class BadCursor(ValueError):
    """A cursor that no page gave."""


class Reader(Protocol):
    """Reads letters by spans of offsets."""

    async def spans(
        self, wanted: Sequence[str], since: int | None = None, until: int | None = None
    ) -> dict[TopicPartition, Span]:
        """What the topics hold, of it what came from `since` on and before `until`."""

    def read(self, spans: Spans) -> AsyncGenerator[Letter, None]:
        """The letters of spans, each partition's in order."""

    async def find(self, topic: str, partition: int, offset: int) -> Letter:
        """The letter at a place. Raises DeadLetterError where there is none."""


class Source(Protocol):
    """Where letters are."""

    def reading(self) -> AbstractAsyncContextManager[Reader]:
        """A reader, for a while."""

    async def put_back(
        self, found: AsyncIterator[Letter], *, dry_run: bool, tell: Callable[[Redrive], None], to: To | None
    ) -> None:
        """Puts letters back where they came from, for a provider to send; says of each what became of it."""


class OnKafka:
    """The letters of the topics that settings name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def reading(self) -> AbstractAsyncContextManager[Reader]:
        return dead_letters.reading(self._settings)

    async def put_back(
        self, found: AsyncIterator[Letter], *, dry_run: bool, tell: Callable[[Redrive], None], to: To | None
    ) -> None:
        await dead_letters.put_back(self._settings, found, dry_run=dry_run, tell=tell, to=to)


class Filter(NamedTuple):
    """Which letters: of a topic (None: all), that came from `since` on, before `until` (ms), and what else
    they must say (agents/letters.py)."""

    topic: str | None = None
    reason: str | None = None
    since: int | None = None
    until: int | None = None
    provider: str | None = None
    codes: Sequence[str] = ()

    @property
    def said(self) -> Said:
        """What they must say."""
        return Said(self.reason, self.provider, self.codes)


class Page(NamedTuple):
    """Letters, the newest first; `cursor` asks for those behind (None: there are none).

    It may hold fewer than were asked for, or none, and still have a cursor: what it reads is bounded.
    """

    letters: Sequence[dict[str, Any]]
    cursor: str | None
    held: Mapping[str, int]


class Counts(NamedTuple):
    """How many letters each topic holds, and of the newest `counted` the reasons."""

    held: Mapping[str, int]
    reasons: Mapping[str, Counter[str]]
    counted: int

    @property
    def total(self) -> int:
        return sum(self.held.values())


class Redriven(NamedTuple):
    """What became of letters that were to go back. `cursor` asks for the rest (None: that was all)."""

    dry_run: bool
    redriven: int
    failures: int
    failed: Sequence[Redrive]
    cursor: str | None


class Letters:
    """The dead letters of a pipeline. A topic goes by its name with the prefix or without."""

    def __init__(
        self, settings: Settings, source: Source, apart: Apart, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._source, self._apart, self._clock = settings, source, apart, clock
        self._counts: Counts | None = None
        self._counted_at = float("-inf")

    # -- reading

    async def page(self, wanted: Filter, limit: int, cursor: str | None = None) -> Page:
        """Letters, the newest first. Raises KeyError for what is no topic of theirs, and BadCursor."""
        topics = self._topics(wanted.topic)
        within = None if cursor is None else self._decoded(cursor)
        return await self._apart.run(lambda: self._page(wanted, topics, limit, within), READ_SECONDS)

    async def _page(self, wanted: Filter, topics: Sequence[str], limit: int, within: Spans | None) -> Page:
        async with self._source.reading() as reader:
            all_spans = await reader.spans(self._topics(None))
            spans = all_spans
            if len(topics) == 1 or wanted.since is not None or wanted.until is not None:
                spans = await reader.spans(topics, wanted.since, wanted.until)
            scan = _Backwards(_within(spans, within), limit, wanted.said)
            until = self._clock() + SCAN_SECONDS
            while (spans := scan.next()) and self._clock() < until:
                async for letter in reader.read(spans):
                    scan.see(letter)
                scan.done(spans)
        found, left = scan.result()
        return Page(found, self._encoded(left), _held(all_spans))

    async def letter(self, name: str) -> Letter:
        """One letter by its name. Raises KeyError for what is no name, DeadLetterError where it is not."""
        place = self._place(name)

        async def find() -> Letter:
            async with self._source.reading() as reader:
                return await reader.find(*place)

        return await self._apart.run(find, READ_SECONDS)

    async def counts(self) -> Counts:
        """Counts by topic and reason, not older than a few seconds."""
        if self._counts is None or self._clock() - self._counted_at > FRESH_SECONDS:
            self._counts = await self._apart.run(self._count, READ_SECONDS)
            self._counted_at = self._clock()
        return self._counts

    async def _count(self) -> Counts:
        reasons: dict[str, Counter[str]] = {}
        counted, until = 0, self._clock() + COUNT_SECONDS
        async with self._source.reading() as reader:
            spans = await reader.spans(self._topics(None))
            async with aclosing(reader.read(newest(spans, COUNTED))) as found:
                async for letter in found:
                    told = reasons.setdefault(letter.topic, Counter())
                    word = clipped(letter.told("reason"))
                    told[word if word in told or len(told) < MOST_REASONS else OTHER] += 1
                    counted += 1
                    if self._clock() > until:
                        break
        return Counts(_held(spans), reasons, counted)

    # -- putting back

    async def redrive_named(
        self, names: Sequence[str], *, dry_run: bool, to_provider: str | None = None
    ) -> Redriven:
        """Puts letters back by their names. Raises KeyError with the one that is none; UnknownProvider."""
        places = [self._place(name) for name in names]
        to = dead_letters.to(self._settings, to_provider, [topic for topic, _, _ in places])
        missing: list[Redrive] = []

        async def found(reader: Reader) -> AsyncIterator[Letter]:
            for place in dict.fromkeys(places):
                try:
                    yield await reader.find(*place)
                except DeadLetterError as error:
                    missing.append(Redrive("-".join(map(str, place)), None, str(error)))

        async def work() -> Redriven:
            tally = _Tally()
            async with self._source.reading() as reader:
                await self._source.put_back(found(reader), dry_run=dry_run, tell=tally.tell, to=to)
            for one in missing:
                tally.tell(one)
            return tally.result(dry_run, None)

        return await self._apart.run(work, REDRIVE_SECONDS + PATIENCE_SECONDS)

    async def redrive(
        self,
        wanted: Filter,
        *,
        dry_run: bool,
        limit: int = MOST_REDRIVEN,
        cursor: str | None = None,
        to_provider: str | None = None,
    ) -> Redriven:
        """Puts the letters of a filter back, the oldest first, as far as the topics reach when it begins.

        After `limit` letters, or a while, it stops and says where to go on. Raises KeyError for what is no
        topic of theirs, UnknownProvider, and BadCursor.
        """
        topics = self._topics(wanted.topic)
        to = dead_letters.to(self._settings, to_provider, topics)
        within = None if cursor is None else self._decoded(cursor)

        async def work() -> Redriven:
            tally, until = _Tally(), self._clock() + REDRIVE_SECONDS
            async with self._source.reading() as reader:
                spans = _within(await reader.spans(topics, wanted.since, wanted.until), within)
                walk = _Forwards(spans, limit, wanted.said, lambda: self._clock() > until)
                await self._source.put_back(walk.letters(reader), dry_run=dry_run, tell=tally.tell, to=to)
            return tally.result(dry_run, self._encoded(walk.left))

        return await self._apart.run(work, REDRIVE_SECONDS + PATIENCE_SECONDS)

    async def resolve(self, wanted: Filter) -> str | None:
        """A cursor over what a filter means now: what comes later is not in it. None of nothing."""
        topics = self._topics(wanted.topic)

        async def work() -> str | None:
            async with self._source.reading() as reader:
                return self._encoded(await reader.spans(topics, wanted.since, wanted.until))

        return await self._apart.run(work, READ_SECONDS)

    # -- names

    def providers(self, topic: str | None = None) -> list[str]:
        """The providers that letters of a topic, or of any, can be put back for; KeyError for no topic."""
        return dead_letters.providers(self._settings, self._topics(topic))

    def _topics(self, topic: str | None) -> list[str]:
        return dead_letters.names(self._settings, topic)

    def _place(self, name: str) -> tuple[str, int, int]:
        found = _NAME.fullmatch(name)
        try:
            if found is not None:
                return self._topics(found[1])[0], int(found[2]), int(found[3])
        except KeyError:
            pass  # of no topic of theirs
        raise KeyError(name)

    def _encoded(self, spans: Spans) -> str | None:
        """Spans as one word: `email:0.3-9,4.0-1~sms:…`."""
        prefix, by_topic = self._settings.kafka.topic_prefix, dict[str, list[str]]()
        for (topic, number), (begin, end) in sorted(spans.items()):
            if begin < end:
                plain = topic.removeprefix(prefix).removeprefix(_DLQ)
                by_topic.setdefault(plain, []).append(f"{number}.{begin}-{end}")
        return "~".join(f"{topic}:{','.join(parts)}" for topic, parts in by_topic.items()) or None

    def _decoded(self, cursor: str) -> dict[TopicPartition, Span]:
        found: dict[TopicPartition, Span] = {}
        try:
            for one in cursor.split("~"):
                topic, parts = one.split(":")
                (name,) = self._topics(_DLQ + topic)
                for part in parts.split(","):
                    told = _SPAN.fullmatch(part)
                    if told is None:
                        raise ValueError(part)
                    found[TopicPartition(name, int(told[1]))] = Span(int(told[2]), int(told[3]))
        except (ValueError, KeyError):
            raise BadCursor("not a cursor of dead letters") from None
        return found


_DLQ = "dlq-"
_NAME = re.compile(r"([A-Za-z0-9._-]{1,249})-([0-9]{1,9})-([0-9]{1,18})", re.ASCII)
_SPAN = re.compile(r"([0-9]{1,9})\.([0-9]{1,18})-([0-9]{1,18})", re.ASCII)


def listed(letter: Letter) -> dict[str, Any]:
    """What a list tells of a letter: never its bytes, and no address."""
    return {"letter": letter.name, "at": rfc3339(letter.at), **letters.summary(letter)}


def clipped(word: str) -> str:
    """A word of a letter's, as short as a word may be."""
    return "".join(c if c.isprintable() else "�" for c in word[:MOST_WORD])


def _held(spans: Spans) -> dict[str, int]:
    found: Counter[str] = Counter()
    for (topic, _), (begin, end) in sorted(spans.items()):
        found[topic] += end - begin
    return dict(found)


def _within(spans: Spans, bounds: Spans | None) -> dict[TopicPartition, Span]:
    if bounds is None:
        return dict(spans)
    return {
        part: Span(max(span.begin, bounds[part].begin), min(span.end, bounds[part].end))
        for part, span in spans.items()
        if part in bounds
    }


def newest(spans: Spans, most: int) -> dict[TopicPartition, Span]:
    """The last offsets of each span, no more than `most` in all; short spans leave theirs to long ones."""
    left, each = most, dict[TopicPartition, int]()
    by_size = sorted(spans, key=lambda part: spans[part].end - spans[part].begin)
    for n, part in enumerate(by_size):
        each[part] = min(spans[part].end - spans[part].begin, left // (len(by_size) - n))
        left -= each[part]
    return {part: Span(spans[part].end - count, spans[part].end) for part, count in each.items() if count}


class _Tally:
    """Counts what became of letters."""

    def __init__(self) -> None:
        self.count = self.failures = 0
        self.failed: list[Redrive] = []

    def tell(self, one: Redrive) -> None:
        """Takes one in."""
        if one.to is not None:
            self.count += 1
            return
        self.failures += 1
        if len(self.failed) < MOST_FAILED:
            self.failed.append(one)

    def result(self, dry_run: bool, cursor: str | None) -> Redriven:
        """All of it."""
        return Redriven(dry_run, self.count, self.failures, tuple(self.failed), cursor)


class _Backwards:
    """Finds the newest letters of spans, which can only be read forwards: chunk by chunk from their ends.

    A letter may be told once no unread one can be newer, for in a partition the broker's time rises; where it
    does not (a clock was set back), the letters are ordered as if it did.
    """

    def __init__(self, spans: Spans, limit: int, said: Said) -> None:
        self._spans, self._limit, self._said = spans, limit, said
        self._unread = {part: span.end for part, span in spans.items()}
        self._oldest: dict[TopicPartition, float] = dict.fromkeys(spans, float("inf"))
        self._first: dict[TopicPartition, float] = {}
        self._latest: dict[TopicPartition, float] = {}
        self._kept: list[tuple[_Place, dict[str, Any]]] = []
        self._dropped: dict[TopicPartition, int] = {}
        self._looked = 0
        self._chunk = max(limit, SCANNED // max(1, len(spans))) if said.asks else limit

    def next(self) -> dict[TopicPartition, Span]:
        """What is to be read next; nothing when enough is known or was looked at."""
        if self._looked >= SCANNED:
            return {}
        full = len(self._kept) >= self._limit
        return {
            part: Span(max(span.begin, self._unread[part] - self._chunk), self._unread[part])
            for part, span in self._spans.items()
            if self._unread[part] > span.begin and not (full and self._oldest[part] <= self._kept[0][0][0])
        }

    def see(self, letter: Letter) -> None:
        """Takes a letter in."""
        part = TopicPartition(letter.topic, letter.partition)
        latest = self._latest[part] = max(letter.at, self._latest.get(part, letter.at))
        at = min(latest, self._oldest[part])
        self._first.setdefault(part, at)
        if not self._said.fits(letter):
            return
        place = at, letter.topic, letter.partition, letter.offset
        if len(self._kept) < self._limit:
            heapq.heappush(self._kept, (place, listed(letter)))
        elif place < self._kept[0][0]:
            self._drop(place)
        else:
            self._drop(heapq.heapreplace(self._kept, (place, listed(letter)))[0])

    def _drop(self, place: _Place) -> None:
        _, topic, partition, offset = place
        part = TopicPartition(topic, partition)
        self._dropped[part] = max(self._dropped.get(part, -1), offset)

    def done(self, read: Spans) -> None:
        """Notes that all of this was seen."""
        for part, span in read.items():
            self._unread[part] = span.begin
            self._looked += span.end - span.begin
            self._oldest[part] = self._first.pop(part, self._oldest[part])
            self._latest.pop(part, None)

    def result(self) -> tuple[list[dict[str, Any]], dict[TopicPartition, Span]]:
        """The letters that can be told, the newest first, and what is left for another page."""
        unread = [part for part, span in self._spans.items() if self._unread[part] > span.begin]
        safe = max((self._oldest[part] for part in unread), default=float("-inf"))
        told = []
        for place, summary in sorted(self._kept, key=lambda one: one[0], reverse=True):
            if place[0] >= safe:
                told.append(summary)
            else:
                self._drop(place)
        left = {
            part: Span(span.begin, max(self._unread[part], self._dropped.get(part, -1) + 1))
            for part, span in self._spans.items()
        }
        return told, left


class _Forwards:
    """Gives out the letters of spans until it has been enough; `left` is what was not looked at."""

    def __init__(self, spans: Spans, limit: int, said: Said, late: Callable[[], bool]) -> None:
        self._limit, self._said, self._late = limit, said, late
        self.left: dict[TopicPartition, Span] = dict(spans)

    async def letters(self, reader: Reader) -> AsyncIterator[Letter]:
        """Those that fit."""
        given = 0
        async with aclosing(reader.read(dict(self.left))) as found:
            async for letter in found:
                if given >= self._limit or self._late():
                    return
                part = TopicPartition(letter.topic, letter.partition)
                self.left[part] = Span(letter.offset + 1, self.left[part].end)
                if self._said.fits(letter):
                    given += 1
                    yield letter
        self.left.clear()


SAYS: Mapping[str, tuple[str, str]] = {
    Reason.UNREADABLE: (
        "Its bytes could not be read as what its topic carries.",
        "It will fail again unless what reads it has changed. Mend it where it is made, and send it anew.",
    ),
    Reason.TOO_LARGE: (
        "It asks for more than one record may hold.",
        "It will fail again. Let whoever sends it divide it.",
    ),
    Reason.NOT_SUPPORTED: (
        "It asks for something that this version cannot do.",
        "Put it back when a version that can runs here.",
    ),
    Reason.RAISED: (
        "Deciding it failed with an error of ours.",
        "Put it back when the cause is mended; the error says what it was.",
    ),
    Reason.DEADLY: (
        "The process died three times while it was deciding this record alone.",
        "Put it back only when the cause is mended: it may take the process down again.",
    ),
    Reason.REFUSED: (
        "The provider refused the message for good.",
        "It is tried again in full if it is put back; that helps where the provider has changed its mind.",
    ),
    Reason.RETRIES_EXHAUSTED: (
        "The provider could not take it for the moment, as often as it was tried.",
        "It is tried again in full if it is put back.",
    ),
    Reason.NO_PROVIDER: (
        "No provider of the channel takes such a message: none is for that platform, or the one that was "
        "asked for is gone from the settings.",
        "Put it back when there is one.",
    ),
}  # fmt: skip
"""Why a letter is dead and what can be done, for people."""


def says(reason: str) -> tuple[str, str]:
    """The two sentences of a reason; an unknown one stays visible beside them."""
    return SAYS.get(
        reason, ("It gives a reason for which there are no words here.", "The error may say more.")
    )
