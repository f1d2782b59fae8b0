"""Dead letters and groups for the pages to look at, in memory: what would be Kafka is lists."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition

from agents import redrive
from agents.letters import Letter
from agents.redrive import NotRedrivable
from agents.replay import Prospect
from pipeline import replay, replays
from pipeline.dead_letters import DeadLetterError, Redrive, Span
from pipeline.foresight import Forecast, Range
from pipeline.narrowed import Narrowed
from pipeline.replay import Asked, Plan
from pipeline.replays import Request, Resolved
from pipeline.settings import Settings, given
from pipeline.web.apart import Apart
from pipeline.web.letters import Letters
from pipeline.web.repairs import Repairs
from pipeline.web.replays import Replays, Tell
from schemas.dead_letter import headers
from schemas.ids import notification_id
from schemas.kinds import Reason

NOON = 1_790_000_000_000
KNOWN = {"events": 4, "email-notifications": 4, "users": 4}


@dataclass
class Shelf:
    """The topics of dead letters: a list a partition."""

    parts: dict[TopicPartition, list[Letter]] = field(default_factory=dict)
    gone: dict[TopicPartition, int] = field(default_factory=dict)
    """How many of each partition's first were deleted."""
    back: list[redrive.Redriven] = field(default_factory=list)
    """What went back."""
    reads: int = 0
    broken: Exception | None = None
    stuck: bool = False

    def put(
        self,
        topic: str = "dlq-events",
        partition: int = 0,
        *,
        at: int = NOON,
        value: bytes | None = b"not JSON",
        reason: str = Reason.UNREADABLE,
        error: str = "not JSON",
        source: str = "events",
        told: Sequence[tuple[str, bytes]] | None = None,
        original: Sequence[tuple[str, bytes]] = (),
        provider: str | None = None,
        code: str | None = None,
    ) -> str:
        """One more letter; returns its name."""
        rows = self.parts.setdefault(TopicPartition(topic, partition), [])
        if told is None:
            told = headers(
                Reason.UNREADABLE, error, source, partition, len(rows), at, 1, original,
                provider=provider, code=code,
            )  # fmt: skip
            told = [("reason", reason.encode()), *told[1:]]
        letter = Letter(topic, topic, partition, len(rows), at, b"key", value, tuple(told))
        rows.append(letter)
        return letter.name

    @asynccontextmanager
    async def reading(self) -> AsyncIterator["Shelf"]:
        if self.stuck:
            await asyncio.Event().wait()
        if self.broken is not None:
            raise self.broken
        yield self

    async def spans(
        self, wanted: Sequence[str], since: int | None = None, until: int | None = None
    ) -> dict[TopicPartition, Span]:
        found = {}
        for part, rows in self.parts.items():
            if part.topic not in wanted:
                continue
            fits = [
                row.offset for row in rows[self.gone.get(part, 0) :]
                if (since is None or row.at >= since) and (until is None or row.at < until)
            ]  # fmt: skip
            if fits:
                found[part] = Span(fits[0], fits[-1] + 1)
        return found

    async def read(self, spans: Mapping[TopicPartition, Span]) -> AsyncGenerator[Letter, None]:
        for part, (begin, end) in spans.items():
            for letter in self.parts[part][begin:end]:
                self.reads += 1
                yield letter

    async def find(self, topic: str, partition: int, offset: int) -> Letter:
        rows = self.parts.get(TopicPartition(topic, partition), [])
        if not self.gone.get(TopicPartition(topic, partition), 0) <= offset < len(rows):
            raise DeadLetterError(f"{topic}-{partition}-{offset}: no such record; it is empty")
        return rows[offset]

    async def put_back(
        self,
        found: AsyncIterator[Letter],
        *,
        dry_run: bool,
        tell: Callable[[Redrive], None],
        to: redrive.To | None,
    ) -> None:
        async for letter in found:
            try:
                record = redrive.back(letter, KNOWN, to)
            except NotRedrivable as error:
                tell(Redrive(letter.name, None, str(error)))
                continue
            if not dry_run:
                self.back.append(record)
            tell(Redrive(letter.name, record.topic))


GENERATION = 1_790_000_000_123


@dataclass
class Groups:
    """Groups that can be asked to begin anew: each partition holds offsets 0 to 100, and all are read.

    Whatever is narrowed chooses nineteen.
    """

    asked: list[Resolved] = field(default_factory=list)
    counted: Counter[Prospect] = field(
        default_factory=lambda: Counter({Prospect.NOTHING: 12, Prospect.AFRESH: 6, Prospect.NEW: 1})
    )
    reasons: Counter[str] = field(default_factory=lambda: Counter({"template_failed: no.thing": 6}))
    foreseen: int = 0
    broken: Exception | None = None
    breaks: Exception | None = None
    """What breaks while it is done."""
    stuck: bool = False
    resolved: int = 0

    async def resolve(self, request: Request) -> Resolved:
        if self.broken is not None:
            raise self.broken
        self.resolved += 1
        wanted = replays.check(given(), request)
        to = {"earliest": 0, "latest": 100}.get(wanted.to, 40)
        spans = [replay.Span(part, 0, 100, to, 100) for part in wanted.parts]
        plan = Plan(f"carillon-{wanted.role}", wanted.role, spans)
        generation = (request.generation or GENERATION + self.resolved) if request.resend else 0
        return Resolved(plan, request.narrowing, generation, f"request-{self.resolved}")

    async def foresee(self, resolved: Resolved, tell: Tell) -> Forecast | Narrowed:
        self.foreseen += 1
        await self._work(tell)
        if resolved.narrowing.given:
            return self._chosen(resolved, None)
        fresh = Counter({"orders": self.counted[Prospect.NEW]})
        return Forecast(resolved.plan, Range(), self.counted, self.reasons, fresh)

    async def do(self, resolved: Resolved, tell: Tell) -> Asked | Narrowed:
        if not resolved.narrowing.given:
            self.asked.append(resolved)
            return Asked(resolved.plan, resolved.id)
        await self._work(tell)
        if self.breaks is not None:
            raise self.breaks
        found = self._chosen(resolved, resolved.id)
        self.asked.append(resolved)
        return found

    async def _work(self, tell: Tell) -> None:
        tell("reading: 5 of 10 offsets")
        if self.stuck:
            await asyncio.Event().wait()

    def _chosen(self, resolved: Resolved, request: str | None) -> Narrowed:
        anew = resolved.generation
        went = anew in {one.generation for one in self.asked}
        again = self.counted.total() if anew else self.counted[Prospect.AFRESH] + self.counted[Prospect.NEW]
        return Narrowed(
            resolved.plan, request, anew, self.counted.total(), self.counted, self.reasons,
            Counter({"orders": self.counted[Prospect.NEW]}), 0 if anew and went else again, 2, 0, 3,
        )  # fmt: skip


def letters(shelf: Shelf) -> str:
    """Letters of several topics and reasons; returns the name of one that a person may look at."""
    id_ = notification_id("ada", "https://shop.example", "order-1", "orders")
    message = b'{"id": "%s", "target": "ada@example.com", "text": "Hello Ada"}' % id_.encode()
    name = shelf.put(
        "dlq-email", 1, value=message, reason=Reason.REFUSED, error="recipient: 550 no such mailbox",
        source="email-notifications", provider="main", code="550",
    )  # fmt: skip
    for n in range(60):
        shelf.put(
            "dlq-email", n % 2, at=NOON + n * 1_000, value=message, source="email-notifications",
            reason=Reason.RETRIES_EXHAUSTED if n % 3 else Reason.REFUSED, error=f"421 try again later ({n})",
            provider="backup" if n % 4 else "main", code="HTTP 503" if n % 3 else "421",
        )  # fmt: skip
    for n in range(7):
        shelf.put(
            at=NOON + n * 9_000, value=b'{"event_type": %d}' % n, error="event_type: should be a valid string"
        )
    shelf.put("dlq-people", at=NOON + 77_000, error="user_id: Field required", source="users")
    return name


def repairs(shelf: Shelf, groups: Groups, clock: Callable[[], float], **settings: Any) -> Repairs:
    """Both, over those."""
    found: Settings = given(**settings)
    apart = Apart()
    return Repairs(Letters(found, shelf, apart, clock), Replays(found, groups, apart))
