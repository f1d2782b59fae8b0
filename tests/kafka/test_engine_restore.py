"""What the engine promises of restores: the store is the fold of the changelog, whatever came in between."""

import asyncio
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import rocksdict

from pipeline.engine import UnitApp, consumer, store
from pipeline.engine import app as engine_app
from pipeline.engine.store import EPOCH_HEADER, StoreBroken
from pipeline.engine.task import Task
from tests.kafka.engine_app import (
    Claims,
    Ground,
    Notes,
    Rows,
    Worker,
    becomes,
    claiming_app,
    claims_of,
    eventually,
    fold,
    outputs_by_id,
    rows_of,
    running,
)

pytestmark = pytest.mark.kafka
EPOCH = [(EPOCH_HEADER, b"1")]


async def fill_changelog(ground: Ground, rows: int, *, size: int = 0) -> None:
    """Rows that some earlier owner wrote: every third key written twice, every seventh deleted."""
    for partition in range(ground.partitions):
        written: list[tuple[bytes, bytes | None]] = [
            (b"k|%d" % n, b"first" + bytes(size)) for n in range(rows)
        ]
        written += [(b"k|%d" % n, b"second %d" % n) for n in range(0, rows, 3)]
        written += [(b"k|%d" % n, None) for n in range(0, rows, 7)]
        written.append((b"k|last", b"last"))
        await ground.send(ground.changelog, written, partition=partition, headers=EPOCH)


async def folded(ground: Ground) -> dict[int, Rows]:
    records = await ground.read(ground.changelog)
    return {n: fold(r for r in records if r.partition == n) for n in range(ground.partitions)}


def stored(*apps: UnitApp) -> dict[int, Rows]:
    return {number: rows_of(db) for app in apps for number, db in app.store.opened().items()}


async def test_a_hundred_thousand_rows_restored_into_nothing_equal_the_changelog(
    kafka: str, tmp_path: Path
) -> None:
    ground = Ground(kafka, partitions=2)
    await ground.create("in")
    await fill_changelog(ground, 50_000)
    app = claiming_app(ground, tmp_path, Claims(), "in")
    async with running(app):
        assert stored(app) == await folded(ground)


async def test_a_restore_that_is_killed_five_times_equals_the_changelog(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka)
    await ground.create("in")
    await fill_changelog(
        ground, 20_000, size=500
    )  # several fetches, so that a restore goes on where one died
    for _ in range(5):
        async with Worker(ground, tmp_path, ("in",), failpoint="recovery.batch:2") as worker:
            await worker.dies()
    app = claiming_app(ground, tmp_path, Claims(), "in")
    async with running(app):
        assert stored(app) == await folded(ground)


async def test_a_rebalance_in_the_midst_of_a_restore_costs_no_row(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = Ground(kafka)
    await ground.create("in")
    await fill_changelog(ground, 30_000)
    truth = await folded(ground)
    generations: set[int] = set()

    def restore_slowly(recovery: Any, tp: Any, records: list[Any], count_hidden: Any) -> None:
        if recovery.app is first:
            generations.add(recovery.app.consumer_generation_id)
        if len(generations) < 2:
            time.sleep(0.02)  # a disk so slow that the other one joins in the midst
        store.restore(recovery, tp, records, count_hidden)

    monkeypatch.setattr(consumer, "restore", restore_slowly)
    monkeypatch.setattr(engine_app, "MAX_POLL_RECORDS", 200)
    first = claiming_app(ground, tmp_path / "first", Claims(), "in")
    async with running(first, ready=False):
        await eventually(lambda: generations, "a restore that has begun")
        async with Worker(ground, tmp_path / "second", ("in",)) as second:
            await eventually(lambda: first.ready and len(generations) > 1, "a restore after the joining")
            assert stored(first) == truth
            await second.stop()
    assert await folded(ground) == truth


async def test_a_second_restore_soon_after_the_first_is_waited_for_too(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka)
    await ground.create("in", "out")
    await fill_changelog(ground, 1_000)
    notes = Notes()
    app = claiming_app(ground, tmp_path, Claims(ground.topic("out")), "in", notes=notes)
    async with running(app):
        before = app.consumer.opened
        # another owner's rows, a lot of them: the task finds the gap, and has them to restore
        epoch = [(EPOCH_HEADER, b"%d" % (app.consumer.tasks[0].epoch + 1))]
        await ground.send(ground.changelog, [(b"x|%d" % n, bytes(300)) for n in range(30_000)], headers=epoch)
        await ground.send("in", [(b"u", b"m1")])
        await eventually(lambda: app.ready and app.consumer.opened != before, "opened again")
        assert notes.abandonments
        await becomes(lambda: ground.caught_up("in"), "all committed")
        assert stored(app) == await folded(ground)
    assert b"m1" in claims_of(await ground.read(ground.changelog))


async def test_a_changelog_that_ends_in_a_marker_is_restored_to_its_end(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka)
    await ground.create("in")
    await ground.send_in_transaction(ground.changelog, [(b"k|1", b"one"), (b"k|2", b"two")])
    app = claiming_app(ground, tmp_path, Claims(), "in")
    async with running(app):
        assert stored(app) == {0: {b"k|1": b"one", b"k|2": b"two"}}


async def test_the_store_of_a_stopped_app_opens_again_at_once(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka)
    await ground.create("in")
    for _ in range(2):
        app: Any = claiming_app(ground, tmp_path, Claims(), "in")
        async with asyncio.timeout(10), running(app):
            assert app.store.opened()
        assert not app.store.opened()


def flip(state_dir: Path, *, every: int) -> None:
    """Breaks the database on the disk: one bit in so many bytes of its tables."""
    path = next(iter(state_dir.rglob("store-0.db")))
    db = rocksdict.Rdict(str(path), store.options())
    db.flush()
    db.close()
    tables = list(path.glob("*.sst"))
    assert tables
    for table in tables:
        content = bytearray(table.read_bytes())
        for at in range(100, len(content), every):
            content[at] ^= 1
        table.write_bytes(content)


@pytest.mark.parametrize("what", ["bits flipped", "a table cut short"])
async def test_a_broken_database_is_put_aside_and_restored(kafka: str, tmp_path: Path, what: str) -> None:
    ground = Ground(kafka)
    await ground.create("in", "out", "dlq")
    claims = Claims(ground.topic("out"), dlq=ground.topic("dlq"))
    records = [(b"u%d" % n, b"m%d" % n) for n in range(2_000)]
    await ground.send("in", records)
    async with running(claiming_app(ground, tmp_path, claims, "in")):
        await becomes(lambda: ground.caught_up("in"), "all committed")
    flip(tmp_path, every=20_000 if what == "bits flipped" else 1 << 40)
    if what == "a table cut short":
        table = next(iter(tmp_path.rglob("*.sst")))
        table.write_bytes(table.read_bytes()[:1_000])
    await ground.send("in", records)
    while not await ground.caught_up("in"):  # a role that stops is started again
        app = claiming_app(ground, tmp_path, claims, "in")
        async with running(app, ready=False):
            while not (app.should_stop or await ground.caught_up("in")):
                await asyncio.sleep(0.05)
            if not app.should_stop:
                assert stored(app) == await folded(ground)
    assert list(tmp_path.rglob("*.broken"))
    assert await ground.read("dlq") == [], "no record was blamed"
    assert len(await ground.read("out")) == len(records), "nothing came out again"
    assert len(claims_of(await ground.read(ground.changelog))) == len(records)


async def test_an_old_copy_of_the_state_catches_up_before_it_decides(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka)
    await ground.create("in", "out")
    claims, state, copy = Claims(ground.topic("out")), tmp_path / "state", tmp_path / "copy"
    records = [(b"u%d" % (n % 7), b"m%d" % n) for n in range(1_000)]
    for part in (records[:400], records[400:]):
        await ground.send("in", part)
        async with running(claiming_app(ground, state, claims, "in")):
            await becomes(lambda: ground.caught_up("in"), "all committed")
        if not copy.exists():
            shutil.copytree(state, copy)
    await ground.commit({("in", 0): 0})
    app = claiming_app(ground, copy, claims, "in")
    async with running(app):
        await becomes(lambda: ground.caught_up("in"), "all committed")
        assert stored(app) == await folded(ground)
    assert len(await ground.read("out")) == len(records), "nothing came out again"


async def test_a_full_disk_stops_the_role_without_an_ack_and_it_resumes(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = Ground(kafka)
    await ground.create("in", "out", "dlq")
    claims = Claims(ground.topic("out"), dlq=ground.topic("dlq"))
    records = [(b"u%d" % n, b"m%d" % n) for n in range(500)]

    def full(self: Task, rows: Rows, end: int, forget: list[bytes] | None = None) -> None:
        raise StoreBroken("IO error: No space left on device: While appending to file")

    app = claiming_app(ground, tmp_path, claims, "in")
    async with running(app):
        with monkeypatch.context() as patched:
            patched.setattr(Task, "apply", full)
            await ground.send("in", records)
            await eventually(lambda: app.should_stop, "a role that has stopped")
        assert not app.ready
    assert await ground.committed("in") == {}
    assert not list(tmp_path.rglob("*.broken")), "a full disk is not a broken one"
    async with running(claiming_app(ground, tmp_path, claims, "in")):
        await becomes(lambda: ground.caught_up("in"), "all committed")
    assert {r.value.split()[0] for r in await ground.read("out")} == {id_ for _, id_ in records}
    assert await ground.read("dlq") == []


async def test_a_database_that_cannot_grow_ends_the_process_without_an_ack_and_costs_no_row(
    kafka: str, tmp_path: Path
) -> None:
    ground = Ground(kafka)
    await ground.create("in", "out")
    records = [(b"u%d" % (n % 97), b"m%d" % n) for n in range(10_000)]
    async with Worker(ground, tmp_path, ("in",)) as worker:
        await worker.is_ready()
        assert worker.process is not None
        _, hard = resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (200_000, hard))
        await ground.send("in", records)
        assert await asyncio.wait_for(worker.process.wait(), 30) == 3
    assert "StoreBroken" in (tmp_path / "log").read_text()
    done = (await ground.committed("in")).get(("in", 0), 0)
    assert done < len(records)
    assert {id_ for _, id_ in records[:done]} <= outputs_by_id(await ground.read("out")).keys()
    app = claiming_app(ground, tmp_path, Claims(ground.topic("out")), "in")
    async with running(app):
        await becomes(lambda: ground.caught_up("in"), "all committed")
        assert stored(app) == await folded(ground)
    sent = outputs_by_id(await ground.read("out"))
    assert sent.keys() == {id_ for _, id_ in records}
    assert {len(set(outputs)) for outputs in sent.values()} == {1}, "what came again was the same"
