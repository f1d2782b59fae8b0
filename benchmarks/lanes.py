"""Lanes: critical notifications, from the event to the provider's call, behind a backlog of bulk ones."""

import asyncio
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiokafka
import orjson
from aiokafka.errors import GroupCoordinatorNotAvailableError

from agents import topics
from benchmarks import core_job
from benchmarks.chain import NullProvider
from benchmarks.comparison import Benchmark
from benchmarks.desk import Desk
from benchmarks.sides import BenchmarkFailed, run_worker
from benchmarks.simple_job import EMAIL, EVENTS_A_USER, event, user
from benchmarks.worker import Order, order, report_parts
from pipeline.app import Roles
from pipeline.metrics import Metrics
from pipeline.pool import Pool
from pipeline.topics import create
from schemas.base import encode
from schemas.ids import notification_id, target_id
from schemas.kinds import Channel, Doubt, Priority
from schemas.message import Message
from schemas.notification import PLAN, EventRef
from schemas.outcome import Outcome

CHANNEL = Channel.EMAIL
RATE = 20.0
"""Critical events a second."""
A_STRETCH = 200
"""Critical events a run."""
USERS = 50_000
MESSAGES_SHARE = 5
"""One message stands before the channel for so many events before core: both are to be at work throughout."""
START_SECONDS = 120.0
STOP_SECONDS = 30.0


def bulk_event(number: int) -> tuple[bytes, bytes]:
    """Key and value of the n-th event of the backlog."""
    return event(number, USERS * EVENTS_A_USER)


def critical_event(number: int) -> tuple[bytes, bytes]:
    """Key and value of the n-th critical event; to one of those who have bulk before them."""
    key, value = event(number * 7, USERS * EVENTS_A_USER)
    return key, orjson.dumps(
        orjson.loads(value) | {"priority": Priority.CRITICAL, "idempotency_key": f"critical-{number}"}
    )


def bulk_message(number: int) -> tuple[bytes, bytes]:
    """Key and value of the n-th message that was planned before."""
    name, at = user(number % USERS), time.time_ns() // 1_000_000
    message = Message(
        id=notification_id(name, "", f"planned-{number}", "order-confirmed"), step=PLAN, user_id=name,
        channel=CHANNEL, target=EMAIL, target_id=target_id(EMAIL), subject=f"Order {number} confirmed",
        text=f"Hi Ann, your order {number} for $99.99 is confirmed.\nThanks for shopping.",
        event=EventRef(source="", id=f"planned-{number}", type="order_confirmed"), event_at=at, at=at,
        category="orders", priority=Priority.NORMAL, doubt=Doubt.AT_LEAST_ONCE,
    )  # fmt: skip
    return name.encode(), encode(message)


def backlog(events: int) -> Iterator[tuple[str, bytes, bytes]]:
    """Topic, key and value of who there is and of all that stands before the critical ones."""
    yield from core_job.people(USERS * EVENTS_A_USER)
    for number in range(events // MESSAGES_SHARE):
        yield topics.MESSAGES[CHANNEL], *bulk_message(number)
    for number in range(events):
        yield topics.EVENTS, *bulk_event(number)


class TimedProvider(NullProvider):
    """Notes when each critical message is called for: ms since its event, and of these until its planning."""

    def __init__(self) -> None:
        self.called: dict[str, tuple[float, float]] = {}
        self.others = 0

    async def send(self, message: Message, key: str) -> Outcome:
        """Sent."""
        if message.priority is Priority.CRITICAL:
            if message.event.id in self.called:
                raise RuntimeError(f"{message.event.id} is called for twice")
            passed = time.time_ns() / 1e6 - message.event_at
            self.called[message.event.id] = passed, message.at - message.event_at
        else:
            self.others += 1
        return await super().send(message, key)


async def run(name: str, desk: Desk, runs: int, events: int) -> dict[str, Any]:
    """Fills the backlog once; a run is a stretch of critical ones while it is worked off."""
    prefix, count = f"{name}-", runs * A_STRETCH
    with tempfile.TemporaryDirectory(prefix="carillon-bench-") as directory:
        settings = core_job.settings(desk.bootstrap_servers, prefix, desk.partitions, Path(directory))
        await create(settings)
        try:
            began = time.perf_counter()
            await desk.fill((prefix + topic, key, value) for topic, key, value in backlog(events))
            _say(f"{name}: {events} events queued in {time.perf_counter() - began:.0f} s")
            told = Order(
                desk.bootstrap_servers, prefix + topics.EVENTS, {}, group=prefix + "carillon-", prefix=prefix,
                events=count, partitions=desk.partitions, state_dir=directory,
            )  # fmt: skip
            found = await _measured(desk, told, events)
        finally:
            await desk.remove(prefix)
    return {"name": name, "figures": {"partitions": desk.partitions, **found}, "ratios": {}}


async def _measured(desk: Desk, told: Order, events: int) -> dict[str, float]:
    command = (sys.executable, "-m", "benchmarks.lanes", told.line())
    try:
        async with asyncio.TaskGroup() as group:
            core = group.create_task(run_worker("core", *command, "core"))
            channel = group.create_task(run_worker(CHANNEL, *command, CHANNEL))
            sending = group.create_task(_send(desk, told))
            called = await channel
            await sending
            left = await _left(desk, told, events)
            core.cancel()
    except* BenchmarkFailed as failed:
        raise failed.exceptions[0] from None
    if not (left["bulk_left"] > 0 and left["messages_left"] > 0):
        raise BenchmarkFailed(f"the backlog did not last, so this tells nothing of it: {left}")
    if len(called["passed"]) != told.events:
        raise BenchmarkFailed(f"{len(called['passed'])} of {told.events} critical ones were called for")
    return {"bulk_backlog": events} | left | figures(called["passed"], called["planned"])


def figures(passed: Sequence[float], planned: Sequence[float]) -> dict[str, float]:
    """What the milliseconds come to: from the event to its planning, and to the call."""
    return {
        "critical": len(passed),
        "critical_p50_ms": percentile(passed, 0.5),
        "critical_p99_ms": percentile(passed, 0.99),
        "critical_max_ms": round(max(passed), 1),
        "critical_planned_p50_ms": percentile(planned, 0.5),
        "critical_planned_p99_ms": percentile(planned, 0.99),
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed."""
    return round(sorted(values)[math.ceil(share * len(values)) - 1], 1)


async def _send(desk: Desk, told: Order) -> None:
    """Sends the critical ones at their rate, from when both roles have begun on the backlog."""
    working = {"core": topics.EVENTS, str(CHANNEL): topics.MESSAGES[CHANNEL]}
    async with asyncio.timeout(START_SECONDS):
        for role, topic in working.items():
            while not await _has_begun(desk, told.group + role, told.prefix + topic):
                await asyncio.sleep(0.2)
    producer: Any = aiokafka.AIOKafkaProducer(bootstrap_servers=desk.bootstrap_servers, acks="all")
    async with producer:
        began, accepted = time.perf_counter(), []
        for number in range(told.events):
            await asyncio.sleep(began + number / RATE - time.perf_counter())
            key, value = critical_event(number)
            accepted.append(await producer.send(told.source + topics.EXPRESS, value, key=key))
        await asyncio.gather(*accepted)


async def _has_begun(desk: Desk, group: str, topic: str) -> bool:
    """Whether every partition of a topic is being worked on."""
    try:
        return len(await desk.committed_each(group, topic)) == desk.partitions
    except GroupCoordinatorNotAvailableError:  # the broker is just making its topic of offsets
        return False


async def _left(desk: Desk, told: Order, events: int) -> dict[str, int]:
    """What is not committed of the backlog."""
    messages = told.prefix + topics.MESSAGES[CHANNEL]
    return {
        "bulk_left": events - await desk.committed(told.group + "core", told.source),
        "messages_left": await desk.count(messages) - await desk.committed(told.group + CHANNEL, messages),
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def main() -> None:
    """Runs core until it is ended from outside, or the channel until all critical ones were called for."""
    told, role = order(), sys.argv[2]
    chosen = core_job.settings(told.bootstrap_servers, told.prefix, told.partitions, Path(told.state_dir))
    roles, provider = Roles(chosen, core_job.catalogue((CHANNEL,)), Metrics()), TimedProvider()
    roles.pools[CHANNEL] = Pool([provider])
    app = roles.build(role)
    await app.start()
    try:
        while not app.should_stop and len(provider.called) < told.events:
            await asyncio.sleep(0.05)
    finally:
        await asyncio.wait_for(app.stop(), STOP_SECONDS)
    passed, planned = zip(*provider.called.values(), strict=True) if provider.called else ((), ())
    report_parts({}, passed=passed, planned=planned, others=provider.others)


LANES = Benchmark("critical ones to the provider's call, behind so many bulk ones", 1_000_000, run)

if __name__ == "__main__":
    asyncio.run(main())
