"""What a task that calls admits next: within its bounds, and past a topic that waits for a slow call."""

from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from pipeline.engine import effects, queues
from pipeline.engine.effects import Call, EffectTask
from pipeline.engine.store import Recent
from pipeline.engine.task import IDLE_SECONDS


def task_of(*topics: str, window: int = 8) -> EffectTask:
    stage = SimpleNamespace(
        window=window,
        parallel=1_000,
        room=1_000,
        identify=lambda record: Call(record.value, record.key, record.value, record),
    )
    app = SimpleNamespace(reads=list(topics), gates=set(), effects=stage)
    consumer: Any = SimpleNamespace(app=app, read={}, tasks={0: None}, resume=lambda tp: None, done={})
    task = EffectTask(consumer, 0, 1)
    task.recent = Recent({})
    return task


def offer(task: EffectTask, topic: str, offsets: range, *, size: int = 1, rank: int = 1) -> None:
    task.offer(
        TP(topic, 0),
        [
            SimpleNamespace(
                topic=topic,
                partition=0,
                offset=offset,
                key=b"%s%d" % (topic.encode(), offset),
                value=b"%s%d" % (topic.encode(), offset) + bytes(size),
                headers=[(queues.RANK_HEADER, b"%d" % rank)],
            )
            for offset in offsets
        ],
    )


def admit(task: EffectTask) -> list[Call[Any]]:
    rejected: list[Any] = []
    admitted = task.take(rejected)
    assert not rejected
    return admitted


def test_a_topic_far_ahead_of_its_slow_call_lets_the_others_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "SPAN", 10)
    task = task_of("express", "plain", window=4)
    offer(task, "express", range(100))
    slow, *others = admit(task)
    while others:  # all but the first end, until the topic is as far ahead as it may be
        for call in others:
            task.close_effect(call)
        others = admit(task)
    assert 10 < task.ledgers[task.by_topic["express"].tp].span <= 14
    offer(task, "plain", range(3))
    assert {call.record.topic for call in admit(task)} == {"plain"}
    task.close_effect(slow)
    assert "express" in {call.record.topic for call in admit(task)}


def test_what_waits_for_one_busy_user_is_bounded_by_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "HELD_BYTES", 10_000)
    task = task_of("in", window=10)
    offer(task, "in", range(100), size=1_000)
    for record in task.by_topic["in"].records:
        record.key = b"busy"
    assert len(admit(task)) == 1
    assert 10_000 < task.held_bytes < 10_000 + 10 * 1_100
    assert task.held_bytes + task.by_topic["in"].bytes == sum(len(b"in%d" % n) + 1_000 for n in range(100))


def test_what_was_held_is_let_go_with_its_effect() -> None:
    task = task_of("in")
    offer(task, "in", range(8), size=100)
    admitted = admit(task)
    assert task.held_bytes > 800
    for call in admitted:
        task.close_effect(call)
    assert (task.held, task.held_bytes, task.turns) == (0, 0, set())
    assert list(task.consumer.done.values()) == [8]


# -- ranks


def test_a_queue_overtakes_less_than_a_task_runs_ahead() -> None:
    assert queues.OVERTAKING < effects.SPAN


def test_what_is_overtaken_comes_up_although_the_others_go_on_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(effects, "SPAN", 40)
    monkeypatch.setattr(queues, "OVERTAKING", 20)
    task = task_of("in", window=2)
    offer(task, "in", range(1), rank=2)
    called = []
    for offset in range(1, 400, 5):
        offer(task, "in", range(offset, offset + 5), rank=0)
        for call in admit(task):
            called.append(call.record.offset)
            task.close_effect(call)
    assert 20 <= called.index(0) <= 22
    assert called == sorted(called[: called.index(0)]) + sorted(called[called.index(0) :])
    assert task.consumer.done[TP("in", 0)] == max(called) + 1, "nothing is left behind, and it did not stop"


def test_what_still_waits_in_the_queue_is_not_committed() -> None:
    task = task_of("in", window=2)
    offer(task, "in", range(3), rank=2)
    offer(task, "in", range(3, 5), rank=0)
    for call in admit(task):
        assert call.record.offset in (3, 4)
        task.close_effect(call)
    assert not task.consumer.done
    for expected in (2, 5):
        for call in admit(task):
            task.close_effect(call)
        assert task.consumer.done == {TP("in", 0): expected}


@pytest.mark.parametrize(
    ("room", "ready_in", "seconds"),
    [(3, 0.0, IDLE_SECONDS), (0, 0.0, IDLE_SECONDS), (0, 0.02, 0.02), (0, 9.0, 9.0)],
)
def test_an_idle_task_does_not_spin_and_one_that_waits_for_a_token_comes_in_time(
    room: int, ready_in: float, seconds: float
) -> None:
    task = task_of("in")
    task.stage.room, task.stage.ready_in = room, ready_in  # type: ignore[misc]
    assert task.pause == seconds


def test_at_an_assignment_the_first_topic_is_read_to_its_end_before_the_others() -> None:
    task = task_of("express", "plain")
    task.gates = {TP("express", 0): 3}
    task.app.gates = {"express"}
    offer(task, "plain", range(4))
    task.consumer.read = {TP("express", 0): 0}
    assert admit(task) == []
    offer(task, "express", range(3))
    task.consumer.read = {TP("express", 0): 3}
    assert [call.record.topic for call in admit(task)] == ["express"] * 3 + ["plain"] * 4


def test_the_first_topic_does_not_keep_the_others_where_it_waits_itself_for_a_slow_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(effects, "SPAN", 2)
    task = task_of("express", "plain", window=3)
    task.gates, task.consumer.read = {TP("express", 0): 9}, {TP("express", 0): 9}
    task.app.gates = {"express"}
    offer(task, "express", range(9))
    offer(task, "plain", range(1))
    _, *others = admit(task)
    admitted = [*others]
    while others and others[-1].record.topic == "express":
        for call in others:
            task.close_effect(call)
        others = admit(task)
        admitted += others
    assert [call.record.topic for call in admitted].count("plain") == 1
    assert len(task.by_topic["express"]) > 0


async def test_what_is_reserved_for_a_call_is_let_go_however_the_call_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where it is cancelled before its first step, and where the unit that admitted it does not land."""
    task, dropped = task_of("in"), list[bytes]()
    task.stage.drop = lambda call: dropped.append(call.effect)  # type: ignore[method-assign]
    offer(task, "in", range(3))
    first, *_ = admit(task)
    task.begin(first)
    await task.cut_off()
    assert dropped == [first.effect]

    async def broken(self: EffectTask, admitting: Any, rejected: Any) -> None:
        raise RuntimeError("the unit does not land")

    monkeypatch.setattr(EffectTask, "may_take", True)
    monkeypatch.setattr(EffectTask, "commit", broken)
    offer(task, "in", range(3, 5))
    with pytest.raises(RuntimeError):
        await task.turn()
    assert len(dropped) == 3
