"""Rebalance: a second worker of the core role joins under load, and leaves by SIGTERM; how long is the gap.

The pause is seen from outside: the longest gap between two messages of one partition, by the broker's time,
less the longest gap in the same partitions while nobody comes or goes.
"""

import asyncio
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import aiokafka
import orjson

from agents import topics
from benchmarks import core_job
from benchmarks.comparison import Benchmark, spread
from benchmarks.desk import Desk
from benchmarks.sides import ROOT, BenchmarkFailed
from benchmarks.simple_job import event
from benchmarks.worker import Order, order
from pipeline.app import Roles
from pipeline.engine import UnitApp
from pipeline.metrics import Metrics
from pipeline.run import until_told
from pipeline.topics import create
from schemas.kinds import Channel

PACE = 800
"""Events a second, over all partitions."""
TICK_SECONDS = 0.01
STEADY_SECONDS = 5.0
APART_SECONDS = 0.5
"""Between a steady stretch and a change, so that the gap of the change does not touch the stretch."""
SETTLE_SECONDS = 3.0
"""What still counts to a rebalance after the last worker has opened."""
CHANGE_SECONDS = 60.0
ANSWER_SECONDS = 30.0
STOP_SECONDS = 30.0
OUTPUT = topics.MESSAGES[Channel.EMAIL]
PHASES = {"drain": "drained", "notice": "", "join": "assigned", "restore": "opening", "open": "opened"}
"""The phases of a pause, and what ends each; `notice` is what the others need to hear that one has left."""
BEGINS = {"drained": "draining", "assigned": "revoked", "opening": "assigned", "opened": "opening"}


class Happening(NamedTuple):
    """Something that a worker told of its engine, by the clock of this machine."""

    at: float
    worker: str
    what: str
    partitions: int


# -- a worker


def tell(what: str, partitions: int = 0) -> None:
    """Prints a happening."""
    print(json.dumps({"at": time.time(), "what": what, "partitions": partitions}), flush=True)


def watched(app: UnitApp) -> None:
    """Makes the App's consumer tell of each phase of a rebalance, at its start and at its end."""
    consumer = app.consumer
    revoked, assigned = consumer.on_partitions_revoked, consumer.on_partitions_assigned
    drained, opens = consumer.drain, consumer.open_tasks

    async def drain() -> None:
        had = len(consumer.tasks)
        tell("draining", had)
        await drained()
        tell("drained", had)

    async def on_partitions_revoked(tps: Any) -> None:
        had = len(consumer.tasks)
        tell("revoking", had)
        await revoked(tps)
        tell("revoked", had)

    async def on_partitions_assigned(tps: Any, generation: int = 0) -> None:
        tell("assigned", len({tp.partition for tp in tps}))
        await assigned(tps, generation)

    async def open_tasks(numbers: set[int], generation: int) -> None:
        tell("opening", len(numbers))
        await opens(numbers, generation)
        tell("opened" if consumer.opened == generation else "overtaken", len(numbers))

    consumer.on_partitions_revoked, consumer.on_partitions_assigned = (
        on_partitions_revoked, on_partitions_assigned,
    )  # fmt: skip
    consumer.drain, consumer.open_tasks = drain, open_tasks


async def main() -> None:
    """Runs a worker of the core role until SIGTERM."""
    told = order()
    chosen = core_job.settings(told.bootstrap_servers, told.prefix, told.partitions, Path(told.state_dir))
    app = Roles(chosen, core_job.catalogue(), Metrics()).build("core")
    watched(app)
    async with until_told() as stop:
        await app.start()
        while not (stop.is_set() or app.should_stop):
            await asyncio.sleep(0.01)
        tell("stopping", len(app.consumer.tasks))
        await asyncio.wait_for(app.stop(), STOP_SECONDS)
        tell("stopped")
    if not stop.is_set():
        raise RuntimeError(f"{app.group} stopped by itself")


# -- the scene around it


class Worker:
    """A worker's process; `happenings` is the list of the whole scene."""

    def __init__(self, name: str, told: Order, happenings: list[Happening]) -> None:
        self.name, self.told, self.happenings = name, told, happenings
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts it; its joining is not waited for."""
        Path(self.told.state_dir).mkdir()
        with (Path(self.told.state_dir).parent / f"{self.name}.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "benchmarks.rebalance", self.told.line(), cwd=ROOT,
                stdout=asyncio.subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            found = json.loads(line)
            self.happenings.append(Happening(found["at"], self.name, found["what"], found["partitions"]))

        self.happenings.append(Happening(time.time(), self.name, "ended", 0))

    async def leave(self) -> None:
        """SIGTERM, and waits for its end."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        status = await asyncio.wait_for(self._process.wait(), STOP_SECONDS + 10)
        if status != 0:
            raise BenchmarkFailed(f"worker {self.name} ended with {status}")

    async def end(self) -> None:
        """SIGKILL where it still runs."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._reader is not None:
            await self._reader


class Load:
    """Events at a steady pace; `sent` is how many there were."""

    def __init__(self, desk: Desk, topic: str, most: int) -> None:
        self.desk, self.topic, self.most, self.sent = desk, topic, most, 0

    @contextlib.asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Sends while the block runs, and until all that was sent is acknowledged."""
        producer: Any = aiokafka.AIOKafkaProducer(
            bootstrap_servers=self.desk.bootstrap_servers, acks="all", enable_idempotence=True
        )
        stop = asyncio.Event()
        async with producer:
            sending = asyncio.create_task(self._send(producer, stop))
            try:
                yield
            finally:
                stop.set()
                await sending
                await producer.flush()

    async def _send(self, producer: Any, stop: asyncio.Event) -> None:
        began, before = time.monotonic(), self.sent
        while not stop.is_set() and self.sent < self.most:
            due = before + int((time.monotonic() - began) * PACE)
            while self.sent < min(due, self.most):
                key, value = event(self.sent, self.most)
                await producer.send(self.topic, value, key=key)
                self.sent += 1
            await asyncio.sleep(TICK_SECONDS)


async def run(name: str, desk: Desk, runs: int, events: int) -> dict[str, Any]:
    """Lets a worker come and go so many times, each time in a group of its own."""
    found = [await _one(desk, f"{name}-{number}-", events) for number in range(1, runs + 1)]
    for number, one in enumerate(found, 1):
        print(f"{name} {number}/{runs}: pause {one['pause_seconds']:.2f} s", file=sys.stderr)
        for change in ("join", "leave"):
            phases = ", ".join(f"{phase} {one[f'{change}_{phase}_seconds']:.2f}" for phase in PHASES)
            pause = one[f"{change}_pause_seconds"]
            print(f"  a worker {change}s: {pause:.2f} s ({phases})", file=sys.stderr, flush=True)
    figures: dict[str, Any] = {"runs": runs, "partitions": desk.partitions, "events_per_second": PACE}
    return {"name": name, "figures": figures | spread(found), "ratios": {}}


async def _one(desk: Desk, prefix: str, events: int) -> dict[str, float]:
    happenings: list[Happening] = []
    with tempfile.TemporaryDirectory(prefix="carillon-bench-") as directory:
        told = [
            Order(
                desk.bootstrap_servers, prefix + topics.EVENTS, {}, group=prefix + "carillon-core",
                prefix=prefix, events=events, partitions=desk.partitions, state_dir=f"{directory}/{name}",
            )
            for name in "ab"
        ]  # fmt: skip
        chosen = core_job.settings(desk.bootstrap_servers, prefix, desk.partitions, Path(directory))
        await create(chosen)
        await desk.fill((prefix + topic, key, value) for topic, key, value in core_job.people(events))
        first, second = (Worker(name, of, happenings) for name, of in zip("ab", told, strict=True))
        load = Load(desk, prefix + topics.EVENTS, events)
        try:
            await first.start()
            await _settled(happenings, 0, {"a": desk.partitions})
            async with load.flowing():
                moments = await _come_and_go(first, second, happenings, desk.partitions)
            await _answered(desk, prefix, load.sent)
            await first.leave()
            times = await _out(desk, prefix, load.sent)
        except (TimeoutError, BenchmarkFailed) as error:
            raise BenchmarkFailed(f"{error!r}\n{_said(directory)}") from None
        finally:
            await asyncio.gather(first.end(), second.end())
            await desk.remove(prefix)
    if load.sent >= events:
        raise BenchmarkFailed(f"all {events} events were sent before the scene had ended")
    return figures(times, moments, happenings)


def _said(directory: str) -> str:
    return "\n".join(log.read_text()[-2000:] for log in sorted(Path(directory).glob("*.log")))


async def _come_and_go(
    first: Worker, second: Worker, happenings: list[Happening], partitions: int
) -> dict[str, tuple[float, float]]:
    """Begin and end of each stretch of time, by the clock of this machine."""
    moments = {}
    await asyncio.sleep(1.0)  # the first seconds of a process are not steady
    moments["steady_alone"] = await _stretch()
    half, mark, began = partitions // 2, len(happenings), time.time()
    await second.start()
    await _settled(happenings, mark, {"a": partitions - half, "b": half})
    await asyncio.sleep(SETTLE_SECONDS)
    moments["join"] = began, time.time()
    moments["steady_together"] = await _stretch()
    mark, began = len(happenings), time.time()
    await second.leave()
    await _settled(happenings, mark, {"a": partitions})
    await asyncio.sleep(SETTLE_SECONDS)
    moments["leave"] = began, time.time()
    return moments


async def _stretch() -> tuple[float, float]:
    began = time.time()
    await asyncio.sleep(STEADY_SECONDS)
    ended = time.time()
    await asyncio.sleep(APART_SECONDS)
    return began, ended


async def _settled(happenings: list[Happening], mark: int, wanted: Mapping[str, int]) -> None:
    """Waits until the last thing that each of these workers told since is that it has opened so many."""
    async with asyncio.timeout(CHANGE_SECONDS):
        while True:
            last = {one.worker: (one.what, one.partitions) for one in happenings[mark:]}
            if all(last.get(worker) == ("opened", count) for worker, count in wanted.items()):
                return
            if gone := [worker for worker in wanted if last.get(worker, ("", 0))[0] == "ended"]:
                raise BenchmarkFailed(f"worker {gone[0]} ended by itself")
            await asyncio.sleep(0.02)


async def _answered(desk: Desk, prefix: str, events: int) -> None:
    """Waits until the role has committed everything."""
    async with asyncio.timeout(ANSWER_SECONDS):
        for name in (topics.EVENTS, topics.NOTIFICATIONS):
            while await desk.committed(prefix + "carillon-core", prefix + name) < events:
                await asyncio.sleep(0.1)


async def _out(desk: Desk, prefix: str, events: int) -> dict[int, list[float]]:
    """The broker's times of the messages, by partition: the core's own, for both go by the user.

    Raises BenchmarkFailed unless every event has its message.
    """
    times, ids = defaultdict[int, list[float]](list), set()
    async for record in desk.records(prefix + OUTPUT):
        times[record.partition].append(record.timestamp / 1000)
        ids.add(orjson.loads(record.value)["id"])
    if len(ids) != events:
        raise BenchmarkFailed(f"{len(ids)} messages for {events} events")
    return times


# -- figures


def longest_gap(times: Iterable[float], begin: float, end: float) -> float:
    """The longest time without a message that touches a stretch."""
    return max((b - a for a, b in pairwise(sorted(times)) if b > begin and a < end), default=end - begin)


def parts(happenings: Iterable[Happening], begin: float, end: float) -> dict[str, float]:
    """The seconds of each phase, of the worker that took longest over it.

    What a worker without partitions waits for holds nobody up, and does not count.
    """
    spent: dict[str, dict[str, float]] = {phase: defaultdict(float) for phase in PHASES}
    told: dict[tuple[str, str], Happening] = {}
    leaving: dict[str, float | None] = {}
    for one in sorted(happenings, key=attrgetter("at")):
        if not begin <= one.at <= end:
            continue
        told[one.worker, one.what] = one
        if one.what == "stopping":
            leaving[one.worker] = None
        elif one.what == "drained" and one.worker in leaving and one.partitions:
            leaving[one.worker] = one.at
        elif one.what == "revoking":
            for gone, at in leaving.items():
                if gone != one.worker and at is not None:
                    spent["notice"][one.worker], leaving[gone] = one.at - at, None
        for phase, ended in PHASES.items():
            since = told.pop((one.worker, BEGINS[ended]), None) if one.what == ended else None
            if since is not None and since.partitions:
                spent[phase][one.worker] += one.at - since.at
    return {phase: max(seconds.values(), default=0.0) for phase, seconds in spent.items()}


def figures(
    times: Mapping[int, Sequence[float]],
    moments: Mapping[str, tuple[float, float]],
    happenings: Sequence[Happening],
) -> dict[str, float]:
    """The pauses over the partitions, less the steady gap of each, with their parts."""

    def gaps(name: str) -> dict[int, float]:
        return {partition: longest_gap(found, *moments[name]) for partition, found in times.items()}

    alone, together = gaps("steady_alone"), gaps("steady_together")
    steady = {partition: max(alone[partition], together[partition]) for partition in times}
    found = {"steady_gap_seconds": max(steady.values())}
    for change in ("join", "leave"):
        pauses = sorted(gap - steady[partition] for partition, gap in gaps(change).items())
        found[f"{change}_pause_seconds"] = max(0.0, pauses[-1])
        found[f"{change}_shortest_pause_seconds"] = max(0.0, pauses[0])
        for phase, seconds in parts(happenings, *moments[change]).items():
            found[f"{change}_{phase}_seconds"] = seconds
    return {"pause_seconds": max(found["join_pause_seconds"], found["leave_pause_seconds"]), **found}


REBALANCE = Benchmark("a second worker of the core role comes and goes under steady load", 60 * PACE, run)

if __name__ == "__main__":
    asyncio.run(main())
