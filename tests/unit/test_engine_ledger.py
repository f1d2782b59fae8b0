"""The ledger of offsets: the first unfinished one is committed, in whatever order they are taken and end."""

import random

from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.ledger import OffsetLedger

offsets_with_gaps = st.lists(st.integers(0, 10_000), unique=True, max_size=60).map(sorted)


@given(offsets_with_gaps, st.randoms(use_true_random=False))
def test_the_offset_to_commit_is_the_first_unfinished_of_those_fetched(
    offsets: list[int], rnd: random.Random
) -> None:
    ledger = OffsetLedger()
    to_come, waiting, under_way = list(offsets), list[int](), list[int]()
    seen, taken = list[int](), list[int]()
    while to_come or waiting or under_way:
        step = rnd.choice(
            [name for name, some in (("fetch", to_come), ("take", waiting), ("end", under_way)) if some]
        )
        if step == "fetch":
            fetched = [to_come.pop(0) for _ in range(rnd.randint(1, len(to_come)))]
            ledger.fetched(fetched)
            waiting += fetched
            seen += fetched
        elif step == "take":
            under_way.append(waiting.pop(rnd.randrange(len(waiting))))
            ledger.took(under_way[-1])
            taken.append(under_way[-1])
        else:
            ledger.done(under_way.pop(rnd.randrange(len(under_way))))
        unfinished = min(waiting + under_way, default=None)
        passed = [offset for offset in seen if unfinished is None or offset < unfinished]
        assert ledger.next == (passed[-1] + 1 if passed else None)
        assert ledger.span == (0 if unfinished is None else max(0, max(taken, default=0) - unfinished))
    assert not ledger.finished
    assert not ledger.unfinished
