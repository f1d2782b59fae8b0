"""A replay as it is asked for, at the command line or elsewhere: checked, then done or foreseen."""

from collections.abc import Callable
from typing import NamedTuple

from agents.narrow import Narrowing
from pipeline import foresight, narrowed, replay
from pipeline.foresight import Forecast
from pipeline.narrowed import MOST_GENERATION, Narrowed
from pipeline.replay import Asked, Misused, Wanted
from pipeline.settings import Settings

EARLIEST = "earliest"


class Request(NamedTuple):
    """What is asked for: a group, or a partition of a topic; `to` is earliest, latest, a time or an offset.

    With `narrowing` only what it chooses comes up again; with `resend` it goes out anew, as `generation`.
    """

    group: str | None = None
    topic: str | None = None
    partition: int | None = None
    to: str | None = None
    narrowing: Narrowing = Narrowing()
    resend: bool = False
    generation: int | None = None
    dry_run: bool = False


def check(settings: Settings, request: Request) -> Wanted:
    """Which partitions are meant. Raises Misused, which names the option; asks no broker."""
    group, topic, partition = request.group, request.topic, request.partition
    is_narrowed = bool(request.narrowing.given)
    if (group is None) == (topic is None) or (topic is None) != (partition is None):
        raise Misused("give --group, or --topic and --partition")
    if request.to is None and not is_narrowed:
        raise Misused("--to: earliest, latest, a time or an offset; only what is narrowed needs none")
    if request.resend and not is_narrowed:
        raise Misused("--resend: only what --event, --id, --user or --reason choose is sent anew")
    if request.generation is not None:
        if not request.resend:
            raise Misused("--generation: with --resend alone")
        if not 0 < request.generation <= MOST_GENERATION:
            raise Misused(f"--generation {request.generation}: from 1 to {MOST_GENERATION}")
    to = request.to or EARLIEST
    if group is not None:
        wanted = replay.of_group(settings, group, to)
    else:
        wanted = replay.of_partition(settings, topic or "", partition or 0, to)
    if is_narrowed:
        wanted = narrowed.check(settings, wanted, request.narrowing, anew=request.resend)
    return wanted


async def perform(
    settings: Settings, request: Request, tell: Callable[[str], None]
) -> Asked | Forecast | Narrowed:
    """Does what is asked for, or says what would come of it. `tell` gets lines of progress, and first of all
    the generation of what is sent anew: asked for with the same one again, nothing goes out twice.

    Raises Misused.
    """
    wanted = check(settings, request)
    generation = 0
    if request.resend:
        generation = request.generation or narrowed.new_generation()
        if not request.dry_run:
            tell(
                f"generation {generation}: if this is cut off, say the same with --generation {generation} "
                "to go on; nothing is sent twice"
            )
    plan = await replay.resolve(settings, wanted)
    if request.narrowing.given:
        return await narrowed.replay(
            settings, plan, request.narrowing, generation=generation, dry_run=request.dry_run, tell=tell
        )
    if request.dry_run:
        return await foresight.foresee(settings, plan, tell)
    return Asked(plan, await replay.ask(settings, plan))
