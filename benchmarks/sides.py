"""The sides of a comparison: how each is run in a process of its own, and how its outputs are checked."""

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from agents import topics
from benchmarks import core_job, stock_job
from benchmarks.desk import Desk, Tally
from benchmarks.simple_job import CHANNELS, Request, all_events, words
from benchmarks.worker import Order
from pipeline.topics import create

ROOT = Path(__file__).parents[1]
QUIX_LOCK = ROOT / "locks" / "quix.lock"
QUIX_VENV = ROOT / ".carillon" / "bench" / "quix-venv"
WORKER_SECONDS = 300.0


class BenchmarkFailed(Exception):
    """A side did not do its job; the message says which and what."""


class Measure(NamedTuple):
    """One run of one side: how many events took how many seconds."""

    events: int
    cpu: float
    wall: float


async def run_worker(name: str, *command: str) -> Mapping[str, Any]:
    """Runs a command until it ends; returns the JSON object that it printed last.

    Raises BenchmarkFailed with what it said, where it fails or takes too long.
    """
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log)
        print(f"  {name}: process {process.pid}", file=sys.stderr, flush=True)
        out = b""
        try:
            async with asyncio.timeout(WORKER_SECONDS):
                out, _ = await process.communicate()
        except TimeoutError:
            log.write(f"killed after {WORKER_SECONDS:.0f} s\n".encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        lines = [line for line in out.decode().splitlines() if line.startswith("{")]
        if process.returncode != 0 or not lines:
            log.seek(0)
            said = log.read().decode("utf-8", "replace")[-3000:]
            raise BenchmarkFailed(f"{name} ended with {process.returncode}\n{said}")
    found: Mapping[str, Any] = json.loads(lines[-1])
    return found


class Side(ABC):
    """One way of doing the job. `name` stands in the figures."""

    name: str
    module: str

    def __init__(self, events: int) -> None:
        self.events = events

    async def run(self, desk: Desk, prefix: str) -> Measure:
        """Measures one run on fresh topics and a fresh group, then checks what came out and removes it."""
        with tempfile.TemporaryDirectory(prefix="carillon-bench-") as state_dir:
            order = await self.prepare(desk, prefix, state_dir)
            found = await self._work(order)
        try:
            await self.check(desk, order)
        finally:
            await desk.remove(prefix)
        return Measure(self.events, found["cpu"], found["wall"])

    def python(self) -> str:
        """The interpreter to run it with."""
        return sys.executable

    @abstractmethod
    async def prepare(self, desk: Desk, prefix: str, state_dir: str) -> Order:
        """Creates and fills what the run needs."""

    @abstractmethod
    async def check(self, desk: Desk, order: Order) -> None:
        """Raises BenchmarkFailed unless all that should be on the output topics is there, once."""

    async def committed(self, desk: Desk, order: Order, topic: str) -> None:
        """Raises BenchmarkFailed unless the group has committed all of a topic."""
        found = await desk.committed(order.group, topic)
        if found != self.events:
            raise BenchmarkFailed(f"{self.name} committed {found} of {self.events} records of {topic}")

    async def _work(self, order: Order) -> Mapping[str, float]:
        print(f"  {self.name}: {self.events} events", file=sys.stderr, flush=True)
        return await run_worker(self.name, *self.command(), order.line())

    def command(self) -> list[str]:
        """What runs one measure, up to its order."""
        return [self.python(), "-m", self.module]


class SimpleSide(Side):
    """A side that does the simple job."""

    #: what follows the group's name; where it is missing, the side makes its own
    changelogs: tuple[str, ...] = ()

    async def prepare(self, desk: Desk, prefix: str, state_dir: str) -> Order:
        order = Order(
            desk.bootstrap_servers, prefix + "events", {channel: prefix + channel for channel in CHANNELS},
            group=prefix + "group", prefix=prefix, events=self.events, partitions=desk.partitions,
            state_dir=state_dir,
        )  # fmt: skip
        changelogs = [order.group + name for name in self.changelogs]
        await desk.create([order.source, *order.outputs.values()], changelogs)
        await desk.fill((order.source, key, value) for key, value in all_events(self.events))
        return order

    def expected(self) -> Mapping[str, Tally]:
        """What must come out, by channel."""
        return decided(self.events)

    async def check(self, desk: Desk, order: Order) -> None:
        for channel, expected in self.expected().items():
            found = await desk.tally(order.outputs[channel])
            if found != expected:
                raise BenchmarkFailed(f"{self.name} sent {found} on {channel}; it should be {expected}")


class Carillon(SimpleSide):
    """The simple job as a stage on the production engine."""

    name, module, changelogs = "carillon", "benchmarks.carillon_job", ("-store-changelog",)

    async def check(self, desk: Desk, order: Order) -> None:
        await super().check(desk, order)
        await self.committed(desk, order, order.source)


class StockFaust(SimpleSide):
    """The simple job in Faust as it documents itself.

    Its changelogs are made beforehand: now and then Faust finds those that it has just made without
    partitions, and never starts.
    """

    name, module = "stock_faust", "benchmarks.stock_job"
    changelogs = tuple(f"-{table}-changelog" for table in stock_job.TABLES)

    async def check(self, desk: Desk, order: Order) -> None:
        await super().check(desk, order)
        await self.committed(desk, order, order.source)


class Quix(SimpleSide):
    """The simple job in Quix Streams, in an environment of its own, made at the first use."""

    name, module = "quix", "benchmarks.quix_job"

    def python(self) -> str:
        return str(quix_python())

    async def check(self, desk: Desk, order: Order) -> None:
        await super().check(desk, order)
        await self.committed(desk, order, order.source)


class Copy(SimpleSide):
    """The same bytes in and out, and nothing else."""

    name, module = "copy", "benchmarks.copy_job"

    def expected(self) -> Mapping[str, Tally]:
        found = Tally()
        for key, value in all_events(self.events):
            found.add(key, value)
        return dict.fromkeys(CHANNELS, found)


class Core(Side):
    """The production core role, both hops."""

    name, module = "carillon", "benchmarks.core_job"

    async def prepare(self, desk: Desk, prefix: str, state_dir: str) -> Order:
        settings = core_job.settings(desk.bootstrap_servers, prefix, desk.partitions, Path(state_dir))
        await create(settings)
        outputs = {str(channel): prefix + topics.MESSAGES[channel] for channel in core_job.CHANNELS}
        order = Order(
            desk.bootstrap_servers, prefix + topics.EVENTS, outputs, group=prefix + "carillon-core",
            prefix=prefix, events=self.events, partitions=desk.partitions, state_dir=state_dir,
        )  # fmt: skip
        await desk.fill((prefix + topic, key, value) for topic, key, value in core_job.people(self.events))
        await desk.fill((order.source, key, value) for key, value in all_events(self.events))
        return order

    async def check(self, desk: Desk, order: Order) -> None:
        """Each event has its messages with the simple job's words, their statuses and contents, once."""
        expected = rendered(self.events)
        for channel, topic in order.outputs.items():
            found = Tally()
            async for key, value in desk.read(topic):
                message = orjson.loads(value)
                found.add(key, f"{message['subject']}\0{message['text']}".encode())
            self._same(channel, found, expected)
        of_content = {channel: Tally() for channel in order.outputs}
        async for key, value in desk.read(order.prefix + topics.CONTENTS):
            for channel, content in orjson.loads(value)["channels"].items():
                of_content[channel].add(key, f"{content['subject']}\0{content['text']}".encode())
        for channel, found in of_content.items():
            self._same(f"contents of {channel}", found, expected)
        queued = set()
        statuses = 0
        async for _, value in desk.read(order.prefix + topics.DELIVERY_STATUS):
            status = orjson.loads(value)
            statuses += 1
            if status["state"] == "queued":
                queued.add((status["notification_id"], status["channel"]))
        if not len(queued) == statuses == self.events * len(order.outputs):
            raise BenchmarkFailed(f"core sent {statuses} statuses, of which {len(queued)} queued pairs")
        for name in (topics.EVENTS, topics.NOTIFICATIONS):
            await self.committed(desk, order, order.prefix + name)

    def _same(self, what: str, found: Tally, expected: Tally) -> None:
        if found != expected:
            raise BenchmarkFailed(f"core sent {found} as {what}; it should be {expected}")


@lru_cache(maxsize=8)
def decided(events: int) -> dict[str, Tally]:
    """What the simple job comes to, decided in memory."""
    found = {channel: Tally() for channel in CHANNELS}
    seen: dict[bytes, bytes] = {}
    preferences: dict[bytes, bytes] = {}
    sent_today: dict[bytes, bytes] = {}
    for _, value in all_events(events):
        for channel, key, made in stock_job.decide(value, seen, preferences, sent_today, b"0"):
            found[channel].add(key, made)
    return found


@lru_cache(maxsize=8)
def rendered(events: int) -> Tally:
    """The words of the simple job, by user."""
    found = Tally()
    for key, value in all_events(events):
        subject, body = words(Request.model_validate_json(value).variables)
        found.add(key, f"{subject}\0{body}".encode())
    return found


def quix_python() -> Path:
    """The interpreter of the Quix environment, which is made anew when its lock has changed."""
    python, made_from = QUIX_VENV / "bin" / "python", QUIX_VENV / "made-from.lock"
    if made_from.is_file() and made_from.read_bytes() == QUIX_LOCK.read_bytes():
        return python
    print("making the Quix Streams environment (once)", file=sys.stderr, flush=True)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(QUIX_VENV)
    subprocess.run([sys.executable, "-m", "venv", str(QUIX_VENV)], check=True, stdout=sys.stderr)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r"]
    subprocess.run([str(python), *install, str(QUIX_LOCK)], check=True, stdout=sys.stderr)
    shutil.copy(QUIX_LOCK, made_from)
    return python
