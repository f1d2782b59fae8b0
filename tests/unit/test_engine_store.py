"""The store: every database of the process draws on the same budgets, however often it is opened."""

from pathlib import Path

import pytest

from pipeline.engine import store

MIB = 1 << 20


def cache_of(path: Path) -> int:
    """The bytes that a database may cache, as it says once it is open."""
    db = store.open_database(str(path))
    found: int = db.property_int_value("rocksdb.block-cache-capacity")
    db.close()
    return found


def test_a_database_that_was_there_shares_the_cache_as_a_new_one_does(tmp_path: Path) -> None:
    assert [cache_of(tmp_path / "db") for _ in range(2)] == [store.CACHE] * 2


def test_databases_count_against_one_budget_of_writes(tmp_path: Path) -> None:
    before = store.write_buffers.get_usage()
    dbs = [store.open_database(str(tmp_path / name)) for name in "ab"]
    for db in dbs:
        for n in range(1_000):
            db.put(b"%d" % n, bytes(1_000))
    both = store.write_buffers.get_usage() - before
    for db in dbs:
        db.close()
    assert both >= 2 * MIB


def test_a_database_that_was_there_follows_a_changed_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.open_database(str(tmp_path)).close()
    monkeypatch.setattr(store, "WRITE_BUFFER", MIB)
    db = store.open_database(str(tmp_path))
    for n in range(5_000):
        db.put(b"%d" % n, bytes(1_000))
    held = db.property_int_value("rocksdb.cur-size-all-mem-tables")
    db.close()
    assert held <= 3 * MIB  # one is written to, one on its way to a file
