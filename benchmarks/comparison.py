"""A comparison: several sides, run in turn, several times; medians with their ranges, and ratios."""

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from benchmarks.desk import Desk
from benchmarks.sides import Carillon, Copy, Core, Measure, Quix, Side, StockFaust

PARTITIONS = 4
STOCK_SHARE = 10
"""Stock Faust gets one event in so many: its cost an event does not depend on how many there are."""


class Benchmark(NamedTuple):
    """What `--only` names. `run(name, desk, runs, events)` returns what CONTRACT, section 1, asks for."""

    says: str
    events: int
    run: Callable[[str, Desk, int, int], Awaitable[dict[str, Any]]]


def comparing(says: str, events: int, sides: Callable[[int], Sequence[Side]]) -> Benchmark:
    """A benchmark beside others. `sides` makes the sides for a number of events; the first is Carillon's."""

    async def run(name: str, desk: Desk, runs: int, count: int) -> dict[str, Any]:
        return await compare(name, sides(count), desk, runs)

    return Benchmark(says, events, run)


def _others(events: int) -> list[Side]:
    return [StockFaust(max(1, events // STOCK_SHARE)), Quix(events), Copy(events)]


ENGINE = comparing(
    "the simple job as a stage on the production engine",
    120_000,
    lambda events: [Carillon(events), *_others(events)],
)
PLANNING = comparing(
    "the production core role, both hops, beside the simple job in the others",
    60_000,
    lambda events: [Core(events), *_others(events)],
)


async def compare(name: str, sides: Sequence[Side], desk: Desk, runs: int) -> dict[str, Any]:
    """Runs the sides in turn, A B C D A B C D …, and returns what CONTRACT, section 1, asks for."""
    measures: dict[str, list[Measure]] = {side.name: [] for side in sides}
    for run in range(1, runs + 1):
        for side in sides:
            found = await side.run(desk, f"{name}-{run}-{side.name}-")
            measures[side.name].append(found)
            print(
                f"{name} {run}/{runs} {side.name}: {found.events / found.cpu:,.0f} a CPU second,"
                f" {found.events / found.wall:,.0f} a second",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    return summary(name, measures)


def summary(name: str, measures: dict[str, list[Measure]]) -> dict[str, Any]:
    """Medians with minimum and maximum; the ratios are of the first side's median to the others'."""
    figures: dict[str, Any] = {"runs": len(next(iter(measures.values()))), "partitions": PARTITIONS}
    medians = {}
    for side, found in measures.items():
        figures[f"{side}_events"] = found[0].events
        cpu, wall = [m.events / m.cpu for m in found], [m.events / m.wall for m in found]
        medians[side] = median(cpu)
        for unit, values in (("second", cpu), ("wall_second", wall)):
            key = f"{side}_per_{unit}"
            figures[key] = round(median(values))
            figures[f"{key}_min"], figures[f"{key}_max"] = round(min(values)), round(max(values))
    first, *others = medians
    ratios = {other: round(medians[first] / medians[other], 2) for other in others}
    for other in others:
        each = [_pace(a) / _pace(b) for a, b in zip(measures[first], measures[other], strict=True)]
        figures[f"ratio_{other}_min"], figures[f"ratio_{other}_max"] = (
            round(min(each), 2),
            round(max(each), 2),
        )
    return {"name": name, "figures": figures, "ratios": ratios}


def _pace(measure: Measure) -> float:
    return measure.events / measure.cpu


def spread(runs: Sequence[Mapping[str, float]], digits: int = 3) -> dict[str, float]:
    """The median of each figure over the runs, with its minimum and maximum beside it."""
    figures: dict[str, float] = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        for suffix, value in (("", median(values)), ("_min", min(values)), ("_max", max(values))):
            figures[name + suffix] = round(value, digits) if digits else round(value)
    return figures


def table(found: dict[str, Any]) -> str:
    """The same for people."""
    figures = found["figures"]
    if not found["ratios"]:
        width = max(map(len, figures))
        rows = [f"  {name:<{width}} {value:>12,}" for name, value in figures.items()]
        return "\n".join([f"{found['name']}: median, minimum and maximum", *rows])
    lines = [
        f"{found['name']}: {figures['runs']} runs, {figures['partitions']} partitions; median (min - max)"
    ]
    lines.append(f"  {'':<12} {'events':>8} {'per CPU second':>28} {'per wall second':>28}  ratio")
    sides = [key.removesuffix("_events") for key in figures if key.endswith("_events")]
    for side in sides:
        cells = []
        for unit in ("second", "wall_second"):
            key = f"{side}_per_{unit}"
            cells.append(f"{figures[key]:>9,} ({figures[key + '_min']:,} - {figures[key + '_max']:,})")
        ratio = found["ratios"].get(side)
        shown = f"{ratio} ({figures[f'ratio_{side}_min']} - {figures[f'ratio_{side}_max']})" if ratio else ""
        lines.append(f"  {side:<12} {figures[f'{side}_events']:>8,} {cells[0]:>28} {cells[1]:>28}  {shown}")
    return "\n".join(lines)
