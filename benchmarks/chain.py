"""The whole chain: events in, statuses of a null provider out, each role in a process of its own."""

import asyncio
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from agents import topics
from benchmarks import core_job
from benchmarks.comparison import Benchmark, spread
from benchmarks.desk import Desk
from benchmarks.roles import timed
from benchmarks.sides import BenchmarkFailed, run_worker
from benchmarks.simple_job import all_events
from benchmarks.worker import Order, order, report
from pipeline.app import Roles
from pipeline.metrics import Metrics
from pipeline.pool import Pool
from pipeline.topics import changelog, create
from schemas.kinds import Channel
from schemas.message import Message
from schemas.outcome import Outcome, sent

CHANNEL = Channel.EMAIL
READS: dict[str, dict[str, int]] = {
    "core": {topics.EVENTS: 1, topics.NOTIFICATIONS: 1},
    str(CHANNEL): {topics.MESSAGES[CHANNEL]: 1},
    "status": {topics.CONTENTS: 1, topics.DELIVERY_STATUS: 2},
}
"""What each role has read when it is done, in records an event: a status for queued, one for sent."""
_SENT = sent("null")


class NullProvider:
    """Says at once that it has sent: what is measured is ours, not a vendor's."""

    name = kind = "null"
    honours_keys = False
    parallel = 256
    platforms = None

    async def send(self, message: Message, key: str) -> Outcome:
        """Sent."""
        return _SENT

    async def close(self) -> None:
        """Holds nothing."""


async def run(name: str, desk: Desk, runs: int, events: int) -> dict[str, Any]:
    """Runs the chain so many times; events a CPU second, over the CPU of all roles."""
    found = []
    for number in range(1, runs + 1):
        one = await _one(desk, f"{name}-{number}-", events)
        found.append(one)
        shares = ", ".join(f"{role} {one[f'{role}_cpu_seconds']:.2f} s" for role in READS)
        pace = one["carillon_chain_per_second"]
        print(f"{name} {number}/{runs}: {pace:,.0f} a CPU second ({shares})", file=sys.stderr, flush=True)
    paces = [{k: v for k, v in one.items() if k.endswith("per_second")} for one in found]
    figures: dict[str, Any] = {"runs": runs, "partitions": desk.partitions, "events": events}
    figures |= spread(paces, digits=0)
    for role in READS:
        share = median(one[f"{role}_cpu_seconds"] for one in found) / events
        figures[f"{role}_cpu_microseconds_an_event"] = round(share * 1e6, 1)
    return {"name": name, "figures": figures, "ratios": {}}


async def _one(desk: Desk, prefix: str, events: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="carillon-bench-") as directory:
        settings = core_job.settings(desk.bootstrap_servers, prefix, desk.partitions, Path(directory))
        await create(settings)
        await desk.fill((prefix + topic, key, value) for topic, key, value in core_job.people(events))
        await desk.fill((prefix + topics.EVENTS, key, value) for key, value in all_events(events))
        told = Order(
            desk.bootstrap_servers, prefix + topics.EVENTS, {}, group="", prefix=prefix, events=events,
            partitions=desk.partitions, state_dir=directory,
        )  # fmt: skip
        try:
            async with asyncio.TaskGroup() as group:
                working = {
                    role: group.create_task(
                        run_worker(role, sys.executable, "-m", "benchmarks.chain", told.line(), role)
                    )
                    for role in READS
                }
            await _check(desk, prefix, events)
        except* BenchmarkFailed as failed:
            raise failed.exceptions[0] from None
        finally:
            await desk.remove(prefix)
    return _figures(events, {role: task.result() for role, task in working.items()})


def _figures(events: int, took: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    cpu = {role: one["cpu"] for role, one in took.items()}
    found = {f"{role}_cpu_seconds": seconds for role, seconds in cpu.items()}
    found |= {f"{role}_per_second": events / seconds for role, seconds in cpu.items()}
    found["carillon_chain_per_second"] = events / sum(cpu.values())
    found["carillon_chain_per_wall_second"] = events / max(one["wall"] for one in took.values())
    return found


async def _check(desk: Desk, prefix: str, events: int) -> None:
    """Every event has its two statuses, once, and a history in the status role's store."""
    states: dict[str, set[str]] = {"queued": set(), "sent": set()}
    count = 0
    async for _, value in desk.read(prefix + topics.DELIVERY_STATUS):
        status = orjson.loads(value)
        states[status["state"]].add(status["notification_id"])
        count += 1
    if not len(states["queued"]) == len(states["sent"]) == events or count != 2 * events:
        raise BenchmarkFailed(f"{count} statuses: " + ", ".join(f"{len(v)} {k}" for k, v in states.items()))
    kept = 0
    async for key, _ in desk.read(prefix + changelog("status")):
        kept += not key.startswith(b"\0")
    if kept < events:
        raise BenchmarkFailed(f"the status role wrote {kept} rows for {events} events")


async def main() -> None:
    """Measures one role of one run."""
    told, role = order(), sys.argv[2]
    chosen = core_job.settings(told.bootstrap_servers, told.prefix, told.partitions, Path(told.state_dir))
    roles = Roles(chosen, core_job.catalogue((CHANNEL,)), Metrics())
    roles.pools[CHANNEL] = Pool([NullProvider()])
    wanted = {told.prefix + topic: count * told.events for topic, count in READS[role].items()}
    report(await timed(roles.build(role), wanted))


CHAIN = Benchmark("events in, statuses of a null provider out: core, email and status", 30_000, run)

if __name__ == "__main__":
    asyncio.run(main())
