"""Sweeping a store: every row is looked at once a pass, some at a time, and only what is past goes."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.catalogue import Catalogue
from pipeline.app import Roles, sweeps
from pipeline.engine import sweep as engine_sweep
from pipeline.engine.sweep import SLACK, SWEPT, Sweep, Sweeper
from pipeline.engine.unit import Unit
from pipeline.metrics import Metrics
from pipeline.settings import given as settings_of
from pipeline.topics import DAYS
from tables import caps, claims, effects, history, reports, stops, watches

NOW = 10**12
WINDOW = 1_000


class FakeDb(dict[bytes, bytes]):
    """Rows in a dict, read as RocksDB's are."""

    def items(self, *, from_key: bytes = b"", read_opt: Any = None) -> Any:
        return [(key, value) for key, value in sorted(super().items()) if key >= from_key]


def forget(unit: Unit, key: bytes, value: bytes, oldest: int) -> None:
    """Removes rows by the moment that they hold."""
    if int(value) < oldest:
        unit.delete(key)


def sweeper_of(db: Mapping[bytes, bytes], *tables: bytes) -> Sweeper:
    task: Any = SimpleNamespace(db=FakeDb(db))
    return Sweeper(task, [Sweep(table, forget, WINDOW) for table in tables])


def step(sweeper: Sweeper) -> tuple[set[bytes], bool]:
    """One step: what it removes, and whether it was the last one of the pass."""
    unit = Unit("", 0, [], sweeper.task.db, {})
    ended = sweeper.look(unit, NOW)
    for key in unit.writes:
        del sweeper.task.db[key]
    return set(unit.writes), ended


keys = st.builds(
    lambda table, n: b"%s|%03d" % (table, n), st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 20)
)


@given(st.dictionaries(keys, st.booleans()), st.integers(1, 7))
def test_a_pass_removes_all_that_is_past_and_nothing_else_however_it_is_cut(
    rows: dict[bytes, bool], most: int
) -> None:
    kept, past = NOW - WINDOW - SLACK, NOW - WINDOW - SLACK - 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_sweep, "STEP_ROWS", most)
        sweeper = sweeper_of(
            {key: b"%d" % (past if old else kept) for key, old in rows.items()}, b"c|", b"a|"
        )
        found, steps, ended = set[bytes](), 0, False
        while not ended:
            removed, ended = step(sweeper)
            assert len(removed) <= most
            found |= removed
            steps += 1
            assert steps <= len(rows) + 1
    assert found == {key for key, old in rows.items() if old and not key.startswith(b"b|")}


def test_a_pass_goes_on_where_another_sweeper_left_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_sweep, "STEP_ROWS", 2)
    db = {b"a|%d" % n: b"0" for n in range(5)}
    first = sweeper_of(db, b"a|", b"b|")
    step(first)
    resumed = sweeper_of({**db, SWEPT: first.place}, b"a|", b"b|")
    assert step(resumed) == ({b"a|2", b"a|3"}, False)


def test_a_row_that_cannot_be_read_is_left_and_holds_nothing_up() -> None:
    sweeper = sweeper_of({b"a|1": b"0", b"a|2": b"torn", b"a|3": b"0"}, b"a|")
    assert step(sweeper) == ({b"a|1", b"a|3"}, True)
    assert sweeper.unreadable == 1


def test_a_step_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_sweep, "STEP_SECONDS", 0.0)
    sweeper = sweeper_of({b"a|%03d" % n: b"0" for n in range(100)}, b"a|")
    removed, ended = step(sweeper)
    assert 0 < len(removed) < 100
    assert not ended


# -- the roles


def test_every_table_with_a_window_is_swept_by_the_role_that_keeps_it() -> None:
    roles = Roles(settings_of(), Catalogue(), Metrics())
    found = {
        (role, one.prefix): one.window / DAYS for role in roles.names() for one in roles.build(role).sweeps
    }
    channels = set(roles.names()) - {"core", "status"}
    assert found == {
        ("core", claims.PREFIX): 8, ("core", caps.PREFIX): 8, ("core", watches.PREFIX): 8,
        ("core", stops.CLOSED): 8,
        ("status", history.BY_USER): 30, ("status", history.MINUTES): 30, ("status", reports.PREFIX): 30,
        **{(role, effects.ATTEMPTS): 9 for role in channels},
        **{(role, stops.PREFIX): 30 for role in channels},
    }  # fmt: skip


def test_the_windows_are_those_of_the_settings() -> None:
    kept = settings_of(retention={"claims": 10, "attempts": 11, "history": 99}).retention
    assert {one.window / DAYS for role in ("core", "email", "status") for one in sweeps(role, kept)} == {
        10,
        11,
        30,
        99,
    }
    longer = settings_of(retention={"attempts": 31}).retention
    assert {one.window / DAYS for one in sweeps("email", longer)} == {31}
