"""Restore: a lost disk. The core role's store is read back from its changelog into an empty directory."""

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import aiokafka

from benchmarks import core_job
from benchmarks.comparison import Benchmark, spread
from benchmarks.desk import Desk
from benchmarks.sides import BenchmarkFailed, run_worker
from benchmarks.simple_job import EMAIL, EVENTS_A_USER, user
from benchmarks.worker import Order, order, report_parts
from pipeline.app import Roles
from pipeline.engine import UnitApp, internals
from pipeline.engine.store import EPOCH_HEADER, scan
from pipeline.engine.task import CHANGELOG_BATCH_BYTES
from pipeline.metrics import Metrics
from pipeline.topics import changelog, create
from schemas.base import encode
from schemas.ids import notification_id, partition_of, user_hash
from schemas.kinds import Channel
from tables import claims
from tables.claims import Claim, Origin, Pinned

UNIT_ROWS = 400
"""Rows a batch, as the core role writes them: a unit of 20 ms decides some hundreds."""
READY_SECONDS = 120.0
STOP_SECONDS = 30.0
URL = "https://shop.example.com/hooks/carillon/orders"
EPOCH = [(EPOCH_HEADER, b"1")]
Row = tuple[bytes, bytes]


def rows(count: int, partitions: int) -> Iterator[tuple[int, Row]]:
    """Partition and row of so many claims, as the core role would write them now: none is swept."""
    now = time.time_ns() // 1_000_000
    for number in range(count):
        name = user(number // EVENTS_A_USER)
        partition = partition_of(user_hash(name), partitions)
        found = notification_id(name, "", f"order-{number}-confirmed", "order-confirmed")
        origin = Origin("notifications", partition, number, now - count + number)
        pinned = Pinned(Channel.EMAIL, EMAIL), Pinned(Channel.WEBHOOK, URL)
        claim = Claim(origin, f"events-{partition}-{number}", number // UNIT_ROWS, 1, pinned)
        yield partition, (claims.key(found, "plan"), encode(claim))


async def fill(desk: Desk, topic: str, found: Iterable[tuple[int, Row]]) -> int:
    """Writes the rows to the changelog in whole batches, as the engine does; returns their bytes."""
    waiting: list[list[Row]] = [[] for _ in range(desk.partitions)]
    size, under_way = 0, dict[int, Any]()
    producer: Any = aiokafka.AIOKafkaProducer(
        bootstrap_servers=desk.bootstrap_servers, acks="all", enable_idempotence=True,
        max_request_size=20_000_000,
    )  # fmt: skip

    async def flush(partition: int) -> None:
        if partition in under_way:
            await under_way.pop(partition)
        records = [(key, value, EPOCH) for key, value in waiting[partition]]
        batch, _ = internals.pack(records, 0, CHANGELOG_BATCH_BYTES)
        under_way[partition] = await producer.send_batch(batch, topic, partition=partition)
        waiting[partition].clear()

    async with producer:
        for partition, row in found:
            waiting[partition].append(row)
            size += len(row[0]) + len(row[1])
            if len(waiting[partition]) == UNIT_ROWS:
                await flush(partition)
        for partition, left in enumerate(waiting):
            if left:
                await flush(partition)
        await asyncio.gather(*under_way.values())
    return size


async def run(name: str, desk: Desk, runs: int, events: int) -> dict[str, Any]:
    """Restores the same changelog so many times, each time into an empty directory."""
    prefix = f"{name}-"
    with tempfile.TemporaryDirectory(prefix="carillon-bench-") as directory:
        settings = core_job.settings(desk.bootstrap_servers, prefix, desk.partitions, Path(directory))
        await create(settings)
        try:
            size = await fill(desk, prefix + changelog("core"), rows(events, desk.partitions))
            found = [await _restored(desk, prefix, events, directory, number) for number in range(runs)]
        finally:
            await desk.remove(prefix)
    for number, one in enumerate(found, 1):
        print(
            f"{name} {number}/{runs}: {one['seconds']:.2f} s = {one['join_seconds']:.2f} join"
            f" + {one['first_fetch_seconds']:.2f} first fetch + {one['restore_seconds']:.2f} restore"
            f" + {one['open_seconds']:.2f} open; {one['writing_seconds']:.2f} s of it writing"
            f" {one['fetched_pieces']:.0f} pieces; {one['cpu_seconds']:.2f} s of CPU",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    figures: dict[str, Any] = {
        "runs": runs, "partitions": desk.partitions, "rows": events, "row_bytes": round(size / events),
    }  # fmt: skip
    return {"name": name, "figures": figures | spread(found), "ratios": {}}


async def _restored(desk: Desk, prefix: str, count: int, directory: str, number: int) -> dict[str, float]:
    state_dir = Path(directory) / str(number)
    state_dir.mkdir()
    told = Order(
        desk.bootstrap_servers, prefix + changelog("core"), {}, group=prefix + "carillon-core", prefix=prefix,
        events=count, partitions=desk.partitions, state_dir=str(state_dir),
    )  # fmt: skip
    found = dict(await run_worker("restore", sys.executable, "-m", "benchmarks.restore", told.line()))
    if (restored := found.pop("rows")) != count:
        raise BenchmarkFailed(f"{restored} of {count} rows were restored")
    return found


async def restored(app: UnitApp) -> dict[str, float]:
    """Starts the App, waits until it is ready, and tells where the seconds went, from its start on."""
    began, consumer = time.perf_counter(), app.consumer
    cpu, moments = time.process_time(), dict[str, float]()
    take, assigned = consumer.take, consumer.on_partitions_assigned
    writing, pieces = 0.0, 0

    def taken(tp: Any, records: list[Any]) -> None:
        nonlocal writing, pieces
        since = time.perf_counter()
        moments.setdefault("fetched", since)
        take(tp, records)
        moments["restored"] = time.perf_counter()
        writing, pieces = writing + moments["restored"] - since, pieces + 1

    async def joined(*given: Any) -> None:
        moments.setdefault("joined", time.perf_counter())
        await assigned(*given)

    consumer.take, consumer.on_partitions_assigned = taken, joined
    await app.start()
    async with asyncio.timeout(READY_SECONDS):
        while not (app.ready or app.should_stop):
            await asyncio.sleep(0.005)
    if app.should_stop:
        raise RuntimeError(f"{app.group} stopped by itself")
    ready = time.perf_counter()
    return {
        "seconds": ready - began,
        "join_seconds": moments["joined"] - began,
        "first_fetch_seconds": moments["fetched"] - moments["joined"],
        "restore_seconds": moments["restored"] - moments["fetched"],
        "open_seconds": ready - moments["restored"],
        "writing_seconds": writing,
        "fetched_pieces": pieces,
        "cpu_seconds": time.process_time() - cpu,
    }


async def main() -> None:
    """Measures one run, then counts what is there."""
    told = order()
    chosen = core_job.settings(told.bootstrap_servers, told.prefix, told.partitions, Path(told.state_dir))
    app = Roles(chosen, core_job.catalogue(), Metrics()).build("core")
    try:
        found = await restored(app)
        count = sum(1 for db in app.store.opened().values() for _ in scan(db, claims.PREFIX))
    finally:
        await asyncio.wait_for(app.stop(), STOP_SECONDS)
    report_parts(found, rows=count)


RESTORE = Benchmark(
    "the core role's store of so many rows, back from its changelog into an empty directory", 1_000_000, run
)

if __name__ == "__main__":
    asyncio.run(main())
