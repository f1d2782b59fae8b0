"""Dead letters on a real Kafka: listed, shown, put back once, deleted."""

import asyncio
import base64
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from click.testing import CliRunner, Result

from pipeline import dead_letters
from pipeline.cli import main
from pipeline.demo.demo import _settings
from pipeline.run import Runner
from pipeline.settings import Settings
from pipeline.simulator import Simulator
from pipeline.topics import create
from schemas import dead_letter
from schemas.ids import hash_in
from schemas.kinds import Channel, Doubt, Reason
from tests.journeys.memory import NOON
from tests.journeys.samples import a_message

pytestmark = pytest.mark.kafka
POISON = b"\x1b[2J not JSON at all"
NOW_AND_THEN = 0.05
CHANNELS: dict[str, Any] = {
    "email": {
        "providers": {"sink": {"kind": "smtp", "host": "127.0.0.1", "port": 1, "from": "a@example.com"}}
    },
    "sms": {"providers": {"outbox": {"kind": "outbox"}}},
    "web": {"providers": {"inbox": {"kind": "inbox"}}},
    "webhook": {"providers": {"hooks": {"kind": "webhook", "allow_internal": True}}},
}


class Desk:
    """An operator with a terminal, before a pipeline of its own."""

    def __init__(self, kafka: str, state: Path) -> None:
        found = _settings(kafka, f"t{uuid.uuid4().hex[:8]}.", state, CHANNELS)
        self.settings: Settings = found.model_copy(
            update={"kafka": found.kafka.model_copy(update={"partitions": dict.fromkeys(
                ("core", "email", "sms", "push", "web", "chat", "webhook", "status"), 2)})}
        )  # fmt: skip
        self.config = state / "carillon.toml"
        self.config.write_text(
            f'[kafka]\nbootstrap_servers = "{kafka}"\ntopic_prefix = "{self.prefix}"\n'
            "[kafka.partitions]\n" + "".join(f"{n} = 2\n" for n in self.settings.kafka.partitions)
        )

    @property
    def prefix(self) -> str:
        return self.settings.kafka.topic_prefix

    async def run(self, *words: str) -> Result:
        """A `carillon dlq` command."""
        config = ["--config", str(self.config)]
        return await asyncio.to_thread(CliRunner().invoke, main, ["dlq", *words, *config])

    async def told(self, *words: str) -> dict[str, Any]:
        """What such a command reports."""
        result = await self.run(*words, "--json")
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    async def letters(self, *words: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.told("list", *words))["letters"]
        return found

    async def held(self, plain: str) -> int:
        """How many letters a topic holds."""
        found = await dead_letters.purges(self.settings, [self.prefix + plain], None)
        return sum(one.before - one.first for one in found)

    async def send(self, *values: bytes) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.settings.kafka.bootstrap_servers) as producer:
            for value in values:
                await producer.send_and_wait(self.prefix + "events", value, key=b"k")

    @contextlib.asynccontextmanager
    async def running(self, *roles: str) -> AsyncIterator[Runner]:
        runner = Runner(self.settings, roles or ("core", "webhook", "status"))
        try:
            await runner.start()
            await runner.wait_until_ready(60)
            yield runner
        finally:
            await runner.stop()


@pytest.fixture
async def desk(kafka: str, tmp_path: Path) -> Desk:
    found = Desk(kafka, tmp_path)
    await create(found.settings)
    return found


async def becomes(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> None:
    """Waits until an awaited condition holds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not await condition():
                await asyncio.sleep(NOW_AND_THEN)
            return
    raise AssertionError(f"never came: {what}")


def hook(port: int) -> bytes:
    """A request of our own without a key, for a webhook that is gone."""
    return json.dumps({
        "event_type": "told.directly", "content": {"body": "hush-4711"}, "channels": ["webhook"],
        "recipients": [{"user_id": "u-1", "webhook_url": f"http://127.0.0.1:{port}/hook/secret"}],
    }).encode()  # fmt: skip


async def test_a_dead_letter_is_seen_put_back_once_and_deleted(desk: Desk) -> None:
    sink = Simulator("webhook", faults=["410"])
    await sink.start()
    try:
        async with desk.running():
            await desk.send(hook(sink.port), POISON)

            async def both() -> bool:
                return await desk.held("dlq-webhook") == await desk.held("dlq-events") == 1

            await becomes(both, "a letter of each kind")

            # seen
            found = await desk.letters()
            assert {one["topic"] for one in found} == {
                desk.prefix + "dlq-webhook",
                desk.prefix + "dlq-events",
            }
            assert "hush" not in json.dumps(found)
            assert "/hook/" not in json.dumps(found)
            (letter,) = await desk.letters("--reason", "refused")
            assert letter["notification_id"]
            assert letter["attempts"] == "1"
            place = (letter["topic"], str(letter["partition"]), str(letter["offset"]))
            shown = await desk.told("show", *place)
            assert json.loads(shown["value"])["text"] == "hush-4711"
            (poison,) = await desk.letters("--topic", "dlq-events")
            shown = await desk.told("show", "dlq-events", str(poison["partition"]), str(poison["offset"]))
            assert base64.b64decode(shown["value_base64"]) == POISON
            plain = await desk.run("show", "dlq-events", str(poison["partition"]), str(poison["offset"]))
            assert "\x1b" not in plain.stdout
            assert "reason: unreadable" in plain.stdout

            # put back
            assert (await desk.told("redrive", *place, "--dry-run"))["redriven"] == 1
            assert await desk.held("dlq-webhook") == 1
            await sink.set_faults([])
            for _ in range(2):
                assert (await desk.told("redrive", *place))["redriven"] == 1

            async def sent() -> bool:
                return sum(sink.requests.values()) == 2

            await becomes(sent, "the webhook")
            told = await desk.told("redrive", "--topic", "dlq-events", "--reason", "unreadable")
            assert told == {"dry_run": False, "redriven": 1, "failed": []}

            async def twice() -> bool:
                return await desk.held("dlq-events") == 2

            await becomes(twice, "the poison once more")
            again, once = await desk.letters("--topic", "dlq-events")
            assert (again["source"], again["failed_at"]) == (once["source"], once["failed_at"])
        assert list(sink.requests.values()) == [2], "one key: refused, then sent"
        assert await desk.held("dlq-webhook") == 1
    finally:
        await sink.stop()

    # deleted
    refused = await desk.run("purge", "dlq-events")
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert await desk.held("dlq-events") == 2
    assert (await desk.told("purge", "--before", "2020-01-01T00:00:00Z", "--yes"))["records"] == 0
    assert (await desk.told("purge", "dlq-events", "--yes"))["records"] == 2
    assert [one["topic"] for one in await desk.letters()] == [desk.prefix + "dlq-webhook"]
    gone = await desk.run("show", "dlq-events", str(poison["partition"]), str(poison["offset"]))
    assert gone.exit_code == 1
    assert "no such record" in gone.stderr
    assert (await desk.told("purge", "--before", "2999-01-01T00:00:00Z", "--yes"))["records"] == 1
    assert await desk.letters() == []


async def test_a_redriven_message_right_behind_its_original_is_not_lost(desk: Desk) -> None:
    """Both come up at once after a kill: the original is told again, and then the redriven one is tried."""
    sink = Simulator("webhook")
    await sink.start()
    try:
        url = f"http://127.0.0.1:{sink.port}/gone/secret"
        value = a_message(channel=Channel.WEBHOOK, target=url, doubt=Doubt.AT_MOST_ONCE).to_json()
        async with AIOKafkaProducer(bootstrap_servers=desk.settings.kafka.bootstrap_servers) as producer:
            topic = desk.prefix + "webhook-notifications"
            for headers in ([], [("redrive", b"dlq-webhook-0-7")]):
                await producer.send_and_wait(topic, value, key=b"u-1", headers=headers)
        async with desk.running():

            async def both() -> bool:
                return await desk.held("dlq-webhook") == 2

            await becomes(both, "a letter of each")
        assert [one["attempts"] for one in await desk.letters("--topic", "dlq-webhook")] == ["2", "1"]
    finally:
        await sink.stop()


async def test_letters_of_a_provider_are_found_by_its_code_and_sent_by_another(desk: Desk) -> None:
    value, servers = a_message(channel=Channel.SMS, target="+15550100"), desk.settings.kafka.bootstrap_servers
    place = hash_in(value.id) % 2
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        for number, (provider, code) in enumerate((("main", "21610"), ("main", "30007"), ("old", "21610"))):
            headers = dead_letter.headers(
                Reason.REFUSED, "no", desk.prefix + "sms-notifications", place, number, NOON,
                provider=provider, code=code,
            )  # fmt: skip
            await producer.send_and_wait(
                desk.prefix + "dlq-sms", value.to_json(), b"u-1", partition=place, headers=headers
            )
    (letter,) = await desk.letters("--provider", "main", "--code", "216*")
    assert (letter["provider"], letter["code"], letter["offset"]) == ("main", "21610", 0)
    assert len(await desk.letters("--code", "21610", "--code", "30007")) == 3
    wanted = ("redrive", "--provider", "main", "--code", "21610")
    unknown = await desk.run(*wanted, "--to-provider", "main")
    assert unknown.exit_code == 2
    assert "dlq-sms outbox" in unknown.stderr
    assert (await desk.told(*wanted, "--to-provider", "outbox"))["redriven"] == 1
    async with (
        AIOKafkaConsumer(
            desk.prefix + "sms-notifications", desk.prefix + "delivery-status",
            bootstrap_servers=servers, auto_offset_reset="earliest",
        ) as consumer,
        asyncio.timeout(60),
        desk.running("sms"),
    ):  # fmt: skip
        back, said = await consumer.getone(), await consumer.getone()
    assert dict(back.headers)["provider"] == b"outbox"
    assert dict(back.headers)["redrive"].decode() == f"{desk.prefix}dlq-sms-{place}-0"
    told = json.loads(said.value)
    assert (told["notification_id"], told["state"], told["provider"]) == (value.id, "delivered", "outbox")


async def test_a_list_is_bounded_and_the_newest_come_first(desk: Desk) -> None:
    topic = desk.prefix + "dlq-sms"
    servers = desk.settings.kafka.bootstrap_servers
    async with AIOKafkaProducer(bootstrap_servers=servers, linger_ms=0) as producer:
        for number in range(9):
            headers = [("reason", b"refused" if number % 3 else b"raised"), ("attempts", b"%d" % number)]
            await producer.send_and_wait(topic, b"x", partition=number % 2, headers=headers)
            await asyncio.sleep(0.005)
    assert [one["attempts"] for one in await desk.letters("--limit", "3")] == ["8", "7", "6"]
    raised = await desk.letters("--limit", "2", "--reason", "raised")
    assert [one["attempts"] for one in raised] == ["6", "3"]
    lost = await desk.run("redrive", "--topic", "dlq-sms")
    assert lost.exit_code == 1
    (_, line) = lost.stderr.splitlines()
    assert "do not say where it came from (and 8 more)" in line


async def test_a_place_that_is_not_there_is_told_in_one_line(desk: Desk) -> None:
    places = {
        ("dlq-sms", "0", "0"): "it is empty",
        ("dlq-sms", "99", "0"): "no partition 99",
        (desk.prefix + "dlq-sms", "1", str(2**70)): "no such record",
    }
    for place, told in places.items():
        for command in ("show", "redrive"):
            result = await desk.run(command, *place)
            assert result.exit_code == 1, result.output
            (line,) = result.stderr.splitlines()
            assert line.startswith("carillon: ")
            assert told in line
