"""What the engine promises of records that kill it: each is found, given up, and blamed on no other."""

from collections import Counter
from pathlib import Path

import pytest

from pipeline.engine.marker import MOST_DEATHS
from tests.kafka.engine_app import DEADLY, Ground, Worker, becomes, fold

pytestmark = pytest.mark.kafka


async def test_a_record_that_kills_the_process_is_given_up_and_the_partition_moves_on(
    kafka: str, tmp_path: Path
) -> None:
    ground = Ground(kafka)
    await ground.create("in", "out", "dlq")
    before = [(b"u%d" % n, b"m%d" % n) for n in range(150)]
    after = [(b"u%d" % n, b"n%d" % n) for n in range(150)]
    await ground.send("in", [*before, (b"v", DEADLY), *after])
    worker = Worker(ground, tmp_path, ("in",), dlq="dlq")
    deaths = 0
    for _ in range(MOST_DEATHS + 1):  # the first one tells the unit, the others the record
        async with worker:
            await worker.falls()
            deaths += 1
    async with worker:
        await becomes(lambda: ground.caught_up("in"), "all committed")
        await worker.stop()
    assert deaths == MOST_DEATHS + 1
    (letter,) = await ground.read("dlq")
    assert (letter.key, letter.value) == (b"v", DEADLY)
    assert dict(letter.headers)["error"] == b"the process died 3 times while deciding it"
    decided = {key for key in fold(await ground.read(ground.changelog)) if key.startswith(b"c|")}
    assert decided == {b"c|" + id_ for _, id_ in [*before, *after]}
    out = Counter(record.value.split()[0] for record in await ground.read("out"))
    assert set(out) == {id_ for _, id_ in [*before, *after]}


async def test_a_kill_from_outside_blames_no_record(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka)
    await ground.create("in", "out", "dlq")
    records = [(b"u%d" % n, b"m%d" % n) for n in range(300)]
    await ground.send("in", records)
    for point in ("unit.after_decide:1", "unit.after_changelog:1", "unit.before_decide:1") * 2:
        async with Worker(ground, tmp_path, ("in",), dlq="dlq", failpoint=point) as worker:
            await worker.dies()
    async with Worker(ground, tmp_path, ("in",), dlq="dlq") as worker:
        await becomes(lambda: ground.caught_up("in"), "all committed")
        await worker.stop()
    assert await ground.read("dlq") == []
    assert {r.value.split()[0] for r in await ground.read("out")} == {id_ for _, id_ in records}
