"""What waits is served by rank: in order within one, and no one overtaken for ever."""

from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from agents.sending import RANKS
from pipeline.engine import queues
from pipeline.engine.queues import FIRST, LAST, MIDDLE, RANK_HEADER, RankedQueue, rank_kept, rank_of, ranked
from schemas.kinds import Priority

FAR = 10
ranks = st.sampled_from([FIRST, MIDDLE, MIDDLE, LAST])


def record(offset: int, rank: int) -> Any:
    headers = () if rank == MIDDLE else ((RANK_HEADER, b"%d" % rank),)
    return SimpleNamespace(offset=offset, rank=rank, headers=headers, value=b"12345")


@pytest.fixture(autouse=True, scope="module")
def near() -> Any:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(queues, "OVERTAKING", FAR)
        yield


@given(st.lists(st.lists(ranks, max_size=15) | st.integers(1, 9), max_size=30))
def test_the_first_rank_goes_first_in_order_and_nobody_is_left_far_behind(
    steps: list[list[int] | int],
) -> None:
    queue, waiting, offset = RankedQueue(TP("t", 0)), list[Any](), 0
    for step in [*steps, 10_000]:
        if isinstance(step, list):
            fetched = [record(offset + n, rank) for n, rank in enumerate(step)]
            offset += len(step)
            queue.offer(fetched)
            waiting += fetched
            continue
        for taken in (found := queue.take(step)):
            best = min(one.rank for one in waiting)
            first, oldest = next(one for one in waiting if one.rank == best), waiting[0]
            assert taken is (oldest if first.offset - oldest.offset > FAR else first)
            waiting.remove(taken)
        assert len(found) == step or not waiting
        assert (len(queue), queue.bytes) == (len(waiting), 5 * len(waiting))
    assert not waiting


def test_a_full_queue_counts_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "QUEUE_RECORDS", 10)
    queue = RankedQueue(TP("t", 0))
    queue.offer([record(n, n % 3) for n in range(11)])
    assert queue.is_full
    queue.clear()
    assert (len(queue), queue.bytes, queue.take(9)) == (0, 0, [])


@given(st.lists(ranks, max_size=12), st.integers(0, 12))
def test_what_is_put_back_comes_in_the_same_order(offered: list[int], some: int) -> None:
    whole, again = RankedQueue(TP("t", 0)), RankedQueue(TP("t", 0))
    for queue in (whole, again):
        queue.offer([record(n, rank) for n, rank in enumerate(offered)])
    again.put_back(again.take(some))
    assert [one.offset for one in again.take(99)] == [one.offset for one in whole.take(99)]


@given(st.lists(ranks, max_size=30))
def test_within_a_unit_the_ranks_follow_each_other_and_each_keeps_its_order(found: list[int]) -> None:
    records = [record(n, rank) for n, rank in enumerate(found)]
    assert [(one.rank, one.offset) for one in ranked(records)] == sorted(
        (one.rank, one.offset) for one in records
    )
    assert [one.offset for one in records] == list(range(len(found))), (
        "the unit's own bounds are as they were"
    )


def test_each_priority_has_its_rank_within_its_lane() -> None:
    told = {p: rank_of(SimpleNamespace(headers=RANKS[p] or ())) for p in Priority}
    assert told[Priority.CRITICAL] < told[Priority.HIGH]
    assert told[Priority.NORMAL] < told[Priority.LOW]
    assert RANKS[Priority.NORMAL] is None, "what there is most of costs nothing"


def test_a_rank_that_makes_no_sense_is_the_middle_and_only_the_rank_is_kept() -> None:
    for value in (b"", b"-1", b"7", b"first", None):
        assert rank_of(SimpleNamespace(headers=[("due", b"0"), (RANK_HEADER, value)])) == MIDDLE
    comes_again = SimpleNamespace(headers=[("due", b"0"), (RANK_HEADER, b"2"), ("told", b"1")])
    assert rank_kept(comes_again) == ((RANK_HEADER, b"2"),)
    assert rank_kept(SimpleNamespace(headers=())) == ()
