"""Waits: in the order in which they fall due, one an id, and gone when they are dropped."""

import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.timers import Clock
from tables import waits
from tables.waits import Wait
from tests.journeys.memory import MemoryRows

ids = st.binary(min_size=1, max_size=3)
moments = st.integers(0, 2**50)


@given(st.lists(st.tuples(ids, moments | st.none()), max_size=20))
def test_each_id_waits_once_and_the_next_due_stands_first(steps: list[tuple[bytes, int | None]]) -> None:
    rows, expected = MemoryRows(), dict[bytes, int]()
    for id_, due in steps:
        if due is None:
            assert waits.drop(rows, id_) == (id_ in expected)
            expected.pop(id_, None)
        else:
            waits.put(rows, id_, due, Wait("t", b"k", id_, 1))
            expected[id_] = due
    found = list(waits.read(rows.scan(waits.PREFIX)))
    assert [due for _, due, _ in found] == sorted(expected.values())
    assert {wait.value: due for _, due, wait in found} == expected
    assert {id_: waits.find(rows, id_) for id_, _ in steps} == {id_: expected.get(id_) for id_, _ in steps}
    assert len(rows) == 2 * len(expected)


def landed(at: int, kind: int = 1) -> SimpleNamespace:
    return SimpleNamespace(timestamp=at, timestamp_type=kind)


def test_the_clock_is_the_brokers_and_never_ahead_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    clock = Clock()
    clock.heard(landed(5_000))
    assert clock.now() == 5_000
    seconds[0] += 2.0
    assert clock.now() == 7_000
    clock.heard(landed(6_400))  # an answer that took long: the earlier one knew better
    assert clock.now() == 7_000
    clock.heard(landed(7_300))
    assert clock.now() == 7_300


def test_a_time_that_a_producer_stamped_says_nothing_of_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 9_000_000_000)
    clock = Clock()
    clock.heard(landed(5, kind=0))
    assert clock.now() == 9_000
