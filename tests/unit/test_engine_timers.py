"""Timers over a real store: each wait is published once, when it is due, whatever was removed around it."""

import asyncio
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import rocksdict
from hypothesis import given, settings
from hypothesis import strategies as st
from rocksdict import WriteBatch

from pipeline.engine import timers
from pipeline.engine.store import options, scan
from pipeline.engine.timers import Timers
from tables import waits
from tables.waits import Wait
from tests.journeys.memory import MemoryRows


class FakeTask:
    """A task's store and clock; what is published stands in a list until it is read."""

    number, epoch = 0, 1

    def __init__(self, path: Path) -> None:
        self.db: Any = rocksdict.Rdict(str(path), options())
        self.app = SimpleNamespace(topic_partitions={"t": 1})
        self.consumer = SimpleNamespace(done={}, kept={})
        self.time = 0
        self.clock = SimpleNamespace(now=lambda: self.time)
        self.published: list[tuple[bytes, int]] = []
        #: the rows as they should be
        self.rows = MemoryRows()
        self.timers: Any = Timers(self, {})  # type: ignore[arg-type]

    async def deliver(self, batches: list[Any]) -> None:
        for batch in batches:
            for _, value, headers in batch.records:
                self.published.append((value, int(dict(headers)["due"])))

    def write(self, change: Any) -> None:
        """Does one unit's changes, in memory and in the store."""
        before = dict(self.rows)
        change(self.rows)
        changes = {
            k: self.rows.get(k) for k in before.keys() | self.rows.keys() if before.get(k) != self.rows.get(k)
        }
        batch = WriteBatch(raw_mode=True)
        for key, value in changes.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        self.db.write(batch)
        self.timers.wrote(changes)

    def read(self) -> list[bytes]:
        """Reads what was published: each row that is still as the record says is dropped."""
        found = []
        for id_, due in self.published:
            if waits.find(self.rows, id_) == due:
                self.write(lambda rows, id_=id_: waits.drop(rows, id_))
                found.append(id_)
        self.published.clear()
        return found


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 9), st.integers(-3, 12)),
        st.tuples(st.just("drop"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("pass"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("read"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_every_wait_comes_up_when_it_is_due_and_none_is_swept_away(steps: list[tuple[str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patched:
        patched.setattr(timers, "SWEEP", 1)
        task = FakeTask(Path(directory) / "db")
        try:
            for what, number, after in [*steps, ("read", 0, 0), ("pass", 20, 0), ("read", 0, 0)]:
                id_ = b"%d" % number
                if what == "put":
                    due = max(0, task.time + after)
                    task.write(
                        lambda rows, due=due, id_=id_: waits.put(rows, id_, due, Wait("t", b"k", id_, 1))
                    )
                elif what == "drop":
                    task.write(lambda rows, id_=id_: waits.drop(rows, id_))
                elif what == "pass":
                    task.time += number
                else:
                    task.read()
                while task.timers.are_due:
                    asyncio.run(task.timers.fire())
                published = set(task.published)
                for row, due, wait in waits.read(task.rows.scan(waits.PREFIX)):
                    assert ((wait.value, due) in published) == (due <= task.time), row
                assert len(published) == len(task.published), "published twice"
                assert dict(scan(task.db, waits.PREFIX)) == dict(task.rows.scan(waits.PREFIX))
            assert not list(task.rows.scan(waits.PREFIX))
        finally:
            task.db.close()


def test_what_is_gone_is_swept_and_nothing_that_is_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers, "SWEEP", 10)
    task = FakeTask(tmp_path / "db")
    swept: list[bytes] = []
    real, sweep = task.db, task.db.delete_range

    class Noting:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def delete_range(self, begin: bytes, end: bytes) -> None:
            swept.append(end)
            sweep(begin, end)

    task.db = Noting()
    for n in range(30):
        id_ = b"%02d" % n
        task.write(lambda rows, id_=id_, n=n: waits.put(rows, id_, 100 + n, Wait("t", b"k", id_, 1)))
    task.time = 119
    asyncio.run(task.timers.fire())
    task.published.pop(0)  # still on its way
    assert len(task.read()) == 19
    assert swept == [waits.key(100, b"00")]
    assert [waits.due_of(key) for key, _ in scan(real, waits.PREFIX)] == [100, *range(120, 130)]
    real.close()
