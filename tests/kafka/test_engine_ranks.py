"""What the engine promises of ranks: the first goes first, as far as a queue reaches, and nothing is lost."""

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from agents import topics
from benchmarks import core_job
from benchmarks.chain import NullProvider
from benchmarks.desk import Desk
from pipeline.app import Roles
from pipeline.engine.queues import FIRST, LAST, MIDDLE, RANK_HEADER
from pipeline.engine.timers import DUE_HEADER
from pipeline.metrics import Metrics
from pipeline.pool import Pool
from pipeline.topics import create
from schemas.kinds import Channel
from schemas.message import Message
from schemas.outcome import Outcome
from tests.kafka.engine_app import (
    Claims,
    Ground,
    Notes,
    Sink,
    becomes,
    calling_app,
    claiming_app,
    eventually,
    running,
)

pytestmark = pytest.mark.kafka
SOME = 30


async def send_ranks(ground: Ground, *ranks: int) -> None:
    """Some records of each of these ranks, one rank after the other."""
    for rank in ranks:
        headers = [] if rank == MIDDLE else [(RANK_HEADER, b"%d" % rank)]
        records = [(b"u%d-%d" % (rank, n), b"%d-%d" % (rank, n)) for n in range(SOME)]
        await ground.send("in", records, headers=headers)


def of_rank(rank: int, values: Sequence[bytes]) -> list[bytes]:
    return [value for value in values if value.startswith(b"%d-" % rank)]


def in_order(*ranks: int) -> list[bytes]:
    return [b"%d-%d" % (rank, n) for rank in ranks for n in range(SOME)]


async def test_calls_go_by_rank_and_in_order_within_one(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka)
    await ground.create("in", "status")
    await send_ranks(ground, LAST, MIDDLE, FIRST)
    sink = Sink(tmp_path / "calls", ground.topic("status"), window=1)
    async with running(calling_app(ground, tmp_path, sink, "in")):
        await becomes(lambda: ground.caught_up("in"), "all committed")
    assert (tmp_path / "calls").read_bytes().split() == in_order(FIRST, MIDDLE, LAST)


async def test_what_is_overtaken_is_not_committed_before_it_was_called(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka)
    await ground.create("in", "status")
    await send_ranks(ground, LAST, FIRST)
    sink = Sink(tmp_path / "calls", ground.topic("status"), window=1, hold=[b"2-0"])
    app = calling_app(ground, tmp_path, sink, "in")
    async with running(app):
        await eventually(lambda: sink.running == {b"2-0"}, "all of the first rank called")
        assert (tmp_path / "calls").read_bytes().split() == [*in_order(FIRST), b"2-0"]
        await app.consumer.force_commit()
        assert await ground.committed("in") == {}
        sink.held[b"2-0"].set()
        await becomes(lambda: ground.caught_up("in"), "all committed")


async def test_what_comes_up_again_keeps_its_rank(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka)
    await ground.create("in", "status")
    await send_ranks(ground, LAST, MIDDLE)
    sink = Sink(tmp_path / "calls", ground.topic("status"))
    sink.retries.update([b"1-0", b"2-0"])
    async with running(calling_app(ground, tmp_path, sink, "in")):
        await eventually(lambda: sink.calls().total() == 2 * SOME + 2, "both retries")
    again = {r.value: dict(r.headers) for r in await ground.read("in") if DUE_HEADER in dict(r.headers)}
    assert {value: headers.get(RANK_HEADER) for value, headers in again.items()} == {
        b"1-0": None,
        b"2-0": b"2",
    }


async def test_a_unit_decides_by_rank_and_ends_where_its_records_do(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka)
    await ground.create("in", "out")
    await send_ranks(ground, LAST, MIDDLE, FIRST)
    claims, notes = Claims(ground.topic("out")), Notes()
    app = claiming_app(ground, tmp_path, claims, "in", notes=notes, unit_seconds=1.0)
    async with running(app):
        await becomes(lambda: ground.caught_up("in"), "all committed")
    decided = [value for _, value in claims.decided]
    begin = 0
    for _, count in notes.units:
        unit, begin = decided[begin : begin + count], begin + count
        assert unit == [value for rank in (FIRST, MIDDLE, LAST) for value in of_rank(rank, unit)]
    assert sorted(decided) == sorted(in_order(FIRST, MIDDLE, LAST))
    assert [of_rank(rank, decided) for rank in range(3)] == [in_order(rank) for rank in range(3)]


class SlowProvider(NullProvider):
    """One call at a time; remembers which priority each was of."""

    parallel = 1
    platforms = None

    def __init__(self) -> None:
        self.called: list[str] = []

    async def send(self, message: Message, key: str) -> Outcome:
        self.called.append(message.priority)
        await asyncio.sleep(0)
        return await super().send(message, key)


async def test_within_a_lane_critical_goes_before_high_and_normal_before_low(
    kafka: str, tmp_path: Path
) -> None:
    prefix = f"ranks-{tmp_path.name}-"
    settings = core_job.settings(kafka, prefix, 1, tmp_path)
    await create(settings)
    lanes = {topics.EVENTS: ("low", "normal"), topics.EVENTS + topics.EXPRESS: ("high", "critical")}
    async with Desk(kafka, 1) as desk:
        await desk.fill(
            (prefix + topic, b"k", event(priority, n))
            for topic, priorities in lanes.items() for priority in priorities for n in range(SOME)
        )  # fmt: skip
        roles = Roles(settings, core_job.catalogue((Channel.EMAIL,)), Metrics())
        slow = SlowProvider()
        roles.pools[Channel.EMAIL] = Pool([slow])
        plain = prefix + topics.MESSAGES[Channel.EMAIL]
        async with running(roles.build("core")):
            for topic in (plain, plain + topics.EXPRESS):
                await becomes(partial(_holds, desk, topic, 2 * SOME), "planned")
        async with running(roles.build("email")):
            await eventually(lambda: len(slow.called) == 4 * SOME, "all called")
    assert [p for p in slow.called if p in ("critical", "high")] == ["critical"] * SOME + ["high"] * SOME
    assert [p for p in slow.called if p in ("normal", "low")] == ["normal"] * SOME + ["low"] * SOME


async def _holds(desk: Desk, topic: str, count: int) -> bool:
    return len([key async for key, _ in desk.read(topic)]) == count


def event(priority: str, number: int) -> bytes:
    """A request of our own, to somebody who is not known before."""
    return json.dumps({
        "event_type": "told.directly", "content": {"subject": "x", "body": "x"}, "channels": ["email"],
        "idempotency_key": f"{priority}-{number}", "priority": priority,
        "recipients": [{"email": f"{priority}-{number}@example.com"}],
    }).encode()  # fmt: skip
