"""Messages in, calls over HTTP and SMTP out to local servers; beside bare clients doing only the calls."""

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import aiosmtplib
import orjson

from agents import topics
from benchmarks import core_job
from benchmarks.comparison import Benchmark, spread
from benchmarks.desk import Desk
from benchmarks.roles import timed
from benchmarks.sides import ROOT, BenchmarkFailed, run_worker
from benchmarks.worker import Order, Stopwatch, order, report
from pipeline.app import Roles
from pipeline.metrics import Metrics
from pipeline.pool import Pool
from pipeline.providers import mime, registry, webhook
from pipeline.providers.provider import Place
from pipeline.topics import create
from schemas.base import encode
from schemas.ids import notification_id, target_id
from schemas.kinds import Channel, Doubt, Priority
from schemas.message import Message
from schemas.notification import PLAN, EventRef

SIDES = {"http": ("webhook", Channel.WEBHOOK), "smtp": ("smtp", Channel.EMAIL)}
SMTP_SHARE = 2
"""E-mail gets one message for so many over HTTP."""
SIDE_BY_SIDE = {"http": 64, "smtp": 24}
"""The bare loop's calls at once: as many as the providers make."""
START_SECONDS = 30.0


def message(side: str, number: int, target: str) -> Message:
    """The n-th message; each is another user's."""
    name, at = f"u{number}", time.time_ns() // 1_000_000
    return Message(
        id=notification_id(name, "", f"bench-{number}", "order-confirmed"), step=PLAN, user_id=name,
        channel=SIDES[side][1], target=target, target_id=target_id(target),
        subject=f"Order {number} confirmed",
        text=f"Hi Ann, your order {number} for $99.99 is confirmed.\nThanks for shopping.",
        event=EventRef(source="", id=f"bench-{number}", type="order_confirmed"), event_at=at, at=at,
        category="orders", priority=Priority.NORMAL, doubt=Doubt.AT_LEAST_ONCE,
    )  # fmt: skip


def target(side: str, port: int) -> str:
    """Where every message of a side goes."""
    return f"http://127.0.0.1:{port}/hook" if side == "http" else "ann@example.com"


@contextlib.asynccontextmanager
async def server(side: str) -> AsyncIterator[int]:
    """A simulated provider in a process of its own; its port."""
    command = ("-m", "pipeline.cli", "simulate-provider", SIDES[side][0], "--port", "0", "--json")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            told = orjson.loads(await process.stdout.readline())
        yield int(told[SIDES[side][0]].rpartition(":")[2])
    finally:
        process.terminate()
        await process.wait()


async def run(name: str, desk: Desk, runs: int, events: int) -> dict[str, Any]:
    """Runs each side and its bare loop so many times in turn; calls a CPU second."""
    found = []
    for number in range(1, runs + 1):
        one: dict[str, float] = {}
        for side in SIDES:
            count = events if side == "http" else max(1, events // SMTP_SHARE)
            async with server(side) as port:
                one |= await _one(side, desk, f"{name}-{side}-{number}-", count, port)
        found.append(one)
        told = ", ".join(f"{key.removesuffix('_per_second')} {value:,.0f}" for key, value in one.items())
        print(f"{name} {number}/{runs}: {told} a CPU second", file=sys.stderr, flush=True)
    figures: dict[str, Any] = {"runs": runs, "partitions": desk.partitions, "messages": events}
    figures |= spread(found, digits=0)
    ratios = {
        f"{side}_bare": round(
            median(one[f"carillon_{side}_per_second"] / one[f"bare_{side}_per_second"] for one in found), 2
        )
        for side in SIDES
    }
    return {"name": name, "figures": figures, "ratios": ratios}


async def _one(side: str, desk: Desk, prefix: str, count: int, port: int) -> dict[str, float]:
    topic = prefix + topics.MESSAGES[SIDES[side][1]]
    with tempfile.TemporaryDirectory(prefix="carillon-bench-") as directory:
        settings = core_job.settings(desk.bootstrap_servers, prefix, desk.partitions, Path(directory))
        await create(settings)
        to = target(side, port)
        made = (message(side, n, to) for n in range(count))
        await desk.fill((topic, one.user_id.encode(), encode(one)) for one in made)
        told = Order(
            desk.bootstrap_servers, topic, {"port": str(port)}, group="", prefix=prefix, events=count,
            partitions=desk.partitions, state_dir=directory,
        )  # fmt: skip
        try:
            took: dict[str, Mapping[str, float]] = {}
            for who in ("carillon", "bare"):
                words = (sys.executable, "-m", "benchmarks.delivery", told.line(), side, who)
                took[who] = await run_worker(f"{who} {side}", *words)
            await _check(desk, prefix, count)
        finally:
            await desk.remove(prefix)
    return {f"{who}_{side}_per_second": count / one["cpu"] for who, one in took.items()}


async def _check(desk: Desk, prefix: str, count: int) -> None:
    """Every message was sent, and says so once."""
    states = []
    async for _, value in desk.read(prefix + topics.DELIVERY_STATUS):
        states.append(orjson.loads(value)["state"])
    if states != ["sent"] * count:
        raise BenchmarkFailed(f"{len(states)} statuses for {count} messages: {sorted(set(states))}")


async def bare(side: str, count: int, port: int) -> Stopwatch:
    """The same calls with the same bodies and nothing else: no Kafka, no ledger, no status."""
    watch, numbers = Stopwatch(), iter(range(count))
    sender = mime.sender("Carillon <carillon@localhost>")

    async def over_http() -> None:
        for number in numbers:
            body = webhook.payload(message(side, number, target(side, port)))
            headers = {"content-type": "application/json", "webhook-id": f"b{number}"}
            async with session.post(target(side, port), data=body, headers=headers) as answer:
                await answer.read()
                if answer.status >= 300:
                    raise RuntimeError(f"HTTP {answer.status}")

    async def over_smtp() -> None:
        client = aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False)
        await client.connect()
        for number in numbers:
            letter = mime.compose(message(side, number, target(side, port)), f"b{number}.0", sender)
            await client.sendmail(sender.address, [letter.recipient], letter.data)
        await client.quit()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        watch.start()
        call = over_http if side == "http" else over_smtp
        async with asyncio.TaskGroup() as group:
            for _ in range(SIDE_BY_SIDE[side]):
                group.create_task(call())
        watch.stop()
    return watch


async def carillon(told: Order, side: str, port: int) -> Stopwatch:
    """The delivery role of the side's channel, as it is."""
    chosen = core_job.settings(told.bootstrap_servers, told.prefix, told.partitions, Path(told.state_dir))
    kind, channel = SIDES[side]
    fields: dict[str, Any] = {"port": port} if side == "smtp" else {"allow_internal": True}
    roles = Roles(chosen, core_job.catalogue((channel,)), Metrics())
    provider = registry.make("main", registry.settings(kind, **fields), Place(Path(told.state_dir)))
    roles.pools[channel] = Pool([provider])
    try:
        return await timed(roles.build(str(channel)), {told.source: told.events})
    finally:
        await provider.close()


async def main() -> None:
    """Measures one side of one run."""
    told, side, who = order(), sys.argv[2], sys.argv[3]
    port = int(told.outputs["port"])
    report(await (carillon(told, side, port) if who == "carillon" else bare(side, told.events, port)))


DELIVERY = Benchmark("messages in, calls out over HTTP and SMTP, beside bare clients", 20_000, run)

if __name__ == "__main__":
    asyncio.run(main())
