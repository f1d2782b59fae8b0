"""What the engine promises of groups: partitions change hands without loss, and each has a single writer."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from pipeline.broker import BrokerUnavailable, EmbeddedKafka
from pipeline.engine import Unit, UnitApp, internals
from pipeline.engine import app as engine_app
from pipeline.engine import consumer as engine_consumer
from pipeline.engine import task as engine_task
from pipeline.engine.consumer import UnitConsumer
from pipeline.engine.outbox import send
from pipeline.engine.store import EPOCH_HEADER, OWN
from tests.kafka.engine_app import (
    POISON,
    SESSION_SECONDS,
    Claims,
    Ground,
    Notes,
    Sink,
    Worker,
    becomes,
    calling_app,
    claiming_app,
    eventually,
    fold,
    new_app,
    outputs_by_id,
    rows_of,
    running,
)

pytestmark = pytest.mark.kafka


def messages(begin: int, end: int) -> list[tuple[bytes, bytes]]:
    return [(b"u%d" % (n % 37), b"m%d" % n) for n in range(begin, end)]


def owned(*apps: UnitApp) -> list[list[int]]:
    return [sorted(app.store.opened()) for app in apps]


async def test_partitions_change_hands_without_a_loss_or_a_repetition(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka, partitions=4)
    await ground.create("in", "out")
    notes = Notes()
    first, second = (
        claiming_app(
            ground,
            tmp_path / name,
            Claims(ground.topic("out"), slow=0.0002),
            "in",
            notes=notes,
            unit_seconds=0.005,
        )
        for name in ("first", "second")
    )
    await ground.send("in", messages(0, 2_000))
    async with running(first):
        await eventually(lambda: sum(records for _, records in notes.units) > 200, "work under way")
        async with running(second):
            await eventually(lambda: all(owned(first, second)), "both own partitions")
            mine, theirs = owned(first, second)
            assert sorted(mine + theirs) == [0, 1, 2, 3], "what was given up is closed"
            await ground.send("in", messages(2_000, 4_000))
            await first.stop()
            assert owned(first) == [[]]
            await ground.send("in", messages(4_000, 5_000))
            await becomes(lambda: ground.caught_up("in"), "all committed")
            assert owned(second) == [[0, 1, 2, 3]]
    sent = outputs_by_id(await ground.read("out"))
    assert set(sent) == {id_ for _, id_ in messages(0, 5_000)}
    assert {len(outputs) for outputs in sent.values()} == {1}, "a clean hand-over leaves nothing in doubt"
    assert notes.drains
    assert max(notes.drains) < 1.0
    assert not notes.abandonments


async def test_what_was_restored_for_a_generation_is_not_opened_once_the_next_has_begun(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = Ground(kafka)
    await ground.create("in", "out")
    await ground.send("in", messages(0, 100))
    first, second = (
        claiming_app(ground, tmp_path / name, Claims(ground.topic("out")), "in") for name in "ab"
    )
    revoked, opened = asyncio.Event(), asyncio.Event()
    end_offsets = internals.end_offsets

    async def end_offsets_late(consumer: Any, tps: Any) -> Any:
        if consumer is first.consumer:
            await revoked.wait()
        return await end_offsets(consumer, tps)

    async def open_tasks(numbers: set[int], generation: int) -> None:
        await UnitConsumer.open_tasks(first.consumer, numbers, generation)
        opened.set()

    async def revoke(partitions: Any) -> None:
        await UnitConsumer.on_partitions_revoked(first.consumer, partitions)
        if partitions:
            # What the first generation had restored is to be opened now, after its end.
            revoked.set()
            await opened.wait()
            assert first.consumer.tasks == {}

    monkeypatch.setattr(internals, "end_offsets", end_offsets_late)
    first.consumer.open_tasks, first.consumer.on_partitions_revoked = open_tasks, revoke
    async with running(first, ready=False):
        await eventually(lambda: first.consumer.assigned, "a generation")
        async with running(second):
            await becomes(lambda: ground.caught_up("in"), "all committed")
            await eventually(lambda: first.ready)
            runners = [task for task in asyncio.all_tasks() if task.get_name() == f"{ground.group}-0"]
            assert len(runners) == 1
    assert set(outputs_by_id(await ground.read("out"))) == {id_ for _, id_ in messages(0, 100)}


async def test_calls_in_flight_are_settled_before_their_partition_is_given_up(
    kafka: str, tmp_path: Path
) -> None:
    ground = Ground(kafka, partitions=2)
    await ground.create("in", "status")
    held = [b"m%d" % n for n in range(20)]
    sink = Sink(tmp_path / "calls", ground.topic("status"), hold=held)
    await ground.send("in", messages(0, 20))
    first, second = (calling_app(ground, tmp_path / name, sink, "in") for name in ("first", "second"))
    async with running(first):
        await eventually(lambda: len(sink.running) == 20, "all called")
        async with running(second, ready=False):
            await eventually(lambda: first.consumer.draining, "a drain that waits")
            for event in sink.held.values():
                event.set()
            await eventually(lambda: first.ready and second.ready, "both at work")
            await becomes(lambda: ground.caught_up("in"), "all committed")
    assert sink.calls() == dict.fromkeys(held, 1)


async def test_a_stop_that_meets_a_rebalance_held_up_by_others_leaves_the_group_in_time(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(internals, "LEAVE_SECONDS", 0.5)
    ground = Ground(kafka, partitions=2)
    await ground.create("in")
    leaving, slow = (
        claiming_app(ground, tmp_path / name, Claims(), "in", session_timeout=6.0)
        for name in ("leaving", "slow")
    )
    held, go_on = asyncio.Event(), asyncio.Event()

    async def revoke(partitions: Any) -> None:
        held.set()
        await go_on.wait()
        await UnitConsumer.on_partitions_revoked(slow.consumer, partitions)

    async with running(leaving, slow):
        await eventually(lambda: leaving.ready and slow.ready and all(owned(leaving, slow)), "both at work")
        slow.consumer.on_partitions_revoked = revoke
        await internals.rejoin(leaving.consumer)
        await held.wait()
        stopping = asyncio.create_task(leaving.stop())
        await eventually(stopping.done, "a stop in time", seconds=8)
        assert not leaving.crashed
        go_on.set()
        await eventually(lambda: slow.ready and owned(slow) == [[0, 1]], "all is the other's", seconds=5)


async def test_a_rebalance_that_meets_a_stop_does_not_keep_it_from_leaving(
    kafka: str, tmp_path: Path
) -> None:
    ground = Ground(kafka, partitions=2)
    await ground.create("in")
    leaving, staying = (
        claiming_app(ground, tmp_path / name, Claims(), "in", session_timeout=6.0)
        for name in ("leaving", "staying")
    )
    revoked, on_stop = asyncio.Event(), leaving.on_stop

    async def revoke(partitions: Any) -> None:
        await UnitConsumer.on_partitions_revoked(leaving.consumer, partitions)
        revoked.set()

    async def stop_in_a_rebalance() -> None:
        assert leaving.should_stop
        await internals.rejoin(leaving.consumer)
        await revoked.wait()
        await on_stop()

    async with running(leaving, staying):
        await eventually(
            lambda: leaving.ready and staying.ready and all(owned(leaving, staying)), "both at work"
        )
        leaving.consumer.on_partitions_revoked, leaving.on_stop = revoke, stop_in_a_rebalance
        await leaving.stop()
        assert not leaving.crashed
        await eventually(
            lambda: staying.ready and owned(staying) == [[0, 1]], "all is the other's", seconds=8
        )


async def test_a_worker_frozen_past_its_session_loses_and_spoils_nothing(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka, partitions=2)
    await ground.create("in", "out")
    frozen = Worker(ground, tmp_path / "frozen", ("in",), unit_seconds=0.002, session_timeout=1.0)
    async with frozen:
        await ground.send("in", messages(0, 3_000))
        await becomes(lambda: ground.committed("in"), "work under way")
        assert frozen.process is not None
        frozen.process.send_signal(signal.SIGSTOP)
        other = claiming_app(ground, tmp_path / "other", Claims(ground.topic("out")), "in")
        async with running(other):
            await ground.send("in", messages(3_000, 4_000))
            await becomes(lambda: ground.caught_up("in"), "the other took over")
            frozen.process.send_signal(signal.SIGCONT)
            await ground.send("in", messages(4_000, 5_000))
            await eventually(lambda: len(other.store.opened()) == 1, "the thawed one is back")
            await becomes(lambda: ground.caught_up("in"), "all committed")
        await frozen.stop()
    sent = outputs_by_id(await ground.read("out"))
    assert set(sent) == {id_ for _, id_ in messages(0, 5_000)}
    assert {len(set(outputs)) for outputs in sent.values()} == {1}


async def test_a_loop_that_was_blocked_past_the_session_loses_and_repeats_nothing(
    kafka: str, tmp_path: Path
) -> None:
    """Its heart beats in a thread of its own: it keeps what it has, and a rebalance waits for it."""
    ground = Ground(kafka, partitions=2)
    await ground.create("in", "out")
    claims, notes = Claims(ground.topic("out")), Notes()
    blocked: list[float] = []

    def decide(record: Any, unit: Unit) -> None:
        if record.value == b"blocks" and not blocked:
            blocked.append(time.monotonic())
            time.sleep(3 * SESSION_SECONDS)
        claims.decide(record, unit)

    blocking = new_app(ground, tmp_path / "blocking", notes)
    blocking.stage("claims", ground.topic("in"), decide=decide, reject=claims.reject)
    other = Worker(ground, tmp_path / "other", ("in",))
    async with running(blocking), other:  # who takes longer to start than the first to come to what blocks it
        await ground.send("in", [*messages(0, 500), (b"u", b"blocks"), *messages(500, 1_000)])
        await eventually(lambda: blocked, "a loop that is blocked")
        await ground.send("in", messages(1_000, 2_000))
        await becomes(lambda: ground.caught_up("in"), "all committed")
        assert time.monotonic() - blocked[0] >= 3 * SESSION_SECONDS
        await eventually(lambda: len(owned(blocking)[0]) == 1, "the other one is there")
        await other.stop()
    sent = outputs_by_id(await ground.read("out"))
    assert set(sent) == {id_ for _, id_ in messages(0, 2_000)} | {b"blocks"}
    assert {len(outputs) for outputs in sent.values()} == {1}
    assert not notes.abandonments


async def test_rows_of_a_zombie_are_found_out_left_out_and_written_over(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka)
    await ground.create("in", "out")
    await ground.send("in", [(b"u", b"m1"), (b"u", b"m2")])
    for name in ("first", "second"):  # the second start has a higher epoch than the zombie
        notes = Notes()
        app = claiming_app(ground, tmp_path / name, Claims(ground.topic("out")), "in", notes=notes)
        async with running(app):
            await becomes(lambda: ground.caught_up("in"), "all committed")
            if name == "first":
                old = app.consumer.tasks[0].epoch
                continue
            truth = rows_of(app.store.db(0))
            unit = next(
                r.key for r in await ground.read(ground.changelog) if r.key.startswith(OWN + b"unit|")
            )
            await ground.send(
                ground.changelog,
                [(b"c|m1", b"zombie"), (b"n|u", None), (b"x|new", b"zombie"), (unit, b"99 99")],
                headers=[(EPOCH_HEADER, b"%d" % old)],
            )
            assert app.consumer.tasks[0].epoch > old
            opened = app.consumer.opened
            await ground.send("in", [(b"u", b"m3")])
            await becomes(lambda: ground.caught_up("in"), "all committed")
            assert app.consumer.opened > opened
            assert notes.abandonments == ["another owner wrote to the changelog"]
            assert notes.zombies == 4
            rows = rows_of(app.store.db(0))
            assert rows.pop(b"c|m3")
            assert rows == truth | {b"n|u": b"3"}
    # Whoever reads the changelog without looking at epochs now finds the truth as well.
    assert fold(await ground.read(ground.changelog)).items() >= rows.items()
    assert b"x|new" not in fold(await ground.read(ground.changelog))
    assert outputs_by_id(await ground.read("out")) == {b"m%d" % n: [b"m%d %d" % (n, n)] for n in (1, 2, 3)}
    fresh = claiming_app(ground, tmp_path / "third", Claims(), "in")
    async with running(fresh):
        assert rows_of(fresh.store.db(0)) == fold(await ground.read(ground.changelog))


async def test_an_epoch_is_never_taken_twice_although_a_zombie_wrote_its_own(
    kafka: str, tmp_path: Path
) -> None:
    ground = Ground(kafka)
    await ground.create("in")
    epochs = []
    for number in range(4):
        app = claiming_app(ground, tmp_path, Claims(), "in")
        async with running(app):
            epochs.append(app.consumer.tasks[0].epoch)
        if number == 1:
            zombie = [(OWN + b"epoch", b"1")]
            await ground.send(ground.changelog, zombie, headers=[(EPOCH_HEADER, b"1")])
    assert epochs == sorted(set(epochs))


async def test_a_role_whose_reject_fails_stops_commits_nothing_more_and_starts_again(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = Ground(kafka, partitions=2)
    await ground.create("in", "out")
    await ground.send("in", [(b"u", b"first")], partition=0)
    await ground.send("in", messages(0, 3_000), partition=1)
    claims = Claims(ground.topic("out"), slow=0.001)
    fatal = claiming_app(ground, tmp_path, claims, "in", unit_seconds=0.005)
    late: list[int] = []

    async def send_late(producer: Any, batches: Any) -> Any:
        """The unit that was under way beside the crash finds its outputs sent when all is closed."""
        left = await send(producer, batches)
        if fatal.crashed:
            late.append(len(batches))
            await eventually(lambda: not fatal.store.opened(), "the databases closed")
        return left

    monkeypatch.setattr(engine_task, "send", send_late)
    async with running(fatal):
        await becomes(lambda: _has(ground.committed("in"), ("in", 0)), "the first committed")
        # There is no topic for dead letters; and the other partition is in the midst of its work.
        await ground.send("in", [(b"u", POISON), (b"u", b"last")], partition=0)
        await eventually(lambda: fatal.crashed and late, "a crash, and a unit under way beside it")
        assert not fatal.ready
        started = time.monotonic()
        await fatal.stop()
        assert time.monotonic() - started < 5.0
        assert not fatal.store.opened()
    assert (await ground.committed("in"))["in", 0] == 1
    left = [task for task in asyncio.all_tasks() if task.get_name().startswith(ground.group)]
    assert left == []
    mended = new_app(ground, tmp_path)
    claims = Claims(ground.topic("out"))
    mended.stage("claims", ground.topic("in"), decide=claims.decide, reject=lambda *_: None)
    async with running(mended):
        await becomes(lambda: ground.caught_up("in"), "all committed")
    sent = outputs_by_id(await ground.read("out"))
    assert set(sent) == {b"first", b"last"} | {id_ for _, id_ in messages(0, 3_000)}
    assert {len(set(outputs)) for outputs in sent.values()} == {1}


async def _has(offsets: Awaitable[dict[tuple[str, int], int]], tp: tuple[str, int]) -> bool:
    return tp in await offsets


@pytest.mark.parametrize("committed", [None, 0, 5])
async def test_what_was_fetched_before_the_seek_comes_again_once(
    kafka: str, tmp_path: Path, committed: int | None
) -> None:
    ground = Ground(kafka)
    await ground.create("in", "out")
    before = messages(0, committed or 0)
    await ground.send("in", before)
    if committed is not None:
        await ground.commit({("in", 0): committed})
    claims = Claims(ground.topic("out"))
    app = claiming_app(ground, tmp_path, claims, "in")
    dropped = False

    def take(tp: Any, records: list[Any]) -> None:
        nonlocal dropped
        dropped |= tp.topic == ground.topic("in") and tp not in app.consumer.taken
        UnitConsumer.take(app.consumer, tp, records)

    async def seek() -> None:
        await ground.send("in", messages(len(before), 50))
        await eventually(lambda: dropped, "records fetched before the seek")
        await UnitConsumer.perform_seek(app.consumer)

    async with running(app):
        app.consumer.take, app.consumer.perform_seek = take, seek
        await internals.rejoin(app.consumer)
        await eventually(lambda: claims.decided, "a start after it")
        await becomes(lambda: ground.caught_up("in"), "all committed")
    assert claims.decided == [(ground.topic("in"), id_) for _, id_ in messages(len(before), 50)]


async def test_a_unit_that_does_not_get_on_makes_its_worker_unready(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_consumer, "SLACK_SECONDS", 0.3)
    ground = Ground(kafka)
    await ground.create("in", "out")
    app = claiming_app(ground, tmp_path, Claims(ground.topic("out")), "in")
    go_on = asyncio.Event()
    async with running(app):

        async def decide_late(unit: Unit) -> Any:
            await go_on.wait()
            return await UnitConsumer.decide(app.consumer, unit)

        app.consumer.decide = decide_late
        await ground.send("in", [(b"u", b"m1")])
        await eventually(lambda: not app.ready, "not ready")
        go_on.set()
        await eventually(lambda: app.ready, "ready again")


async def test_a_broker_that_is_away_costs_time_alone_and_a_stop_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(internals, "LEAVE_SECONDS", 1.0)
    monkeypatch.setattr(engine_app, "FLUSH_SECONDS", 1.0)
    try:
        broker = EmbeddedKafka()
        broker.start()
    except BrokerUnavailable as error:
        pytest.skip(str(error))
    try:
        ground = Ground(broker.bootstrap_servers, partitions=2)
        await ground.create("in", "out")
        notes = Notes()
        claims = Claims(ground.topic("out"), slow=0.0005)
        app = claiming_app(
            ground, tmp_path, claims, "in", notes=notes, unit_seconds=0.005, session_timeout=1.0
        )
        await ground.send("in", messages(0, 3_000))
        async with running(app):
            await eventually(lambda: notes.commits > 1, "work under way")
            os.kill(broker.pids[1], signal.SIGSTOP)
            await eventually(lambda: not app.ready, "not ready")
            os.kill(broker.pids[1], signal.SIGCONT)
            await becomes(lambda: ground.caught_up("in"), "all committed")
            await eventually(lambda: app.ready, "ready again")
            sent = outputs_by_id(await ground.read("out"))
            assert set(sent) == {id_ for _, id_ in messages(0, 3_000)}
            assert {len(set(outputs)) for outputs in sent.values()} == {1}
            before = len(claims.decided)
            await ground.send("in", messages(3_000, 6_000))
            await eventually(lambda: len(claims.decided) > before + 100, "work under way")
            broker.kill(1)
            started = time.monotonic()
            await app.stop()
            assert time.monotonic() - started < 12.0
            assert not app.store.opened()
    finally:
        broker.stop()
