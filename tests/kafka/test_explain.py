"""Explaining, cancelling and config as code on a real Kafka, with a process that answers and without one."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner

from agents import topics
from pipeline.cli import main
from pipeline.run import Runner
from pipeline.settings import Settings, given
from pipeline.topics import client_options
from pipeline.web import operations, server
from pipeline.web.repairs import Repairs
from pipeline.web.rows import Tables
from pipeline.web.tasks import Tasks
from pipeline.web.views import StoreDesk
from schemas.ids import notification_id

pytestmark = pytest.mark.kafka
TOKEN = "correct horse battery"
SOURCE = "urn:test"
WORKFLOW = """
name: ordered
on: t.ordered
recipients: [user]
template: ordered
channels: [email, web]
"""
TEMPLATE = (
    "name: ordered\nchannels:\n  email: {subject: Hello, text: 'Order {{ n }}'}\n  web: {text: Order}\n"
)


class World:
    """A pipeline under a prefix of its own, its HTTP side, and an operator with a terminal."""

    def __init__(self, servers: str, directory: Path) -> None:
        self.directory = directory
        for name, content in (("workflows/a", WORKFLOW), ("templates/a", TEMPLATE)):
            (directory / name).parent.mkdir()
            (directory / f"{name}.yaml").write_text(content)
        box = {"providers": {"box": {"kind": "outbox"}}}
        self.prefix = f"x{time.time_ns():x}."
        self.settings: Settings = given(
            state_dir=directory / "state", workflows_dir=directory / "workflows",
            templates_dir=directory / "templates",
            kafka={
                "bootstrap_servers": servers, "topic_prefix": self.prefix,
                "partitions": {"core": 3, "email": 2, "web": 2, "status": 3},
            },
            channels={"email": box, "web": box},
        )  # fmt: skip
        self.config = (
            f'[kafka]\nbootstrap_servers = "{servers}"\ntopic_prefix = "{self.prefix}"\n'
            "[kafka.partitions]\ncore = 3\nemail = 2\nweb = 2\nstatus = 3\n"
        )
        (directory / "apart.toml").write_text(self.config)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Runner]:
        runner = Runner(self.settings)
        try:
            await runner.start()
            await runner.wait_until_ready(60)
            tasks = Tasks.of(runner.running, self.settings, runner.roles.pools)
            app = server.create(
                StoreDesk(lambda: runner.apps.get("status"), self.settings.state_dir), Tables(runner.held),
                tasks, Repairs.of(self.settings),
                operations=operations.OnKafka(self.settings, runner.catalogue), token=TOKEN,
                version="test", readiness=runner.readiness, metrics=runner.metrics,
            )  # fmt: skip
            serving, port = await server.serve(app, "127.0.0.1", 0)
            (self.directory / "served.toml").write_text(
                f'operator_token = "{TOKEN}"\n{self.config}[web]\nport = {port}\n'
            )
            try:
                yield runner
            finally:
                await serving.stop()
                await tasks.close()
        finally:
            await runner.stop()

    async def send(self, topic: str, key: str, value: bytes) -> None:
        async with AIOKafkaProducer(**client_options(self.settings), acks="all") as producer:
            await producer.send_and_wait(self.prefix + topic, value, key=key.encode())

    async def user(self, name: str) -> None:
        await self.send(topics.USERS, name, orjson.dumps({"user_id": name, "email": f"{name}@example.com"}))

    async def event(self, id: str, user: str, **fields: Any) -> None:
        event = {"specversion": "1.0", "id": id, "source": SOURCE, "type": "t.ordered",
                 "data": {"user": user, "n": 1}, **fields}  # fmt: skip
        await self.send(topics.EVENTS, user, orjson.dumps(event))

    async def told(self, config: str, *words: str) -> Any:
        """What a command reports: by `served.toml` of a process that answers, by `apart.toml` of Kafka."""
        command = [*words, "--json", "--config", str(self.directory / config)]
        result = await asyncio.to_thread(CliRunner().invoke, main, command)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    async def explained(self, config: str, *words: str) -> str:
        """All sentences of an explanation."""
        told = await self.told(config, "explain", *words)
        return "\n".join([*told["sentences"], *(s for one in told["stories"] for s in one["sentences"])])

    async def comes(self, sentence: str, *words: str) -> str:
        """What a running process says as soon as it says that."""
        said: str = await until(lambda: self.explained("served.toml", *words), lambda said: sentence in said)
        return said


async def until(ask: Callable[[], Any], holds: Callable[[Any], bool], seconds: float = 30.0) -> Any:
    """What is answered as soon as it is as it should be."""
    found = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not holds(found := await ask()):
                await asyncio.sleep(0.05)
            return found
    raise AssertionError(f"never came; the last was {found}")


@pytest.fixture
def world(kafka: str, tmp_path: Path) -> World:
    return World(kafka, tmp_path)


async def test_what_came_and_what_did_not_is_explained_alike_by_a_process_and_from_kafka(
    world: World,
) -> None:
    async with world.running():
        await world.user("ada")
        await world.event("e-1", "ada")
        await world.event("e-2", "ada", type="t.odd")
        await world.event("e-3", "ada", specversion=7)
        told = notification_id("ada", SOURCE, "e-1", "ordered")
        event = ("--event", SOURCE)
        expected = {
            (told,): "ada was told by e-mail and in the inbox.",
            (*event, "e-1", "--user", "ada"): "ada was told by e-mail and in the inbox.",
            (*event, "e-1", "--user", "eve"): "eve was not told.",
            (*event, "e-2"): "No workflow wanted events of the type t.odd",
            (*event, "e-3"): "The event could not be read: specversion",
            (*event, "e-4"): "No such event came",
            (notification_id("eve", SOURCE, "e-1", "ordered"),): "Nothing is known of a notification",
        }
        served = {words: await world.comes(sentence, *words) for words, sentence in expected.items()}
        poison = served[*event, "e-3"]
        assert f"carillon dlq show {world.prefix}dlq-events" in poison and "No such event" not in poison
        for words, said in served.items():
            assert await world.explained("apart.toml", *words) == said


async def test_a_cancel_that_knows_nothing_but_the_id_is_told_where_its_notification_is(world: World) -> None:
    """Users of every partition: the signal and its status find the way by the id alone."""
    users, later = [f"u-{n}" for n in range(9)], (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    async with world.running():
        for user in users:
            await world.user(user)
            request = {
                "event_type": "t.told", "user_id": user, "template_id": "ordered", "channels": ["email"],
                "variables": {"n": 1}, "idempotency_key": "k", "scheduled_at": later,
            }  # fmt: skip
            await world.send(topics.EVENTS, user, orjson.dumps(request))
        ids = [notification_id(user, "carillon", "k", "direct") for user in users]
        for user, found in zip(users, ids, strict=True):
            await world.comes("the time that it was scheduled for", found)
            assert await world.told("apart.toml", "cancel", found) == {"notification_id": found}
            said = await world.comes("It was cancelled in time", found)
            assert said.startswith(f"{user} was not told.")
        await world.event("e-1", "u-1")
        sent = notification_id("u-1", SOURCE, "e-1", "ordered")
        await world.comes("u-1 was told by e-mail and in the inbox", sent)
        await world.told("served.toml", "cancel", sent)
        said = await world.comes("but too late", sent)
        assert said.startswith("u-1 was told by e-mail and in the inbox.")


async def test_rules_go_to_files_and_back_and_a_rollback_is_heard(world: World) -> None:
    async with world.running() as runner:
        rules = str(world.directory / "rules")
        told = await world.told("apart.toml", "config", "export", rules)
        assert told["written"] == ["templates/ordered.yaml", "workflows/ordered.yaml"]
        assert (await world.told("apart.toml", "config", "apply", rules, "--prune"))["changes"] == []
        file = world.directory / "rules/templates/ordered.yaml"
        file.write_text(file.read_text().replace("Order {{ n }}", "Your order {{ n }}"))
        (world.directory / "rules/workflows/ordered.yaml").rename(
            world.directory / "rules/workflows/new.yaml"
        )
        new = world.directory / "rules/workflows/new.yaml"
        new.write_text(
            new.read_text().replace("name: ordered", "name: new").replace("id: ordered", "id: new")
        )
        expected = [
            {"verb": "change", "kind": "template", "name": "ordered"},
            {"verb": "add", "kind": "workflow", "name": "new"},
            {"verb": "remove", "kind": "workflow", "name": "ordered"},
        ]
        for words in (("--dry-run", "--prune"), ("--prune",)):
            assert set(runner.catalogue.workflows) == {"ordered"}
            told = await world.told("apart.toml", "config", "apply", rules, *words)
            assert told["changes"] == expected
        await until(templates(runner), lambda found: found["ordered"].current == 2)
        await until(workflows(runner), lambda found: set(found) == {"new"})
        assert (await world.told("apart.toml", "config", "apply", rules, "--prune"))["changes"] == []

        port = (world.directory / "served.toml").read_text().rpartition("port = ")[2].strip()
        bearer = {"authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1", headers=bearer) as client:
            answer = await client.post("/templates/ordered/rollback", json={"version": 1})
            assert answer.json() == {"name": "ordered", "current": 1, "versions": [1, 2]}
            await until(templates(runner), lambda found: found["ordered"].current == 1)
        assert (await world.told("apart.toml", "config", "apply", rules))["changes"] == expected[:1]
        found = await until(templates(runner), lambda found: found["ordered"].current == 2)
        assert set(found["ordered"].versions) == {1, 2}


def templates(runner: Runner) -> Callable[[], Any]:
    async def ask() -> Any:
        return runner.catalogue.templates

    return ask


def workflows(runner: Runner) -> Callable[[], Any]:
    async def ask() -> Any:
        return runner.catalogue.workflows

    return ask
