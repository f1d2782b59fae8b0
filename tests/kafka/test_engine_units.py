"""What the engine promises of units of work on a real Kafka: whole, in order, and every record decided."""

import re
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine import Unit, queues, task
from pipeline.engine import app as engine_app
from pipeline.engine.consumer import UnitConsumer
from pipeline.engine.store import EPOCH_KEY, OWN
from tests.kafka.engine_app import (
    POISON,
    Claim,
    Claims,
    Ground,
    Notes,
    becomes,
    claiming_app,
    claims_of,
    eventually,
    fold,
    new_app,
    outputs_by_id,
    rows_of,
    running,
)

pytestmark = pytest.mark.kafka


def messages(count: int, users: int = 7, name: str = "m") -> list[tuple[bytes, bytes]]:
    return [(b"u%d" % (n % users), b"%s%d" % (name.encode(), n)) for n in range(count)]


async def test_a_first_start_takes_what_topics_already_hold(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka, partitions=3)
    await ground.create("in", "out")
    await ground.send("in", messages(1_000))
    app = claiming_app(ground, tmp_path, Claims(ground.topic("out")), "in")
    async with running(app):
        await becomes(lambda: ground.caught_up("in"), "all committed")
    assert {id_: len(out) for id_, out in outputs_by_id(await ground.read("out")).items()} == {
        id_: 1 for _, id_ in messages(1_000)
    }


async def test_a_start_at_committed_offset_zero_loses_nothing(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka, partitions=2)
    await ground.create("in", "out")
    await ground.commit({("in", 0): 0, ("in", 1): 0})
    await ground.send("in", messages(500))
    app = claiming_app(ground, tmp_path, Claims(ground.topic("out")), "in")
    async with running(app):
        await becomes(lambda: ground.caught_up("in"), "all committed")
    assert set(outputs_by_id(await ground.read("out"))) == {id_ for _, id_ in messages(500)}


async def test_a_committed_offset_that_the_topic_does_not_reach_counts_as_none(
    kafka: str, tmp_path: Path
) -> None:
    ground = Ground(kafka)
    await ground.create("in", "out")
    await ground.send("in", messages(100))
    await ground.commit({("in", 0): 5_000})
    app = claiming_app(ground, tmp_path, Claims(ground.topic("out")), "in")
    async with running(app):
        await becomes(lambda: ground.caught_up("in"), "all committed")
    assert set(outputs_by_id(await ground.read("out"))) == {id_ for _, id_ in messages(100)}


async def test_the_rows_of_a_unit_are_one_record_batch_of_one_epoch(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka)
    await ground.create("in", "out")
    await ground.send("in", messages(2_000))
    notes = Notes()
    app = claiming_app(ground, tmp_path, Claims(ground.topic("out")), "in", notes=notes, unit_seconds=0.002)
    async with running(app):
        await becomes(lambda: ground.caught_up("in"), "all committed")
        epoch = app.consumer.tasks[0].epoch
    units: dict[int, int] = {}
    for batch in await ground.batches(ground.changelog):
        assert [record.offset for record in batch] == list(
            range(batch[0].offset, batch[0].offset + len(batch))
        )
        assert {tuple(record.headers) for record in batch} == {(("e", b"%d" % epoch),)}
        keys = [record.key for record in batch]
        numbers = {Claim.read(r.value).number for r in batch if r.key.startswith(b"c|")}
        if not numbers:
            assert keys == [EPOCH_KEY] or all(key.startswith(OWN + b"mark|") for key in keys)
            continue
        (number,) = numbers
        claims = sum(key.startswith(b"c|") for key in keys)
        users = sum(key.startswith(b"n|") for key in keys)
        own = [key for key in keys if key.startswith(OWN)]
        assert sorted(own) == [
            OWN + b"mark|" + ground.topic("in").encode(),
            OWN + b"unit|" + ground.topic("in").encode(),
        ]
        assert len(batch) == claims + users + len(own)
        units[number] = claims
    assert list(units) == list(range(1, len(units) + 1))
    assert list(units.values()) == [records for _, records in notes.units]
    assert sum(units.values()) == 2_000


async def test_gate_topics_are_read_to_their_end_before_the_others_at_every_assignment(
    kafka: str, tmp_path: Path
) -> None:
    ground = Ground(kafka, partitions=2)
    await ground.create("users", "in")
    known: list[bool] = []

    def learn(record: Any, unit: Unit) -> None:
        unit.put(b"u|" + record.key, record.value)

    def decide(record: Any, unit: Unit) -> None:
        known.append(unit.get(b"u|" + record.key) == record.value)

    for round_ in range(2):
        users = [(b"u%d" % n, b"%d" % round_) for n in range(20_000)]
        await ground.send("users", users)
        await ground.send("in", users[-1_000:])
        app = new_app(ground, tmp_path)
        # The gate has the lower rank here: nothing but its being a gate lets it go first.
        app.stage("decide", ground.topic("in"), decide=decide, reject=fail)
        app.stage("learn", ground.topic("users"), decide=learn, reject=fail, gate=True)
        async with running(app):
            await eventually(lambda: len(known) == 1_000, "all decided")
            await becomes(lambda: ground.caught_up("in", "users"), "all committed")
        assert all(known)
        known.clear()


def fail(record: Any, error: Exception, unit: Unit) -> None:
    raise error


async def test_a_gate_topic_that_ends_in_a_marker_opens(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka)
    await ground.create("users", "in", "out")
    await ground.send_in_transaction(ground.topic("users"), [(b"u", b"user")])
    await ground.send("in", [(b"u", b"m1")])
    app = new_app(ground, tmp_path)
    claims = Claims()
    app.stage("users", ground.topic("users"), decide=claims.decide, reject=fail, gate=True)
    app.stage("in", ground.topic("in"), decide=claims.decide, reject=fail)
    async with running(app):
        await eventually(lambda: len(claims.decided) == 2, "the other topic opened")
    assert claims.decided == [(ground.topic("users"), b"user"), (ground.topic("in"), b"m1")]


async def test_a_higher_topic_goes_first_and_a_lower_one_gets_a_unit_in_ten(
    kafka: str, tmp_path: Path
) -> None:
    ground = Ground(kafka)
    await ground.create("express", "plain", "bulk")
    for name in ("bulk", "plain", "express"):
        await ground.send(name, messages(300, name=name))
    notes = Notes()
    decided: list[bytes] = []

    def decide(record: Any, unit: Unit) -> None:
        decided.append(record.value)
        if len(decided) < 10:
            time.sleep(0.02)  # meanwhile all of them are fetched

    app = new_app(ground, tmp_path, notes, unit_seconds=1e-9)  # a unit a record
    app.stage("all", *map(ground.topic, ("express", "plain", "bulk")), decide=decide, reject=fail)
    async with running(app):
        await becomes(lambda: ground.caught_up("express", "plain", "bulk"), "all committed")
    served = [topic.rpartition("-")[2] for topic, _ in notes.units]
    express = served[20 : max(n for n, name in enumerate(served) if name == "express")]
    assert Counter(express)["express"] >= 0.75 * len(express) > 200
    for lower in ("plain", "bulk"):
        turns = [n for n, name in enumerate(express) if name == lower]
        assert max(later - sooner for sooner, later in pairwise([0, *turns, len(express)])) <= 10


async def test_a_record_that_makes_the_stage_raise_is_rejected_alone(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka)
    await ground.create("in", "out", "dlq")
    sent = messages(300, users=1)
    sent[100] = (b"u0", POISON + b"1")
    sent[200] = (b"u0", POISON + b"2")
    await ground.send("in", sent)
    notes = Notes()
    claims = Claims(ground.topic("out"), dlq=ground.topic("dlq"))
    app = claiming_app(ground, tmp_path, claims, "in", notes=notes)
    async with running(app):
        await becomes(lambda: ground.caught_up("in"), "all committed")
        rows = rows_of(app.store.db(0))
    assert [(r.value, r.headers) for r in await ground.read("dlq")] == [
        (POISON + b"1", (("error", b"poison"),)),
        (POISON + b"2", (("error", b"poison"),)),
    ]
    healthy = [id_ for _, id_ in sent if not id_.startswith(POISON)]
    # The turns have no hole: what the poisonous ones had counted and sent is gone.
    assert [r.value for r in await ground.read("out")] == [
        id_ + b" %d" % (n + 1) for n, id_ in enumerate(healthy)
    ]
    assert {key for key in rows if key.startswith(b"c|")} == {b"c|" + id_ for id_ in healthy}
    assert rows == fold(await ground.read(ground.changelog))
    assert notes.rejections == [(ground.topic("in"), "ValueError")] * 2


async def test_changes_that_no_batch_takes_are_split_or_rejected(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "CHANGELOG_BATCH_BYTES", 20_000)
    monkeypatch.setattr(task, "UNIT_CHANGES_BYTES", 10_000)
    ground = Ground(kafka)
    await ground.create("in", "dlq")

    def decide(record: Any, unit: Unit) -> None:
        unit.put(b"r|" + record.value, bytes(30_000 if record.value == b"m50" else 1_000))

    def reject(record: Any, error: Exception, unit: Unit) -> None:
        unit.outbox.add(ground.topic("dlq"), record.key, record.value)

    await ground.send("in", messages(100))
    notes = Notes()
    app = new_app(ground, tmp_path, notes)
    app.stage("big", ground.topic("in"), decide=decide, reject=reject)
    async with running(app):
        await becomes(lambda: ground.caught_up("in"), "all committed")
        rows = rows_of(app.store.db(0))
    assert [r.value for r in await ground.read("dlq")] == [b"m50"]
    assert set(rows) == {b"r|" + id_ for _, id_ in messages(100)} - {b"r|m50"}
    assert rows == fold(await ground.read(ground.changelog))
    assert notes.rejections == [(ground.topic("in"), "RecordTooLarge")]


async def test_a_rewind_of_the_whole_group_emits_nothing(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka, partitions=2)
    await ground.create("high", "low", "out")
    for run in range(3):
        if run:
            await ground.commit({(name, number): 0 for name in ("high", "low") for number in range(2)})
        else:
            await ground.send("high", messages(400, name="h"))
            await ground.send("low", messages(400, name="l"))
        claims = Claims(ground.topic("out"))
        # The second run finds its disk, the last one has lost it.
        app = claiming_app(ground, tmp_path / f"{run // 2}", claims, "high", "low", unit_seconds=0.001)
        async with running(app):
            await becomes(lambda: ground.caught_up("high", "low"), "all committed")
        assert len(claims.decided) == 800
    assert Counter(r.value.split()[0] for r in await ground.read("out")) == {
        id_: 1 for name in "hl" for _, id_ in messages(400, name=name)
    }


async def test_a_stop_in_the_midst_of_work_leaves_no_unit_in_doubt(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka)
    await ground.create("in", "out")
    await ground.send("in", messages(3_000))
    claims = Claims(ground.topic("out"), slow=0.0005)
    app = claiming_app(ground, tmp_path / "first", claims, "in", unit_seconds=0.005)
    async with running(app):
        await eventually(lambda: len(claims.decided) > 300, "work under way")
    before = outputs_by_id(await ground.read("out"))
    assert 300 < len(before) < 3_000
    assert set(before) == set(claims_of(await ground.read(ground.changelog)))
    assert await ground.committed("in") == {("in", 0): len(before)}
    await ground.commit({("in", 0): 0})
    again = Claims(ground.topic("out"))
    async with running(claiming_app(ground, tmp_path / "second", again, "in")):
        await becomes(lambda: ground.caught_up("in"), "all committed")
    assert {len(found) for found in outputs_by_id(await ground.read("out")).values()} == {1}


async def test_a_stage_slower_than_its_topic_pauses_it_and_stays_a_member(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "QUEUE_RECORDS", 100)
    monkeypatch.setattr(engine_app, "MAX_POLL_RECORDS", 200)
    ground = Ground(kafka)
    await ground.create("in")
    await ground.send("in", messages(2_000))
    notes = Notes()
    app = claiming_app(ground, tmp_path, Claims(slow=0.0015), "in", notes=notes)
    paused_polls, longest = 0, 0

    async def poll() -> None:
        nonlocal paused_polls, longest
        paused_polls += bool(app.consumer.full)
        await UnitConsumer.poll(app.consumer)
        longest = max(
            [longest, *[len(queue) for task in app.consumer.tasks.values() for queue in task.queues]]
        )

    app.consumer.poll = poll
    async with running(app):
        generation = app.consumer_generation_id
        await eventually(lambda: sum(records for _, records in notes.units) == 2_000, "all decided")
        await becomes(lambda: ground.caught_up("in"), "all committed")
        assert app.consumer_generation_id == generation
        assert app.consumer.full == set()
    assert paused_polls > 10
    assert max(records for _, records in notes.units[30:]) <= 20, (
        "a unit of 20 ms, at more than 1 ms a record"
    )
    assert 100 < longest <= 100 + 200
    assert not notes.abandonments


async def test_partition_counts_that_differ_are_refused_by_name(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka, partitions=2)
    await ground.create("in", "more", "out", more=3)
    await ground.send("in", messages(10))
    claims = Claims(ground.topic("out"))
    app = claiming_app(ground, tmp_path, claims, "in", "more")
    async with running(app, ready=False):
        await eventually(lambda: app.crashed, "refused")
        message = str(app.crash_reason)
        assert not app.ready
    assert re.search(rf"works on 2 partitions a topic, but {ground.topic('more')} has 3\.", message)
    assert "create new topics under another kafka.topic_prefix and move the records there" in message
    assert claims.decided == []
    assert await ground.committed("in", "more") == {}


async def test_a_changelog_with_another_partition_count_is_refused(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka, partitions=2)
    await ground.create("in", changelog=1)
    app = claiming_app(ground, tmp_path, Claims(), "in")
    async with running(app, ready=False):
        await eventually(lambda: app.crashed, "refused")
        assert f"{ground.changelog} has 1" in str(app.crash_reason)
