"""Retries over the whole of delivery: a receiver that is busy, that says when, that never answers."""

import contextlib
import itertools
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agents.deliver import FIRST_WAIT, MAX_ATTEMPTS
from pipeline.topics import create
from tests.kafka.test_dead_letters import Desk, becomes

pytestmark = pytest.mark.kafka
ROUND_TRIP_SECONDS = 5.0
"""What a retry may take beyond its wait: through Kafka and back, on a busy machine."""


class Receiver:
    """Answers each path as it is told to, and keeps when it was asked, by key."""

    def __init__(self) -> None:
        self.asked: defaultdict[str, list[float]] = defaultdict(list)
        self.answers: dict[str, Callable[[int], web.Response]] = {}
        self.port = 0

    async def handle(self, request: web.BaseRequest) -> web.Response:
        await request.read()
        times = self.asked[request.path]
        times.append(time.monotonic())
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
    receiver.answers["/well"] = lambda _: web.Response(status=204)
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
