"""The rows of every table, for operators: found, and read page by page over the open partitions.

Reading happens in a thread, some rows at a time: what reads a database holds it open, and an engine that
gives a partition up, and takes it again, must not find it so.
"""

import asyncio
import binascii
import heapq
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from rocksdict import DbClosedError

from pipeline.topics import ROLES
from pipeline.web.views import Held, NotHeld, SeekableRows
from tables.layout import BY_NAME, LAYOUTS, Keeper, Layout

AT_ONCE = 100
"""Rows that are read while a database is held: a fraction of a millisecond."""
MOST_LOOKED_AT = 5_000
MOST_BYTES = 1 << 20
"""What one page looks at, and what it carries; it always carries one row."""
READERS = 2


class NoSuchTable(Exception):
    """There is no table of that name."""


class NoSuchRole(Exception):
    """There is no role of that name, or it keeps no such table."""


class BadCursor(ValueError):
    """What was given is no cursor of ours."""


class Place(NamedTuple):
    """Where a row stands. Rows are in this order."""

    key: bytes
    role: str
    partition: int


@dataclass(frozen=True)
class Row:
    """One row as it is shown. `also_in` are other places of the same key, as `role-partition`."""

    key: str
    role: str
    partition: int
    value: Any
    also_in: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """Some rows of a table. `cursor` asks for those behind; None: there are none."""

    rows: list[Row]
    cursor: str | None
    open: int
    of: int


@dataclass(frozen=True)
class Kept:
    """A table as one role of this process keeps it; `open` of its partitions can be read, `of` in all."""

    layout: Layout
    role: str
    open: int
    of: int


@dataclass
class Tables:
    """Every table of the roles in this process; `held` gives, by role, what can be read now."""

    held: Callable[[], Mapping[str, Held]]
    _readers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(READERS))

    def kept(self) -> list[Kept]:
        """The tables, role by role."""
        return [
            Kept(layout, role, len(held.rows), held.of)
            for role, held in self.held().items()
            for layout in LAYOUTS
            if keeps(role, layout)
        ]

    def layout(self, name: str) -> Layout:
        """The layout of a table. Raises NoSuchTable."""
        if name not in BY_NAME:
            raise NoSuchTable(f"there is no table {name}")
        return BY_NAME[name]

    async def page(
        self, name: str, prefix: str = "", limit: int = 50, cursor: str | None = None, role: str | None = None
    ) -> Page:
        """Rows whose keys begin with `prefix`, in key order.

        Raises NoSuchTable, NoSuchRole, BadCursor, NotHeld.
        """
        layout, after = self.layout(name), None if cursor is None else read_cursor(cursor)
        if after is not None and not after.key.startswith(layout.prefix):
            raise BadCursor(f"not a cursor of {name}")
        held = self._keeping(layout, role)
        found, last = await self._read(page, layout, held, prefix, limit, after)
        return Page(
            found, None if last is None else write_cursor(last),
            sum(len(one.rows) for one in held.values()), sum(one.of for one in held.values()),
        )  # fmt: skip

    async def row(
        self, name: str, key: str, role: str | None = None, partition: int | None = None
    ) -> Row | None:
        """One row, of the first place that has it. Raises NoSuchTable, NoSuchRole; NotHeld where others may
        have it."""
        layout = self.layout(name)
        held = self._keeping(layout, role)
        found: Row | None = await self._read(row, layout, held, key, partition)
        opened, of = sum(len(one.rows) for one in held.values()), sum(one.of for one in held.values())
        if found is None and opened < of:
            raise NotHeld(f"it is not in the partitions of {name} held by this process ({opened} of {of})")
        return found

    def _keeping(self, layout: Layout, role: str | None) -> dict[str, Held]:
        keepers = [one for one in ROLES if keeps(one, layout)]
        if role is not None and role not in keepers:
            raise NoSuchRole(f"no role {role} keeps {layout.name}; there are {', '.join(keepers)}")
        found = {
            name: held for name, held in self.held().items() if keeps(name, layout) and role in (None, name)
        }
        if not found:
            whose = f"role {role} of this process" if role else "role of this process"
            raise NotHeld(f"no {whose} keeps {layout.name}")
        return found

    async def _read(self, read: Callable[..., Any], *given: Any) -> Any:
        async with self._readers:
            try:
                return await asyncio.to_thread(read, *given)
            except DbClosedError:
                raise NotHeld("a partition was given up while it was read; ask again") from None


def keeps(role: str, layout: Layout) -> bool:
    """Whether a role keeps a table."""
    if layout.keeper is Keeper.WAITING:
        return role != Keeper.STATUS
    if layout.keeper is Keeper.CHANNEL:
        return role not in (Keeper.CORE, Keeper.STATUS)
    return layout.keeper is Keeper.EVERY or layout.keeper == role


def page(
    layout: Layout, held: Mapping[str, Held], prefix: str, limit: int, after: Place | None
) -> tuple[list[Row], Place | None]:
    """At most `limit` rows behind a place, and the place to go on behind where there may be more."""
    try:
        inside, begin, together = layout.start(prefix)
    except ValueError:
        return [], None
    sources = [
        _of_one(layout, prefix, (inside, begin, together), (role, number), rows, after)
        for role, one in held.items()
        for number, rows in one.rows.items()
    ]
    found: list[Row] = []
    last, size = after, 0
    for looked, (place, value) in enumerate(heapq.merge(*sources, key=lambda one: one[0])):
        if looked >= MOST_LOOKED_AT or len(found) >= limit or size >= MOST_BYTES:
            return found, last
        last = place
        if (key := layout.key(place.key)).startswith(prefix):
            found.append(Row(key, place.role, place.partition, layout.value(value)))
            size += len(value)
    return found, None


def _of_one(
    layout: Layout,
    prefix: str,
    start: tuple[bytes, bytes, bool],
    place: tuple[str, int],
    rows: SeekableRows,
    after: Place | None,
) -> Iterator[tuple[Place, bytes]]:
    """The rows of one partition behind a place, with those left out that stand behind all that match."""
    inside, begin, together = start
    if after is not None and after.key >= begin:
        # the same key may stand in the places behind that one too
        begin = after.key + b"\0" if place <= (after.role, after.partition) else after.key
    for key, value in _from(rows, inside, begin):
        if together and not layout.key(key).startswith(prefix):
            return
        yield Place(key, *place), value


def _from(rows: SeekableRows, inside: bytes, begin: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The rows under a prefix from a key on. Between two pieces nothing is held open."""
    exact, most = rows.get(begin), 8
    if exact is not None and begin.startswith(inside):
        yield begin, exact
    while True:
        piece = list(islice(rows.scan(inside, after=begin), most))
        yield from piece
        if len(piece) < most:
            return
        begin, most = piece[-1][0], min(2 * most, AT_ONCE)


def row(layout: Layout, held: Mapping[str, Held], key: str, partition: int | None) -> Row | None:
    """One row by its key as it is said."""
    raw = layout.raw(key)
    found = [
        (role, number, value)
        for role, one in sorted(held.items())
        for number, rows in sorted(one.rows.items())
        if (value := rows.get(raw)) is not None
    ]
    for role, number, value in found:
        if partition in (None, number):
            others = tuple(f"{r}-{n}" for r, n, _ in found if (r, n) != (role, number))
            return Row(layout.key(raw), role, number, layout.value(value), others)
    return None


def write_cursor(place: Place) -> str:
    """A place, for whoever asks on."""
    whole = b"%s:%d:%s" % (place.role.encode(), place.partition, place.key)
    return urlsafe_b64encode(whole).rstrip(b"=").decode()


def read_cursor(cursor: str) -> Place:
    """The place of a cursor. Raises BadCursor."""
    try:
        whole = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        role, partition, key = whole.split(b":", 2)
        return Place(key, role.decode(), int(partition))
    except (ValueError, binascii.Error):
        raise BadCursor("not a cursor of ours") from None
