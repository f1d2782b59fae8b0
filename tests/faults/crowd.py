"""Several workers of every role: killed, joined, stopped, frozen, thawed, and one whose batch lands late."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import tomli_w

from pipeline.broker import EmbeddedKafka
from pipeline.demo.workload import Shop
from pipeline.settings import load as load_settings
from pipeline.topics import create
from tests.faults.loop import (
    BUSY,
    SESSION_SECONDS,
    Loop,
    settings_of,
    settled,
    tell,
)
from tests.faults.mutants import MUTANTS
from tests.faults.verdict import Ledger, judge
from tests.faults.world import Feed, Sink, Watcher, Worker

FROZEN_SECONDS = SESSION_SECONDS + 4.0
"""Past the session: the others own what it had."""
DAZED_SECONDS = SESSION_SECONDS * 0.75
"""Past half the session, when a worker gives its units up, and no longer: it still owns what it has."""
BEFORE_SECONDS = (1.0, 3.0)
"""How long the events flow before something happens."""
LATE, MIDST = "task.before_log", "unit.after_changelog"
ACTIONS = ("kill", "join", "stop", "freeze", "late", "bounce_broker", "daze", "kill_broker")
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
        self.watcher: Watcher | None = None
        self.resumed: list[float] = []
        self.directory = Path()
        self.alive: list[Worker] = []
        self.born = 0
        self.done: Counter[str] = Counter()
        self.disturbed: list[int] = []

    async def run(self, bootstrap: str, directory: Path) -> tuple[dict[str, Any], list[str]]:
        """Disturbs, lets it settle, and judges."""
        self.directory = directory
        async with contextlib.AsyncExitStack() as stack:
            webhooks, mails = Sink("webhook", directory / "webhooks", BUSY), Sink("smtp", directory / "mails")
            for sink in (webhooks, mails):
                stack.push_async_callback(sink.stop)
                await sink.start()
            config = directory / "carillon.toml"
            config.write_text(tomli_w.dumps(settings_of(bootstrap, directory, webhooks.port, mails.port)))
            settings = load_settings(config)
            await create(settings)
            hooks = f"http://127.0.0.1:{webhooks.port}"
            work = Shop(self.seed, f"f{self.seed}", hooks, time.time_ns() // 1_000_000).make(self.events)
            flipping = [
                user for n, user in enumerate(work.users) if n % 20 >= 17 and user.startswith("plain")
            ]
            feed, watcher = Feed(settings, work, flipping, self.random), Watcher(settings)
            stack.push_async_callback(feed.stop)
            await feed.start()
            stack.push_async_callback(watcher.stop)
            watcher.start()
            self.watcher = watcher
            stack.push_async_callback(self._end_all)
            while len(self.alive) < self.workers:
                await self._bear(config)
            for number in range(self.kills):
                await self._disturb(number, config, feed, watcher)
            while not feed.ended:
                await feed.some(1_000)
            watcher.seen.kills = self.disturbed
            await self._settle(watcher, webhooks, mails, work, flipping)
            await self._end_all()
            figures, wrong = judge(
                work, watcher.seen, Ledger.read(webhooks.ledger, "webhook"),
                Ledger.read(mails.ledger, "email"), flipping,
            )  # fmt: skip
            logs = "".join(log.read_text(errors="replace") for log in directory.glob("worker-*.log"))
            wrong += [
                f"work went on only {s:.1f} s after the broker" for s in self.resumed if s > RESUME_SECONDS
            ]
            return {
                "workers": self.workers,
                "kills": sum(self.done.values()),
                "kills_while_work_remained": self.while_work_remained,
                **{name: self.done[name] for name in ACTIONS},
                "events": len(work.events),
                **figures,
                "zombie_rows_left_out": logs.count("a former owner wrote"),
                "abandoned": logs.count("gave its work up"),
                "resumed_after_seconds": round(max(self.resumed, default=0.0), 1),
            }, wrong

    async def _bear(self, config: Path, failpoint: str = "") -> Worker:
        self.born += 1
        name = f"worker-{self.born}"
        worker = Worker(
            config, self.directory / name, self.directory / f"{name}.log", self.directory / "hits",
            own_state=True,
        )  # fmt: skip
        await worker.start(failpoint, self.mutant)
        self.alive.append(worker)
        return worker

    async def _disturb(self, number: int, config: Path, feed: Feed, watcher: Watcher) -> None:
        """Something happens to one of the workers while events flow."""
        wanted = MUTANTS[self.mutant].points if self.mutant else ACTIONS
        action = wanted[number % len(wanted)]
        feeding = asyncio.create_task(feed.some(max(1, self.events // self.kills)))
        await asyncio.sleep(self.random.uniform(*BEFORE_SECONDS))
        await getattr(self, f"_{action}")(config)
        self.done[action] += 1
        while len(self.alive) < self.workers:
            await self._bear(config)
        await feeding
        watcher.check()
        self.while_work_remained += feed.sent > settled(watcher) or not feed.ended
        await feed.flip()
        tell(f"{number + 1}/{self.kills} {action}: {feed.sent} events sent, {settled(watcher)} settled")

    def _any(self) -> Worker:
        return self.random.choice(self.alive)

    def _note(self) -> None:
        self.disturbed.append(time.time_ns() // 1_000_000)

    async def _kill(self, _: Path) -> None:
        worker = self._any()
        await worker.kill()
        self._note()
        self.alive.remove(worker)

    async def _join(self, config: Path) -> None:
        await self._bear(config)
        await asyncio.sleep(2.0)
        if len(self.alive) > self.workers + 1:
            await self._stop(config)

    async def _stop(self, _: Path) -> None:
        worker = self.alive[0]
        await worker.stop()
        self.alive.remove(worker)

    async def _freeze(self, _: Path) -> None:
        await self._hold(self._any(), FROZEN_SECONDS)

    async def _daze(self, config: Path) -> None:
        """A worker stops in the midst of a unit, for so long that it must give it up, and owns it still."""
        await self._bear_and_hold(config, f"{MIDST}:{self.random.randrange(3, 20)}:stop", DAZED_SECONDS)

    async def _hold(self, worker: Worker, seconds: float) -> None:
        assert worker.process is not None
        self._note()
        with contextlib.suppress(ProcessLookupError):
            worker.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self._note()
        with contextlib.suppress(ProcessLookupError):
            worker.process.send_signal(signal.SIGCONT)

    async def _bounce_broker(self, _: Path) -> None:
        """The broker is stopped as its operator would, and started again."""
        os.kill(self.kafka.pids[1], signal.SIGTERM)
        while self.kafka.pids:
            await asyncio.sleep(0.1)
        await self._without_broker()

    async def _kill_broker(self, _: Path) -> None:
        await asyncio.to_thread(self.kafka.kill, 1)
        await self._without_broker()

    async def _without_broker(self) -> None:
        assert self.watcher is not None
        self._note()
        await asyncio.sleep(AWAY_SECONDS)
        await asyncio.to_thread(self.kafka.restart, 1)
        back = time.monotonic()
        while self.watcher.last_news < back and time.monotonic() < back + 2 * RESUME_SECONDS:
            await asyncio.sleep(0.1)
        self.resumed.append(time.monotonic() - back)
        self._note()
        dead = [w for w in self.alive if w.process is None or w.process.returncode is not None]
        assert not dead, f"{len(dead)} workers died with the broker"

    async def _late(self, config: Path) -> None:
        """A worker stops itself between its last look at the group and its batch, which then lands late."""
        await self._bear_and_hold(config, f"{LATE}:{self.random.randrange(20, 60)}:stop", FROZEN_SECONDS)

    async def _bear_and_hold(self, config: Path, failpoint: str, seconds: float) -> None:
        worker = await self._bear(config, failpoint)
        assert worker.process is not None
        deadline = time.monotonic() + 20.0
        while not _is_stopped(worker.process.pid) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        await self._hold(worker, seconds)
        if len(self.alive) > self.workers + 1:
            await self._stop(config)

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
