"""Waits: how late what falls due comes up, beside so many others that wait in the same stores."""

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiokafka
import orjson

from agents import plan, topics
from benchmarks import core_job
from benchmarks.comparison import Benchmark
from benchmarks.desk import Desk
from benchmarks.lanes import percentile
from benchmarks.restore import Row, fill, restored
from benchmarks.sides import BenchmarkFailed, run_worker
from benchmarks.simple_job import EVENTS_A_USER, event, user
from benchmarks.worker import Order, order, report_parts
from pipeline.app import Roles
from pipeline.engine.store import scan
from pipeline.engine.timers import DUE_HEADER
from pipeline.metrics import Metrics
from pipeline.topics import changelog, create
from schemas.base import encode
from schemas.ids import notification_id, partition_of, user_hash
from schemas.kinds import Channel, Doubt, Priority, Reason
from schemas.notification import PLAN, EventRef, Notification
from schemas.status import rfc3339
from tables import waits
from tables.waits import Wait

CHANNEL = Channel.EMAIL
USERS = 1_000
STEP = plan.resumed(PLAN)
A_RUN = 2_000
OVER_SECONDS = 20
"""So many fall due in a run, evenly over so long."""
AHEAD_SECONDS = 10
"""Between sending what is scheduled and the first moment that it is scheduled for."""
FAR_SECONDS = 30 * 86_400
"""The others fall due from then on."""
LATEST_SECONDS = 60.0
STOP_SECONDS = 30.0


def rows(count: int, partitions: int, topic: str, now: int) -> Iterator[tuple[int, Row]]:
    """Partition and row of so many waits, two rows each, as the core role would write them."""
    for number in range(count):
        name = user(number)
        partition = partition_of(user_hash(name), partitions)
        id_ = notification_id(name, "", f"far-{number}", "order-confirmed")
        notification = Notification(
            id=id_, step=STEP, user_id=name, workflow="order-confirmed", category="orders", event_at=now,
            event=EventRef(source="", id=f"far-{number}", type="order_confirmed"),
            position=f"events-{partition}-{number}", priority=Priority.NORMAL, channels=(CHANNEL,),
            template="order-confirmed",
            variables={"name": "Ann", "order_id": f"ORD-{number}", "total": "$99.99", "items": []},
            doubt=Doubt.AT_LEAST_ONCE, mandatory=False, generation=0, waited_for=Reason.SCHEDULED,
        )  # fmt: skip
        made: dict[bytes, bytes] = {}
        due = now + (FAR_SECONDS + number % 1_000_000) * 1000
        waits.put(
            _Made(made),
            plan.wait_id(id_, "resume:1"),
            due,
            Wait(topic, name.encode(), encode(notification), 1),
        )
        for row in made.items():
            yield partition, row


class _Made:
    """The rows of one wait, into a dict."""

    def __init__(self, made: dict[bytes, bytes]) -> None:
        self.made = made
        self.get, self.put = made.get, made.__setitem__

    def delete(self, key: bytes) -> None:
        """There is nothing to remove."""

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Nothing else is there."""
        return iter(())


def scheduled(number: int, due: int) -> tuple[bytes, bytes]:
    """Key and value of the n-th event, scheduled for a moment (ms since the epoch)."""
    key, value = event(number, USERS * EVENTS_A_USER)
    return key, orjson.dumps(orjson.loads(value) | {"scheduled_at": rfc3339(due)})


async def run(name: str, desk: Desk, runs: int, events: int) -> dict[str, Any]:
    """Restores the waits once from the changelog; a run is a stretch of others that fall due."""
    prefix, count, now = f"{name}-", runs * A_RUN, time.time_ns() // 1_000_000
    with tempfile.TemporaryDirectory(prefix="carillon-bench-") as directory:
        settings = core_job.settings(desk.bootstrap_servers, prefix, desk.partitions, Path(directory))
        await create(settings)
        try:
            people = core_job.people(USERS * EVENTS_A_USER)
            await desk.fill((prefix + topic, key, value) for topic, key, value in people)
            stored = rows(events, desk.partitions, prefix + topics.NOTIFICATIONS, now)
            size = await fill(desk, prefix + changelog("core"), stored)
            told = Order(
                desk.bootstrap_servers, prefix + topics.EVENTS, {}, group=prefix + "carillon-core",
                prefix=prefix, events=count, partitions=desk.partitions, state_dir=directory,
            )  # fmt: skip
            worker = await run_worker(name, sys.executable, "-m", "benchmarks.waits", told.line())
            if (found := worker["stored"]) != events:
                raise BenchmarkFailed(f"{found} waits are stored at the end; it should be {events}")
            late = await lateness(desk, prefix, count)
        finally:
            await desk.remove(prefix)
    figures = {
        "partitions": desk.partitions, "stored": events, "row_bytes": round(size / events / 2),
        "restore_seconds": round(worker["seconds"], 2), "fired": count, **late,
    }  # fmt: skip
    return {"name": name, "figures": figures, "ratios": {}}


async def lateness(desk: Desk, prefix: str, count: int) -> dict[str, float]:
    """By the broker's time: from the moment when each fell due until its message was there.

    Raises BenchmarkFailed unless each came up once, and none early.
    """
    due, published = dict[str, int](), list[int]()
    async for record in desk.records(prefix + topics.NOTIFICATIONS):
        moment = dict(record.headers).get(DUE_HEADER)
        if moment is not None:
            due[orjson.loads(record.value)["id"]] = int(moment)
            published.append(record.timestamp - int(moment))
    messages = {}
    async for record in desk.records(prefix + topics.MESSAGES[CHANNEL]):
        id_ = orjson.loads(record.value)["id"]
        messages[id_] = record.timestamp - due[id_]
    if not len(due) == len(published) == len(messages) == count:
        raise BenchmarkFailed(f"{len(published)} came up, {len(messages)} went on; it should be {count}")
    if early := sum(one < 0 for one in published):
        raise BenchmarkFailed(f"{early} of {count} came up early")
    return {"early": early} | summary(list(messages.values()), published)


def summary(messages: Sequence[int], published: Sequence[int]) -> dict[str, float]:
    """What the milliseconds come to: until the message is there, and of these until the record comes up."""
    return {
        "p50_ms": percentile(messages, 0.5), "p99_ms": percentile(messages, 0.99), "max_ms": max(messages),
        "published_p50_ms": percentile(published, 0.5), "published_p99_ms": percentile(published, 0.99),
    }  # fmt: skip


async def main() -> None:
    """Restores, lets events wait for their moments, and ends when all of them have gone on."""
    told = order()
    chosen = core_job.settings(told.bootstrap_servers, told.prefix, told.partitions, Path(told.state_dir))
    app = Roles(chosen, core_job.catalogue((CHANNEL,)), Metrics()).build("core")
    try:
        found = await restored(app)
        planned = 0
        seen = app.observer.unit_done

        def unit_done(topic: str, records: int, seconds: float) -> None:
            nonlocal planned
            planned += records if topic == told.prefix + topics.NOTIFICATIONS else 0
            seen(topic, records, seconds)

        app.observer.unit_done = unit_done  # type: ignore[method-assign]
        producer: Any = aiokafka.AIOKafkaProducer(bootstrap_servers=told.bootstrap_servers, acks="all")
        async with producer:
            now = time.time_ns() // 1_000_000
            for number in range(told.events):
                due = now + AHEAD_SECONDS * 1000 + number * OVER_SECONDS * 1000 // A_RUN
                key, value = scheduled(number, due)
                await producer.send(told.source, value, key=key)
            await producer.flush()
        async with asyncio.timeout(AHEAD_SECONDS + OVER_SECONDS * told.events / A_RUN + LATEST_SECONDS):
            while planned < 2 * told.events and not app.should_stop:  # once to wait, once to go on
                await asyncio.sleep(0.1)
        if app.should_stop:
            raise RuntimeError(f"{app.group} stopped by itself")
        left = sum(1 for db in app.store.opened().values() for _ in scan(db, waits.PREFIX))
    finally:
        await asyncio.wait_for(app.stop(), STOP_SECONDS)
    report_parts(found, stored=left)


WAITS = Benchmark("what falls due beside so many that wait: how late it comes up", 1_000_000, run)

if __name__ == "__main__":
    asyncio.run(main())
