"""`carillon simulate-provider`: simulated providers in a process of their own."""

import asyncio
import logging
import signal
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import orjson

if TYPE_CHECKING:
    from pipeline.simulator.fleet import Fleet


@click.command("simulate-provider")
@click.argument("kinds", nargs=-1, metavar="[KIND]…")
@click.option("--port", type=click.IntRange(0, 65_000), default=4010, show_default=True,
              help="Of the first kind; the others count up. 0: any free ones.")  # fmt: skip
@click.option("--page-port", type=click.IntRange(0, 65_535),
              help="Of the page; default: the port before the first kind's.")  # fmt: skip
@click.option("--ledger", type=click.Path(path_type=Path, dir_okay=False),
              help="Write a line of JSON for each target of a request, before it is answered.")  # fmt: skip
@click.option("--fault", "faults", multiple=True, metavar="[KIND.]WORD",
              help="Such as throttled:0.1, latency=0.2, smtp.flap=5/5; may be repeated.")  # fmt: skip
@click.option("--secret", "secrets", multiple=True, metavar="KIND.NAME=VALUE",
              envvar="CARILLON_SIMULATOR_SECRETS",
              help="What signatures and credentials are checked with; @FILE reads a file.")  # fmt: skip
@click.option("--callbacks", metavar="URL", help="Send signed receipts there; {kind} is replaced.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides what shares strike.")
@click.option("--json", "as_json", is_flag=True, help="Print the addresses as one line of JSON.")
def simulate_provider(
    kinds: Sequence[str],
    port: int,
    page_port: int | None,
    ledger: Path | None,
    faults: Sequence[str],
    secrets: Sequence[str],
    callbacks: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Speak as providers do, on this machine, with faults to choose: each KIND on a port of its own.

    All kinds without KIND. Runs until Ctrl-C; see docs/simulator.md.
    """
    from pipeline.simulator.fleet import Fleet
    from pipeline.simulator.registry import KINDS

    chosen = _chosen(kinds, list(KINDS))
    if page_port is None:
        page_port = max(0, port - 1)
    wanted = defaultdict[str, list[str]](list)
    for given in faults:
        for kind, word in _struck(given, chosen):
            wanted[kind].append(word)
    known = defaultdict[str, dict[str, str]](dict)
    for given in secrets:
        kind, name, value = _secret(given, chosen)
        known[kind][name] = value
    logging.getLogger("mail.log").setLevel(logging.ERROR)
    try:
        fleet = Fleet(
            chosen, port=port, page_port=page_port, ledger=ledger, faults=wanted, secrets=known, seed=seed,
            callbacks=callbacks,
        )  # fmt: skip
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    asyncio.run(_serve(fleet, as_json=as_json))


def _chosen(kinds: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    for kind in kinds:
        if kind not in known:
            raise click.BadParameter(f"{kind}: there are {', '.join(known)}", param_hint="KIND")
        if kinds.count(kind) > 1:
            raise click.BadParameter(f"{kind} is named twice", param_hint="KIND")
    return kinds or known


def _struck(given: str, chosen: Sequence[str]) -> Iterable[tuple[str, str]]:
    """The kinds that a fault is for: the one it names, or all that know it. Wrong use if there is none."""
    from pipeline.simulator.faults import BadFault, parse
    from pipeline.simulator.simulator import faults_of

    kind, dot, word = given.partition(".")
    named = bool(dot) and kind in chosen
    found, why = [], ""
    for one in [kind] if named else chosen:
        word = word if named else given
        try:
            parse(word, faults_of(one))
        except BadFault as bad:
            why = str(bad)
        else:
            found.append((one, word))
    if not found:
        raise click.BadParameter(why, param_hint="--fault")
    return found


def _secret(given: str, chosen: Sequence[str]) -> tuple[str, str, str]:
    """Kind, name and value. What is wrong is told without the value."""
    from pipeline.simulator.registry import KINDS

    path, equals, value = given.partition("=")
    kind, dot, name = path.partition(".")
    if not (equals and dot):
        raise click.BadParameter("not KIND.NAME=VALUE", param_hint="--secret")
    if kind not in chosen:
        raise click.BadParameter(f"{kind} is not simulated", param_hint="--secret")
    if name not in KINDS[kind].secrets:
        names = ", ".join(KINDS[kind].secrets) or "none"
        raise click.BadParameter(f"{kind} has no secret {name}; it has {names}", param_hint="--secret")
    if value.startswith("@"):
        value = Path(value[1:]).read_text().strip()
    return kind, name, value


async def _serve(fleet: "Fleet", *, as_json: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with fleet:
        told = {**fleet.base_urls(), "page": fleet.page_url}
        if as_json:
            click.echo(orjson.dumps(told).decode())
        else:
            width = max(map(len, told))
            for name, url in told.items():
                click.echo(f"{name:<{width}}  {url}")
        await stop.wait()
