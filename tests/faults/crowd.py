"""Several workers of every role: killed, joined, stopped, frozen, thawed, and one whose batch lands late."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.broker import EmbeddedKafka
from tests.faults.loop import Loop
from tests.faults.mutants import MUTANTS
from tests.faults.scene import FEW_FLIP, MANY_FLIP, SESSION_SECONDS, Scene, scene, tell
from tests.faults.world import Worker

FROZEN_SECONDS = SESSION_SECONDS + 4.0
"""Past the session: the others own what it had."""
DAZED_SECONDS = SESSION_SECONDS * 0.75
"""Past half the session, when a worker gives its units up, and no longer: it still owns what it has."""
BEFORE_SECONDS = (1.0, 3.0)
"""How long the events flow before something happens."""
LATE, MIDST, CALL = "task.before_log", "unit.after_changelog", "effects.before_call"
ACTIONS = (
    "kill", "join", "rewind", "stop", "freeze", "late", "overtake", "haunt", "bounce_broker",
    "daze", "kill_broker",
)  # fmt: skip
LATE_TEMPLATES = 2
FED_IN_ADVANCE = 2
"""One in so many of the events of a disturbance flows before it, the others when there is need of them."""
PIECES = 20
"""In so many the others flow."""
AWAY_SECONDS = 3.0
RESUME_SECONDS = 15.0
"""How soon work goes on when the broker is back."""


class Crowd(Loop):
    """One run of disturbances over one workload, `workers` of them at a time."""

    def __init__(
        self, seed: int, kills: int, events: int, workers: int, kafka: EmbeddedKafka, mutant: str = ""
    ) -> None:
        super().__init__(seed, kills, events, mutant)
        self.workers, self.kafka = workers, kafka
        self.scene: Scene
        self.resumed: list[float] = []
        self.piece = max(1, events // kills // FED_IN_ADVANCE // PIECES)
        self.directory = Path()
        self.alive: list[Worker] = []
        self.born = 0
        self.done: Counter[str] = Counter()
        self.disturbed: list[int] = []

    async def run(self, bootstrap: str, directory: Path) -> tuple[dict[str, Any], list[str]]:
        """Disturbs, lets it settle, and judges."""
        self.directory = directory
        async with scene(
            bootstrap, directory, self.seed, self.events, self.random,
            late=0 if self.mutant else LATE_TEMPLATES, flip_from=MANY_FLIP if self.mutant else FEW_FLIP,
        ) as self.scene:  # fmt: skip
            try:
                while len(self.alive) < self.workers:
                    await self._bear()
                for number in range(self.kills):
                    await self._disturb(number)
                while not self.scene.feed.ended:
                    await self.scene.feed.some(1_000)
                self.scene.watcher.seen.kills = self.disturbed
                if not self.mutant:
                    await self.scene.keep_promises()
                await self.scene.settle()
            finally:
                await self._end_all()
            figures, wrong = self.scene.judge()
            logs = "".join(log.read_text(errors="replace") for log in directory.glob("worker-*.log"))
            wrong += [
                f"work went on only {s:.1f} s after the broker" for s in self.resumed if s > RESUME_SECONDS
            ]
            return {
                "workers": self.workers,
                "kills": sum(self.done.values()),
                "kills_while_work_remained": self.while_work_remained,
                **{name: self.done[name] for name in ACTIONS},
                **figures,
                "zombie_rows_left_out": logs.count("a former owner wrote"),
                "abandoned": logs.count("gave its work up"),
                "resumed_after_seconds": round(max(self.resumed, default=0.0), 1),
            }, wrong

    async def _bear(self, failpoint: str = "", aim: str = "") -> Worker:
        self.born += 1
        name = f"worker-{self.born}"
        worker = Worker(
            self.scene.config, self.directory / name, self.directory / f"{name}.log", self.directory / "hits",
            own_state=True,
        )  # fmt: skip
        await worker.start(failpoint, self.mutant, aim)
        self.alive.append(worker)
        return worker

    async def _disturb(self, number: int) -> None:
        """Something happens to one of the workers while events flow."""
        wanted = MUTANTS[self.mutant].points if self.mutant else ACTIONS
        action, found = wanted[number % len(wanted)], self.scene
        feeding = asyncio.create_task(found.feed.some(max(1, self.events // self.kills // FED_IN_ADVANCE)))
        await asyncio.sleep(self.random.uniform(*BEFORE_SECONDS))
        await getattr(self, f"_{action}")()
        self.done[action] += 1
        while len(self.alive) < self.workers:
            await self._bear()
        await feeding
        found.watcher.check()
        self.while_work_remained += found.work_remains
        await found.feed.flip()
        tell(f"{number + 1}/{self.kills} {action}: {found.feed.sent} events sent, {found.settled} settled")

    def _any(self) -> Worker:
        return self.random.choice(self.alive)

    def _note(self) -> None:
        self.disturbed.append(time.time_ns() // 1_000_000)

    async def _kill(self) -> None:
        worker = self._any()
        await worker.kill()
        self._note()
        self.alive.remove(worker)

    async def _join(self) -> None:
        await self._bear()
        await asyncio.sleep(2.0)
        if len(self.alive) > self.workers + 1:
            await self._stop()

    async def _stop(self) -> None:
        worker = self.alive[0]
        await worker.stop()
        self.alive.remove(worker)

    async def _freeze(self) -> None:
        await self._hold(self._any(), FROZEN_SECONDS)

    async def _daze(self) -> None:
        """A worker stops in the midst of a unit, for so long that it must give it up, and owns it still."""
        await self._bear_and_hold(f"{MIDST}:{self.random.randrange(3, 20)}:stop", DAZED_SECONDS)

    async def _hold(self, worker: Worker, seconds: float) -> None:
        assert worker.process is not None
        self._note()
        with contextlib.suppress(ProcessLookupError):
            worker.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self._note()
        with contextlib.suppress(ProcessLookupError):
            worker.process.send_signal(signal.SIGCONT)

    async def _bounce_broker(self) -> None:
        """The broker is stopped as its operator would, and started again."""
        os.kill(self.kafka.pids[1], signal.SIGTERM)
        while self.kafka.pids:
            await asyncio.sleep(0.1)
        await self._without_broker()

    async def _kill_broker(self) -> None:
        await asyncio.to_thread(self.kafka.kill, 1)
        await self._without_broker()

    async def _without_broker(self) -> None:
        self._note()
        await asyncio.sleep(AWAY_SECONDS)
        await asyncio.to_thread(self.kafka.restart, 1)
        back = time.monotonic()
        await self.scene.feed.some(self.piece)  # so that there is work to go on with
        while self.scene.watcher.last_news < back and time.monotonic() < back + 2 * RESUME_SECONDS:
            await asyncio.sleep(0.1)
        self.resumed.append(time.monotonic() - back)
        self._note()
        dead = [w for w in self.alive if w.process is None or w.process.returncode is not None]
        assert not dead, f"{len(dead)} workers died with the broker"

    async def _late(self) -> None:
        """A worker stops itself between its last look at the group and its batch, which then lands late."""
        await self._bear_and_hold(f"{LATE}:{self.random.randrange(20, 60)}:stop", FROZEN_SECONDS)

    async def _haunt(self) -> None:
        """A worker's decisions land late, others having decided otherwise, and all is decided once more."""
        await self._bear_and_hold(f"{LATE}:1:stop", FROZEN_SECONDS, aim="claimed")
        await self.scene.rewind("core")

    async def _rewind(self) -> None:
        """A group begins anew, with something mended that had failed before, and a worker may die of it."""
        await self.scene.mend()
        await self.scene.rewind("core")
        await asyncio.sleep(self.random.uniform(*BEFORE_SECONDS))
        if self.random.random() < 0.5:
            await self._kill()
        await self.scene.rewind("email")

    async def _overtake(self) -> None:
        """A worker stops between its last look at the group and a call, which others settle meanwhile."""
        await self._bear_and_hold(f"{CALL}:{self.random.randrange(5, 30)}:stop", FROZEN_SECONDS)

    async def _bear_and_hold(self, failpoint: str, seconds: float, aim: str = "") -> None:
        """A worker that stops itself at a failpoint is held there; what people want changes meanwhile."""
        worker = await self._bear(failpoint, aim)
        assert worker.process is not None
        deadline = time.monotonic() + 20.0
        while not _is_stopped(worker.process.pid) and time.monotonic() < deadline:
            await self.scene.feed.some(self.piece)
            await asyncio.sleep(0.25)
        await self.scene.feed.flip()
        await self._hold(worker, seconds)
        if len(self.alive) > self.workers + 1:
            await self._stop()

    async def _end_all(self) -> None:
        for worker in self.alive:
            if worker.process is not None and worker.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    worker.process.send_signal(signal.SIGCONT)
        await asyncio.gather(*[worker.stop() for worker in self.alive])
        self.alive.clear()


def _is_stopped(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    return False
