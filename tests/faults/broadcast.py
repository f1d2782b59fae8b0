"""A segment is told while core is killed: each member once, others never, in memory that does not grow."""

import asyncio
import contextlib
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import click
import orjson
import tomli_w
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from agents import topics
from pipeline.broker import EmbeddedKafka
from pipeline.pool import Pool
from pipeline.replay import READS
from pipeline.run import Runner
from pipeline.settings import Settings, load
from pipeline.topics import ROLES, client_options, create, group
from pipeline.web.views import StoreDesk
from schemas.broadcast import Stage
from schemas.ids import broadcast_id, notification_id
from schemas.kinds import Channel
from schemas.message import Message
from schemas.outcome import Outcome, sent
from tables.broadcasts import Broadcast

OTHERS = 20_000
"""Users who are no members."""
SMALL = 20_000
GROWTH_MB = 50
SHARES = (0.25, 0.6)
"""How many have been told when core is killed."""
PARTITIONS = 4
LONGEST_SECONDS = 900.0
READY_SECONDS = 90.0
SESSION_SECONDS = 6.0
WORKFLOW, KEY = "told-to-all", "b-1"
ID = broadcast_id("carillon", KEY, WORKFLOW)
EVENT = {
    "event_type": "all.told", "segment": "members", "idempotency_key": KEY, "variables": {"what": "the news"}
}  # fmt: skip


class Counting:
    """A provider that sends nothing, and counts how often it was to send each notification."""

    name = kind = "null"
    honours_keys = False
    parallel = 1_000
    platforms = None

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    async def send(self, message: Message, key: str) -> Outcome:
        """Sent."""
        self.calls[message.id] += 1
        return sent("null")

    async def close(self) -> None:
        """Holds nothing."""


class Core:
    """Core in a process of its own."""

    def __init__(self, config: Path, state: Path, log: Path) -> None:
        self.config, self.state, self.log = config, state, log
        self.process: asyncio.subprocess.Process | None = None
        self.peak_mb = 0.0

    async def start(self, failpoint: str = "") -> None:
        """Starts it; it may die at once."""
        env = {**os.environ, "CARILLON_STATE_DIR": str(self.state), "CARILLON_FAILPOINT": failpoint}
        if not failpoint:
            del env["CARILLON_FAILPOINT"]
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "pipeline.cli", "run", "--role", "core", "--config", str(self.config),
                env=env, stdout=log, stderr=log,
            )  # fmt: skip

    def look(self) -> None:
        """Notes the most memory that the process has had."""
        assert self.process is not None
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    self.peak_mb = max(self.peak_mb, int(line.split()[1]) / 1024)

    async def died(self) -> None:
        """Returns when it has ended by itself. Raises TimeoutError."""
        assert self.process is not None
        await asyncio.wait_for(self.process.wait(), READY_SECONDS)

    async def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.look()
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL where that is not enough."""
        if self.process is None or self.process.returncode is not None:
            return
        self.look()
        self.process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), 20)
        if self.process.returncode is None:
            await self.kill()


class Scene:
    """Topics, users, and the roles beside core: those that count what comes of a broadcast."""

    def __init__(self, bootstrap: str, directory: Path, members: int, others: int, **core: Any) -> None:
        self.members, self.others = members, others
        self.directory, self.provider = directory, Counting()
        config = directory / "carillon.toml"
        config.write_text(tomli_w.dumps(_config(bootstrap, directory, core)))
        self.settings: Settings = load(config)
        self.core = Core(config, directory / "core", directory / "core.log")
        self.runner = Runner(
            self.settings.model_copy(update={"state_dir": directory / "beside"}), (str(Channel.WEB), "status")
        )
        self.runner.roles.pools[Channel.WEB] = Pool([self.provider])
        self.desk = StoreDesk(lambda: self.runner.apps.get("status"), directory)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Topics are there, users are on theirs, what is beside core runs; core is stopped in the end."""
        await create(self.settings)
        async with _producer(self.settings) as producer:
            await _all_sent(producer, self._users())
        try:
            await self.runner.start()
            await self.runner.wait_until_ready(READY_SECONDS)
            yield
        finally:
            await self.core.stop()
            await self.runner.stop()

    def _users(self) -> list[tuple[bytes, bytes]]:
        names = [(f"member-{n}", True) for n in range(self.members)]
        names += [(f"other-{n}", False) for n in range(self.others)]
        return [
            (name.encode(), orjson.dumps({"user_id": name, "attributes": {"member": is_member}}))
            for name, is_member in names
        ]

    async def ask(self) -> None:
        """Asks for the broadcast."""
        async with _producer(self.settings) as producer:
            await producer.send_and_wait(topics.EVENTS, orjson.dumps(EVENT), key=b"k")

    @property
    def told(self) -> int:
        """How many were told by now."""
        return len(self.provider.calls)

    @property
    def progress(self) -> Broadcast | None:
        """How far the broadcast says that it is."""
        return self.desk.broadcast(ID)

    async def until(self, condition: Callable[[], bool | Awaitable[bool]], what: str) -> None:
        """Waits until something holds, and looks at core's memory meanwhile. Raises TimeoutError."""
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                while not (found := condition()) or not (found is True or await found):
                    if self.core.process is not None and self.core.process.returncode is None:
                        self.core.look()
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise TimeoutError(f"never came: {what} ({self.told} told, {self.progress})") from None

    async def is_over(self) -> bool:
        """Whether the broadcast has ended and everything that came of it has been read."""
        found = self.progress
        if found is None or found.stage not in (Stage.DONE, Stage.CANCELLED):
            return False
        return await behind(self.settings, ("core", str(Channel.WEB), "status")) == 0

    async def has_read_users(self) -> bool:
        """Whether core knows everybody."""
        return await behind(self.settings, ("core",), (topics.USERS,)) == 0

    def figures(self) -> dict[str, int]:
        """What came of it, against what should."""
        wanted = {notification_id(f"member-{n}", "carillon", KEY, WORKFLOW) for n in range(self.members)}
        calls, found = self.provider.calls, self.progress
        return {
            "members": self.members,
            "told": len(wanted & calls.keys()),
            "lost": len(wanted - calls.keys()),
            "told_twice": sum(count > 1 for count in calls.values()),
            "others_told": len(calls.keys() - wanted),
            "told_by_progress": found.told if found else 0,
            "looked_at": found.looked_at if found else 0,
        }


def _config(bootstrap: str, directory: Path, core: dict[str, Any]) -> dict[str, Any]:
    files = {
        "workflows": {"name": WORKFLOW, "on": "all.told", "template": "news", "channels": ["web"]},
        "templates": {"name": "news", "channels": {"web": {"text": "{{ what }}"}}},
        "segments": {"name": "members", "rule": "user.attributes.member"},
    }
    for name, value in files.items():
        (directory / name).mkdir()
        (directory / name / "one.yaml").write_bytes(orjson.dumps(value))  # JSON is YAML
    return {
        "state_dir": str(directory / "state"),
        **{f"{name}_dir": str(directory / name) for name in files},
        "log_level": "warning",
        "kafka": {
            "bootstrap_servers": bootstrap, "session_timeout": SESSION_SECONDS,
            "partitions": dict.fromkeys(ROLES, PARTITIONS),
        },
        "web": {"port": 0},
        "core": {"unknown_user_grace": 1, "broadcast_per_second": 1_000_000, **core},
        "channels": {"web": {"window": 1_000, "providers": {"inbox": {"kind": "inbox"}}}},
    }  # fmt: skip


@contextlib.asynccontextmanager
async def _producer(settings: Settings) -> AsyncIterator[Any]:
    producer = AIOKafkaProducer(**client_options(settings), acks="all", linger_ms=20, enable_idempotence=True)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def _all_sent(producer: Any, rows: list[tuple[bytes, bytes]]) -> None:
    for begin in range(0, len(rows), 10_000):
        piece = rows[begin : begin + 10_000]
        await asyncio.gather(*[await producer.send(topics.USERS, value, key=key) for key, value in piece])


async def behind(settings: Settings, roles: Sequence[str], only: Sequence[str] = ()) -> int:
    """How many offsets roles have not committed yet of what they read."""
    prefix, left = settings.kafka.topic_prefix, 0
    admin = AIOKafkaAdminClient(**client_options(settings))
    consumer = AIOKafkaConsumer(**client_options(settings), group_id=None)
    await admin.start()
    await consumer.start()
    try:
        for role in roles:
            parts = [
                TopicPartition(prefix + name, number)
                for name in (only or READS[role])
                for number in range(PARTITIONS)
            ]
            ends = await consumer.end_offsets(parts)
            kept = await admin.list_consumer_group_offsets(group(settings, role))
            left += sum(end - (kept[part].offset if part in kept else 0) for part, end in ends.items())
    finally:
        await consumer.stop()
        await admin.close()
    return left


async def tell_all(bootstrap: str, directory: Path, members: int, others: int) -> dict[str, Any]:
    """One broadcast, with core killed twice while it is under way."""
    scene = Scene(bootstrap, directory, members, others)
    async with scene.open():
        await scene.core.start()
        await scene.until(scene.has_read_users, "core knows the users")
        scene.core.look()
        before = scene.core.peak_mb
        await scene.ask()
        began, while_work_remained = time.monotonic(), 0
        for share in SHARES:
            await scene.until(lambda share=share: scene.told >= members * share, f"{share:.0%} told")  # type: ignore[misc]
            await scene.core.kill()
            while_work_remained += scene.told < members
            tell(f"killed core: {scene.told} of {members} told")
            await scene.core.start()
        await scene.until(scene.is_over, "the end")
        seconds = time.monotonic() - began
        found = scene.figures()
    return {
        **found, "kills": len(SHARES), "kills_while_work_remained": while_work_remained,
        "seconds": round(seconds, 1), "core_before_mb": round(before, 1),
        "core_peak_mb": round(scene.core.peak_mb, 1),
    }  # fmt: skip


def wrong(figures: dict[str, Any]) -> list[str]:
    """What is not as it should be."""
    found = [f"{name}: {figures[name]}" for name in ("lost", "told_twice", "others_told") if figures[name]]
    if figures["told_by_progress"] != figures["members"]:
        found.append(f"progress tells of {figures['told_by_progress']}, {figures['members']} are members")
    return found


def main(users: int, *, as_json: bool) -> int:
    """Tells a small segment and one of so many users; returns the exit status.

    Core knows as many users more as it tells, so that what knowing them takes counts too. `core_before_mb`
    is its peak before it told anybody.
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a fresh broker's first seconds are noisy
    runs: dict[int, dict[str, Any]] = {}
    for members in (min(SMALL, users), users):
        with (
            tempfile.TemporaryDirectory(prefix="carillon-broadcast-") as directory,
            EmbeddedKafka(config={"group.min.session.timeout.ms": "1000"}) as kafka,
        ):
            try:
                runs[members] = asyncio.run(
                    tell_all(kafka.bootstrap_servers, Path(directory), members, OTHERS)
                )
            except Exception:
                tell((Path(directory) / "core.log").read_text(errors="replace")[-4_000:])
                raise
        tell(f"{members} members: {runs[members]}")
    small, large = runs[min(SMALL, users)], runs[users]
    grew = round(large["core_peak_mb"] - small["core_peak_mb"], 1)
    problems = [*wrong(small), *wrong(large)]
    if grew > GROWTH_MB:
        problems.append(f"core took {grew} MB more for {users} users than for {small['members']}")
    for line in problems:
        tell(f"WRONG {line}")
    figures = {**large, "core_grew_mb": grew}
    figures |= {f"small_{name}": small[name] for name in ("core_before_mb", "core_peak_mb")}
    click.echo(
        orjson.dumps(figures).decode() if as_json else "\n".join(f"{k:<28} {v}" for k, v in figures.items())
    )
    return bool(problems)


def tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
