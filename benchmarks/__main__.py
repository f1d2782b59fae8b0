"""Runs benchmarks: `python -m benchmarks [--only NAME] [--json] [--runs N] [--events N]`."""

import argparse
import asyncio
import json
import logging
import signal
import sys
from typing import Any

from benchmarks.chain import CHAIN
from benchmarks.comparison import ENGINE, PARTITIONS, PLANNING, Benchmark, table
from benchmarks.delivery import DELIVERY
from benchmarks.desk import Desk
from benchmarks.lanes import LANES
from benchmarks.rebalance import REBALANCE
from benchmarks.restore import RESTORE
from benchmarks.sides import BenchmarkFailed
from benchmarks.waits import WAITS
from pipeline.broker import BrokerFailed, BrokerUnavailable, EmbeddedKafka

HEAP_MEGABYTES = 384
REGISTRY: dict[str, Benchmark] = {
    "engine": ENGINE, "planning": PLANNING, "chain": CHAIN, "restore": RESTORE, "rebalance": REBALANCE,
    "lanes": LANES, "waits": WAITS, "delivery": DELIVERY,
}  # fmt: skip


def arguments(given: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks",
        description="Measures Carillon beside other ways of doing the same job, on one embedded Kafka.",
        epilog="; ".join(f"{name}: {benchmark.says}" for name, benchmark in REGISTRY.items()),
    )
    parser.add_argument("--only", choices=sorted(REGISTRY), help="one benchmark; all of them without it")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--runs", type=_positive, default=3, help="of each side, in turn (3)")
    parser.add_argument("--events", type=_positive, help="a run; each benchmark has its own default")
    return parser.parse_args(given)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


async def measure(
    bootstrap_servers: str, names: list[str], runs: int, events: int | None
) -> list[dict[str, Any]]:
    """Runs the benchmarks of these names one after the other."""
    found = []
    running = asyncio.current_task()
    assert running is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    async with Desk(bootstrap_servers, PARTITIONS) as desk:
        for name in names:
            benchmark = REGISTRY[name]
            found.append(await benchmark.run(name, desk, runs, events or benchmark.events))
    return found


def main() -> int:
    """Runs what the command line says; returns the exit status."""
    chosen = arguments(sys.argv[1:])
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # topics come and go: it retries, and tells
    names = [chosen.only] if chosen.only else list(REGISTRY)
    try:
        with EmbeddedKafka(heap_megabytes=HEAP_MEGABYTES) as kafka:
            found = asyncio.run(measure(kafka.bootstrap_servers, names, chosen.runs, chosen.events))
    except (BenchmarkFailed, BrokerFailed, BrokerUnavailable) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("benchmarks: stopped", file=sys.stderr)
        return 1
    if chosen.json:
        print(json.dumps(found[0] if chosen.only else found), flush=True)
    else:
        print("\n".join(map(table, found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
