"""What the engine promises of calls to the outside: attempts before them, results after, none forgotten."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from pipeline.engine import effects
from tests.kafka.engine_app import (
    POISON,
    Ground,
    Notes,
    Rows,
    Sink,
    Worker,
    becomes,
    calling_app,
    eventually,
    fold,
    running,
)

pytestmark = pytest.mark.kafka


async def ground_of(kafka: str, *topics: str) -> Ground:
    ground = Ground(kafka)
    await ground.create(*(topics or ("in",)), "status")
    return ground


def sink_of(ground: Ground, path: Path, **settings: Any) -> Sink:
    return Sink(path / "calls", ground.topic("status"), **settings)


def messages(count: int, *, users: int | None = None) -> list[tuple[bytes, bytes]]:
    return [(b"u%d" % (n % (users or count)), b"m%d" % n) for n in range(count)]


async def settled(ground: Ground) -> Rows:
    return {k: v for k, v in fold(await ground.read(ground.changelog)).items() if k.startswith(b"r|")}


async def test_every_message_is_called_once_after_its_attempt_is_stored(kafka: str, tmp_path: Path) -> None:
    ground = await ground_of(kafka)
    sink = sink_of(ground, tmp_path)
    await ground.send("in", messages(1_000))
    async with running(calling_app(ground, tmp_path, sink, "in")):
        await becomes(lambda: ground.caught_up("in"), "all committed")
    assert sink.calls() == {id_: 1 for _, id_ in messages(1_000)}
    assert sink.unlogged == []
    assert Counter(r.value for r in await ground.read("status")) == sink.calls()
    rows = fold(await ground.read(ground.changelog))
    assert set(rows) == {key for _, id_ in messages(1_000) for key in (b"a|" + id_ + b"|1", b"r|" + id_)}


async def test_a_copy_of_a_message_in_flight_joins_its_call(kafka: str, tmp_path: Path) -> None:
    ground = await ground_of(kafka)
    sink = sink_of(ground, tmp_path, hold=[b"m0"])
    app = calling_app(ground, tmp_path, sink, "in")
    async with running(app):
        await ground.send("in", [(b"u", b"m0")])
        await eventually(lambda: sink.running == {b"m0"}, "a call in flight")
        await ground.send("in", [(b"u", b"m0"), (b"v", b"m1"), (b"u", b"m0")])
        await eventually(
            lambda: len(app.consumer.tasks[0].open_effects.get(b"m0", ())) == 3, "copies that wait"
        )
        sink.held[b"m0"].set()
        await becomes(lambda: ground.caught_up("in"), "copies committed with it")
    assert sink.calls() == {b"m0": 1, b"m1": 1}


async def test_a_user_has_one_call_at_a_time_and_holds_up_nobody_else(kafka: str, tmp_path: Path) -> None:
    ground = await ground_of(kafka)
    sink = sink_of(ground, tmp_path, hold=[b"busy0"])
    app = calling_app(ground, tmp_path, sink, "in")
    busy = [b"busy%d" % n for n in range(50)]
    await ground.send("in", [(b"busy", id_) for id_ in busy] + messages(200, users=20))
    async with running(app):
        await eventually(lambda: len(sink.calls()) == 201, "everybody else called")
        await becomes(lambda: _settled_but(ground, 200), "everybody else settled")
        assert set(sink.calls()) & set(busy) == {b"busy0"}
        assert await ground.committed("in") == {}, "the first is not finished"
        sink.held[b"busy0"].set()
        await becomes(lambda: ground.caught_up("in"), "all committed")
    assert sink.overlaps == 0
    called = (tmp_path / "calls").read_bytes().split()
    assert [id_ for id_ in called if id_.startswith(b"busy")] == busy
    assert set(Counter(called).values()) == {1}


async def _settled_but(ground: Ground, count: int) -> bool:
    return len(await settled(ground)) == count


async def test_calls_run_side_by_side_up_to_the_window(kafka: str, tmp_path: Path) -> None:
    ground = await ground_of(kafka)
    sink = sink_of(ground, tmp_path, window=5, hold=[id_ for _, id_ in messages(20)])
    await ground.send("in", messages(20))
    async with running(calling_app(ground, tmp_path, sink, "in")):
        await eventually(lambda: len(sink.running) == 5, "a full window")
        for event in sink.held.values():
            event.set()
        await becomes(lambda: ground.caught_up("in"), "all committed")
    assert sink.most_running == 5


async def test_the_tasks_of_a_worker_share_what_it_can_really_call_at_once(
    kafka: str, tmp_path: Path
) -> None:
    ground = Ground(kafka, partitions=4)
    await ground.create("in", "status")
    sink = sink_of(ground, tmp_path, hold=[id_ for _, id_ in messages(100)])
    sink.parallel = 8
    await ground.send("in", messages(100))
    async with running(calling_app(ground, tmp_path, sink, "in")):
        await eventually(lambda: len(sink.running) == 8, "as many as it can")
        attempts = sum(key.startswith(b"a|") for key in fold(await ground.read(ground.changelog)))
        for event in sink.held.values():
            event.set()
        await becomes(lambda: ground.caught_up("in"), "all committed")
    assert attempts == 8, "attempts of calls that did not begin"
    assert sink.most_running == 8


async def test_calls_that_ended_together_are_settled_in_one_batch(kafka: str, tmp_path: Path) -> None:
    ground = await ground_of(kafka)
    sink = sink_of(ground, tmp_path, hold=[id_ for _, id_ in messages(40)])
    await ground.send("in", messages(40))
    async with running(calling_app(ground, tmp_path, sink, "in")):
        await eventually(lambda: len(sink.running) == 40, "all called")
        for event in sink.held.values():
            event.set()
        await becomes(lambda: ground.caught_up("in"), "all committed")
    results = [
        [record.key for record in batch if record.key.startswith(b"r|")]
        for batch in await ground.batches(ground.changelog)
    ]
    assert [len(keys) for keys in results if keys] == [40]


async def test_a_call_to_be_made_again_comes_up_again_with_a_new_attempt(kafka: str, tmp_path: Path) -> None:
    ground = await ground_of(kafka)
    sink = sink_of(ground, tmp_path)
    sink.retries[b"m0"] = 2
    await ground.send("in", [(b"u", b"m0"), (b"u", b"m1")])
    async with running(calling_app(ground, tmp_path, sink, "in")):
        # a wait is kept, and its offset committed, before it is over
        await eventually(lambda: sink.calls() == {b"m0": 3, b"m1": 1}, "the retries")
        await becomes(lambda: _settled_but(ground, 2), "all settled")
    assert sink.overlaps == 0
    assert (tmp_path / "calls").read_bytes().split()[:2] == [b"m0", b"m1"], (
        "the user's next waited for a retry"
    )
    rows = fold(await ground.read(ground.changelog))
    assert {key for key in rows if key.startswith(b"a|m0")} == {b"a|m0|1", b"a|m0|2", b"a|m0|3"}
    assert b"r|m0" in rows


async def test_a_stop_waits_for_calls_in_flight_and_settles_them(kafka: str, tmp_path: Path) -> None:
    ground = await ground_of(kafka)
    sink = sink_of(ground, tmp_path, window=1, hold=[b"m0"])
    await ground.send("in", [(b"u", b"m0"), (b"u", b"m1"), (b"v", b"m2")])
    app = calling_app(ground, tmp_path, sink, "in")
    async with running(app):
        await eventually(lambda: sink.running, "a call in flight")
        stopping = asyncio.create_task(app.stop())
        await eventually(lambda: app.consumer.draining, "a drain")
        sink.held[b"m0"].set()
        await stopping
    assert sink.calls() == {b"m0": 1}, "a call was begun while draining"
    rows = fold(await ground.read(ground.changelog))
    assert set(rows) == {b"a|m0|1", b"r|m0"}
    assert await ground.committed("in") == {("in", 0): 1}
    assert [r.value for r in await ground.read("status")] == [b"m0"]


async def test_a_known_result_is_told_again_without_a_call(kafka: str, tmp_path: Path) -> None:
    ground = await ground_of(kafka)
    sink = sink_of(ground, tmp_path)
    await ground.send("in", messages(50))
    for run in range(2):
        if run:
            await ground.commit({("in", 0): 0})
        async with running(calling_app(ground, tmp_path, sink, "in")):
            await becomes(lambda: ground.caught_up("in"), "all committed")
    assert set(sink.calls().values()) == {1}
    assert Counter(r.value for r in await ground.read("status")) == {id_: 2 for _, id_ in messages(50)}


async def test_what_cannot_be_read_or_admitted_is_rejected_alone(kafka: str, tmp_path: Path) -> None:
    ground = await ground_of(kafka)
    sink = sink_of(ground, tmp_path)
    sink.refuse = {b"m5"}
    notes = Notes()
    await ground.send("in", [*messages(10), (b"u", POISON), (b"u", b"last")])
    async with running(calling_app(ground, tmp_path, sink, "in", notes=notes)):
        await becomes(lambda: ground.caught_up("in"), "all committed")
    wanted = {id_ for _, id_ in messages(10)} - {b"m5"} | {b"last"}
    assert set(sink.calls()) == wanted
    assert Counter(r.value for r in await ground.read("status")) == {POISON: 2, **dict.fromkeys(wanted, 1)}
    assert notes.rejections == [(ground.topic("in"), "ValueError")] * 2


async def test_a_topic_that_waits_for_one_slow_call_leaves_the_others_alone(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects, "SPAN", 50)
    ground = await ground_of(kafka, "express", "plain")
    sink = sink_of(ground, tmp_path, hold=[b"m0"])
    await ground.send("express", messages(500))
    async with running(calling_app(ground, tmp_path, sink, "express", "plain")):
        await eventually(lambda: len(sink.calls()) > 50, "as far ahead as it goes")
        await ground.send("plain", [(b"p%d" % n, b"plain%d" % n) for n in range(30)])
        await becomes(lambda: ground.caught_up("plain"), "the other topic")
        assert len([id_ for id_ in sink.calls() if id_.startswith(b"m")]) <= 50 + sink.window + 1
        sink.held[b"m0"].set()
        await becomes(lambda: ground.caught_up("express"), "all committed")


async def test_a_call_that_found_its_partition_in_doubt_is_made_after_a_new_start(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = await ground_of(kafka)
    sink, notes = sink_of(ground, tmp_path), Notes()
    app = calling_app(ground, tmp_path, sink, "in", notes=notes)
    async with running(app):
        begin, lost = effects.EffectTask.begin, itertools.count()

        def begin_without_heartbeat(task: Any, call: Any) -> None:
            if next(lost) == 0:
                monkeypatch.setattr(app.consumer, "heartbeat_at", lambda: 0.0)
            begin(task, call)
            if app.consumer.heartbeat_at() == 0.0:
                asyncio.get_running_loop().call_soon(monkeypatch.delattr, app.consumer, "heartbeat_at")

        monkeypatch.setattr(effects.EffectTask, "begin", begin_without_heartbeat)
        await ground.send("in", [(b"u", b"m0"), (b"v", b"m1")])
        await becomes(lambda: ground.caught_up("in"), "all committed")
    assert len(notes.abandonments) == 1
    assert set(sink.calls()) == {b"m0", b"m1"}


# -- kills

POINTS = [
    "effects.before_attempts",
    "effects.after_attempts",
    "effects.before_call",
    "effects.after_call",
    "effects.after_results",
    "effects.after_statuses",
]


@pytest_asyncio.fixture(scope="module")
async def ends(
    kafka: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, dict[str, Any]]]:
    """What came of one kill at each failpoint, all at once."""

    async def die(point: str) -> dict[str, Any]:
        ground, path = await ground_of(kafka), tmp_path_factory.mktemp(point)
        await ground.send("in", messages(300, users=50))
        worker = Worker(ground, path, ("in",), ("status",), calls=str(path / "calls"), failpoint=f"{point}:3")
        async with worker:
            await worker.dies()
        sink = sink_of(ground, path)
        found: dict[str, Any] = {
            "calls": sink.calls(),
            "rows": fold(await ground.read(ground.changelog)),
            "told": Counter(r.value for r in await ground.read("status")),
            "committed": (await ground.committed("in")).get(("in", 0), 0),
        }
        async with running(calling_app(ground, path, sink, "in")):
            await becomes(lambda: ground.caught_up("in"), "all committed")
        found |= {
            "calls_in_the_end": sink.calls(),
            "rows_in_the_end": fold(await ground.read(ground.changelog)),
            "told_in_the_end": Counter(r.value for r in await ground.read("status")),
        }
        return found

    yield dict(zip(POINTS, await asyncio.gather(*map(die, POINTS)), strict=True))


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_leaves_every_message_called_settled_and_told(ends: dict[str, Any], point: str) -> None:
    end, ids = ends[point], {id_ for _, id_ in messages(300)}
    assert set(end["calls_in_the_end"]) == ids
    assert {key.removeprefix(b"r|") for key in end["rows_in_the_end"] if key.startswith(b"r|")} == ids
    assert set(end["told_in_the_end"]) == ids
    for id_ in ids:
        attempts = [key for key in end["rows_in_the_end"] if key.startswith(b"a|" + id_ + b"|")]
        assert len(attempts) >= end["calls_in_the_end"][id_], "a call without an attempt"


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_finds_attempts_before_calls_and_results_before_statuses(
    ends: dict[str, Any], point: str
) -> None:
    end = ends[point]
    attempted = {key.split(b"|")[1] for key in end["rows"] if key.startswith(b"a|")}
    results = {key.removeprefix(b"r|") for key in end["rows"] if key.startswith(b"r|")}
    assert set(end["told"]) <= results <= set(end["calls"]) <= attempted
    assert {id_ for _, id_ in messages(end["committed"])} <= set(end["told"])
    again = {id_ for id_, calls in end["calls_in_the_end"].items() if calls > 1}
    assert again <= set(end["calls"]) - results, "called again although the result was known"


async def test_a_slow_call_that_a_kill_cut_off_is_made_again_and_no_other(kafka: str, tmp_path: Path) -> None:
    ground = await ground_of(kafka, "in", "other")
    await ground.send("in", messages(200))
    calls = str(tmp_path / "calls")
    async with Worker(ground, tmp_path, ("in", "other"), ("status",), calls=calls, hold=("m0",)) as worker:
        await becomes(lambda: _settled_but(ground, 199), "all others settled")
        await ground.send("other", [(b"late", b"late")])
        await becomes(lambda: ground.caught_up("other"), "a commit")
        assert await ground.committed("in") == {}
        await worker.kill()
    sink = sink_of(ground, tmp_path)
    async with running(calling_app(ground, tmp_path, sink, "in", "other")):
        await becomes(lambda: ground.caught_up("in", "other"), "all committed")
    assert {id_: calls for id_, calls in sink.calls().items() if calls > 1} == {b"m0": 2}
    assert len(sink.calls()) == 201


async def test_while_nothing_may_be_called_records_wait_in_kafka_and_go_on_by_themselves(
    kafka: str, tmp_path: Path
) -> None:
    ground = await ground_of(kafka)
    sink = sink_of(ground, tmp_path)
    sink.closed = True
    app = calling_app(ground, tmp_path, sink, "in")
    await ground.send("in", messages(30))
    async with running(app):
        await eventually(lambda: len(app.consumer.tasks[0].queues[0]) == 30, "all fetched")
        assert app.consumer.tasks[0].held == 0
        assert sink.share == 1.0
        sink.closed = False
        await becomes(lambda: ground.caught_up("in"), "all committed")
    assert sink.calls() == {id_: 1 for _, id_ in messages(30)}


@pytest.mark.parametrize("seconds", [0.2, 1.2])
async def test_what_cannot_be_called_yet_holds_up_its_user_alone_and_has_no_attempt(
    kafka: str, tmp_path: Path, seconds: float
) -> None:
    """For a short while it waits in memory, for a longer one as a row; a kill finds it either way."""
    ground = await ground_of(kafka)
    sink = sink_of(ground, tmp_path)
    sink.put_off[b"m0"] = seconds
    began = time.time_ns() // 1_000_000
    await ground.send("in", [(b"u", b"m0"), (b"v", b"m1"), (b"v", b"m2")])
    async with running(calling_app(ground, tmp_path, sink, "in")):
        await eventually(lambda: len(sink.called_at) == 3, "all called")
        await becomes(lambda: ground.caught_up("in"), "all committed")
    assert sink.calls() == {b"m0": 1, b"m1": 1, b"m2": 1}
    assert (tmp_path / "calls").read_bytes().split()[-1] == b"m0"
    assert sink.called_at[b"m0"][0] >= began + 1000 * seconds - 5
    rows = fold(await ground.read(ground.changelog))
    assert [key for key in rows if key.startswith(b"a|m0")] == [b"a|m0|1"]


async def test_what_was_put_off_is_left_to_the_next_owner_by_a_stop(kafka: str, tmp_path: Path) -> None:
    ground = await ground_of(kafka)
    sink = sink_of(ground, tmp_path)
    sink.put_off[b"m0"] = 0.9
    await ground.send("in", [(b"u", b"m0"), (b"v", b"m1")])
    app = calling_app(ground, tmp_path, sink, "in")
    async with running(app):
        await eventually(lambda: len(app.consumer.tasks[0].later) == 1, "put off")
    assert b"m0" not in sink.calls()
    async with running(calling_app(ground, tmp_path, sink, "in")):
        await becomes(lambda: ground.caught_up("in"), "all committed")
    assert sink.calls() == {b"m0": 1, b"m1": 1}
