"""Two workers share a provider that takes so many calls a second, while they join, leave, die and freeze."""

import asyncio
import logging
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.broker import EmbeddedKafka
from tests.faults.channels import (
    BROKER,
    SESSION_SECONDS,
    Ground,
    configure,
    entries,
    message,
    report,
    tell,
    tell_logs,
)
from tests.faults.kinds import KINDS
from tests.faults.world import Sink, Worker

KIND = "twilio"
LIMIT, HEADROOM = 100, 0.8
MOST = round(LIMIT * HEADROOM)
LEAST = 60
"""What two workers make of it at the least, while nothing changes."""
MESSAGES = 9_000
"""More than can be sent in the time of a run."""
STEADY_SECONDS = 8.0
SETTLING_SECONDS = 2.0
"""How long after a change nothing is said of how much is sent."""
CHANGE_SECONDS = 45.0
FROZEN_SECONDS = SESSION_SECONDS + 3.0
RUN = "rates"


class Phase(NamedTuple):
    """A time in which nothing changed: who was at work, from when to when (ms)."""

    name: str
    workers: int
    begin: int
    end: int


def most_in_a_second(times: Iterable[int]) -> int:
    """The most calls within any one second, of the times (ms) at which they came."""
    most, window = 0, deque[int]()
    for at in sorted(times):
        window.append(at)
        while window[0] <= at - 1_000:
            window.popleft()
        most = max(most, len(window))
    return most


def per_second(times: Iterable[int], phase: Phase) -> float:
    """How many calls a second came in a phase, on the average."""
    inside = sum(phase.begin <= at < phase.end for at in times)
    return inside / max(0.001, (phase.end - phase.begin) / 1_000)


def judge(times: Sequence[int], phases: Sequence[Phase], left: int) -> tuple[dict[str, Any], list[str]]:
    """The figures, and what is wrong: too many calls in any second, too few where two workers are at work."""
    most = most_in_a_second(times)
    used = {phase.name: round(per_second(times, phase), 1) for phase in phases}
    wrong = [f"{most} calls within a second, {MOST} is the most"] if most > MOST else []
    wrong += [
        f"{phase.name}: {used[phase.name]} a second, {LEAST} is the least"
        for phase in phases
        if phase.workers > 1 and used[phase.name] < LEAST
    ]
    if left <= 0:
        wrong.append("the work ran out: what was sent says nothing")
    if not any(phase.workers > 1 for phase in phases):
        wrong.append("two workers were never at work")
    return {
        "limit_per_second": LIMIT, "headroom": HEADROOM, "calls": len(times), "most_in_a_second": most,
        "per_second": used, "left": left,
    }, wrong  # fmt: skip


class Shared:
    """A channel, its provider, and the workers that come and go."""

    def __init__(self, bootstrap: str, directory: Path) -> None:
        self.bootstrap, self.directory, self.kind = bootstrap, directory / "rates", KINDS[KIND]
        self.directory.mkdir()
        self.ledger = self.directory / "ledger"
        self.sink = Sink(self.kind.name, self.ledger)
        self.phases: list[Phase] = []
        self.born = 0

    @property
    def role(self) -> str:
        return str(self.kind.channel)

    async def run(self) -> tuple[dict[str, Any], list[str]]:
        """All that can happen to a group of two, with a steady time after each."""
        await self.sink.start()
        workers: list[Worker] = []
        try:
            provider = {**self.kind.settings(self.sink.url), "limit_per_second": LIMIT, "headroom": HEADROOM}
            channels = {self.role: {"providers": {self.kind.name: provider}}}
            self.ground = Ground(configure(self.bootstrap, self.directory, channels))
            async with self.ground.open({}):
                await self.ground.send_messages([
                    message(
                        RUN, n, self.kind.channel, self.kind.good(self.sink.url, f"u{n}"),
                        platform=self.kind.platform,
                    )
                    for n in range(MESSAGES)
                ])  # fmt: skip
                try:
                    await self._change(workers)
                finally:
                    for worker in workers:
                        worker.thaw()
                        await worker.stop()
        finally:
            await self.sink.stop()
        found = entries(self.ledger)
        left = MESSAGES - sum(entry["effect"] for entry in found)
        return judge([entry["at"] for entry in found], self.phases, left)

    async def _change(self, workers: list[Worker]) -> None:
        await self._join(workers)
        await self._steady("alone", 1)
        second = await self._join(workers)
        await self._steady("joined", 2)
        await second.stop()
        await self._steady("left", 1)
        second = await self._join(workers)
        await self._steady("joined_again", 2)
        await second.kill()
        await self._steady("killed", 1)
        second = await self._join(workers)
        await self._steady("joined_once_more", 2)
        second.freeze()
        await asyncio.sleep(FROZEN_SECONDS)
        second.thaw()
        await self._steady("thawed", 2)

    async def _join(self, workers: list[Worker]) -> Worker:
        self.born += 1
        name = f"worker-{self.born}"
        worker = Worker(
            self.ground.config, self.directory / name, self.directory / f"{name}.log",
            self.directory / "hits", own_state=True, roles=self.role,
        )  # fmt: skip
        workers.append(worker)
        await worker.start()
        return worker

    async def _steady(self, name: str, count: int) -> None:
        """A time in which nothing changes, once as many workers as should be have settled."""

        async def are_there() -> bool:
            return await self.ground.members(self.role) == count

        await self.ground.until(are_there, f"{count} workers, {name}", CHANGE_SECONDS)
        before = len(entries(self.ledger))
        await self.ground.until(lambda: len(entries(self.ledger)) > before, f"a call, {name}", CHANGE_SECONDS)
        await asyncio.sleep(SETTLING_SECONDS)
        begin = _now()
        await asyncio.sleep(STEADY_SECONDS)
        self.phases.append(Phase(name, count, begin, _now()))
        times = [entry["at"] for entry in entries(self.ledger)]
        tell(f"{name}: {per_second(times, self.phases[-1]):.1f} a second, most {most_in_a_second(times)}")


def _now() -> int:
    return time.time_ns() // 1_000_000


def main(*, as_json: bool) -> int:
    """Lets them share, and judges; returns the exit status."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a fresh broker's first seconds are noisy
    with (
        tempfile.TemporaryDirectory(prefix="carillon-rates-") as directory,
        EmbeddedKafka(config=BROKER) as kafka,
    ):
        figures, wrong = asyncio.run(Shared(kafka.bootstrap_servers, Path(directory)).run())
        if wrong:
            tell_logs(Path(directory))
    return report(figures, wrong, as_json=as_json)
