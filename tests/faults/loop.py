"""One worker with all roles: kill -9 at every failpoint and at random moments, then the oracle."""

import asyncio
import contextlib
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import tomli_w

from pipeline.demo.workload import Shop
from pipeline.engine.failpoint import NAMES
from pipeline.settings import load as load_settings
from pipeline.topics import ROLES, create
from schemas.kinds import State
from tests.faults.mutants import MUTANTS
from tests.faults.verdict import Ledger, judge
from tests.faults.world import Feed, Sink, Watcher, Worker

ROOT = Path(__file__).parents[2]
#: nothing here is old enough to be swept: tests/kafka/test_engine_sweep.py dies there
POINTS = tuple(name for name in NAMES if not name.startswith("sweep."))
POINT_SECONDS = 15.0
RANDOM_SECONDS = (3.0, 8.0)
SETTLE_SECONDS = 90.0
QUIET_SECONDS = 6.0
RECOVERIES = 5
SESSION_SECONDS = 6.0
BUSY = 4
"""One webhook in so many is refused at first and waits for its retry."""


class Loop:
    """One run of kills over one workload."""

    def __init__(self, seed: int, kills: int, events: int, mutant: str = "") -> None:
        self.seed, self.kills, self.events, self.mutant = seed, kills, events, mutant
        self.random = random.Random(seed)
        self.died: Counter[str] = Counter()
        self.while_work_remained = 0

    def plan(self) -> list[str]:
        """What to die of: each failpoint, five times in a row a restore, the rest at random moments."""
        if self.mutant:
            points = list(MUTANTS[self.mutant].points)
            return [points[k % len(points)] for k in range(self.kills)]
        points = [name for name in POINTS if name != "recovery.batch"]
        found = [points[k % len(points)] for k in range(min(self.kills, len(points)))]
        found += ["recovery.batch"] * min(RECOVERIES, max(0, self.kills - len(found)))
        while len(found) < self.kills:
            found.append("random" if self.random.random() < 0.6 else self.random.choice(points))
        return found[: self.kills]

    async def run(self, bootstrap: str, directory: Path) -> tuple[dict[str, Any], list[str]]:
        """Kills, lets it settle, and judges."""
        async with contextlib.AsyncExitStack() as stack:
            webhooks = Sink("webhook", directory / "webhooks", BUSY)
            mails = Sink("smtp", directory / "mails")
            for sink in (webhooks, mails):
                stack.push_async_callback(sink.stop)
                await sink.start()
            config = directory / "carillon.toml"
            config.write_text(tomli_w.dumps(settings_of(bootstrap, directory, webhooks.port, mails.port)))
            settings = load_settings(config)
            await create(settings)
            hooks = f"http://127.0.0.1:{webhooks.port}"
            work = Shop(self.seed, f"f{self.seed}", hooks, time.time_ns() // 1_000_000).make(self.events)
            flipping = [user for n, user in enumerate(work.users) if n % 20 >= (6 if self.mutant else 17)]
            flipping = [user for user in flipping if user.startswith("plain")]
            feed, watcher = Feed(settings, work, flipping, self.random), Watcher(settings)
            stack.push_async_callback(feed.stop)
            await feed.start()
            stack.push_async_callback(watcher.stop)
            watcher.start()
            worker = Worker(config, directory / "state", directory / "worker.log", directory / "hits")
            stack.push_async_callback(worker.stop)
            for number, point in enumerate(self.plan()):
                await self._once(number, point, worker, feed, watcher)
            while not feed.ended:
                await feed.some(1_000)
            await worker.start(mutant=self.mutant)
            await self._settle(watcher, webhooks, mails, work, flipping)
            await worker.stop()
            figures, wrong = judge(
                work,
                watcher.seen,
                Ledger.read(webhooks.ledger, "webhook"),
                Ledger.read(mails.ledger, "email"),
                flipping,
            )
            hit = set(worker.hits.read_text().split()) if worker.hits.exists() else set()
            return {
                "kills": sum(self.died.values()),
                "kills_while_work_remained": self.while_work_remained,
                "events": len(work.events),
                **figures,
                "failpoints_hit": len(hit & set(POINTS)),
                "failpoints": len(POINTS),
            }, wrong

    async def _once(self, number: int, point: str, worker: Worker, feed: Feed, watcher: Watcher) -> None:
        """One life: fed while it runs, dead at the failpoint or at some moment; the disk is lost at times."""
        if point == "recovery.batch" or number % 5 == 4:
            worker.lose_disk()
        seldom = point.startswith(("commit", "recovery", "timers"))
        nth = self.random.randrange(1, 4 if seldom else 12)
        await worker.start("" if point == "random" else f"{point}:{nth}", self.mutant)
        feeding = asyncio.create_task(feed.some(max(1, self.events // self.kills)))
        seconds = self.random.uniform(*RANDOM_SECONDS) if point == "random" else POINT_SECONDS
        if await worker.died_within(seconds):
            self.died[point] += 1
        else:
            await worker.kill()
            self.died["random"] += 1
        watcher.seen.kills.append(time.time_ns() // 1_000_000)
        await feeding
        watcher.check()
        remained = feed.sent - settled(watcher)
        self.while_work_remained += remained > 0 or not feed.ended
        await feed.flip()
        tell(f"kill {number + 1}/{self.kills} {point}: {feed.sent} events sent, {settled(watcher)} settled")

    async def _settle(
        self, watcher: Watcher, webhooks: Sink, mails: Sink, work: Any, flipping: list[str]
    ) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        watcher.last_news = time.monotonic()
        while time.monotonic() < deadline:
            await asyncio.sleep(0.5)
            watcher.check()
            quiet = time.monotonic() - watcher.last_news
            if quiet > QUIET_SECONDS * 3:
                return
            if quiet > QUIET_SECONDS and all(pair in watcher.seen.outcomes.states for pair in work.pairs):
                return


def settled(watcher: Watcher) -> int:
    """Events that have an outcome of every pair, roughly: notifications seen with no pair merely queued."""
    queued = {p[0] for p, s in watcher.seen.outcomes.states.items() if s is State.QUEUED}
    return len({p[0] for p in watcher.seen.outcomes.states} - queued) + len(watcher.seen.outcomes.whole)


def settings_of(bootstrap: str, directory: Path, webhook_port: int, smtp_port: int) -> dict[str, Any]:
    return {
        "state_dir": str(directory / "state"),
        "workflows_dir": str(ROOT / "workflows"),
        "templates_dir": str(ROOT / "templates"),
        "log_level": "warning",
        "kafka": {
            "bootstrap_servers": bootstrap, "session_timeout": SESSION_SECONDS,
            "partitions": dict.fromkeys(ROLES, 4),
        },
        "web": {"port": 0},
        "channels": {
            "email": {"providers": {"sink": {"kind": "smtp", "host": "127.0.0.1", "port": smtp_port}}},
            "sms": {"providers": {"outbox": {"kind": "outbox"}}},
            "web": {"providers": {"inbox": {"kind": "inbox"}}},
            "webhook": {"providers": {"hooks": {"kind": "webhook", "allow_internal": True}}},
        },
    }  # fmt: skip


def tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
