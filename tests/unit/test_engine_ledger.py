"""The ledger of offsets: the first unfinished one is committed, in whatever order they end."""

import random

from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.ledger import OffsetLedger

offsets_with_gaps = st.lists(st.integers(0, 10_000), unique=True, max_size=60).map(sorted)


@given(offsets_with_gaps, st.randoms(use_true_random=False))
def test_the_offset_to_commit_is_the_first_unfinished_of_those_fetched(
    fetched: list[int], rnd: random.Random
) -> None:
    ledger = OffsetLedger()
    to_come, under_way, taken = list(fetched), list[int](), list[int]()
    while to_come or under_way:
        if to_come and (not under_way or rnd.random() < 0.5):
            offset = to_come.pop(0)
            ledger.took(offset)
            taken.append(offset)
            under_way.append(offset)
        else:
            ledger.done(under_way.pop(rnd.randrange(len(under_way))))
        unfinished = min(under_way, default=None)
        passed = [offset for offset in taken if unfinished is None or offset < unfinished]
        assert ledger.next == (passed[-1] + 1 if passed else None)
        assert ledger.span == (0 if unfinished is None else taken[-1] - unfinished)
    assert not ledger.finished
    assert not ledger.fetched
