"""What a task serves next and how much of it: ranks, fair shares, bounds and gates."""

import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine import app as engine_app
from pipeline.engine import queues
from pipeline.engine.queues import UNIT_BYTES, Queue
from pipeline.engine.task import FAIR_SHARE, Task, weight


def record(size: int = 10) -> Any:
    return SimpleNamespace(value=bytes(size), headers=())


def queue_of(*sizes: int) -> Queue:
    queue = Queue(TP("topic", 0))
    queue.offer([record(size) for size in sizes])
    return queue


def task_of(*topics: str, gates: tuple[str, ...] = ()) -> Task:
    app = SimpleNamespace(reads=list(topics), gates=set(gates))
    consumer: Any = SimpleNamespace(app=app, read={})
    return Task(consumer, 0, 1)


def fill(task: Task, *topics: str, count: int = 1_000) -> None:
    for topic in topics:
        task.by_topic[topic].offer([record()] * count)


def serve(task: Task) -> str:
    queue = task.next_queue()
    assert queue is not None
    queue.take(1)
    return str(queue.tp.topic)


# -- bounds


@given(st.lists(st.integers(0, UNIT_BYTES * 2), max_size=30), st.integers(1, 30))
def test_a_unit_is_bounded_by_records_and_by_bytes_but_takes_one_at_least(
    sizes: list[int], most: int
) -> None:
    queue, left = queue_of(*sizes), list(sizes)
    while left:
        taken = [len(r.value) for r in queue.take(most)]
        assert taken == left[: len(taken)]
        assert 1 <= len(taken) <= most
        assert sum(taken[:-1]) < UNIT_BYTES
        assert len(taken) == min(most, len(left)) or sum(taken) >= UNIT_BYTES
        left = left[len(taken) :]
        assert queue.bytes == sum(left)
    assert queue.take(most) == []


def test_what_is_put_back_comes_first_again() -> None:
    queue = queue_of(1, 2, 3, 4)
    taken = queue.take(3)
    queue.put_back(taken[1:])
    assert [len(r.value) for r in queue.take(9)] == [2, 3, 4]
    assert queue.bytes == 0


def test_a_queue_is_full_by_records_or_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "QUEUE_RECORDS", 10)
    monkeypatch.setattr(queues, "QUEUE_BYTES", 1_000)
    assert not queue_of(*[1] * 10).is_full
    assert queue_of(*[1] * 11).is_full
    assert queue_of(500, 501).is_full
    assert queue_of(*[1] * 4).is_half_empty
    assert not queue_of(*[1] * 5).is_half_empty
    assert not queue_of(500).is_half_empty


def test_rows_without_values_weigh_something_too() -> None:
    assert weight({b"k%d" % n: None for n in range(1_000)}) > 50_000


# -- ranks


@pytest.mark.parametrize("lower", range(1, FAIR_SHARE))
def test_each_lower_topic_gets_a_unit_in_ten_and_the_highest_the_rest(lower: int) -> None:
    topics = [f"t{n}" for n in range(lower + 1)]
    task = task_of(*topics)
    fill(task, *topics)
    served = [serve(task) for _ in range(500)]
    for topic in topics[1:]:
        turns = [-1, *[n for n, name in enumerate(served) if name == topic], 500]
        gaps = [later - sooner for sooner, later in pairwise(turns)]
        assert max(gaps) <= FAIR_SHARE
    assert served.count("t0") >= 500 * (1 - lower / 7)


@given(st.lists(st.sampled_from(["high", "middle", "low", "serve", "serve", "serve"]), max_size=300))
def test_a_topic_that_waits_is_passed_over_nine_times_at_the_most(steps: list[str]) -> None:
    task = task_of("high", "middle", "low")
    passed = dict.fromkeys(("high", "middle", "low"), 0)
    for step in steps:
        if step != "serve":
            fill(task, step, count=3)
        elif any(queue.records for queue in task.queues):
            waiting = [queue.tp.topic for queue in task.queues if queue.records]
            chosen = serve(task)
            assert chosen in waiting
            for topic in waiting:
                passed[topic] = 0 if topic == chosen else passed[topic] + 1
            assert max(passed["middle"], passed["low"]) < FAIR_SHARE


def test_nothing_is_served_where_nothing_waits() -> None:
    assert task_of("high", "low").next_queue() is None


# -- gates


def gated() -> Task:
    task = task_of("events", "users", gates=("users",))
    task.gates = {TP("users", 0): 7}
    fill(task, "events", count=5)
    return task


def test_a_gate_stays_shut_until_its_topic_was_read_to_its_end() -> None:
    task = gated()
    assert task.next_queue() is None, "its position is not known yet"
    task.consumer.read[TP("users", 0)] = 6
    assert task.next_queue() is None
    fill(task, "users", count=2)
    task.consumer.read[TP("users", 0)] = 7
    assert [serve(task), serve(task)] == ["users", "users"], "read is not decided"
    assert serve(task) == "events"


def test_a_gate_stays_open_whatever_comes_later() -> None:
    task = gated()
    task.consumer.read[TP("users", 0)] = 7
    assert serve(task) == "events"
    fill(task, "users")
    assert serve(task) == "events"


# -- units


def test_units_are_short_for_a_while_after_an_urgent_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seconds = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    app = engine_app.UnitApp(
        "role",
        bootstrap_servers="127.0.0.1:1",
        partitions=1,
        topics={},
        state_dir=tmp_path,
        unit_seconds=0.02,
    )
    app.stage("urgent", "express", decide=lambda *_: None, reject=lambda *_: None, urgent=True)
    app.stage("other", "plain", decide=lambda *_: None, reject=lambda *_: None)
    assert app.unit_budget("plain") == 0.02
    assert app.unit_budget("express") == 0.02
    seconds[0] += 0.9 * engine_app.URGENT_SECONDS
    assert app.unit_budget("plain") == 0.02 / engine_app.SHORT
    seconds[0] += 0.2 * engine_app.URGENT_SECONDS
    assert app.unit_budget("plain") == 0.02
