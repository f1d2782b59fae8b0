"""What the engine makes of heartbeats, of generations and of changelogs whose end holds no records."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from pipeline.engine import internals
from pipeline.engine import task as engine_task
from pipeline.engine.task import Abandoned, Task

LOG = TP("changelog", 0)


def consumer_with(coordinator: Any) -> Any:
    return SimpleNamespace(_thread=SimpleNamespace(_consumer=SimpleNamespace(_coordinator=coordinator)))


async def test_a_heartbeat_counts_from_its_sending_and_only_if_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, answers = [100.0], iter([True, False])

    class Coordinator:
        async def _do_heartbeat(self) -> bool:
            now[0] += 30  # frozen while the answer was on its way
            return next(answers)

    monkeypatch.setattr(internals, "time", SimpleNamespace(monotonic=lambda: now[0]))
    coordinator: Any = Coordinator()
    consumer = consumer_with(coordinator)
    assert internals.watch_heartbeat(consumer).last_heartbeat == 100.0
    now[0] = 200.0
    assert await coordinator._do_heartbeat()
    assert internals.watch_heartbeat(consumer).last_heartbeat == 200.0
    assert not await coordinator._do_heartbeat()
    assert internals.watch_heartbeat(consumer).last_heartbeat == 200.0


@pytest.mark.parametrize(
    ("position", "offset", "restored"),
    [(None, 3, 3), (9, 3, 3), (10, 3, 9), (10, -1, 9), (12, 8, 9), (10, 9, 9)],
)
def test_a_changelog_is_read_when_the_position_has_passed_its_end(
    monkeypatch: pytest.MonkeyPatch, position: int | None, offset: int, restored: int
) -> None:
    monkeypatch.setattr(internals, "position", lambda consumer, tp: position)
    recovery: Any = SimpleNamespace(
        active_offsets=Counter({LOG: offset}),
        active_highwaters=Counter({LOG: 9}),
        in_recovery=True,
        signal_recovery_end=asyncio.Event(),
    )
    recovery.need_recovery = lambda: recovery.active_offsets[LOG] < 9
    recovery._set_recovery_ended = lambda: setattr(recovery, "in_recovery", False)
    internals.note_emptiness(None, recovery)
    assert recovery.active_offsets[LOG] == restored
    assert recovery.signal_recovery_end.is_set() is (restored == 9 and offset < 9)


def task_with(*, generation: int, heartbeat_age: float, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setattr(engine_task, "time", SimpleNamespace(monotonic=lambda: 100.0))
    conf = SimpleNamespace(broker_session_timeout=10.0)
    app = SimpleNamespace(reads=[], gates=set(), consumer_generation_id=generation, conf=conf)
    consumer: Any = SimpleNamespace(app=app, heartbeat_at=lambda: 100.0 - heartbeat_age)
    return Task(consumer, 0, 7)


def test_a_task_owns_its_partition_while_its_generation_holds_and_a_heartbeat_is_fresh(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task_with(generation=7, heartbeat_age=4.9, monkeypatch=monkeypatch).own()
    with pytest.raises(Abandoned, match=r"no heartbeat for 5\.1 s"):
        task_with(generation=7, heartbeat_age=5.1, monkeypatch=monkeypatch).own()
    with pytest.raises(Abandoned, match="generation"):
        task_with(generation=8, heartbeat_age=0.0, monkeypatch=monkeypatch).own()


async def test_a_task_that_was_closed_owns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_with(generation=7, heartbeat_age=0.0, monkeypatch=monkeypatch)
    await task.close()
    with pytest.raises(Abandoned):
        task.own()
