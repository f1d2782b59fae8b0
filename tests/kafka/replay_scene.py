"""The scene of the replays: rules with a broken template, people, an outbox, and roles to run."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import orjson
import tomli_w
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from click.testing import CliRunner, Result

from agents import topics
from pipeline.catalogue import publish
from pipeline.cli import main
from pipeline.engine import UnitApp
from pipeline.pool import Pool
from pipeline.providers import outbox
from pipeline.providers.provider import Provider
from pipeline.replay import of_group, resolve
from pipeline.run import Runner
from pipeline.settings import Settings, given
from pipeline.topics import all_topics, client_options
from schemas.ids import user_hash
from schemas.kinds import Channel
from tests.kafka.engine_app import Rows, becomes, eventually, rows_of

WORKFLOW = """
- name: ordered
  on: t.ordered
  recipients: [user]
  template: ordered
  channels: [email, web]
  category: orders
- name: shipped
  on: t.shipped
  recipients: [user]
  template: shipped
  channels: [email]
  category: orders
"""
TEMPLATES = {
    "ordered": "name: ordered\nchannels:\n  email: {subject: Hello, text: 'Order {{ n }}'}\n"
    "  web: {subject: Hello, text: 'Order {{ n }}'}\n",
    "shipped": "name: shipped\nchannels:\n  email: {subject: Hello, text: 'Shipped {{ n + no.thing }}'}\n",
}
MENDED = TEMPLATES["shipped"].replace("n + no.thing", "n")
USERS = 6


class World:
    """All that one test needs under a prefix of its own: settings, rules, people, and the outbox."""

    def __init__(self, servers: str, directory: Path) -> None:
        self.directory = directory
        for name, content in TEMPLATES.items():
            self.write(f"templates/{name}.yaml", content)
        self.write("workflows/all.yaml", WORKFLOW)
        told: dict[str, Any] = {
            "state_dir": str(directory / "state"),
            "workflows_dir": str(directory / "workflows"),
            "templates_dir": str(directory / "templates"),
            "web": {"port": 0},
            "kafka": {
                "bootstrap_servers": servers,
                "topic_prefix": f"r{time.time_ns():x}.",
                "partitions": {"core": 2, "email": 2, "web": 2, "status": 2},
            },
            "channels": {
                "email": {"providers": {"box": {"kind": "outbox"}}},
                "web": {"providers": {"box": {"kind": "outbox"}}},
            },
        }
        self.settings: Settings = given(**told)
        self.prefix = self.settings.kafka.topic_prefix
        self.config = directory / "carillon.toml"
        self.config.write_text(tomli_w.dumps(told))

    def write(self, name: str, content: str) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    @contextlib.asynccontextmanager
    async def running(self, *roles: str, email: Provider | None = None) -> AsyncIterator[Runner]:
        runner = Runner(self.settings, roles)
        if email is not None:
            runner.roles.pools[Channel.EMAIL] = Pool([email])
        try:
            await runner.start()
            await runner.wait_until_ready(60)
            yield runner
        finally:
            await runner.stop()

    async def send(self, topic: str, rows: list[tuple[str, dict[str, Any]]]) -> None:
        producer = AIOKafkaProducer(**client_options(self.settings), acks="all")
        await producer.start()
        try:
            for key, value in rows:
                hashed = user_hash(key) & 0x7FFFFFFF
                await producer.send_and_wait(
                    self.prefix + topic, orjson.dumps(value), key=key.encode(), partition=hashed % 2
                )
        finally:
            await producer.stop()

    async def people(self, *, limit: int = 3) -> None:
        users = [f"u{n}" for n in range(USERS)]
        await self.send(topics.USERS, [(u, {"user_id": u, "email": f"{u}@example.com"}) for u in users])
        capped = {"user_id": "u0", "frequency_limit": limit}
        opted_out = {"user_id": "u1", "channels": {"web": False}}
        await self.send(topics.PREFERENCES, [("u0", capped), ("u1", opted_out)])

    async def events(self, kind: str, begin: int, end: int) -> None:
        found = []
        for n in range(begin, end):
            user = f"u{n % USERS}"
            event = {"specversion": "1.0", "id": f"{kind}-{n}", "source": "test", "type": kind,
                     "data": {"user": user, "n": n}}  # fmt: skip
            found.append((user, event))
        await self.send(topics.EVENTS, found)

    def sent(self) -> list[str]:
        """The texts of what was sent, and as often as it was asked to be sent."""
        found = outbox.read(self.settings.state_dir / outbox.FILE, limit=10_000)
        return sorted(stored.text for stored in found for _ in range(stored.requests))

    async def asked(self, *words: str) -> Result:
        """How `carillon replay` ends, as a process of its own would run it."""
        command = ["replay", *words, "--config", str(self.config)]
        return await asyncio.to_thread(CliRunner().invoke, main, command)

    async def told(self, *words: str, dry: bool = False) -> dict[str, Any]:
        """What `carillon replay` says."""
        result = await self.asked(*words, "--json", *(["--dry-run"] if dry else []))
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = orjson.loads(result.stdout)
        return found

    async def mend(self, runner: Runner) -> None:
        """Publishes the template without its fault."""
        self.write("templates/shipped.yaml", MENDED)
        assert await publish(self.settings, runner.catalogue) == ["shipped"]
        await eventually(lambda: runner.catalogue.current("shipped") == 2, "the mended template")

    async def ends(self, role: str) -> bool:
        """Whether a group has committed the end of all that it reads."""
        plan = await resolve(self.settings, of_group(self.settings, role, "latest"))
        return all((span.committed or 0) == span.end for span in plan.spans)

    async def settled(self) -> None:
        """Returns when nothing is under way any more."""
        consumer = AIOKafkaConsumer(**client_options(self.settings))
        await consumer.start()
        try:
            parts = [
                TopicPartition(self.prefix + topic.name, number)
                for topic in all_topics(self.settings)
                for number in range(topic.partitions)
            ]
            consumer.assign(parts)
            before, since = None, time.monotonic()
            while time.monotonic() - since < 1.0:
                ends = await consumer.end_offsets(parts)
                if ends != before:
                    before, since = ends, time.monotonic()
                await asyncio.sleep(0.1)
        finally:
            await consumer.stop()


def stored(app: UnitApp) -> Iterator[tuple[bytes, bytes]]:
    for db in app.store.opened().values():
        yield from rows_of(db).items()


def rows(runner: Runner, role: str) -> Rows:
    """All rows of a role."""
    return dict(stored(runner.apps[role]))


def has_obeyed(app: UnitApp, requests: int = 1) -> bool:
    """Whether every partition of the app is open and has obeyed the latest request."""
    tasks = app.consumer.tasks.values()
    return app.ready and len(tasks) == 2 and app.rewinds.heard >= requests and not any(t.due() for t in tasks)


async def at_the_end(world: World, role: str) -> bool:
    await becomes(lambda: world.ends(role), f"{role} at the end")
    return True
