"""Every provider of e-mail is out for a while: pushes keep their pace, and the mail arrives afterwards."""

import asyncio
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from agents import topics
from pipeline.broker import EmbeddedKafka
from schemas.ids import notification_id
from schemas.kinds import Channel, State
from schemas.status import Status
from tests.faults.channels import (
    BROKER,
    SOURCE,
    TYPE,
    WORKFLOW,
    Ground,
    configure,
    entries,
    report,
    tell,
    tell_logs,
)
from tests.faults.kinds import KINDS, Kind
from tests.faults.world import Sink, Worker

PUSH = KINDS["fcm"]
"""What the pushes go through."""
MAIL = KINDS["smtp"]
NAMES = ("first", "second")
"""The providers of e-mail, in their order."""
OUTAGES = ("down", "banner_busy", "banner_missing")
"""Refused; told to go away; and left without a word."""
OUTAGE_SECONDS = 20.0
RUN_SECONDS = OUTAGE_SECONDS * len(OUTAGES)
USERS = 1_000
WARM = 100
"""Events before the first that counts."""
SLOWER = 2.0
"""How much slower the slowest of a hundred pushes may become."""
FLOOR_MS = 20
"""A calm figure below this is no better: it is the clock's and the scheduler's."""
READY_SECONDS = 90.0
SETTLE_SECONDS = 150.0
ENDED = {State.SENT, State.FAILED}
TIMEOUT = 5.0
"""Of a call to a provider of e-mail."""


class Planned(NamedTuple):
    """An event, and when (ms) it was to go out."""

    id: str
    at: int


@dataclass
class Seen:
    """What Kafka says of the e-mails, by notification."""

    states: dict[str, State] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)
    unknown: set[str] = field(default_factory=set)
    letters: int = 0

    def status(self, value: bytes) -> None:
        """Notes a record of delivery-status."""
        status = Status.from_json(value)
        if status.channel is not Channel.EMAIL:
            return
        self.states[status.notification_id] = status.state
        count = max(self.attempts[status.notification_id], status.attempt or 0)
        self.attempts[status.notification_id] = count
        if status.state is State.UNKNOWN:
            self.unknown.add(status.notification_id)

    def letter(self, value: bytes) -> None:
        """Notes a dead letter."""
        self.letters += 1


def quantile(values: Sequence[float], share: float) -> float:
    """The value that so large a share does not exceed (nearest rank). Raises ValueError without values."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, -int(-len(values) * share // 1) - 1)]


def delays(planned: Iterable[Planned], found: Iterable[Mapping[str, Any]]) -> list[float]:
    """Milliseconds from when each was planned to its first effect; of those that had one."""
    first: dict[str, int] = {}
    for entry in found:
        if entry["effect"]:
            first.setdefault(str(entry["key"]).split(".")[0], entry["at"])
    return [float(first[one.id] - one.at) for one in planned if one.id in first]


def judge(
    calm: Sequence[Planned], hard: Sequence[Planned], pushes: Sequence[Mapping[str, Any]],
    mails: Sequence[Mapping[str, Any]], seen: Seen, ended: int,
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    """The figures, and what is wrong; `ended`: when (ms) the outage did."""
    wrong, figures = [], dict[str, Any]()
    slowest = {}
    for name, planned in (("calm", calm), ("outage", hard)):
        found = delays(planned, pushes)
        if len(found) < len(planned):
            wrong.append(f"{name}: {len(planned) - len(found)} pushes never came")
        slowest[name] = quantile(found, 0.99) if found else 0.0
        figures[f"push_{name}_p50_ms"] = quantile(found, 0.5) if found else None
        figures[f"push_{name}_p99_ms"] = slowest[name]
    if slowest["outage"] > SLOWER * max(slowest["calm"], FLOOR_MS):
        wrong.append(
            f"pushes took {slowest['outage']:.0f} ms at p99, {slowest['calm']:.0f} ms when all was well"
        )
    ids = {one.id for one in hard}
    effects, last = Counter[str](), 0
    for entry in mails:
        id = str(entry["key"]).split(".")[0]
        if id in ids and entry["effect"]:
            effects[id] += 1
            last = max(last, entry["at"])
    twice = sum(count > 1 for count in effects.values())
    unsure = len(seen.unknown & ids)
    unsaid = sum(seen.states.get(id) is not State.SENT for id in ids)
    early = sum(entry["effect"] for entry in mails if entry["at"] < ended and _of(entry) in ids)
    figures |= {
        "emails": len(ids), "email_effects": effects.total(), "lost": len(ids - effects.keys()),
        "sent_twice": twice, "unknown": unsure, "dead_lettered": seen.letters,
        "emails_before_its_end": early,
        "last_email_after_seconds": round((last - ended) / 1_000, 1),
        "most_attempts": max((seen.attempts[id] for id in ids), default=0),
    }  # fmt: skip
    for name in ("lost", "sent_twice", "unknown", "dead_lettered"):
        if figures[name]:
            wrong.append(f"e-mails {name}: {figures[name]}")
    if unsaid:
        wrong.append(f"{unsaid} e-mails are not said to be sent")
    if early > len(ids) / 2:
        wrong.append(f"{early} e-mails went out while all providers were out")
    return figures, wrong


def _of(entry: Mapping[str, Any]) -> str:
    return str(entry["key"]).split(".")[0]


class Outage:
    """One worker with all roles, before, during and after the outage."""

    def __init__(self, bootstrap: str, directory: Path, count: int, push: Kind = PUSH) -> None:
        self.bootstrap, self.count, self.push = bootstrap, count, push
        self.directory = directory / "outage"
        self.directory.mkdir()
        self.mails = [Sink(MAIL.name, self.directory / f"mail-{name}") for name in NAMES]
        self.pushes = Sink(push.name, self.directory / "push")
        self.seen = Seen()
        self.made = 0
        self.mails_made: list[Planned] = []

    async def run(self) -> tuple[dict[str, Any], list[str]]:
        """Calm first, then the outage; then whatever is left arrives."""
        sinks = [*self.mails, self.pushes]
        await asyncio.gather(*[sink.start() for sink in sinks])
        try:
            return await self._run()
        finally:
            await asyncio.gather(*[sink.stop() for sink in sinks])

    async def _run(self) -> tuple[dict[str, Any], list[str]]:
        self.ground = Ground(self._configured())
        worker = Worker(
            self.ground.config, self.directory / "state", self.directory / "worker.log",
            self.directory / "hits",
        )  # fmt: skip
        hear = {
            topics.DELIVERY_STATUS: self.seen.status, topics.DEAD_MESSAGES[Channel.EMAIL]: self.seen.letter
        }  # fmt: skip
        async with self.ground.open(hear):
            users = [f"user-{n}" for n in range(USERS)]
            await self.ground.send(topics.USERS, [(user, self._user(user)) for user in users])
            await self.ground.send(topics.DEVICES, [(user, self._device(user)) for user in users], "\0phone")
            try:
                await worker.start()
                await self._flow(WARM, 1.0)
                await self._wait("the first e-mails", READY_SECONDS)
                tell("calm")
                calm = await self._flow(self.count, RUN_SECONDS)
                await self._wait("the e-mails of the calm", SETTLE_SECONDS)
                tell("all providers of e-mail are out")
                hard, ended = await self._outage()
                tell("the outage is over")
                try:
                    await self._wait("the e-mails of the outage", SETTLE_SECONDS)
                except TimeoutError as error:
                    tell(str(error))  # the verdict says what is missing
            finally:
                await worker.stop()
        mails = entries(*[sink.ledger for sink in self.mails])
        return judge(calm, hard, entries(self.pushes.ledger), mails, self.seen, ended)

    async def _outage(self) -> tuple[list[Planned], int]:
        """Nothing is at its last dot when the servers go: that would be a doubt, and is another part's."""
        await self._all_mails(OUTAGES[0])
        flowing = asyncio.create_task(self._flow(self.count, RUN_SECONDS))
        try:
            for fault in OUTAGES:
                await self._all_mails(fault)
                await asyncio.sleep(OUTAGE_SECONDS)
            hard = await flowing
        finally:
            flowing.cancel()
        await self._all_mails()
        return hard, time.time_ns() // 1_000_000

    async def _all_mails(self, *faults: str) -> None:
        await asyncio.gather(*[sink.set_faults(*faults) for sink in self.mails])

    async def _wait(self, what: str, seconds: float) -> None:
        """Until every e-mail that was asked for has been sent or given up."""
        await self.ground.until(
            lambda: all(self.seen.states.get(one.id) in ENDED for one in self.mails_made), what, seconds
        )

    async def _flow(self, count: int, seconds: float) -> list[Planned]:
        """So many events, evenly over so many seconds; each is one e-mail and one push."""
        planned: list[Planned] = []
        begin, origin = time.monotonic(), time.time()
        for n in range(count):
            due = n * seconds / count
            await asyncio.sleep(begin + due - time.monotonic())
            user, key = f"user-{self.made % USERS}", f"o-{self.made}"
            self.made += 1
            one = Planned(notification_id(user, SOURCE, key, WORKFLOW), int((origin + due) * 1_000))
            planned.append(one)
            self.mails_made.append(one)
            event = {"event_type": TYPE, "user_id": user, "idempotency_key": key, "variables": {"n": n}}
            await self.ground.put(topics.EVENTS, user, orjson.dumps(event))
        return planned

    def _user(self, user: str) -> bytes:
        return orjson.dumps({"user_id": user, "email": MAIL.good("", user)})

    def _device(self, user: str) -> bytes:
        token = self.push.good(self.pushes.url, user)
        return orjson.dumps({"user_id": user, "token": token, "platform": self.push.platform})

    def _configured(self) -> Path:
        channels = [str(Channel.EMAIL), str(self.push.channel)]
        files = {
            "workflows": {"name": WORKFLOW, "on": TYPE, "template": "news", "channels": channels},
            "templates": {
                "name": "news",
                "channels": {
                    "email": {"subject": "News", "text": "{{ n }}"},
                    channels[1]: {"text": "{{ n }}"},
                },
            },
        }
        for name, value in files.items():
            (self.directory / name).mkdir()
            (self.directory / name / "one.yaml").write_bytes(orjson.dumps(value))  # JSON is YAML
        mails = {
            name: {**MAIL.settings(sink.url), "timeout": TIMEOUT}
            for name, sink in zip(NAMES, self.mails, strict=True)
        }
        return configure(
            self.bootstrap, self.directory,
            {
                channels[0]: {"providers": mails, "order": list(NAMES)},
                channels[1]: {"providers": {self.push.name: self.push.settings(self.pushes.url)}},
            },
            more={f"{name}_dir": str(self.directory / name) for name in files},
        )  # fmt: skip


def main(count: int, *, as_json: bool) -> int:
    """Lets so many events flow twice, and judges; returns the exit status."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a fresh broker's first seconds are noisy
    with (
        tempfile.TemporaryDirectory(prefix="carillon-outage-") as directory,
        EmbeddedKafka(config=BROKER) as kafka,
    ):
        figures, wrong = asyncio.run(Outage(kafka.bootstrap_servers, Path(directory), count).run())
        if wrong:
            tell_logs(Path(directory))
    return report(figures, wrong, as_json=as_json)
