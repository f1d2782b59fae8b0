"""`make faults`: workers die, join, stop and freeze while events flow; then the oracle; then the mutants."""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import orjson

from pipeline.broker import EmbeddedKafka
from tests.faults import broadcast, delivery, outage, rates
from tests.faults.crowd import Crowd
from tests.faults.loop import Loop
from tests.faults.mutants import MUTANTS, OF_DELIVERY, caught
from tests.faults.scene import tell

MUTANT_EVENTS = 1_500


async def _one(
    seed: int, kills: int, events: int, workers: int, mutant: str = ""
) -> tuple[dict[str, Any], list[str]]:
    with (
        tempfile.TemporaryDirectory(prefix="carillon-faults-") as directory,
        EmbeddedKafka(config={"group.min.session.timeout.ms": "1000"}) as kafka,
    ):
        loop = (
            Crowd(seed, kills, events, workers, kafka, mutant)
            if workers > 1
            else Loop(seed, kills, events, mutant)
        )
        found = await loop.run(kafka.bootstrap_servers, Path(directory))
        if found[1] and (not mutant or caught(mutant, found[1]) is None):
            for log in sorted(Path(directory).glob("worker*.log")):
                tell(f"--- {log.name}, its end ---")
                tell(log.read_text(errors="replace")[-4_000:])
        return found


@click.command()
@click.option("--kills", default=30, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--seed", default=1, show_default=True)
@click.option("--events", default=5_000, show_default=True, type=click.IntRange(100, 1_000_000))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 4))
@click.option("--mutants/--no-mutants", default=True, show_default=True)
@click.option("--mutant", "only", type=click.Choice(sorted(MUTANTS | OF_DELIVERY)), help="Just this mutant.")
@click.option(
    "--only", "part", type=click.Choice(["broadcast", "delivery", "outage", "rates"]), help="Just this part."
)
@click.option("--users", default=200_000, show_default=True, type=click.IntRange(1_000, 10_000_000))
@click.option("--json", "as_json", is_flag=True)
def main(
    kills: int, seed: int, events: int, workers: int, mutants: bool, only: str | None, part: str | None,
    users: int, as_json: bool,
) -> None:  # fmt: skip
    """Kills workers while events flow; fails where anything was lost, sent twice, or said in two ways.

    With several workers they are killed, joined, stopped, frozen and thawed, one thing after the other.
    Of `--only broadcast`, core is killed while it tells a segment of so many users; of `--only delivery`, the
    delivery roles at each step between intended and confirmed.
    """
    if only is not None and only not in (OF_DELIVERY if part == "delivery" else MUTANTS):
        raise click.BadParameter("not of this part", param_hint="--mutant")
    if part == "delivery":
        sys.exit(delivery.main(seed, only, mutants=mutants, as_json=as_json))
    if part == "outage":
        sys.exit(outage.main(events, as_json=as_json))
    if part == "rates":
        sys.exit(rates.main(as_json=as_json))
    if part is not None:
        sys.exit(broadcast.main(users, as_json=as_json))
    figures: dict[str, Any] = {"seed": seed}
    wrong: list[str] = []
    if only is None:
        tell(f"seed {seed}: {kills} kills over {events} events")
        found, wrong = asyncio.run(_one(seed, kills, events, workers))
        figures |= found
    known = [name for name, mutant in MUTANTS.items() if mutant.of_several == (workers > 1)]
    chosen = [only] if only else known if mutants else []
    named = 0
    for name in chosen:
        found, of_mutant = asyncio.run(_one(seed, MUTANTS[name].kills, MUTANT_EVENTS, workers, name))
        line = caught(name, of_mutant)
        named += line is not None
        tell(f"mutant {name}: {'caught: ' + line if line else 'NOT CAUGHT ' + repr(of_mutant[:3])}")
    figures |= {"mutants": len(chosen), "mutants_caught": named}
    for line in wrong[:20]:
        tell(f"WRONG {line}")
    click.echo(
        orjson.dumps(figures).decode() if as_json else "\n".join(f"{k:<28} {v}" for k, v in figures.items())
    )
    sys.exit(bool(wrong) or named < len(chosen))


if __name__ == "__main__":
    main()
