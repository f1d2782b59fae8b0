"""What a role remembers: one RocksDB a partition behind one Faust table, restored from one changelog."""

import gc
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import faust
import rocksdict
from faust.stores.rocksdb import Store as RocksDBStore
from faust.types import TP
from rocksdict import WriteBatch

from pipeline.engine.failpoint import failpoint
from pipeline.engine.internals import note_restored

log = logging.getLogger(__name__)

OFFSET_KEY: bytes = RocksDBStore.offset_key
OWN = b"\0"
"""Keys that begin so belong to the engine; a stage's keys begin with a letter."""
EPOCH_KEY = OWN + b"epoch"
HIDDEN = OWN + b"hidden|"
"""Local only: keys that a zombie's batch overwrote in the changelog, to be written there again."""
EPOCH_HEADER = "e"

WRITE_BUFFER, WRITE_BUFFERS = 8 << 20, 256 << 20
"""Of one database; of all."""
CACHE = 256 << 20
OPEN_FILES = 64

write_buffers = rocksdict.WriteBufferManager(WRITE_BUFFERS, False)
cache = rocksdict.Cache(CACHE)


def options() -> Any:
    """RocksDB's options: every database of the process shares one write-buffer budget and one cache."""
    found = rocksdict.Options(raw_mode=True)
    found.create_if_missing(True)
    found.set_max_open_files(OPEN_FILES)
    found.set_write_buffer_size(WRITE_BUFFER)
    found.set_write_buffer_manager(write_buffers)
    found.set_memtable_prefix_bloom_ratio(0.05)
    found.set_memtable_whole_key_filtering(True)  # most claims are of ids that are not there yet
    found.set_keep_log_file_num(2)
    found.set_max_log_file_size(4 << 20)
    blocks = rocksdict.BlockBasedOptions()
    blocks.set_bloom_filter(10, block_based=False)
    blocks.set_block_cache(cache)
    blocks.set_cache_index_and_filter_blocks(True)
    found.set_block_based_table_factory(blocks)
    return found


def open_database(path: str) -> Any:
    """Opens a database, or makes it, with `options()`. Raises what RocksDB does."""
    # without column_families, rocksdict would open one that is there as it was made, and with its own cache
    return rocksdict.Rdict(path, options(), column_families={"default": options()})


class StoreBroken(Exception):
    """A database that cannot be read or written as it should: no record is to blame."""


def is_corruption(error: Exception) -> bool:
    """Whether the files themselves are broken; RocksDB tells it by its message alone."""
    return "Corruption" in str(error)


class Store(RocksDBStore):  # type: ignore[misc]
    """Faust's RocksDB store with shared budgets, explicit closing and restores by whole batches."""

    def _open_for_partition(self, partition: int) -> Any:
        path = self.partition_path(partition)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return open_database(str(path))
        except Exception as error:
            if not is_corruption(error):
                raise
            self.quarantine(partition, error)
            return open_database(str(path))

    def persisted_offset(self, tp: TP) -> int | None:
        try:
            found: int | None = super().persisted_offset(tp)
        except Exception as error:
            if not is_corruption(error):
                raise
            self.quarantine(tp.partition, error)
            return None
        return found

    def quarantine(self, partition: int, error: Exception) -> None:
        """Puts a database aside whose files are broken; the changelog has all that was in it."""
        if (db := self._dbs.pop(partition, None)) is not None:
            db.close()
        path = self.partition_path(partition)
        aside = path.with_name(path.name + ".broken")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        log.error("%s is broken and was put aside, to be restored from the changelog: %s", path, error)

    def db(self, partition: int) -> Any:
        """The database of a partition, opened if need be."""
        return self._db_for_partition(partition)

    def opened(self) -> Mapping[int, Any]:
        """The databases that are open now, by partition."""
        return dict(self._dbs)

    def revoke_partitions(self, table: Any, tps: set[TP]) -> None:
        for tp in tps:
            if tp.topic in table.changelog_topic.topics and (db := self._dbs.pop(tp.partition, None)):
                db.close()

    async def stop(self) -> None:
        while self._dbs:
            self._dbs.popitem()[1].close()
        gc.collect()


class StoreTable(faust.Table):  # type: ignore[misc]
    """The one table of an App; our tables are key prefixes in it."""

    def _new_store(self) -> Store:
        return Store(self.app.conf.store, self.app, self, table_name=self.name, loop=self.loop)


class Recent:
    """A database whose rows that were read lately are in memory: users, counters and histories come again.

    A task's alone: nobody else writes what it holds.
    """

    ROWS, ROW_BYTES = 8_192, 1_024

    __slots__ = ("db", "rows")

    def __init__(self, db: Any) -> None:
        self.db, self.rows = db, dict[bytes, bytes]()

    def get(self, key: bytes) -> bytes | None:
        """The row of a key, or None."""
        found: bytes | None = self.rows.get(key)
        if found is None:
            try:
                found = self.db.get(key)
            except Exception as error:
                raise StoreBroken(str(error)) from error
            if found is not None and len(found) <= self.ROW_BYTES:
                if len(self.rows) >= self.ROWS:
                    self.rows.clear()
                self.rows[key] = found
        return found

    def items(self, **bounds: Any) -> Any:
        """The rows in key order."""
        return self.db.items(**bounds)

    def wrote(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Follows what was written to the database."""
        for key in self.rows.keys() & changes.keys():
            value = changes[key]
            if value is None:
                del self.rows[key]
            else:
                self.rows[key] = value


def read_number(db: Any, key: bytes) -> int:
    """The decimal number of a row, 0 where there is none."""
    return int(db.get(key) or 0)


COLD = rocksdict.ReadOptions()
"""For scans of what nobody is about to read: it would push what is read out of the cache."""
COLD.fill_cache(False)


def scan(
    db: Any, prefix: bytes, *, after: bytes | None = None, options: Any = None
) -> Iterator[tuple[bytes, bytes]]:
    """The rows whose keys begin with `prefix`, in key order; `after` is a key to go on behind."""
    items = db.items(from_key=after or prefix, **({"read_opt": options} if options else {}))
    for key, value in items:
        if not key.startswith(prefix):
            return
        if key != after:
            yield key, value


def epoch_of(record: Any) -> int:
    """The epoch of the owner that wrote a changelog record."""
    for name, value in record.headers:
        if name == EPOCH_HEADER:
            return int(value)
    return 0


def restore(recovery: Any, tp: TP, records: list[Any], count_hidden: Callable[[int], None]) -> None:
    """Writes a fetched piece of a changelog into RocksDB, whole, together with its last offset.

    Records of an epoch lower than one already seen are a zombie's: they are left out, and their keys
    are noted so that the owner writes their true values again (compaction would keep the zombie's).
    """
    db = recovery.tp_to_table[tp].data.db(tp.partition)
    epoch, writes, hidden = read_number(db, EPOCH_KEY), WriteBatch(raw_mode=True), 0
    put, found, seen = writes.put, 0, None
    for record in records:
        if (headers := record.headers) != seen:  # as a rule they are the same all the way: reading them costs
            found, seen = epoch_of(record), headers
        if found < epoch:
            put(HIDDEN + record.key, b"")
            hidden += 1
            continue
        epoch = found
        if record.value is None:
            writes.delete(record.key)
        else:
            put(record.key, record.value)
    writes.put(EPOCH_KEY, b"%d" % epoch)
    writes.put(OFFSET_KEY, b"%d" % records[-1].offset)
    failpoint("recovery.batch")
    db.write(writes)
    if hidden:
        count_hidden(hidden)
    note_restored(recovery, tp, records[-1].offset)
