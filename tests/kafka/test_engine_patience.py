"""What the engine promises of a stage that is broken: it does not empty its topics into the dead letters."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine import UnitApp
from pipeline.engine.patience import MOST_IN_A_ROW
from tests.kafka.engine_app import (
    Claims,
    Ground,
    Notes,
    Sink,
    becomes,
    calling_app,
    claiming_app,
    eventually,
    outputs_by_id,
    running,
)

pytestmark = pytest.mark.kafka

BUG = b"bug-"
RECORDS = [(b"u%d" % (n % 5), BUG + b"%d" % n) for n in range(300)]


class Malformed(Exception):
    """What the stage says of a record."""


class Deployed(Claims):
    """Raises on everything as long as it is broken, after having written and sent."""

    broken = True

    def decide(self, record: Any, unit: Any) -> None:
        super().decide(record, unit)
        if record.value.startswith(b"malformed"):
            raise Malformed
        if self.broken and record.value.startswith(BUG):
            raise KeyError(record.value)


def deployed(ground: Ground, state_dir: Path, notes: Notes, *, broken: bool) -> UnitApp:
    stage = Deployed(ground.topic("out"), dlq=ground.topic("dlq"))
    stage.broken = broken
    return claiming_app(ground, state_dir, stage, "in", notes=notes, expected=(Malformed,))


async def gives_up(app: UnitApp) -> str:
    """Runs an app until it stops by itself; returns what it says."""
    async with running(app, ready=False):
        await eventually(lambda: app.should_stop, "a role that stops itself")
        await app.stop()
        assert not app.crashed
    assert app.gave_up is not None
    return str(app.gave_up)


async def test_a_broken_stage_dead_letters_no_more_than_the_limit_and_mended_it_loses_nothing(
    kafka: str, tmp_path: Path
) -> None:
    ground, notes = Ground(kafka), Notes()
    await ground.create("in", "out", "dlq")
    good = [(b"u", b"good%d" % n) for n in range(50)]
    await ground.send("in", [*good, *RECORDS])
    for state in ("first", "first", "elsewhere"):  # started again, and with the disk of another worker
        told = await gives_up(deployed(ground, tmp_path / state, notes, broken=True))
        assert f"stage claims raised on {MOST_IN_A_ROW} records in a row" in told
        assert f"{ground.topic('in')}-0-{50 + MOST_IN_A_ROW} (KeyError" in told
    assert notes.stops == ["claims"] * 3
    letters = await ground.read("dlq")
    assert [r.value for r in letters] == [value for _, value in RECORDS[:MOST_IN_A_ROW]]
    assert await ground.committed("in") == {("in", 0): 50 + MOST_IN_A_ROW}
    async with running(deployed(ground, tmp_path / "first", notes, broken=False)):
        await becomes(lambda: ground.caught_up("in"), "all committed")
    assert len(await ground.read("dlq")) == MOST_IN_A_ROW
    sent = outputs_by_id(await ground.read("out"))
    assert set(sent) == {value for _, value in [*good, *RECORDS[MOST_IN_A_ROW:]]}
    assert {len(outputs) for outputs in sent.values()} == {1}


async def test_a_flood_of_malformed_records_is_dead_lettered_whole(kafka: str, tmp_path: Path) -> None:
    ground, notes = Ground(kafka), Notes()
    await ground.create("in", "out", "dlq")
    flood = [(b"u", b"malformed%d" % n) for n in range(5 * MOST_IN_A_ROW)]
    await ground.send("in", [*flood, (b"u", b"good")])
    async with running(deployed(ground, tmp_path, notes, broken=True)):
        await becomes(lambda: ground.caught_up("in"), "all committed")
    assert [r.value for r in await ground.read("dlq")] == [value for _, value in flood]
    assert notes.stops == []


async def test_a_broken_stage_lets_calls_in_flight_end_and_makes_none_of_what_it_left(
    kafka: str, tmp_path: Path
) -> None:
    ground, notes = Ground(kafka), Notes()
    await ground.create("in", "status")
    calls = tmp_path / "calls"
    slow = Sink(calls, ground.topic("status"), hold=[b"slow"])
    slow.refuse = {value for _, value in RECORDS}
    await ground.send("in", [(b"v", b"slow")])
    app = calling_app(ground, tmp_path / "a", slow, "in", notes=notes)
    async with running(app):
        await eventually(lambda: b"slow" in slow.running, "a call in flight")
        await ground.send("in", RECORDS)
        await eventually(lambda: app.gave_up is not None, "a role that stops itself")
        slow.held[b"slow"].set()
        await eventually(lambda: app.should_stop, "the end")
        await app.stop()
    assert notes.stops == ["calls"]
    assert slow.calls() == {b"slow": 1}
    mended = Sink(calls, ground.topic("status"))
    async with running(calling_app(ground, tmp_path / "a", mended, "in", notes=notes)):
        await becomes(lambda: ground.caught_up("in"), "all committed")
    told = Counter(r.value for r in await ground.read("status"))
    rejected = told.pop(b"poison")
    assert rejected == MOST_IN_A_ROW
    assert mended.calls() == Counter({b"slow": 1} | {v: 1 for _, v in RECORDS if told[v]})
    assert told[b"slow"] == 1
    assert len(told) == 1 + len(RECORDS) - MOST_IN_A_ROW


async def test_who_asks_for_the_end_twice_waits_for_the_same_one(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka)
    await ground.create("in", "out", "dlq")
    app = deployed(ground, tmp_path, Notes(), broken=False)
    async with running(app):
        await asyncio.gather(app.stop(), app.stop())
        assert not app.store.opened()
