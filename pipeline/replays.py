"""A replay as it is asked for, at the command line or elsewhere: checked, then done or foreseen."""

from collections.abc import Callable
from typing import NamedTuple

from agents.narrow import Narrowing
from pipeline import foresight, narrowed, replay
from pipeline.foresight import Forecast
from pipeline.narrowed import MOST_GENERATION, Narrowed
from pipeline.replay import Asked, Misused, Plan, Wanted
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


class Resolved(NamedTuple):
    """A request with its places, its name and its generation fixed: however often it is done, what it sends
    anew goes out once, and what a channel failed is opened once.

    `generation` is 0 where nothing is sent anew.
    """

    plan: Plan
    narrowing: Narrowing
    generation: int
    id: str


async def resolve(settings: Settings, request: Request) -> Resolved:
    """Fixes what a request leaves open. Raises Misused."""
    wanted = check(settings, request)
    generation = (request.generation or narrowed.new_generation()) if request.resend else 0
    plan = await replay.resolve(settings, wanted)
    return Resolved(plan, request.narrowing, generation, narrowed.new_request())


async def foresee(settings: Settings, resolved: Resolved, tell: Callable[[str], None]) -> Forecast | Narrowed:
    """What would come of it; asks nothing of anybody. Raises Misused where too many are chosen."""
    if resolved.narrowing.given:
        return await _narrowed(settings, resolved, tell, dry_run=True)
    return await foresight.foresee(settings, resolved.plan, tell)


async def do(settings: Settings, resolved: Resolved, tell: Callable[[str], None]) -> Asked | Narrowed:
    """Does it. Raises Misused where too many are chosen."""
    if resolved.narrowing.given:
        return await _narrowed(settings, resolved, tell, dry_run=False)
    return Asked(resolved.plan, await replay.ask(settings, resolved.plan))


async def _narrowed(
    settings: Settings, resolved: Resolved, tell: Callable[[str], None], *, dry_run: bool
) -> Narrowed:
    return await narrowed.replay(
        settings, resolved.plan, resolved.narrowing, request=resolved.id, generation=resolved.generation,
        dry_run=dry_run, tell=tell,
    )  # fmt: skip


async def perform(
    settings: Settings, request: Request, tell: Callable[[str], None]
) -> Asked | Forecast | Narrowed:
    """Does what is asked for, or says what would come of it. `tell` gets lines of progress, and before
    anything goes out the generation of what is sent anew: asked for with the same one again, nothing goes out
    twice.

    Raises Misused.
    """
    resolved = await resolve(settings, request)
    if request.dry_run:
        return await foresee(settings, resolved, tell)
    if resolved.generation:
        tell(
            f"generation {resolved.generation}: if this is cut off, say the same with --generation "
            f"{resolved.generation} to go on; nothing is sent twice"
        )
    return await do(settings, resolved, tell)
