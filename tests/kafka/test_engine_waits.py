"""What the engine promises of waits: they outlive the worker, come up once, and never early."""

import time
from pathlib import Path

import pytest

from pipeline.engine.timers import DUE_HEADER
from tables import waits
from tests.kafka.engine_app import Ground, Sink, Worker, becomes, calling_app, fold, running

pytestmark = pytest.mark.kafka
RETRY_SECONDS = 1.5


async def ground_of(kafka: str) -> Ground:
    ground = Ground(kafka)
    await ground.create("in", "status")
    return ground


async def waiting(ground: Ground) -> dict[bytes, int]:
    """What waits by the changelog: when each falls due, in ms."""
    rows = fold(await ground.read(ground.changelog))
    return {key: waits.due_of(key) for key in rows if key.startswith(waits.PREFIX)}


async def comings(ground: Ground) -> int:
    """How many records came up by themselves."""
    return sum(any(name == DUE_HEADER for name, _ in r.headers) for r in await ground.read("in"))


def worker_of(ground: Ground, path: Path, failpoint: str = "") -> Worker:
    return Worker(
        ground, path, ("in",), ("status",), calls=str(path / "calls"),
        retries=("m0",), retry_after=RETRY_SECONDS, failpoint=failpoint,
    )  # fmt: skip


@pytest.mark.parametrize("point", ["timers.before_publish", "timers.after_publish", "while it waits"])
async def test_a_wait_outlives_a_kill_and_comes_up_once_and_not_early(
    kafka: str, tmp_path: Path, point: str
) -> None:
    ground = await ground_of(kafka)
    await ground.send("in", [(b"u", b"m0"), (b"v", b"m1")])
    async with worker_of(ground, tmp_path, f"{point}:1" if "." in point else "") as worker:
        await becomes(lambda: waiting(ground), "a wait")
        (due,) = (await waiting(ground)).values()
        if "." in point:
            await worker.dies()
            assert time.time_ns() // 1_000_000 >= due
        else:
            await worker.kill()
    sink = Sink(tmp_path / "calls", ground.topic("status"))
    assert sink.calls() == {b"m0": 1, b"m1": 1}
    async with running(calling_app(ground, tmp_path, sink, "in")):
        await becomes(lambda: _called(sink, 3), "the retry")
        await becomes(lambda: ground.caught_up("in"), "all committed")
    assert sink.calls() == {b"m0": 2, b"m1": 1}
    assert sink.called_at[b"m0"][0] >= due
    assert await comings(ground) == 1
    assert await waiting(ground) == {}


async def _called(sink: Sink, times: int) -> bool:
    return sink.calls().total() >= times


async def test_a_copy_that_comes_while_it_waits_is_done_without_a_call(kafka: str, tmp_path: Path) -> None:
    ground = await ground_of(kafka)
    sink = Sink(tmp_path / "calls", ground.topic("status"))
    sink.retries[b"m0"], sink.retry_after = 1, RETRY_SECONDS
    await ground.send("in", [(b"u", b"m0")])
    async with running(calling_app(ground, tmp_path, sink, "in")):
        await becomes(lambda: waiting(ground), "a wait")
        (due,) = (await waiting(ground)).values()
        await ground.send("in", [(b"u", b"m0"), (b"u", b"m1"), (b"u", b"m0")])
        await becomes(lambda: ground.caught_up("in"), "copies committed")
        assert sink.calls() == {b"m0": 1, b"m1": 1}, "and the user's next did not wait"
        await becomes(lambda: _called(sink, 3), "the retry")
        await becomes(lambda: ground.caught_up("in"), "all committed")
    assert sink.calls() == {b"m0": 2, b"m1": 1}
    assert sink.called_at[b"m0"][1] >= due


async def test_a_rewind_while_it_waits_hurries_nothing(kafka: str, tmp_path: Path) -> None:
    ground = await ground_of(kafka)
    async with worker_of(ground, tmp_path) as worker:
        await ground.send("in", [(b"u", b"m0")])
        await becomes(lambda: waiting(ground), "a wait")
        (due,) = (await waiting(ground)).values()
        await worker.kill()
    await ground.commit({("in", 0): 0})
    sink = Sink(tmp_path / "calls", ground.topic("status"))
    async with running(calling_app(ground, tmp_path, sink, "in")):
        await becomes(lambda: _called(sink, 2), "the retry")
    assert sink.calls() == {b"m0": 2}
    assert sink.called_at[b"m0"][0] >= due


@pytest.mark.parametrize("hours", [24, -24])
async def test_a_clock_that_is_set_hurries_and_delays_nothing(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    ground = await ground_of(kafka)
    sink = Sink(tmp_path / "calls", ground.topic("status"))
    sink.retries[b"m0"], sink.retry_after = 1, RETRY_SECONDS
    await ground.send("in", [(b"u", b"m0")])
    async with running(calling_app(ground, tmp_path, sink, "in")):
        await becomes(lambda: waiting(ground), "a wait")
        began = time.monotonic()
        (due,) = (await waiting(ground)).values()
        true_time, true_ns = time.time, time.time_ns
        left = due / 1000 - true_time()
        monkeypatch.setattr(time, "time", lambda: true_time() + hours * 3600)
        monkeypatch.setattr(time, "time_ns", lambda: true_ns() + hours * 3_600_000_000_000)
        await becomes(lambda: _called(sink, 2), "the retry")
    assert left <= time.monotonic() - began < left + 5.0
