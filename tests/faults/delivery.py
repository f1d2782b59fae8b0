"""Delivery roles killed at each step between intended and confirmed: what is promised towards providers."""

import asyncio
import logging
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from agents import plan, topics
from pipeline.broker import EmbeddedKafka
from schemas.kinds import Doubt, State
from schemas.message import Message
from schemas.notification import FAILED, Signal
from schemas.status import Status
from tests.faults.channels import BROKER, Ground, configure, entries, message, report, tell, tell_logs
from tests.faults.kinds import KINDS, Can, Kind
from tests.faults.mutants import OF_DELIVERY
from tests.faults.world import Sink, Worker

PLAYED = ("webhook", "mailgun", "smtp", "fcm")
POINTS = (
    "effects.before_attempts", "effects.after_attempts", "effects.before_call", "effects.after_call",
    "effects.after_results", "effects.after_statuses", "task.before_log", "timers.before_publish",
    "timers.after_publish", "commit.before", "commit.after",
)  # fmt: skip
"""Each step between a message that is intended and one whose outcome is confirmed."""
SELDOM = ("commit", "timers")
RANDOM = 3
"""Lives that end at some moment."""
RANDOM_SECONDS = (0.0, 0.5)
"""After the first sign of work."""
POINT_SECONDS = 20.0
TRIES = 3
OF_THREE = "_of_three"
"""Who has three targets, one of them gone, is counted apart."""
A_LIFE = 40
"""Notifications a life: every second one has three targets, one of them gone."""
BUSY = 4
"""The first call for one message in so many is refused for now, so that it waits for a retry."""
SLOW = "latency=0.01-0.15"
"""Calls are under way when the kill comes."""
CALL_SECONDS = 4.0
"""A call's time-out; a doubt is explained by a kill while the call that it is of could be under way."""
LANDING_MS = 2_000
SETTLE_SECONDS = 90.0


class Promise(StrEnum):
    """What can be promised towards a provider, by what it can and by what the message chose."""

    ONCE = "once"
    AT_LEAST_ONCE = "at_least_once"
    AT_MOST_ONCE = "at_most_once"


class Row(NamedTuple):
    """One line of the table: a kind of provider, under a policy."""

    name: str
    kind: str
    can: Can
    doubt: Doubt

    @property
    def promise(self) -> Promise:
        """Who honours a key is sent to once; who can be asked is, for what may not be sent twice."""
        if self.can is Can.KEYED or (self.can is Can.QUERYABLE and self.doubt is Doubt.AT_MOST_ONCE):
            return Promise.ONCE
        return Promise(self.doubt.value)


def table(kinds: Iterable[Kind]) -> list[Row]:
    """The rows of these kinds: both policies, but where a key settles every doubt."""
    return [
        Row(kind.name if kind.can is Can.KEYED else f"{kind.name}_{doubt}", kind.name, kind.can, doubt)
        for kind in kinds
        for doubt in ([Doubt.AT_LEAST_ONCE] if kind.can is Can.KEYED else Doubt)
    ]


class Asked(NamedTuple):
    """A message that was put on a channel's topic; `gone`: its target is refused for good."""

    key: str
    doubt: Doubt
    gone: bool


class Doubted(NamedTuple):
    """A doubt that was told: of which attempt, made when (ms)."""

    key: str
    attempt: int
    at: int


@dataclass
class Seen:
    """What came of them on Kafka."""

    #: the attempt that was told of last, and its state
    last: dict[str, tuple[int, State]] = field(default_factory=dict)
    doubts: set[Doubted] = field(default_factory=set)
    letters: set[str] = field(default_factory=set)
    #: what core heard has failed, so that it goes on with the next channel
    signals: set[str] = field(default_factory=set)
    kills: list[int] = field(default_factory=list)

    def status(self, value: bytes) -> None:
        """Notes a record of delivery-status."""
        status = Status.from_json(value)
        key, attempt = f"{status.notification_id}.{status.target_id}", status.attempt or 0
        if attempt >= self.last.get(key, (0, State.QUEUED))[0]:
            self.last[key] = attempt, status.state
        if status.state is State.UNKNOWN:
            self.doubts.add(Doubted(key, attempt, int(datetime.fromisoformat(status.at).timestamp() * 1000)))

    def letter(self, value: bytes) -> None:
        """Notes a dead letter."""
        told = Message.from_json(value)
        self.letters.add(f"{told.id}.{told.target_id}")

    def signal(self, value: bytes) -> None:
        """Notes a record of the notifications' topic."""
        told = plan.read(value)
        if isinstance(told, Signal) and told.kind == FAILED:
            self.signals.add(f"{told.id}.{told.target_id}")

    def is_over(self, key: str, promise: Promise) -> bool:
        """Whether nothing more will come of a message."""
        state = self.last.get(key, (0, State.QUEUED))[1]
        if state is State.UNKNOWN:
            return promise is Promise.AT_MOST_ONCE
        return state in {State.SENT, State.DELIVERED, State.FAILED}

    def explains(self, doubt: Doubted) -> bool:
        """Whether a kill came while the call could be under way."""
        longest = CALL_SECONDS * 1000 + LANDING_MS
        return any(0 <= kill - doubt.at <= longest for kill in self.kills)


class Ledger(NamedTuple):
    """What the provider wrote down, by key."""

    requests: Mapping[str, int]
    effects: Mapping[str, int]

    @classmethod
    def of(cls, found: Iterable[Mapping[str, Any]]) -> "Ledger":
        """From a simulator's entries."""
        requests, effects = Counter[str](), Counter[str]()
        for entry in found:
            key = ".".join(entry["key"].split(".")[:2])  # a notification and its target
            requests[key] += 1
            effects[key] += bool(entry["effect"])
        return cls(requests, effects)


def judge(
    promise: Promise, asked: Sequence[Asked], ledger: Ledger, seen: Seen
) -> tuple[dict[str, int], list[str]]:
    """The figures of one row, and everything that breaks its promise."""
    wrong: list[str] = []
    doubts = Counter(doubt.key for doubt in seen.doubts)
    unexplained = Counter(doubt.key for doubt in seen.doubts if not seen.explains(doubt))
    figures = Counter[str](messages=len(asked))
    for one in asked:
        key, effects, doubted = one.key, ledger.effects.get(one.key, 0), doubts[one.key]
        state = seen.last.get(key, (0, None))[1]
        figures["requests"] += ledger.requests.get(key, 0)
        figures["effects"] += effects
        figures["unknown"] += doubted
        figures["unknown_unexplained"] += unexplained[key]
        if effects > 1:
            figures["sent_twice"] += 1
            if promise is Promise.AT_LEAST_ONCE and effects <= 1 + doubted:
                figures["twice_explained"] += 1
            else:
                wrong.append(f"{key}: {effects} effects, {doubted} doubts, {promise}")
        if unexplained[key]:
            wrong.append(f"{key}: a doubt without a kill")
        if doubted and promise is Promise.ONCE:
            wrong.append(f"{key}: a doubt that the provider could settle")
        in_doubt = promise is Promise.AT_MOST_ONCE and state is State.UNKNOWN
        if one.gone:
            wrong += _judged_gone(one, effects, seen, state, in_doubt=in_doubt)
            figures["gone"] += 1
            figures["dead_lettered"] += key in seen.letters
            figures["lost"] += not in_doubt and key not in seen.letters
            continue
        if not effects and not in_doubt:
            figures["lost"] += 1
            wrong.append(f"{key}: lost: {state}")
        elif state not in {State.SENT, State.DELIVERED} and not in_doubt:
            wrong.append(f"{key}: sent, and said to be {state}")
        if key in seen.letters or key in seen.signals:
            wrong.append(f"{key}: given up, and was to be sent")
    return {"messages": len(asked), **{name: figures[name] for name in FIGURES}}, wrong


FIGURES = (
    "requests", "effects", "sent_twice", "twice_explained", "unknown", "unknown_unexplained", "lost", "gone",
    "dead_lettered",
)  # fmt: skip


def _judged_gone(one: Asked, effects: int, seen: Seen, state: State | None, *, in_doubt: bool) -> list[str]:
    """What is refused for good has a dead letter, and core is told; unless nobody knows how a call ended."""
    wrong = [f"{one.key}: an effect at a target that is gone"] if effects else []
    if in_doubt:
        return wrong
    if state is not State.FAILED:
        wrong.append(f"{one.key}: refused, and said to be {state}")
    if one.key not in seen.letters:
        wrong.append(f"{one.key}: refused, and no dead letter")
    if one.key not in seen.signals:
        wrong.append(f"{one.key}: refused, and core was not told")
    return wrong


class Play:
    """One kind of provider: its simulator, its delivery role, and the kills."""

    def __init__(self, bootstrap: str, directory: Path, kind: Kind, seed: int, mutant: str = "") -> None:
        self.kind, self.mutant, self.directory = kind, mutant, directory / kind.name
        self.directory.mkdir()
        self.bootstrap, self.random, self.run = bootstrap, random.Random(f"{seed}-{kind.name}"), f"d{seed}"
        self.rows = table([kind])
        self.asked: dict[str, list[Asked]] = {}
        self.promises: dict[str, Promise] = {}
        self.seen = Seen()
        self.made = self.kills = self.while_work_remained = 0
        self.died: Counter[str] = Counter()

    @property
    def left(self) -> int:
        """Messages that something is still to come of."""
        return sum(not self.seen.is_over(key, promise) for key, promise in self.promises.items())

    async def run_all(self, plan: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Lives that end, one that does not, and the verdict."""
        ledger = self.directory / "ledger"
        sink = Sink(self.kind.name, ledger, [SLOW, f"server_error:keys={BUSY}"])
        await sink.start()
        try:
            provider = {**self.kind.settings(sink.url), "timeout": CALL_SECONDS}
            channels = {str(self.kind.channel): {"providers": {self.kind.name: provider}}}
            ground = Ground(configure(self.bootstrap, self.directory, channels))
            hear = {
                topics.DELIVERY_STATUS: self.seen.status, topics.NOTIFICATIONS: self.seen.signal,
                topics.DEAD_MESSAGES[self.kind.channel]: self.seen.letter,
            }  # fmt: skip
            worker = Worker(
                ground.config, self.directory / "state", self.directory / "worker.log",
                self.directory / "hits", roles=str(self.kind.channel),
            )  # fmt: skip
            async with ground.open(hear):
                try:
                    for point in plan:
                        await self._die(point, ground, worker, sink.url)
                    await worker.start(mutant=self.mutant)
                    try:
                        await ground.until(self._is_settled(ground), "all settled", SETTLE_SECONDS)
                    except TimeoutError as error:
                        tell(f"{self.kind.name}: {error}")  # the verdict names what
                finally:
                    await worker.stop()
        finally:
            await sink.stop()
        return self._judged(Ledger.of(entries(ledger)), worker.hits, plan)

    def _is_settled(self, ground: Ground) -> Any:
        async def is_settled() -> bool:
            if self.left:
                return False
            role = str(self.kind.channel)
            return await ground.behind(role, topics.MESSAGES[self.kind.channel]) == 0

        return is_settled

    async def _die(self, point: str, ground: Ground, worker: Worker, url: str) -> None:
        """One life, until it has died where it should: a point that did not come up is tried again."""
        for _ in range(TRIES):
            await self._ask(ground, url)
            nth = self.random.randrange(1, 4 if point.startswith(SELDOM) else 10)
            await worker.start("" if point == "random" else f"{point}:{nth}", self.mutant)
            seconds = POINT_SECONDS
            if point == "random":
                before = len(self.seen.last)
                await ground.until(lambda n=before: len(self.seen.last) > n, "work", POINT_SECONDS)  # type: ignore[misc]
                seconds = self.random.uniform(*RANDOM_SECONDS)
            by_itself = await worker.died_within(seconds)
            if not by_itself:
                await worker.kill()
            self.seen.kills.append(time.time_ns() // 1_000_000)
            self.kills += 1
            left = self.left
            self.while_work_remained += left > 0
            self.died[point] += by_itself
            ground.check()
            cause, all_of_them = point if by_itself else "a kill", len(self.promises)
            tell(f"{self.kind.name}: died of {cause}, {left} of {all_of_them} left")
            if by_itself or point == "random":
                return

    async def _ask(self, ground: Ground, url: str) -> None:
        """More messages, for each policy; of every second user's three targets one is gone."""
        for n in range(self.made, self.made + A_LIFE * len(self.rows)):
            row = self.rows[n % len(self.rows)]
            names = [f"u{n}-{k}" for k in range(3 if n // len(self.rows) % 2 else 1)]
            told = [
                message(
                    self.run, n, self.kind.channel,
                    (self.kind.gone if k == 1 else self.kind.good)(url, name),
                    doubt=row.doubt, has_fallback=True, platform=self.kind.platform,
                )
                for k, name in enumerate(names)
            ]  # fmt: skip
            for k, one in enumerate(told):
                key = f"{one.id}.{one.target_id}"
                name = row.name + (OF_THREE if len(told) > 1 else "")
                self.asked.setdefault(name, []).append(Asked(key, row.doubt, k == 1))
                self.promises[key] = row.promise
            await ground.send_messages(told)
        self.made += A_LIFE * len(self.rows)

    def _judged(self, ledger: Ledger, hits: Path, plan: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        wanted = {point for point in plan if point != "random"}
        hit = wanted & set(hits.read_text().split() if hits.exists() else ())
        figures: dict[str, Any] = {}
        wrong = [f"{self.kind.name}: {point} was never hit" for point in sorted(wanted - hit)]
        if not self.while_work_remained:
            wrong.append(f"{self.kind.name}: no kill while work remained")
        for row in self.rows:
            for name in (row.name, row.name + OF_THREE):
                figures[name], broken = judge(row.promise, self.asked.get(name, ()), ledger, self.seen)
                wrong += [f"{name}: {line}" for line in broken]
        return {
            "providers": figures, "kills": self.kills, "kills_while_work_remained": self.while_work_remained,
            "failpoints_hit": len(hit),
        }, wrong  # fmt: skip


def plan_of(seed: int) -> list[str]:
    """What to die of: each point once, and some moments."""
    plan = [*POINTS, *["random"] * RANDOM]
    random.Random(seed).shuffle(plan)
    return plan


async def play(
    bootstrap: str, directory: Path, seed: int, kinds: Sequence[Kind]
) -> tuple[dict[str, Any], list[str]]:
    """All kinds side by side, each with a worker of its own."""
    found = await asyncio.gather(
        *[Play(bootstrap, directory, kind, seed).run_all(plan_of(seed)) for kind in kinds]
    )
    figures: dict[str, Any] = {"providers": {}}
    for of_kind, _ in found:
        figures["providers"] |= of_kind["providers"]
        for name in ("kills", "kills_while_work_remained"):
            figures[name] = figures.get(name, 0) + of_kind[name]
    figures["failpoints_hit"] = min(of_kind["failpoints_hit"] for of_kind, _ in found)
    figures["failpoints"] = len(POINTS)
    return figures, [line for _, wrong in found for line in wrong]


async def play_mutants(
    bootstrap: str, directory: Path, seed: int, names: Sequence[str]
) -> dict[str, str | None]:
    """By the name of each mutant the line that catches it, or None."""

    async def one(name: str) -> str | None:
        mutant = OF_DELIVERY[name]
        place = directory / name
        place.mkdir()
        points = [mutant.points[n % len(mutant.points)] for n in range(mutant.kills)]
        _, wrong = await Play(bootstrap, place, KINDS[mutant.kind], seed, name).run_all(points)
        caught = next((line for line in wrong if any(fault in line for fault in mutant.faults)), None)
        tell(f"mutant {name}: {'caught: ' + caught if caught else 'NOT CAUGHT ' + repr(wrong[:3])}")
        return caught

    return dict(zip(names, await asyncio.gather(*[one(name) for name in names]), strict=True))


def main(seed: int, only: str | None, *, mutants: bool, as_json: bool) -> int:
    """Kills, then judges, then lets the judge judge broken versions; returns the exit status.

    `only`: just this mutant.
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a fresh broker's first seconds are noisy
    names = [only] if only else list(OF_DELIVERY) if mutants else []
    figures: dict[str, Any] = {"seed": seed}
    wrong: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="carillon-delivery-") as directory,
        EmbeddedKafka(config=BROKER) as kafka,
    ):
        if only is None:
            found, wrong = asyncio.run(
                play(kafka.bootstrap_servers, Path(directory), seed, [KINDS[name] for name in PLAYED])
            )
            figures |= found
        if wrong:
            tell_logs(Path(directory))
        caught = asyncio.run(play_mutants(kafka.bootstrap_servers, Path(directory), seed, names))
    figures |= {"mutants": len(caught), "mutants_caught": sum(line is not None for line in caught.values())}
    return report(figures, wrong, as_json=as_json) or figures["mutants_caught"] < len(caught)
