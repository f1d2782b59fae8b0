"""Numbers, marks and doubts, of a worker that dies at every place and a group that is rewound at will."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.progress import Progress

RECORDS = 12

steps = st.lists(
    st.one_of(
        st.tuples(st.just("unit"), st.integers(1, 5)),
        st.tuples(
            st.sampled_from(["die after changelog", "die after outputs", "die after store"]),
            st.integers(1, 5),
        ),
        st.tuples(st.sampled_from(["commit", "idle", "restart"]), st.just(0)),
        st.tuples(st.just("rewind"), st.integers(0, RECORDS)),
        st.tuples(st.just("mend"), st.integers(0, RECORDS - 1)),
    ),
    max_size=40,
)


class Died(Exception):
    """The worker was killed."""


class Model:
    """One topic of one task: a changelog, outputs and a committed offset that outlive the worker.

    Records divisible by four are decided without a row, as are those that a stage ignores; a mended one is
    decided afresh, under a new number, when it comes up again. Outputs are known by record and number.
    """

    def __init__(self) -> None:
        self.store: dict[bytes, bytes] = {}
        self.claims: dict[int, int] = {}
        self.outputs: Counter[tuple[int, int]] = Counter()
        self.doubted: set[tuple[int, int]] = set()
        self.committed = 0
        self.restart()

    def restart(self) -> None:
        self.position = self.done = self.committed
        self.progress = Progress("topic", self.store)

    def rewind(self, offset: int) -> None:
        self.committed = offset
        self.restart()

    def idle(self) -> None:
        if self.progress.mark != self.progress.kept_mark:
            self.store[self.progress.mark_key] = b"%d" % self.progress.mark
            self.progress.kept_mark = self.progress.mark

    def unit(self, size: int, death: str = "") -> None:
        records = range(self.position, min(RECORDS, self.position + size))
        if not records:
            return
        number, mark, last = self.progress.number + 1, self.progress.mark, records[-1]
        writes: dict[int, int] = {}
        outputs: list[tuple[int, int]] = []
        for record in records:
            if record % 4 == 0:
                continue
            if record not in self.claims:
                writes[record] = number
                outputs.append((record, number))
            elif self.claims[record] > mark:
                outputs.append((record, self.claims[record]))
        if writes:
            self.claims.update(writes)
            self.store.update(self.progress.rows(last))
        if death:
            self.doubted.update(outputs)
        if death == "die after changelog":
            raise Died
        self.outputs.update(outputs)
        if death:
            raise Died
        self.progress.finished(last, wrote=bool(writes))
        self.position = self.done = last + 1

    def step(self, name: str, number: int) -> None:
        try:
            match name:
                case "unit":
                    self.unit(number)
                case "commit":
                    self.committed = self.done
                case "idle":
                    self.idle()
                case "mend":
                    self.claims.pop(number, None)
                case "restart":
                    self.doubted.update(self.last_unit())
                    self.restart()
                case "rewind":
                    self.doubted.update(self.last_unit())
                    self.rewind(min(number, self.committed))
                case death:
                    self.unit(number, death)
        except Died:
            self.doubted.update(self.last_unit())
            self.restart()

    def last_unit(self) -> set[tuple[int, int]]:
        """What the store says may not be out: the mark of the last unit travels with the next one."""
        mark = int(self.store.get(self.progress.mark_key) or 0)
        return {(record, number) for record, number in self.claims.items() if number > mark}

    def finish(self) -> None:
        while self.position < RECORDS:
            self.unit(3)
        self.idle()
        self.committed = self.done


@settings(max_examples=200)
@given(steps)
def test_nothing_is_lost_and_only_what_was_in_doubt_goes_out_again(ways: list[tuple[str, int]]) -> None:
    model = Model()
    for name, number in ways:
        model.step(name, number)
    model.step("restart", 0)
    model.finish()
    assert set(model.claims.items()) <= set(model.outputs)
    assert {output for output, times in model.outputs.items() if times > 1} <= model.doubted


@settings(max_examples=200)
@given(steps)
def test_a_rewind_after_all_is_done_and_marked_emits_nothing(ways: list[tuple[str, int]]) -> None:
    model = Model()
    for name, number in ways:
        model.step(name, number)
    model.rewind(0)
    model.finish()
    before = model.outputs.copy()
    assert {record for record, _ in before} == {record for record in range(RECORDS) if record % 4}
    assert set(model.claims.items()) <= set(before)
    model.rewind(0)
    model.finish()
    assert model.outputs == before
