"""A unit reads its own writes, and starts over where a record makes the stage raise."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.unit import Unit

keys = st.sampled_from([b"a|1", b"a|2", b"a|3", b"ab|1", b"b|1"])
rows = st.dictionaries(keys, st.binary(max_size=2))


class FakeDb(dict[bytes, bytes]):
    """A database that knows of rocksdict what a unit asks."""

    def items(self, from_key: bytes = b"", read_opt: Any = None) -> Any:
        return [(key, value) for key, value in sorted(super().items()) if key >= from_key]


def unit_over(records: list[Any], db: dict[bytes, bytes] | None = None) -> Unit:
    return Unit("topic", 0, records, FakeDb(db or {}), {"out": 4, "dlq": 4})


@given(rows, st.lists(st.tuples(keys, st.none() | st.binary(max_size=2)), max_size=10))
def test_a_unit_sees_the_store_as_its_writes_will_leave_it(
    before: dict[bytes, bytes], writes: list[tuple[bytes, bytes | None]]
) -> None:
    unit, truth = unit_over([], before), dict(before)
    for key, value in writes:
        if value is None:
            unit.delete(key)
            truth.pop(key, None)
        else:
            unit.put(key, value)
            truth[key] = value
    assert {key: unit.get(key) for key in [b"a|1", b"a|2", b"a|3", b"ab|1", b"b|1"]} == {
        key: truth.get(key) for key in [b"a|1", b"a|2", b"a|3", b"ab|1", b"b|1"]
    }
    for prefix in (b"a|", b"a", b"b|", b"c"):
        assert list(unit.scan(prefix)) == sorted((k, v) for k, v in truth.items() if k.startswith(prefix))
    assert dict(unit.db) == before


@given(
    rows,
    st.lists(st.tuples(keys, st.none() | st.binary(max_size=2)), max_size=10),
    st.sampled_from([b"a|", b"ab|", b"b|", b"c|"]),
    st.sampled_from([b"", b"|", b"|1", b"|2", b"|11"]),
    st.integers(0, 4),
)
def test_a_page_is_a_piece_of_the_scan(
    before: dict[bytes, bytes],
    writes: list[tuple[bytes, bytes | None]],
    prefix: bytes,
    behind: bytes,
    limit: int,
) -> None:
    unit = unit_over([], before)
    for key, value in writes:
        unit.writes[key] = value
    after = prefix[:-1] + behind
    rest = [row for row in unit.scan(prefix) if row[0] > after]
    assert list(unit.page(prefix, after, limit)) == rest[:limit]


def test_a_page_reads_no_more_of_the_store_than_it_gives() -> None:
    asked: list[bytes] = []

    class Noting(FakeDb):
        def items(self, from_key: bytes = b"", read_opt: Any = None) -> Any:
            for row in super().items(from_key):
                asked.append(row[0])
                yield row

    unit = unit_over([])
    unit.db = Noting({b"u|%04d" % n: b"" for n in range(1_000)})
    assert [key for key, _ in unit.page(b"u|", b"u|0499", 3)] == [b"u|0500", b"u|0501", b"u|0502"]
    assert len(asked) <= 5


def decide(record: bytes, unit: Unit) -> None:
    unit.put(b"count", b"%d" % (int(unit.get(b"count") or 0) + 1))
    unit.put(b"row|" + record, b"")
    unit.outbox.add("out", record, record)
    if record.startswith(b"bad"):
        raise ValueError(record)


def reject(record: bytes, error: Exception, unit: Unit) -> None:
    unit.put(b"rejected|" + record, str(error).encode())
    unit.outbox.add("dlq", record, record, partition=2)


@given(st.lists(st.sampled_from([b"bad", b"bad2", b"good1", b"good2", b"good3"]), max_size=12))
def test_a_record_that_raises_leaves_nothing_but_its_rejection(records: list[bytes]) -> None:
    unit = unit_over(records)
    unit.run(decide, reject)
    good = [record for record in records if not record.startswith(b"bad")]
    bad = [record for record in records if record.startswith(b"bad")]
    expected = {b"row|" + record for record in good} | {b"rejected|" + record for record in bad}
    assert set(unit.writes) == expected | ({b"count"} if good else set())
    assert int(unit.writes.get(b"count") or 0) == len(good)
    assert unit.rejected == ["ValueError"] * len(bad)
    sent = [(batch.topic, key) for batch in unit.outbox.take() for key, _, _ in batch.records]
    assert sorted(sent) == sorted([("out", record) for record in good] + [("dlq", record) for record in bad])


def test_a_reject_that_raises_is_not_survived() -> None:
    def fail(record: bytes, error: Exception, unit: Unit) -> None:
        raise error

    with pytest.raises(ValueError, match="bad"):
        unit_over([b"good1", b"bad"]).run(decide, fail)
