"""The scene of the loops on deliveries: messages straight onto a channel's topics, and what comes of them."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import orjson
import tomli_w
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from agents import topics
from pipeline.settings import load
from pipeline.topics import ROLES, client_options, counts, create, group, partitions
from schemas.ids import notification_id, partition_of, target_id, user_hash
from schemas.kinds import Channel, Doubt, Priority
from schemas.message import Message
from schemas.notification import EventRef

SOURCE, WORKFLOW, TYPE = "carillon", "told", "told"
PARTITIONS = 4
SESSION_SECONDS = 3.0
"""Of a role's group: a worker that died holds the others up for so long."""
BROKER = {"group.min.session.timeout.ms": "1000", "group.initial.rebalance.delay.ms": "0"}
LOOK_SECONDS = 0.1
ASK_SECONDS = 5.0
LOG_END = 4_000


def configure(
    bootstrap: str, directory: Path, channels: Mapping[str, Any], *, session: float = SESSION_SECONDS,
    count: int = PARTITIONS, more: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Writes a carillon.toml with these channels; the others stay as in development."""
    config, prefix = directory / "carillon.toml", f"{directory.parent.name}-{directory.name}-"
    told = {
        "state_dir": str(directory / "state"),
        "log_level": "warning",
        "kafka": {
            "bootstrap_servers": bootstrap, "session_timeout": session,
            "partitions": dict.fromkeys(ROLES, count), "topic_prefix": prefix,
        },
        "web": {"port": 0},
        "channels": dict(channels),
        **(more or {}),
    }  # fmt: skip
    config.write_text(tomli_w.dumps(told))
    return config


def message(
    run: str, n: int, channel: Channel, target: str, *, doubt: Doubt = Doubt.AT_LEAST_ONCE,
    has_fallback: bool = False, platform: str | None = None,
) -> Message:  # fmt: skip
    """The n-th message of a run for one target; all targets of a number are one user's."""
    user, now = f"user-{n}", time.time_ns() // 1_000_000
    return Message(
        id=notification_id(user, SOURCE, f"{run}-{n}", WORKFLOW), step="plan", user_id=user, channel=channel,
        target=target, target_id=target_id(target), subject=f"News {n}", text=f"The news {n}",
        event=EventRef(source=SOURCE, id=f"{run}-{n}", type=TYPE), event_at=now, at=now, category="news",
        priority=Priority.NORMAL, doubt=doubt, has_fallback=has_fallback or None, platform=platform,
    )  # fmt: skip


class Ground:
    """The topics of one configuration: they are there, and can be written to and followed."""

    def __init__(self, config: Path) -> None:
        self.config, self.settings = config, load(config)
        self._producer: Any = None
        self._followers: list[asyncio.Task[None]] = []

    def topic(self, name: str) -> str:
        """Its name with the prefix."""
        return self.settings.kafka.topic_prefix + name

    @contextlib.asynccontextmanager
    async def open(self, hear: Mapping[str, Callable[[bytes], None]]) -> AsyncIterator[None]:
        """Makes the topics, and follows some of them from their beginning."""
        await create(self.settings)
        self._producer = AIOKafkaProducer(
            **client_options(self.settings), acks="all", linger_ms=2, enable_idempotence=True
        )
        await self._producer.start()
        following = asyncio.create_task(self._follow({self.topic(name): of for name, of in hear.items()}))
        self._followers.append(following)
        try:
            yield
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await self._producer.stop()

    async def _follow(self, hear: Mapping[str, Callable[[bytes], None]]) -> None:
        consumer: Any = AIOKafkaConsumer(
            *hear, **client_options(self.settings), group_id=None, auto_offset_reset="earliest",
            fetch_max_wait_ms=50,
        )  # fmt: skip
        await consumer.start()
        try:
            while True:
                for part, records in (await consumer.getmany(timeout_ms=100)).items():
                    for record in records:
                        hear[part.topic](record.value)
        finally:
            await consumer.stop()

    async def send(self, name: str, rows: Iterable[tuple[str, bytes]], suffix: str = "") -> None:
        """Sends values by user to a topic, and returns when the broker has them.

        `suffix` is what follows the user's name in the key; the partition is the user's.
        """
        topic, count = self.topic(name), counts(self.settings)[name]
        sent = [
            await self._producer.send(
                topic, value, key=f"{user}{suffix}".encode(), partition=partition_of(user_hash(user), count)
            )
            for user, value in rows
        ]
        await asyncio.gather(*sent)

    async def put(self, name: str, user: str, value: bytes) -> None:
        """Sends one value, and does not wait for it."""
        await self._producer.send(self.topic(name), value, key=user.encode())

    async def send_messages(self, messages: Sequence[Message]) -> None:
        """Puts messages of one channel on its topic."""
        name = topics.MESSAGES[messages[0].channel]
        await self.send(name, [(one.user_id, one.to_json()) for one in messages])

    async def until(self, holds: Callable[[], bool | Awaitable[bool]], what: str, seconds: float) -> None:
        """Returns when something holds. Raises TimeoutError, or what ended the following."""
        try:
            async with asyncio.timeout(seconds):
                while not (found := holds()) or not (found is True or await found):
                    self.check()
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}") from None

    def check(self) -> None:
        """Raises what ended the following, if it ended."""
        for following in self._followers:
            if following.done():
                following.result()

    async def behind(self, role: str, name: str) -> int:
        """How many offsets of a topic a role has not committed yet."""
        parts = [
            TopicPartition(self.topic(name), number) for number in range(partitions(self.settings, role))
        ]
        consumer: Any = AIOKafkaConsumer(**client_options(self.settings), group_id=None)
        await consumer.start()
        try:
            ends = await consumer.end_offsets(parts)
        finally:
            await consumer.stop()
        async with self._admin() as admin:
            kept = await admin.list_consumer_group_offsets(group(self.settings, role))
        return sum(end - (kept[part].offset if part in kept else 0) for part, end in ends.items())

    async def members(self, role: str) -> int:
        """How many workers a role's group has; 0 while it makes up its mind."""
        name = group(self.settings, role)
        try:
            async with asyncio.timeout(ASK_SECONDS), self._admin() as admin:
                node = await admin.find_coordinator(name)
                for answer in await admin.describe_consumer_groups([name], node):
                    state, found = answer.groups[0][2], answer.groups[0][5]
                    return len(found) if state == "Stable" else 0
        except (KafkaError, TimeoutError):
            pass
        return 0

    @contextlib.asynccontextmanager
    async def _admin(self) -> AsyncIterator[Any]:
        admin = AIOKafkaAdminClient(**client_options(self.settings))
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()


def entries(*ledgers: Path) -> list[dict[str, Any]]:
    """What simulators wrote down: every target of every request."""
    return [
        orjson.loads(line)
        for ledger in ledgers
        if ledger.exists()
        for line in ledger.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    ]


def tell(line: str) -> None:
    """A line for whoever watches."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def tell_logs(directory: Path) -> None:
    """The ends of the workers' logs."""
    for log in sorted(directory.rglob("worker*.log")):
        tell(f"--- {log.parent.name}/{log.name}, its end ---")
        tell(log.read_text(errors="replace")[-LOG_END:])


def report(figures: Mapping[str, Any], wrong: Sequence[str], *, as_json: bool) -> int:
    """Prints what was found, the figures last; returns the exit status."""
    for line in wrong[:20]:
        tell(f"WRONG {line}")
    if as_json:
        click.echo(orjson.dumps(figures).decode())
    else:
        click.echo("\n".join(f"{name:<28} {value}" for name, value in figures.items()))
    return bool(wrong)
