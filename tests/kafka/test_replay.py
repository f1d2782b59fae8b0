"""Replay on a real Kafka: a rewind is obeyed once by whoever owns the partition, and sends nothing twice."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from faust.types import TP

from agents import topics
from pipeline.broker import run_tool
from pipeline.engine import Rewind, Rewinds, internals
from pipeline.engine.rewinds import NEVER
from pipeline.topics import group
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
from tests.kafka.replay_scene import World, has_obeyed, rows

pytestmark = pytest.mark.kafka


# -- the engine


def messages(begin: int, end: int) -> list[tuple[bytes, bytes]]:
    return [(b"u%d" % (n % 37), b"m%d" % n) for n in range(begin, end)]


def rewind_all(ground: Ground, rewinds: Rewinds, request: int, to: int = 0) -> None:
    """Tells of a request for every partition of the topic that is read."""
    for number in range(ground.partitions):
        rewinds.hear(TP(ground.topic("in"), number), Rewind((request, request), to))


async def test_a_rewind_is_obeyed_once_and_sends_nothing(kafka: str, tmp_path: Path) -> None:
    ground, rewinds = Ground(kafka, partitions=2), Rewinds()
    await ground.create("in", "out")
    await ground.send("in", messages(0, 200))
    claims = Claims(ground.topic("out"))
    app = claiming_app(ground, tmp_path, claims, "in", rewinds=rewinds)
    async with running(app):
        await becomes(lambda: ground.caught_up("in"), "all committed")
        before = outputs_by_id(await ground.read("out"))
        rewind_all(ground, rewinds, 1)
        await eventually(lambda: len(claims.decided) == 400, "all decided once more")
        await becomes(lambda: ground.caught_up("in"), "all committed again")
        await eventually(lambda: app.ready)
    again = claiming_app(ground, tmp_path, claims, "in", rewinds=rewinds)
    async with running(again):
        await ground.send("in", messages(200, 201))
        await eventually(lambda: len(claims.decided) == 401, "what is new")
        await becomes(lambda: ground.caught_up("in"), "all committed")
    assert len(claims.decided) == 401, "a restart does not obey a second time"
    assert outputs_by_id(await ground.read("out")) == before | {b"m200": [b"m200 6"]}


async def test_a_rewind_in_the_midst_of_work_on_two_workers_loses_and_repeats_nothing(
    kafka: str, tmp_path: Path
) -> None:
    ground, rewinds = Ground(kafka, partitions=4), Rewinds()
    await ground.create("in", "out")
    notes = Notes()
    first, second = (
        claiming_app(
            ground, tmp_path / name, Claims(ground.topic("out"), slow=0.0002), "in",
            notes=notes, unit_seconds=0.005, rewinds=rewinds,
        )
        for name in ("first", "second")
    )  # fmt: skip
    await ground.send("in", messages(0, 2_000))
    async with running(first, second):
        await eventually(lambda: sum(records for _, records in notes.units) > 500, "work under way")
        rewind_all(ground, rewinds, 1)
        await ground.send("in", messages(2_000, 3_000))
        await eventually(lambda: sum(records for _, records in notes.units) > 3_000, "all read once more")
        rewind_all(ground, rewinds, 2)
        await first.stop()
        await becomes(lambda: ground.caught_up("in"), "all committed")
        await eventually(lambda: second.ready)
        for task in second.consumer.tasks.values():
            assert not task.due()
            assert set(task.obeyed.values()) == {(2, 2)}
    sent = outputs_by_id(await ground.read("out"))
    assert set(sent) == {id_ for _, id_ in messages(0, 3_000)}
    assert {len(outputs) for outputs in sent.values()} == {1}
    assert not notes.abandonments


async def test_calls_are_not_made_again_by_a_rewind_in_the_midst_of_them(kafka: str, tmp_path: Path) -> None:
    ground, rewinds = Ground(kafka, partitions=2), Rewinds()
    await ground.create("in", "status")
    held = [b"m%d" % n for n in range(20)]
    sink = Sink(tmp_path / "calls", ground.topic("status"), hold=held)
    await ground.send("in", messages(0, 20))
    app = calling_app(ground, tmp_path / "state", sink, "in", rewinds=rewinds)
    async with running(app):
        await eventually(lambda: len(sink.running) == 20, "all called")
        rewind_all(ground, rewinds, 1)
        await eventually(lambda: app.consumer.draining, "a drain that waits")
        for event in sink.held.values():
            event.set()
        await eventually(lambda: app.ready and not any(t.due() for t in app.consumer.tasks.values()))
        await becomes(lambda: ground.caught_up("in"), "all committed")
        await becomes(lambda: _count(ground, "status", 40), "every status told twice")
    assert sink.calls() == dict.fromkeys(held, 1)


async def _count(ground: Ground, name: str, count: int) -> bool:
    return len(await ground.read(name)) == count


async def test_what_was_asked_while_nobody_was_there_is_obeyed_at_the_next_start_and_not_by_a_new_store(
    kafka: str, tmp_path: Path
) -> None:
    ground, rewinds = Ground(kafka), Rewinds()
    await ground.create("in", "out")
    await ground.send("in", messages(0, 50))
    rewind_all(ground, rewinds, 1, to=40)
    claims = Claims(ground.topic("out"))
    for request, decided in ((1, 50), (2, 60), (2, 60)):
        rewind_all(ground, rewinds, request, to=40)
        app = claiming_app(ground, tmp_path / str(len(claims.decided)), claims, "in", rewinds=rewinds)
        async with running(app):  # its disk is another each time: what was obeyed is in the changelog
            await eventually(lambda decided=decided: len(claims.decided) == decided)  # type: ignore[misc]
            await becomes(lambda: ground.caught_up("in"), "all committed")
            await asyncio.sleep(0.2)
        assert len(claims.decided) == decided
    assert {len(outputs) for outputs in outputs_by_id(await ground.read("out")).values()} == {1}


async def test_an_earlier_request_that_is_heard_late_is_not_obeyed(kafka: str, tmp_path: Path) -> None:
    ground, ahead, behind = Ground(kafka), Rewinds(), Rewinds()
    await ground.create("in", "out")
    await ground.send("in", messages(0, 50))
    claims = Claims(ground.topic("out"))
    async with running(claiming_app(ground, tmp_path / "a", claims, "in", rewinds=ahead)):
        await becomes(lambda: ground.caught_up("in"), "all committed")
        rewind_all(ground, ahead, 2, to=40)
        await eventually(lambda: len(claims.decided) == 60, "ten once more")
    rewind_all(ground, behind, 1)
    app = claiming_app(ground, tmp_path / "b", claims, "in", rewinds=behind)
    async with running(app):
        assert not app.consumer.tasks[0].due()
        rewind_all(ground, behind, 2, to=40)
        await asyncio.sleep(0.2)
        assert len(claims.decided) == 60


async def test_a_rewind_whose_commit_fails_or_whose_owner_dies_before_noting_it_is_obeyed_by_the_next(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground, rewinds = Ground(kafka), Rewinds()
    await ground.create("in", "out")
    await ground.send("in", messages(0, 50))
    claims = Claims(ground.topic("out"))
    app = claiming_app(ground, tmp_path, claims, "in", rewinds=rewinds)
    commit, failures = internals.commit, ["refused", "lost"]

    async def commit_badly(consumer: Any, offsets: Any) -> bool:
        if set(offsets.values()) != {0} or not failures:
            return await commit(consumer, offsets)
        if failures.pop(0) == "refused":
            return False
        await commit(consumer, offsets)  # and whoever did it is gone before its changelog knows
        return False

    monkeypatch.setattr(internals, "commit", commit_badly)
    async with running(app):
        await becomes(lambda: ground.caught_up("in"), "all committed")
        rewind_all(ground, rewinds, 1)
        await eventually(lambda: len(claims.decided) == 100, "all once more")
        await becomes(lambda: ground.caught_up("in"), "all committed")
        assert not failures
    assert len(claims.decided) == 100
    assert {len(outputs) for outputs in outputs_by_id(await ground.read("out")).values()} == {1}


async def test_a_skip_leaves_out_what_is_before_it(kafka: str, tmp_path: Path) -> None:
    ground, rewinds = Ground(kafka), Rewinds()
    await ground.create("in", "out")
    claims = Claims(ground.topic("out"), slow=0.002)
    app = claiming_app(ground, tmp_path, claims, "in", rewinds=rewinds, unit_seconds=0.005)
    await ground.send("in", messages(0, 1_000))
    async with running(app):
        await eventually(lambda: claims.decided, "work under way")
        rewind_all(ground, rewinds, 1, to=1_000)
        await becomes(lambda: ground.caught_up("in"), "at the end")
        await ground.send("in", messages(1_000, 1_010))
        await becomes(lambda: ground.caught_up("in"), "all committed")
    sent = outputs_by_id(await ground.read("out"))
    assert len(sent) < 900
    assert {id_ for _, id_ in messages(1_000, 1_010)} < set(sent)


# -- the whole way


async def test_what_failed_for_a_broken_template_goes_out_once_when_it_is_mended_and_replayed(
    kafka: str, tmp_path: Path
) -> None:
    world = World(kafka, tmp_path)
    async with world.running() as runner:
        await world.people()
        await world.settled()
        begin = datetime.now(UTC)
        await world.events("t.ordered", 0, 12)
        await world.events("t.shipped", 0, 6)
        await world.settled()
        before = world.sent()
        assert not any(text.startswith("Shipped") for text in before)
        foreseen = await world.told("--group", "core", "--to", begin.isoformat(), dry=True)
        assert (foreseen["nothing"], foreseen["afresh"], foreseen["new"]) == (12, 6, 0)
        (reason,) = foreseen["afresh_because"]
        assert reason.startswith("template_failed: ")
        await world.mend(runner)
        core = runner.apps["core"]
        for requests, to in enumerate((begin.isoformat(), "earliest", begin.isoformat()), 1):
            heard = core.rewinds.heard
            await world.told("--group", "core", "--to", to)
            await eventually(lambda heard=heard: core.rewinds.heard > heard)  # type: ignore[misc]
            await eventually(lambda: has_obeyed(core), f"{requests} obeyed")
            await world.settled()
        assert world.sent() == sorted([*before, *(f"Shipped {n}" for n in range(6))])
        foreseen = await world.told("--group", "core", "--to", "earliest", dry=True)
        assert (foreseen["nothing"], foreseen["afresh"], foreseen["new"]) == (18, 0, 0)


async def test_kafkas_own_reset_of_stopped_roles_sends_nothing_either(kafka: str, tmp_path: Path) -> None:
    world = World(kafka, tmp_path)
    async with world.running() as runner:
        await world.people()
        await world.settled()
        await world.events("t.ordered", 0, 30)
        await world.events("t.ordered", 0, 6)
        await world.settled()
        sent, before = world.sent(), {role: rows(runner, role) for role in runner.names}
        assert sent
    for role in runner.names:
        options = ["--reset-offsets", "--to-earliest", "--all-topics", "--execute"]
        name = group(world.settings, role)
        said = await asyncio.to_thread(run_tool, "kafka-consumer-groups", [*options, "--group", name], kafka)
        assert world.prefix in said
        assert not await world.ends(role)
    async with world.running() as runner:
        await world.settled()
        for role in runner.names:
            await becomes(lambda role=role: world.ends(role), f"{role} at the end")  # type: ignore[misc]
        assert world.sent() == sent
        assert {role: rows(runner, role) for role in runner.names} == before


async def test_a_dry_run_foresees_what_comes_and_changes_nothing(kafka: str, tmp_path: Path) -> None:
    world = World(kafka, tmp_path)
    async with world.running():
        await world.people()
        await world.settled()
        await world.events("t.ordered", 0, 12)
        await world.settled()
    sent = world.sent()
    await world.events("t.ordered", 12, 17)
    await world.events("t.unwanted", 0, 2)
    await world.send(topics.EVENTS, [("u1", {"neither": "event nor request"})])
    for to in ("latest", "earliest"):
        everything = to == "earliest"
        foreseen = await world.told("--group", "core", "--to", to, dry=True)
        assert foreseen["nothing"] == (12 if everything else 0)
        assert foreseen["new_of"] == ({"ordered": 5} if everything else {})
        assert foreseen["ignored"] == (2 if everything else 0)
        assert foreseen["unreadable"] == everything
        assert foreseen["left_out"] == (0 if everything else 8)
    foreseen = await world.told("--group", "email", "--to", "earliest", dry=True)
    assert (foreseen["looked_at"], foreseen["nothing"]) == (12, 12)
    foreseen = await world.told("--group", "status", "--to", "earliest", dry=True)
    assert foreseen["looked_at"] == 0
    async with world.running():
        await world.settled()
        assert len(world.sent()) > len(sent)
        foreseen = await world.told("--group", "core", "--to", "earliest", dry=True)
        assert (foreseen["nothing"], foreseen["new"]) == (17, 0)


async def test_one_partition_of_a_gate_is_rewound_when_it_is_asked_for(kafka: str, tmp_path: Path) -> None:
    world = World(kafka, tmp_path)
    async with world.running() as runner:
        await world.people()
        await world.settled()
        core = runner.apps["core"]
        before = rows(runner, "core")
        asked = await world.told("--topic", topics.USERS, "--partition", "1", "--to", "0")
        assert [(p["topic"], p["partition"], p["to"]) for p in asked["partitions"]] == [
            (world.prefix + topics.USERS, 1, 0)
        ]
        await eventually(lambda: core.rewinds.heard == 1 and has_obeyed(core), "obeyed")
        await world.settled()
        assert rows(runner, "core") == before
        assert core.consumer.tasks[1].obeyed[TP(world.prefix + topics.USERS, 1)] != NEVER
        assert set(core.consumer.tasks[0].obeyed.values()) == {NEVER}
