"""Retries over the whole of delivery: a receiver that is busy, that says when, that never answers."""

import asyncio
import contextlib
import itertools
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import tomli_w
from aiohttp import web
from aiokafka import AIOKafkaProducer, TopicPartition
from aiosmtpd.smtp import SMTP

from agents import topics
from agents.deliver import FIRST_WAIT, MAX_ATTEMPTS
from pipeline.replay import of_group, reading, resolve
from pipeline.topics import changelog, client_options, create, group, partitions
from schemas.ids import user_hash
from schemas.kinds import Channel, State
from schemas.status import Status
from tables import waits
from tests.kafka.engine_app import Ground, fold
from tests.kafka.test_dead_letters import Desk, becomes

pytestmark = pytest.mark.kafka
ROUND_TRIP_SECONDS = 5.0
"""What a retry may take beyond its wait: through Kafka and back, on a busy machine."""


def _well(_: int) -> web.Response:
    return web.Response(status=204)


class Receiver:
    """Answers each path as it is told to, and keeps when it was asked, by key."""

    def __init__(self) -> None:
        self.asked: defaultdict[str, list[float]] = defaultdict(list)
        self.keys: defaultdict[str, set[str]] = defaultdict(set)
        #: how often a path is not answered at first
        self.silent: Counter[str] = Counter()
        self.answers: defaultdict[str, Callable[[int], web.Response]] = defaultdict(lambda: _well)
        self.port = 0

    async def handle(self, request: web.BaseRequest) -> web.Response:
        await request.read()
        times = self.asked[request.path]
        times.append(time.monotonic())
        self.keys[request.path].add(request.headers["webhook-id"])
        if len(times) <= self.silent[request.path]:
            await asyncio.Event().wait()
        return self.answers[request.path](len(times))

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        runner = web.ServerRunner(web.Server(self.handle, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.port = runner.addresses[0][1]
            yield
        finally:
            await runner.cleanup()

    def gaps(self, path: str) -> list[float]:
        times = self.asked[path]
        return [later - earlier for earlier, later in itertools.pairwise(times)]

    def event(self, path: str) -> bytes:
        return json.dumps({
            "event_type": "told.directly", "content": {"body": "x"}, "channels": ["webhook"],
            "idempotency_key": path,
            "recipients": [{"user_id": path, "webhook_url": f"http://127.0.0.1:{self.port}{path}"}],
        }).encode()  # fmt: skip


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    async with found.listening():
        yield found


@pytest.fixture
async def desk(kafka: str, tmp_path: Path) -> Desk:
    found = Desk(kafka, tmp_path)
    await create(found.settings)
    return found


async def test_a_receiver_that_stays_busy_is_asked_three_times_more_and_then_there_is_a_letter(
    desk: Desk, receiver: Receiver
) -> None:
    receiver.answers["/busy"] = lambda _: web.Response(status=503)
    async with desk.running():
        await desk.send(receiver.event("/busy"), receiver.event("/well"))
        await becomes(lambda: desk.held("dlq-webhook"), "a letter", 60)
        (letter,) = await desk.letters()
    assert len(receiver.asked["/busy"]) == MAX_ATTEMPTS
    assert len(receiver.asked["/well"]) == 1
    for n, gap in enumerate(receiver.gaps("/busy")):
        assert gap <= FIRST_WAIT * 2**n + ROUND_TRIP_SECONDS
    assert (letter["reason"], int(letter["attempts"])) == ("retries_exhausted", MAX_ATTEMPTS)


async def test_a_receiver_that_says_when_is_not_asked_before(desk: Desk, receiver: Receiver) -> None:
    def after_a_while(times: int) -> web.Response:
        if times == 1:
            return web.Response(status=429, headers={"Retry-After": "3"})
        return web.Response(status=204)

    receiver.answers["/limited"] = after_a_while
    async with desk.running():
        await desk.send(receiver.event("/limited"))
        await becomes(lambda: _asked(receiver, "/limited", 2), "the retry", 60)
    (gap,) = receiver.gaps("/limited")
    assert 3.0 <= gap <= 3.0 + ROUND_TRIP_SECONDS


async def test_the_schedule_outlives_the_worker(desk: Desk, receiver: Receiver) -> None:
    receiver.answers["/limited"] = lambda times: (
        web.Response(status=503, headers={"Retry-After": "4"}) if times == 1 else web.Response(status=204)
    )
    async with desk.running() as runner:
        await desk.send(receiver.event("/limited"))
        await becomes(lambda: _waits(runner), "a wait")
    async with desk.running():
        await becomes(lambda: _asked(receiver, "/limited", 2), "the retry", 60)
    (gap,) = receiver.gaps("/limited")
    assert 4.0 <= gap <= 4.0 + 2 * ROUND_TRIP_SECONDS
    assert await desk.held("dlq-webhook") == 0


async def _asked(receiver: Receiver, path: str, times: int) -> bool:
    return len(receiver.asked[path]) >= times


async def _waits(runner: Any) -> bool:
    tasks = runner.apps["webhook"].consumer.tasks.values()
    return any(task.timers is not None and task.timers.next < 1 << 61 for task in tasks)


# -- a receiver that hangs

HURRY = 1.0
"""Seconds that a call may take where a receiver hangs."""


class SilentMail:
    """A mail server that takes a message and then says nothing, the first time that it has one for somebody.

    The message was taken, and nobody was told: RFC 1047.
    """

    def __init__(self) -> None:
        self.taken: Counter[str] = Counter()
        self.ids: set[bytes] = set()
        self.port = 0

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        (user,) = envelope.rcpt_tos
        self.taken[user] += 1
        self.ids |= {line for line in envelope.content.splitlines() if line.lower().startswith(b"message-id")}
        if self.taken[user] == 1:
            await asyncio.Event().wait()
        return "250 OK"

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: SMTP(self, loop=loop, hostname="localhost"), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()


def hurried(desk: Desk, smtp_port: int = 1) -> None:
    """Lets a call take no longer than a moment."""
    channels = {
        name: channel.model_copy(update={"providers": {
            key: provider.model_copy(update={"timeout": HURRY, "port": smtp_port})
            for key, provider in channel.providers.items()
        }})
        for name, channel in desk.settings.channels.items()
    }  # fmt: skip
    desk.settings = desk.settings.model_copy(update={"channels": channels})


async def everything(desk: Desk, name: str, count: int) -> list[Any]:
    """Every record of a topic of so many partitions as it is now."""
    parts = [TopicPartition(desk.prefix + name, number) for number in range(count)]
    found: list[Any] = []
    async with reading(desk.settings, parts) as consumer:
        ends = await consumer.end_offsets(parts)
        for part in parts:
            while await consumer.position(part) < ends[part]:
                for records in (await consumer.getmany(part, timeout_ms=200)).values():
                    found += records
    return found


async def statuses(desk: Desk) -> list[Status]:
    """What was told of what became of things."""
    records = await everything(desk, topics.DELIVERY_STATUS, partitions(desk.settings, "status"))
    return [Status.from_json(record.value) for record in records]


async def waiting(desk: Desk, role: str) -> int:
    """How many waits a role keeps, by its changelog."""
    records = await everything(desk, changelog(role), partitions(desk.settings, role))
    parts: defaultdict[int, list[Any]] = defaultdict(list)
    for record in records:
        parts[record.partition].append(record)
    return sum(key.startswith(waits.PREFIX) for part in parts.values() for key in fold(part))


async def is_through(desk: Desk, role: str) -> bool:
    """Whether a group has committed the end of all that it reads, and keeps nothing for later."""
    plan = await resolve(desk.settings, of_group(desk.settings, role, "latest"))
    ends = all((span.committed or 0) == span.end for span in plan.spans)
    return ends and any(span.end for span in plan.spans) and not await waiting(desk, role)


async def people(desk: Desk, *users: str) -> None:
    async with AIOKafkaProducer(**client_options(desk.settings)) as producer:
        for user in users:
            value = orjson.dumps({"user_id": user, "email": f"{user}@example.com"})
            number = (user_hash(user) & 0x7FFFFFFF) % partitions(desk.settings, "core")
            await producer.send_and_wait(
                desk.prefix + topics.USERS, value, key=user.encode(), partition=number
            )


def shop_event(kind: str, user: str, **data: Any) -> bytes:
    return orjson.dumps({
        "specversion": "1.0", "id": f"{kind}-{user}", "source": "https://shop.example", "type": kind,
        "data": {"customer": {"id": user, "name": user}, **data},
    })  # fmt: skip


async def test_a_mail_server_that_hangs_is_asked_again_or_not_as_the_message_chose(desk: Desk) -> None:
    """A password reset rather comes twice than not at all; nobody minds a newsletter less than two."""
    server = SilentMail()
    async with server.listening():
        hurried(desk, server.port)
        async with desk.running("core", "email", "status"):
            await people(desk, "forgetful", "reader")
            await desk.send(
                shop_event(
                    "shop.account.password_reset_requested", "forgetful",
                    reset={"url": "https://shop.example/reset", "minutes": 30},
                ),
                shop_event(
                    "shop.newsletter", "reader",
                    issue={"title": "-", "url": "https://shop.example/news", "teaser": "-"},
                ),
            )  # fmt: skip
            await becomes(lambda: _taken(server, 3), "the mail that is sent once more", 60)
            await becomes(lambda: is_through(desk, "email"), "all committed, and nothing kept for later")
            told = [s for s in await statuses(desk) if s.channel is Channel.EMAIL and s.attempt]
    assert server.taken == {"forgetful@example.com": 2, "reader@example.com": 1}
    assert len(server.ids) == 2, "the same message, with the same Message-ID"
    assert [(s.state, s.attempt) for s in told if s.user_id == "forgetful"] == [
        (State.UNKNOWN, 1), (State.SENT, 2),
    ]  # fmt: skip
    assert [(s.state, s.attempt) for s in told if s.user_id == "reader"] == [(State.UNKNOWN, 1)]
    assert await desk.held("dlq-email") == 0, "nobody knows that it failed"


async def _taken(server: SilentMail, count: int) -> bool:
    return server.taken.total() >= count


async def test_a_webhook_that_hangs_is_asked_again_with_the_same_key(desk: Desk, receiver: Receiver) -> None:
    hurried(desk)
    receiver.silent["/hangs"] = 1
    async with desk.running():
        await desk.send(receiver.event("/hangs"), receiver.event("/well"))
        await becomes(lambda: _asked(receiver, "/hangs", 2), "the second call", 60)
        await becomes(lambda: is_through(desk, "webhook"), "all committed, and nothing kept for later")
        told = [(s.state, s.attempt) for s in await statuses(desk) if s.user_id == "/hangs" and s.attempt]
    assert told == [(State.UNKNOWN, 1), (State.SENT, 2)]
    assert (len(receiver.asked["/hangs"]), len(receiver.keys["/hangs"])) == (2, 1)
    assert receiver.gaps("/hangs")[0] >= HURRY, "asked again before the first call was given up"
    assert len(receiver.asked["/well"]) == 1


# -- a delivery role that is killed


class Killed:
    """A process of its own that runs the webhook role, its state on a disk that outlives it."""

    def __init__(self, desk: Desk, directory: Path) -> None:
        self.desk, self.directory = desk, directory
        self.config = directory / "webhook.toml"
        kafka = desk.settings.kafka
        self.config.write_text(tomli_w.dumps({
            "state_dir": str(directory / "webhook"),
            "kafka": {"bootstrap_servers": kafka.bootstrap_servers, "topic_prefix": kafka.topic_prefix,
                      "partitions": dict(kafka.partitions)},
            "web": {"port": 0},
            "channels": {"webhook": {"providers": {"hooks": {"kind": "webhook", "allow_internal": True}}}},
        }))  # fmt: skip

    @contextlib.asynccontextmanager
    async def life(self) -> AsyncIterator[None]:
        """One life, from its start to its SIGKILL."""
        with (self.directory / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "pipeline.cli", "run", "--role", "webhook", "--config",
                str(self.config), env=dict(os.environ), stdout=log, stderr=log,
            )  # fmt: skip
        try:
            yield
        finally:
            died_before = process.returncode is not None
            if not died_before:
                process.kill()
            await process.wait()
            ground = Ground(self.desk.settings.kafka.bootstrap_servers)
            ground.group = group(self.desk.settings, "webhook")
            await ground.bury()
            assert not died_before, (self.directory / "log").read_text()[-2_000:]


async def test_what_receivers_said_of_when_outlives_kills_and_what_is_given_up_is_sent_once_by_a_redrive(
    desk: Desk, receiver: Receiver, tmp_path: Path
) -> None:
    limited, down = [f"/limited/{n}" for n in range(4)], ["/down/0", "/down/1"]
    mended = False

    def limit(times: int) -> web.Response:
        status = {1: 429, 2: 503}.get(times, 204)
        return web.Response(status=status, headers={"Retry-After": "3"} if status != 204 else {})

    def fail(times: int) -> web.Response:
        return web.Response(status=204 if mended else 503, headers={"Retry-After": "3"})

    receiver.answers.update(dict.fromkeys(limited, limit) | dict.fromkeys(down, fail))
    killed = Killed(desk, tmp_path)

    async def all_wait(times: int) -> bool:
        asked = all(len(receiver.asked[path]) == times for path in (*limited, *down))
        return asked and await waiting(desk, "webhook") == len(limited) + len(down)

    async with desk.running("core", "status"):
        await desk.send(*[receiver.event(path) for path in (*limited, *down)])
        for times in (1, 2):
            async with killed.life():
                await becomes(lambda times=times: all_wait(times), "what receivers said is kept", 60)  # type: ignore[misc]
        async with killed.life():
            await becomes(lambda: desk.held("dlq-webhook"), "a letter", 60)
            await becomes(lambda: is_through(desk, "webhook"), "all committed, and nothing kept for later")
            letters = await desk.letters("--topic", "dlq-webhook")
            told = await statuses(desk)
            assert {path: len(receiver.asked[path]) for path in (*limited, *down)} == (
                dict.fromkeys(limited, 3) | dict.fromkeys(down, MAX_ATTEMPTS)
            )
            mended = True
            for _ in range(2):
                await desk.told("redrive", "--topic", "dlq-webhook")
            await becomes(lambda: _all_asked(receiver, down, MAX_ATTEMPTS + 1), "what was redriven")
            await becomes(lambda: is_through(desk, "webhook"), "all committed, and nothing kept for later")
    for path in limited:
        assert min(receiver.gaps(path)) >= 3.0, "nothing is early"
    for path in down:
        assert min(receiver.gaps(path)[: MAX_ATTEMPTS - 1]) >= 3.0, "nothing is early"
        assert len(receiver.asked[path]) == MAX_ATTEMPTS + 1, "redriven twice, and sent once"
        states = {s.attempt: s.state for s in told if s.user_id == path and s.attempt}
        assert states == dict.fromkeys(range(1, MAX_ATTEMPTS), State.RETRYING) | {MAX_ATTEMPTS: State.FAILED}
    assert {len(keys) for keys in receiver.keys.values()} == {1}
    assert [(one["reason"], int(one["attempts"])) for one in letters] == [
        ("retries_exhausted", MAX_ATTEMPTS)
    ] * len(down)


async def _all_asked(receiver: Receiver, paths: list[str], times: int) -> bool:
    return all(len(receiver.asked[path]) >= times for path in paths)
