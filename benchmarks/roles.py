"""Runs a UnitApp until it has decided, sent and committed so many records, and times that."""

import asyncio
from collections.abc import Mapping
from typing import Any

from benchmarks.worker import Stopwatch
from pipeline.engine import UnitApp

LONGEST_SECONDS = 240.0
STOP_SECONDS = 30.0


async def timed(app: UnitApp, wanted: Mapping[str, int]) -> Stopwatch:
    """Runs the App until `wanted` records of each topic are committed.

    The watch starts at the first unit of any of these topics. Commits are at the engine's own interval,
    and once more at the end, so that nobody's measure contains idle waiting for the next interval.
    """
    watch, consumer = Stopwatch(), app.consumer
    decide = consumer.decide

    async def noted(unit: Any) -> Any:
        if watch.began is None and unit.topic in wanted:
            watch.start()
        return await decide(unit)

    consumer.decide = noted
    await app.start()
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            while not (_reached(consumer.done, wanted) or app.should_stop):
                await asyncio.sleep(0.02)
            while not (_reached(consumer.kept, wanted) or app.should_stop):
                await consumer.force_commit()
        if app.should_stop:
            raise RuntimeError(f"{app.group} stopped by itself")
        watch.stop()
    finally:
        await asyncio.wait_for(app.stop(), STOP_SECONDS)
    return watch


def _reached(offsets: Mapping[Any, int], wanted: Mapping[str, int]) -> bool:
    found = dict.fromkeys(wanted, 0)
    for tp, offset in offsets.items():
        if tp.topic in found:
            found[tp.topic] += offset
    return all(found[topic] >= count for topic, count in wanted.items())
