"""The world that a worker is killed in: a broker, sinks in processes of their own, a feed, and a watcher."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from agents import topics
from pipeline.demo.workload import Workload
from pipeline.settings import Settings
from pipeline.topics import client_options, counts
from schemas.ids import partition_of, user_hash
from schemas.status import Status
from tests.faults.verdict import Evidence

SPAWN_SECONDS = 30.0


class Sink:
    """A sink in a process of its own, never killed by the loop; its ledger is on disk before it answers."""

    def __init__(self, kind: str, ledger: Path, faults: Sequence[str] = ()) -> None:
        self.kind, self.ledger, self.faults = kind, ledger, faults
        self.port, self.url, self._page = 0, "", ""
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> int:
        """Starts it and returns its port."""
        options = [f"--fault={word}" for word in self.faults]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pipeline.cli", "simulate-provider", self.kind, "--port", "0", "--json",
            "--page-port", "0", "--ledger", str(self.ledger), *options,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        async with asyncio.timeout(SPAWN_SECONDS):
            told = orjson.loads(await self._process.stdout.readline())
        self.url, self._page = told[self.kind], told["page"]
        self.port = int(self.url.rpartition(":")[2])
        return self.port

    async def set_faults(self, *words: str) -> None:
        """Puts these faults in force instead of those that are."""
        async with httpx.AsyncClient(timeout=SPAWN_SECONDS) as client:
            answer = await client.put(f"{self._page}faults", json={self.kind: list(words)})
        answer.raise_for_status()

    async def stop(self) -> None:
        """Ends it."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()


class Worker:
    """One `carillon run` with all roles or some, its state directory kept between lives."""

    def __init__(
        self, config: Path, state: Path, log: Path, hits: Path, *, own_state: bool = False, roles: str = ""
    ) -> None:
        self.config, self.state, self.log, self.hits = config, state, log, hits
        self.own_state, self.roles = own_state, roles
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, failpoint: str = "", mutant: str = "", aim: str = "") -> None:
        """Starts it; it may die at once. `aim`: where its failpoint strikes (tests/faults/aims.py)."""
        env = dict(
            os.environ,
            CARILLON_FAILPOINT=failpoint,
            CARILLON_FAILPOINT_LOG=str(self.hits),
            FAULTS_MUTANT=mutant,
            CARILLON_CORE__UNKNOWN_USER_GRACE="1",
            FAULTS_AIM=aim,
        )
        if not failpoint:
            del env["CARILLON_FAILPOINT"]
        if self.own_state:
            env["CARILLON_STATE_DIR"] = str(self.state)
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.faults.worker", str(self.config), self.roles,
                env=env, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def has_ended(self) -> bool:
        """Whether it has died by itself, or was killed."""
        return self.process is not None and self.process.returncode is not None

    async def died_within(self, seconds: float) -> bool:
        """Whether it ended by itself in that time."""
        assert self.process is not None
        try:
            await asyncio.wait_for(self.process.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    def freeze(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL where that is not enough."""
        if self.process is None or self.process.returncode is not None:
            return
        self.process.terminate()
        if not await self.died_within(20):
            await self.kill()

    def lose_disk(self) -> None:
        """Removes every store, as a lost disk would; the outbox is a sink and stays."""
        for entry in self.state.iterdir() if self.state.exists() else ():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)


class Feed:
    """Sends the workload's events piece by piece, and flips preferences under them."""

    def __init__(self, settings: Settings, load: Workload, flipping: list[str], rnd: random.Random) -> None:
        self.settings, self.load, self.flipping, self.random = settings, load, flipping, rnd
        self.sent = 0
        #: so that a user's events keep their order, whoever asks for more of them
        self._turn = asyncio.Lock()
        self._producer: Any = None

    async def start(self) -> None:
        """Connects, and makes the users known."""
        self._producer = AIOKafkaProducer(
            **client_options(self.settings), acks="all", linger_ms=2, enable_idempotence=True
        )
        await self._producer.start()
        await self._all(topics.USERS, self.load.users)
        await self._all(topics.PREFERENCES, self.load.preferences)
        count = counts(self.settings)[topics.DEVICES]
        sent = [
            await self._producer.send(
                topics.DEVICES, value, key=f"{user}\0{token}".encode(),
                partition=partition_of(user_hash(user), count),
            )
            for (user, token), value in self.load.devices.items()
        ]  # fmt: skip
        await asyncio.gather(*sent)

    async def _all(self, topic: str, rows: dict[str, bytes]) -> None:
        await asyncio.gather(*[await self._producer.send(topic, v, key=k.encode()) for k, v in rows.items()])

    async def publish(self, topic: str, key: bytes, value: bytes) -> None:
        """Sends one record to a topic of one partition."""
        await self._producer.send_and_wait(topic, value, key=key, partition=0)

    async def some(self, count: int) -> None:
        """Sends the next events, in five breaths."""
        for piece in range(5):
            async with self._turn:
                end = min(len(self.load.events), self.sent + count // 5 + (piece == 4) * (count % 5))
                batch, self.sent = self.load.events[self.sent : end], end
                await asyncio.gather(
                    *[await self._producer.send(topics.EVENTS + e.lane, e.value, key=e.key) for e in batch]
                )
            await asyncio.sleep(0.05)

    async def flip(self) -> None:
        """Changes what the flipping users want."""
        rows = {}
        for user in self.flipping:
            channels = {name: self.random.random() < 0.5 for name in ("email", "web")}
            rows[user] = orjson.dumps({"user_id": user, "channels": channels})
        await self._all(topics.PREFERENCES, rows)

    @property
    def ended(self) -> bool:
        return self.sent >= len(self.load.events)

    async def stop(self) -> None:
        if self._producer is not None:
            await self._producer.stop()


class Watcher:
    """Follows every topic that something comes out on."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.seen = settings, Evidence()
        self.last_news = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        messages = {name + lane for name in topics.MESSAGES.values() for lane in ("", topics.EXPRESS)}
        notifications = {topics.NOTIFICATIONS + lane for lane in ("", topics.EXPRESS)}
        dead = set(topics.DEAD_MESSAGES.values())
        consumer: Any = AIOKafkaConsumer(
            topics.DELIVERY_STATUS, topics.DEAD_EVENTS, *notifications, *messages, *dead,
            **client_options(self.settings),
            group_id=None, auto_offset_reset="earliest", fetch_max_wait_ms=50,
        )  # fmt: skip
        await consumer.start()
        try:
            while True:
                for part, records in (await consumer.getmany(timeout_ms=100)).items():
                    self.last_news = time.monotonic()
                    for record in records:
                        place = (*part, record.offset)
                        if part.topic == topics.DELIVERY_STATUS:
                            self.seen.status(Status.from_json(record.value), record.timestamp, place)
                        elif part.topic in notifications:
                            self.seen.notification(record.value, place)
                        elif part.topic == topics.DEAD_EVENTS:
                            self.seen.outcomes.dead_events[record.value] += 1
                        elif part.topic in messages:
                            self.seen.message(record.value, place)
        finally:
            await consumer.stop()

    def check(self) -> None:
        """Raises what ended the watching, if it ended."""
        if self._task is not None and self._task.done():
            self._task.result()
