"""What the engine promises when it is killed: nothing is lost, and only the unit in doubt goes out again."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.kafka.engine_app import (
    Claim,
    Claims,
    Ground,
    Rows,
    Worker,
    becomes,
    claiming_app,
    claims_of,
    outputs_by_id,
    rows_on_disk,
    running,
)

pytestmark = pytest.mark.kafka

RECORDS = 400
IDS = [b"m%d" % n for n in range(RECORDS)]
POINTS = {
    "unit.before_decide": 4,
    "unit.after_decide": 4,
    "unit.after_changelog": 4,
    "unit.after_outputs": 4,
    "unit.after_store": 4,
    "commit.before": 1,
    "commit.after": 1,
}


@dataclasses.dataclass
class Death:
    """What there was when the worker had died, and what there was in the end."""

    committed: int
    claims: dict[bytes, Claim]
    stored: Rows
    sent: dict[bytes, list[bytes]]
    sent_in_the_end: dict[bytes, list[bytes]]
    claims_in_the_end: dict[bytes, Claim]

    @property
    def doubtful(self) -> set[bytes]:
        """What the last unit decided: nobody can know whether its outputs are out."""
        last = max(claim.number for claim in self.claims.values())
        return {id_ for id_, claim in self.claims.items() if claim.number == last}


async def die(kafka: str, state_dir: Path, point: str) -> Death:
    ground = Ground(kafka)
    await ground.create("in", "out")
    await ground.send("in", [(b"u%d" % (n % 7), id_) for n, id_ in enumerate(IDS)])
    worker = Worker(ground, state_dir, ("in",), unit_seconds=0.001, failpoint=f"{point}:{POINTS[point]}")
    async with worker:
        await worker.dies()
    committed = (await ground.committed("in")).get(("in", 0), 0)
    claims, stored = claims_of(await ground.read(ground.changelog)), rows_on_disk(state_dir)
    sent = outputs_by_id(await ground.read("out"))
    async with running(claiming_app(ground, state_dir, Claims(ground.topic("out")), "in")):
        await becomes(lambda: ground.caught_up("in"), "all committed")
    sent_in_the_end = outputs_by_id(await ground.read("out"))
    claims_in_the_end = claims_of(await ground.read(ground.changelog))
    return Death(committed, claims, stored, sent, sent_in_the_end, claims_in_the_end)


@pytest_asyncio.fixture(scope="module")
async def deaths(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Death]]:
    """One death at each failpoint, all at once."""
    dying = [die(kafka, tmp_path_factory.mktemp(point), point) for point in POINTS]
    yield dict(zip(POINTS, await asyncio.gather(*dying), strict=True))


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_loses_nothing_and_repeats_the_unit_in_doubt_alone(
    deaths: dict[str, Death], point: str
) -> None:
    death = deaths[point]
    assert set(death.sent_in_the_end) == set(IDS)
    assert {len(set(outputs)) for outputs in death.sent_in_the_end.values()} == {1}, "another decision"
    repeated = {id_ for id_, outputs in death.sent_in_the_end.items() if len(outputs) > 1}
    assert repeated <= death.doubtful
    assert max(map(len, death.sent_in_the_end.values())) <= 2
    turns = sorted(int(outputs[0].split()[1]) for outputs in death.sent_in_the_end.values())
    assert turns == sorted(n // 7 + 1 for n in range(RECORDS)), "counted twice, or not at all"


@pytest.mark.parametrize("point", POINTS)
def test_what_is_committed_was_sent_and_what_was_sent_is_logged(deaths: dict[str, Death], point: str) -> None:
    death = deaths[point]
    assert set(IDS[: death.committed]) <= set(death.sent) <= set(death.claims)
    assert {key.removeprefix(b"c|") for key in death.stored if key.startswith(b"c|")} <= set(death.sent)
    assert death.claims.items() <= death.claims_in_the_end.items()


@pytest.mark.parametrize(
    ("point", "logged", "sent", "stored"),
    [
        ("unit.before_decide", False, False, False),
        ("unit.after_decide", False, False, False),
        ("unit.after_changelog", True, False, False),
        ("unit.after_outputs", True, True, False),
        ("unit.after_store", True, True, True),
    ],
)
def test_a_unit_lands_in_the_changelog_then_the_outputs_then_the_store(
    deaths: dict[str, Death], point: str, logged: bool, sent: bool, stored: bool
) -> None:
    death = deaths[point]
    units = POINTS[point] if logged else POINTS[point] - 1
    assert {claim.number for claim in death.claims.values()} == set(range(1, units + 1))
    assert (death.doubtful <= set(death.sent)) is (sent or not logged)
    found = {id_ for id_ in death.claims if b"c|" + id_ in death.stored}
    assert (death.doubtful <= found) is (stored or not logged)
    assert death.committed < len(death.claims) or not logged


def test_a_commit_is_of_what_was_stored(deaths: dict[str, Death]) -> None:
    before, after = deaths["commit.before"], deaths["commit.after"]
    assert before.committed == 0
    assert 0 < after.committed <= sum(key.startswith(b"c|") for key in after.stored)


async def test_a_doubt_survives_units_of_another_topic_and_another_death(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka)
    await ground.create("gate", "in", "out")
    await ground.send("in", [(b"u", b"in%d" % n) for n in range(200)])
    worker = Worker(ground, tmp_path, ("gate", "in"), gates=("gate",), unit_seconds=0.001)
    async with dataclasses.replace(worker, failpoint="unit.after_changelog:2") as first:
        await first.dies()
    unsent = set(claims_of(await ground.read(ground.changelog))) - set(
        outputs_by_id(await ground.read("out"))
    )
    assert unsent
    await ground.send("gate", [(b"u", b"gate%d" % n) for n in range(400)])
    async with dataclasses.replace(worker, failpoint="unit.after_store:8") as second:
        await second.dies()
    found = outputs_by_id(await ground.read("out"))
    assert any(id_.startswith(b"gate") for id_ in found)
    assert not unsent & set(found), "the doubtful unit came up already"
    async with dataclasses.replace(worker) as third:
        await becomes(lambda: ground.caught_up("gate", "in"), "all committed")
        await third.stop()
    sent = outputs_by_id(await ground.read("out"))
    assert set(sent) == {b"gate%d" % n for n in range(400)} | {b"in%d" % n for n in range(200)}
    assert {len(set(outputs)) for outputs in sent.values()} == {1}


async def test_a_rewind_while_a_unit_is_in_doubt_sends_that_one_alone(kafka: str, tmp_path: Path) -> None:
    ground = Ground(kafka)
    await ground.create("in", "out")
    await ground.send("in", [(b"u", id_) for id_ in IDS])
    first = Worker(ground, tmp_path, ("in",), unit_seconds=0.001, failpoint="unit.after_outputs:4")
    async with first:
        await first.dies()
    claims = claims_of(await ground.read(ground.changelog))
    doubtful = {id_ for id_, claim in claims.items() if claim.number == 4}
    await ground.commit({("in", 0): 0})
    app = claiming_app(ground, tmp_path, Claims(ground.topic("out")), "in", unit_seconds=0.001)
    async with running(app):
        await becomes(lambda: ground.caught_up("in"), "all committed")
    sent = outputs_by_id(await ground.read("out"))
    assert set(sent) == set(IDS)
    assert {id_ for id_, outputs in sent.items() if len(outputs) > 1} == doubtful
    await ground.commit({("in", 0): 0})
    async with running(claiming_app(ground, tmp_path, Claims(ground.topic("out")), "in")):
        await becomes(lambda: ground.caught_up("in"), "all committed")
    assert outputs_by_id(await ground.read("out")) == sent
