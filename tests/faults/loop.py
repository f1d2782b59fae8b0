"""One worker with all roles: kill -9 at every failpoint and at random moments, then the oracle."""

import asyncio
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.engine.failpoint import NAMES
from tests.faults.mutants import MUTANTS
from tests.faults.scene import FEW_FLIP, MANY_FLIP, REWOUND, Scene, scene, tell
from tests.faults.world import Worker

#: nothing here is old enough to be swept: tests/kafka/test_engine_sweep.py dies there
POINTS = tuple(name for name in NAMES if not name.startswith("sweep."))
POINT_SECONDS = 15.0
MENDED_SECONDS = 30.0
"""How long a life may take to come to where it is to die; what is mended comes after a rewind."""
RANDOM_SECONDS = (3.0, 8.0)
CALM_SECONDS = 1.0
REWIND_SECONDS = (1.0, 6.0)
"""After the start of a life; its roles are at work after three or four."""
REWIND_SHARE = 0.3
RECOVERIES = 5
MENDED = "mended"
"""Dies when it has decided afresh what had failed, and that is not out."""
MENDED_AT = (5, 10)
MENDED_POINT = "unit.after_changelog"


class Loop:
    """One run of kills over one workload."""

    def __init__(self, seed: int, kills: int, events: int, mutant: str = "") -> None:
        self.seed, self.kills, self.events, self.mutant = seed, kills, events, mutant
        self.random = random.Random(seed)
        self.died: Counter[str] = Counter()
        self.while_work_remained = 0

    def plan(self) -> list[str]:
        """What to die of: each failpoint, five times in a row a restore, the rest at random moments.

        Twice, if there are lives enough, of what the operator does after a failure was mended.
        """
        if self.mutant:
            points = list(MUTANTS[self.mutant].points)
            return [points[k % len(points)] for k in range(self.kills)]
        points = [name for name in POINTS if name != "recovery.batch"]
        found = list(points)
        for place in MENDED_AT:
            found.insert(place, MENDED)
        found += ["recovery.batch"] * RECOVERIES
        while len(found) < self.kills:
            found.append("random" if self.random.random() < 0.6 else self.random.choice(points))
        return found[: self.kills]

    async def run(self, bootstrap: str, directory: Path) -> tuple[dict[str, Any], list[str]]:
        """Kills, lets it settle, and judges."""
        plan = self.plan()
        async with scene(
            bootstrap, directory, self.seed, self.events, self.random, late=plan.count(MENDED),
            flip_from=MANY_FLIP if self.mutant else FEW_FLIP,
        ) as found:  # fmt: skip
            worker = Worker(found.config, directory / "state", directory / "worker.log", directory / "hits")
            try:
                for number, point in enumerate(plan):
                    await self._once(number, point, worker, found)
                while not found.feed.ended:
                    await found.feed.some(1_000)
                await worker.start(mutant=self.mutant)
                if MENDED in plan:
                    await found.keep_promises()
                await found.settle()
            finally:
                await worker.stop()
            figures, wrong = found.judge()
            hit = set(worker.hits.read_text().split()) if worker.hits.exists() else set()
            return {
                "kills": sum(self.died.values()),
                "kills_while_work_remained": self.while_work_remained,
                **figures,
                "failpoints_hit": len(hit & set(POINTS)),
                "failpoints": len(POINTS),
                "died_mended": self.died[MENDED],
            }, wrong

    async def _once(self, number: int, point: str, worker: Worker, scene: Scene) -> None:
        """One life: fed while it runs, dead at the failpoint or at some moment; the disk is lost at times.

        At times a group is rewound meanwhile; a mutant's is not, unless it is to die of that.
        """
        if point == "recovery.batch" or number % 5 == 4:
            worker.lose_disk()
        seldom = point.startswith(("commit", "recovery", "timers"))
        nth = self.random.randrange(1, 4 if seldom else 12)
        if point == MENDED:
            await worker.start(f"{MENDED_POINT}:1", self.mutant, aim=MENDED)
        else:
            await worker.start("" if point == "random" else f"{point}:{nth}", self.mutant)
        born = time.monotonic()
        acts = [scene.feed.some(max(1, self.events // self.kills))]
        if point == MENDED:
            acts.append(self._mend(scene, born))
        elif self.random.random() < REWIND_SHARE and not self.mutant:
            moment, role = self.random.uniform(*REWIND_SECONDS), self.random.choice(sorted(REWOUND))
            acts.append(_rewind_after(moment, scene, role))
        acting = asyncio.gather(*acts)
        seconds = MENDED_SECONDS if point == MENDED else POINT_SECONDS
        if point == "random":
            seconds = self.random.uniform(*RANDOM_SECONDS)
        if await worker.died_within(seconds):
            self.died[point] += 1
        else:
            await worker.kill()
            self.died["random"] += 1
        scene.watcher.seen.kills.append(time.time_ns() // 1_000_000)
        await acting
        scene.watcher.check()
        self.while_work_remained += scene.work_remains
        await scene.feed.flip()
        told = f"{scene.feed.sent} events sent, {scene.settled} settled, {scene.rewinds} rewinds"
        tell(f"kill {number + 1}/{self.kills} {point}: {told}")

    async def _mend(self, scene: Scene, born: float) -> None:
        """What failed is mended, and read again, once the worker is through with what there was."""
        while time.monotonic() < born + MENDED_SECONDS / 2:
            await asyncio.sleep(0.1)
            if born < scene.watcher.last_news < time.monotonic() - CALM_SECONDS:
                break
        await scene.mend()
        await scene.rewind("core")


async def _rewind_after(seconds: float, scene: Scene, role: str) -> None:
    await asyncio.sleep(seconds)
    await scene.rewind(role)
