"""Replay over the whole way on a real Kafka: killed amid it, beside live traffic, narrowed, and sent anew."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition

from agents import topics
from pipeline.engine import UnitApp
from pipeline.foresight import Row
from pipeline.providers import outbox
from pipeline.providers.outbox import Stored
from pipeline.replay import reading
from pipeline.run import Runner
from schemas import outcome
from schemas.message import Message
from schemas.outcome import Outcome
from tables import claims
from tests.kafka.engine_app import eventually, rows_of
from tests.kafka.replay_scene import MENDED, World, at_the_end, has_obeyed, rows

pytestmark = pytest.mark.kafka

MANY = 1_000
"""A cap that nobody comes to."""
CORE = ("--group", "core")


def stored(world: World) -> list[Stored]:
    """What stands in the outbox."""
    return outbox.read(world.settings.state_dir / outbox.FILE, limit=10_000)


def texts(kind: str, *numbers: int) -> list[str]:
    return [f"{kind} {n}" for n in numbers]


async def ends(world: World) -> dict[TopicPartition, int]:
    """Where the channel topics end."""
    names = [
        topics.MESSAGES[channel] + lane for channel in world.settings.channels for lane in ("", "-express")
    ]
    parts = [TopicPartition(world.prefix + name, number) for name in names for number in range(2)]
    async with reading(world.settings, parts) as consumer:
        found: dict[TopicPartition, int] = await consumer.end_offsets(parts)
    return found


def largest_units(app: UnitApp) -> dict[int, int]:
    """By partition, how many notifications core decided in one unit at the most."""
    found = {}
    for number, db in app.store.opened().items():
        units: Counter[int] = Counter()
        for key, value in rows_of(db).items():
            if key.startswith(claims.PREFIX):
                claim = Row(value).claim(key)
                assert claim is not None
                units[claim.number] += 1
        found[number] = max(units.values(), default=0)
    return found


def lose_stores(world: World) -> None:
    """Removes the store of every role, as a lost disk would; the outbox is a sink and stays."""
    for entry in world.settings.state_dir.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)


def counted(runner: Runner) -> dict[str, float]:
    """What the process has counted that is about notifications, and not about the engine's work."""
    names = ("carillon_statuses", "carillon_provider_calls", "carillon_dead_letters")
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in runner.metrics.registry.collect()
        for sample in family.samples
        if sample.name.startswith(names) and not sample.name.endswith(("_created", "_bucket", "_sum"))
    }


async def finished(world: World) -> None:
    """Returns when every role is through with all that there is."""
    for role in ("core", "core", "email", "web", "status"):  # core reads what it writes
        assert await at_the_end(world, role)
        await world.settled()


async def rewind_all(world: World, runner: Runner) -> None:
    """Every group to the earliest; returns when all is read once more."""
    requests = {name: app.rewinds.heard + 1 for name, app in runner.apps.items()}
    for role in runner.names:
        asked = await world.told("--group", role, "--to", "earliest")
        assert asked["again"] > 0
        assert asked["left_out"] == 0
    await eventually(
        lambda: all(has_obeyed(app, requests[name]) for name, app in runner.apps.items()), "all have obeyed"
    )
    await runner.wait_until_ready(30)
    await world.settled()
    for role in runner.names:
        assert await at_the_end(world, role)


async def test_everything_to_the_earliest_with_the_state_and_without_it_sends_nothing(
    kafka: str, tmp_path: Path
) -> None:
    world = World(kafka, tmp_path)
    async with world.running() as runner:
        await world.people()
        await world.settled()
        await world.events("t.ordered", 0, 60)
        await world.events("t.ordered", 0, 6)  # duplicates
        await world.events("t.unwanted", 0, 6)
        await world.events("t.shipped", 0, 6)  # its template is broken
        await world.settled()
        sent, before, was = world.sent(), await ends(world), counted(runner)
        remembered = {role: rows(runner, role) for role in runner.names}
        unit = largest_units(runner.apps["core"])
        assert 60 < len(sent) < 120
        assert any(was.values())
        await rewind_all(world, runner)
        assert world.sent() == sent
        assert counted(runner) == was
        assert {role: rows(runner, role) for role in runner.names} == remembered
        again = await ends(world)
        assert all(again[part] - before[part] <= unit[part.partition] for part in before)
    lose_stores(world)
    async with world.running() as runner:
        await world.settled()
        await rewind_all(world, runner)
        assert world.sent() == sent
        assert not any(counted(runner).values())
        assert {role: rows(runner, role) for role in runner.names} == remembered
        last = await ends(world)
        assert all(last[part] - again[part] <= unit[part.partition] for part in again)


class Core:
    """`carillon run --role core` in a process of its own, that may be told to die."""

    def __init__(self, world: World, failpoint: str = "") -> None:
        self.world, self.failpoint = world, failpoint

    async def __aenter__(self) -> "Core":
        env = {**os.environ, **({"CARILLON_FAILPOINT": self.failpoint} if self.failpoint else {})}
        with (self.world.directory / "core.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "pipeline.cli", "run", "--role", "core",
                "--config", str(self.world.config), env=env, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()

    async def dies(self) -> int:
        return await asyncio.wait_for(self.process.wait(), 60)


@contextlib.asynccontextmanager
async def broken_then_mended(
    kafka: str, directory: Path, shipped: int
) -> AsyncIterator[tuple[World, list[str]]]:
    """A world in which so many failed for a template that is mended by now; all roles but core run."""
    world = World(kafka, directory)
    async with world.running() as runner:
        await world.people(limit=MANY)
        await world.settled()
        await world.events("t.ordered", 0, 12)
        await world.events("t.shipped", 0, shipped)
        await world.settled()
        before = world.sent()
        await world.mend(runner)
        assert await at_the_end(world, "core")
    assert not any(text.startswith("Shipped") for text in before)
    async with world.running("email", "web", "status"):
        yield world, before


@pytest.mark.parametrize(
    ("point", "narrowed"),
    [
        ("unit.after_changelog:2", False),
        ("unit.after_changelog:3", True),
        ("unit.after_outputs:3", False),
        ("unit.after_outputs:3", True),
    ],
)
async def test_what_is_mended_goes_out_once_though_core_is_killed_amid_its_replay(
    kafka: str, tmp_path: Path, point: str, narrowed: bool
) -> None:
    async with broken_then_mended(kafka, tmp_path, shipped=120) as (world, before):
        words = ("--reason", "template_failed") if narrowed else ("--to", "earliest")
        foreseen = await world.told(*CORE, *words, dry=True)
        assert (foreseen["nothing"], foreseen["afresh"], foreseen["new"]) == (0 if narrowed else 12, 120, 0)
        await world.told(*CORE, *words)
        async with Core(world, point) as first:
            assert await first.dies() == -signal.SIGKILL
        assert not await world.ends("core"), "it was done when it died"
        if point.startswith("unit.after_changelog"):  # the unit it died with had told nobody yet
            assert len(world.sent()) < len(before) + 120
        async with Core(world):
            await eventually(lambda: len(world.sent()) >= len(before) + 120, "all out")
            assert await at_the_end(world, "core")
            await world.settled()
        assert world.sent() == sorted([*before, *texts("Shipped", *range(120))])


async def test_who_opts_out_gets_nothing_of_a_rewind_amid_live_traffic_of_which_nothing_is_lost(
    kafka: str, tmp_path: Path
) -> None:
    world = World(kafka, tmp_path)
    async with world.running() as runner:
        await world.people(limit=MANY)
        await world.settled()
        await world.events("t.ordered", 0, 60)
        await world.settled()
        out = {"user_id": "u2", "channels": {"email": False, "web": False}}
        await world.send(topics.PREFERENCES, [("u2", out)])
        await world.settled()
        before = Counter((one.user_id, one.text, one.channel) for one in stored(world))
        over = asyncio.Event()

        async def traffic() -> int:
            """Sends until both rewinds are over; returns where it ended."""
            n = 60
            while n < 120 or (n < 3_000 and not over.is_set()):
                await world.events("t.ordered", n, n + 6)
                n += 6
                await asyncio.sleep(0.03)  # a load, not a wait for anything
            return n

        live = asyncio.create_task(traffic())
        core = runner.apps["core"]
        for requests in (1, 2):
            await world.told(*CORE, "--to", "earliest")
            await eventually(lambda n=requests: has_obeyed(core, n), "obeyed")  # type: ignore[misc]
            assert not live.done(), "no traffic beside it"
        over.set()
        last = await live
        await finished(world)
    expected = Counter(before)
    for n in range(60, last):
        user = f"u{n % 6}"
        channels = [] if user == "u2" else ["email"] if user == "u1" else ["email", "web"]
        expected.update((user, f"Order {n}", channel) for channel in channels)
    assert Counter((one.user_id, one.text, one.channel) for one in stored(world)) == expected
    assert all(one.requests == 1 for one in stored(world))


async def test_ten_that_are_sent_anew_are_ten_more_and_none_by_the_same_generation(
    kafka: str, tmp_path: Path
) -> None:
    world = World(kafka, tmp_path)
    world.write("templates/shipped.yaml", MENDED)
    async with world.running():
        await world.people(limit=MANY)
        await world.settled()
        await world.events("t.shipped", 0, 30)
        await world.settled()
        assert await at_the_end(world, "core")
        before = world.sent()
        assert before == sorted(texts("Shipped", *range(30)))
        ten = [word for n in range(10, 20) for word in ("--event", "test", f"t.shipped-{n}")]
        result = await world.asked(*CORE, *ten, "--resend")
        assert result.exit_code == 0, result.output
        first, *_ = result.stderr.splitlines()
        generation = first.split()[1].rstrip(":")
        assert f"--generation {generation}" in first
        same = ("--resend", "--generation", generation)
        again = await world.told(*CORE, *ten, *same)  # at once, as after being cut off
        assert again["chosen"] == 10
        await world.settled()
        expected = sorted([*before, *texts("Shipped", *range(10, 20))])
        assert world.sent() == expected
        assert await at_the_end(world, "core")
        for dry in (True, False):
            once_more = await world.told(*CORE, *ten, *same, dry=dry)
            assert (once_more["chosen"], once_more["anew"], once_more["copies"]) == (10, 0, 0)
        await world.told(*CORE, "--to", "earliest")
        await world.settled()
        assert world.sent() == expected


async def test_of_an_event_for_many_only_who_is_chosen_is_told_anew(kafka: str, tmp_path: Path) -> None:
    world = World(kafka, tmp_path)
    async with world.running():
        await world.people(limit=MANY)
        await world.settled()
        for_all = {
            "event_type": "t.ordered",
            "recipients": [f"u{n}" for n in range(6)],
            "variables": {"n": 7},
        }
        await world.send(topics.EVENTS, [("any", for_all)])  # without a key: its place is its identity
        await world.settled()
        assert await at_the_end(world, "core")
        before = Counter((one.user_id, one.channel) for one in stored(world))
        assert sum(before.values()) == 11
        foreseen = await world.told(*CORE, "--user", "u3", "--user", "u4", "--resend", dry=True)
        assert (foreseen["chosen"], foreseen["anew"], foreseen["copies"]) == (2, 2, 1)
        await world.told(*CORE, "--user", "u3", "--user", "u4", "--resend")
        await world.settled()
        more = Counter({(user, channel): 1 for user in ("u3", "u4") for channel in ("email", "web")})
        assert Counter((one.user_id, one.channel) for one in stored(world)) == before + more
        only = next(one.notification_id for one in stored(world) if one.user_id == "u5")
        foreseen = await world.told(*CORE, "--id", only, "--user", "u5", dry=True)
        assert (foreseen["chosen"], foreseen["nothing"], foreseen["again"]) == (1, 1, 0)
        foreseen = await world.told(*CORE, "--id", only, "--user", "u4", dry=True)
        assert foreseen["chosen"] == 0


async def test_what_a_dry_run_counts_is_what_then_happens(kafka: str, tmp_path: Path) -> None:
    world = World(kafka, tmp_path)
    async with world.running() as runner:
        await world.people(limit=MANY)
        await world.settled()
        await world.events("t.ordered", 0, 12)
        await world.events("t.shipped", 0, 30)
        await world.settled()
        await world.mend(runner)
        assert await at_the_end(world, "core")

        async def foreseen_and_done(*words: str) -> tuple[dict[str, Any], list[str]]:
            """What was foreseen, and what went out when it was done."""
            before = Counter(world.sent())
            foreseen = await world.told(*CORE, *words, dry=True)
            done = await world.told(*CORE, *words)
            await world.settled()
            assert await at_the_end(world, "core")
            for figure in ("dry_run", "request_id"):
                foreseen.pop(figure, None), done.pop(figure, None)
            assert done.items() <= foreseen.items()
            return foreseen, sorted((Counter(world.sent()) - before).elements())

        of_two = [n for n in range(30) if n % 6 in (2, 3)]
        foreseen, out = await foreseen_and_done("--user", "u2", "--user", "u3")
        assert (foreseen["chosen"], foreseen["nothing"], foreseen["afresh"]) == (14, 4, len(of_two))
        assert foreseen["again"] == len(of_two)
        assert out == sorted(texts("Shipped", *of_two))

        anew = ("--user", "u2", "--user", "u3", "--resend", "--generation", "5")
        foreseen, out = await foreseen_and_done(*anew)
        assert (foreseen["chosen"], foreseen["anew"], foreseen["nothing"]) == (14, 14, 14)
        orders = [n for n in range(12) if n % 6 in (2, 3)]
        assert out == sorted([*texts("Shipped", *of_two), *texts("Order", *orders, *orders)])
        foreseen, out = await foreseen_and_done(*anew)
        assert (foreseen["chosen"], foreseen["anew"], out) == (14, 0, [])

        foreseen, out = await foreseen_and_done("--to", "earliest")
        rest = [n for n in range(30) if n not in of_two]
        # with the ten and four that were sent, in both generations
        assert (foreseen["nothing"], foreseen["afresh"], foreseen["new"]) == (12 + 10 + 14, len(rest), 0)
        assert out == sorted(texts("Shipped", *rest))


class Refusing:
    """A provider that refuses until it is mended, and notes what it is asked to send."""

    name, kind, honours_keys, parallel, platforms = "box", "refusing", False, 1, None

    def __init__(self) -> None:
        self.mended, self.calls = False, list[str]()

    async def send(self, message: Message, key: str) -> Outcome:
        self.calls.append(message.text)
        return outcome.sent("p") if self.mended else outcome.refused("550 no")

    async def close(self) -> None:
        pass


async def test_messages_that_a_channel_failed_are_called_again_where_it_is_narrowed_to_them(
    kafka: str, tmp_path: Path
) -> None:
    world, provider = World(kafka, tmp_path), Refusing()
    async with world.running(email=provider):
        await world.people(limit=MANY)
        await world.settled()
        await world.events("t.ordered", 0, 6)
        await world.settled()
        provider.mended = True
        await world.events("t.ordered", 6, 12)
        await world.settled()
        assert await at_the_end(world, "email")
        before = provider.calls.copy()
        assert sorted(before) == sorted(texts("Order", *range(12)))
        two = ("--group", "email", "--reason", "refused", "--user", "u2", "--user", "u3")
        foreseen = await world.told(*two, dry=True)
        assert foreseen["afresh_because"] == {"550 no": 2}
        assert (foreseen["chosen"], foreseen["again"], foreseen["copies"]) == (2, 2, 2)
        assert (await world.told(*two))["again"] == 2
        await world.settled()
        assert sorted(provider.calls[len(before) :]) == sorted(texts("Order", 2, 3))
        assert await at_the_end(world, "email")
        assert (await world.told(*two))["chosen"] == 0
        everybody = await world.told("--group", "email", "--user", "u2")
        assert (everybody["chosen"], everybody["nothing"], everybody["again"]) == (2, 2, 0)
        for role in ("core", "email"):
            await world.told("--group", role, "--to", "earliest")
        await world.settled()
        assert len(provider.calls) == len(before) + 2
