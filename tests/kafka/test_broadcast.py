"""A broadcast on a real Kafka: core dies twice on the way, each member is told once; a cancel is heard."""

from pathlib import Path

import pytest

from pipeline.broadcasts import cancel
from pipeline.broker import EmbeddedKafka
from schemas.broadcast import Stage
from tests.faults.broadcast import ID, Scene, wrong

pytestmark = pytest.mark.kafka
MEMBERS = 2_000


def begun(scene: Scene) -> int:
    """How many core says that it has told."""
    return 0 if (progress := scene.progress) is None else progress.told


async def test_each_member_is_told_once_though_core_is_killed_twice(tmp_path: Path) -> None:
    with EmbeddedKafka(config={"group.min.session.timeout.ms": "1000"}) as kafka:
        scene = Scene(kafka.bootstrap_servers, tmp_path, MEMBERS, 200, broadcast_page=25)
        async with scene.open():
            await scene.core.start()
            await scene.until(scene.has_read_users, "core knows the users")
            await scene.core.stop()
            await scene.ask()
            for point in ("timers.after_publish:8", "unit.after_changelog:20"):  # only its steps are timed
                await scene.core.start(point)
                await scene.core.died()
                await scene.until(lambda: begun(scene) > 0, "some are told")
                assert begun(scene) < MEMBERS, "it died too late to prove anything"
            await scene.core.start()
            await scene.until(scene.is_over, "the end")
            found, progress = scene.figures(), scene.progress
    assert wrong(found) == []
    assert found["told"] == MEMBERS
    assert progress is not None
    assert (progress.stage, progress.looked_at) == (Stage.DONE, MEMBERS + scene.others)


async def test_a_cancel_is_heard_by_every_partition(tmp_path: Path) -> None:
    with EmbeddedKafka(config={"group.min.session.timeout.ms": "1000"}) as kafka:
        scene = Scene(
            kafka.bootstrap_servers, tmp_path, MEMBERS, 200, broadcast_page=5, broadcast_per_second=50
        )
        async with scene.open():
            await scene.core.start()
            await scene.until(scene.has_read_users, "core knows the users")
            await scene.ask()
            await scene.until(lambda: scene.told > 0, "the first are told")
            await cancel(scene.settings, ID)
            await cancel(scene.settings, ID)
            await scene.until(scene.is_over, "the end")
            found, progress = scene.figures(), scene.progress
    assert progress is not None
    assert {part.stage for part in progress.parts} == {Stage.CANCELLED} and len(progress.parts) == progress.of
    assert 0 < found["told"] <= progress.told < MEMBERS
    assert not found["told_twice"] and not found["others_told"]
