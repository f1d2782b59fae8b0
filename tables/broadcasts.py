"""Broadcasts: how far each partition is; in core with the page that it told last, in status to be summed."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from schemas.base import encode
from schemas.broadcast import Progress, Stage
from schemas.ids import packed
from schemas.notification import EventRef
from tables.rows import Rows

CURSORS: Final = b"q|"
PROGRESS: Final = b"s|"
BY_TIME: Final = b"t|"


class Cursor(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where core is in one partition: after the step `n`, which told `page`."""

    n: int
    progress: Progress
    page: tuple[str, ...] = ()


_read = msgspec.json.Decoder(Cursor).decode
_progress = msgspec.json.Decoder(Progress).decode


def cursor(rows: Rows, broadcast: str) -> Cursor | None:
    """Where a broadcast is, or None."""
    row = rows.get(CURSORS + packed(broadcast))
    return None if row is None else _read(row)


def put_cursor(rows: Rows, found: Cursor) -> None:
    """Notes where a broadcast is."""
    rows.put(CURSORS + packed(found.progress.broadcast), encode(found))


# -- status


def tell(rows: Rows, progress: Progress) -> bool:
    """Keeps what a partition says of itself; what is older than what is known changes nothing."""
    key = PROGRESS + packed(progress.broadcast) + b"%d" % progress.partition
    known = rows.get(key)
    if known is None:
        rows.put(BY_TIME + (2**63 - progress.event_at).to_bytes(8) + packed(progress.broadcast), b"")
    elif _progress(known).turn >= progress.turn:
        return False
    rows.put(key, encode(progress))
    return True


class Broadcast(NamedTuple):
    """A broadcast over all partitions that have said something; times in ms."""

    id: str
    stage: Stage
    told: int
    looked_at: int
    undecided: int
    segment: str
    workflow: str
    event: EventRef
    event_at: int
    at: int
    parts: tuple[Progress, ...]
    of: int


def find(rows: Rows, broadcast: str) -> Broadcast | None:
    """The whole of a broadcast, or None where no partition has said anything."""
    return _whole(_progress(row) for _, row in rows.scan(PROGRESS + packed(broadcast)))


def newest(rows: Rows, most: int) -> Iterator[Broadcast]:
    """The broadcasts, the newest first, `most` of them."""
    for key, _ in islice(rows.scan(BY_TIME), most):
        found = _whole(_progress(row) for _, row in rows.scan(PROGRESS + key[len(BY_TIME) + 8 :]))
        if found is not None:
            yield found


def _whole(told: Iterable[Progress]) -> Broadcast | None:
    parts = tuple(sorted(told, key=lambda part: part.partition))
    if not parts:
        return None
    first = parts[0]
    return Broadcast(
        first.broadcast, _stage([part.stage for part in parts], first.partitions),
        sum(part.told for part in parts), sum(part.looked_at for part in parts),
        sum(part.undecided for part in parts), first.segment, first.workflow, first.event, first.event_at,
        max(part.at for part in parts), parts, first.partitions,
    )  # fmt: skip


def _stage(stages: list[Stage], of: int) -> Stage:
    """The stage of the whole: it has ended when all partitions have."""
    found = set(stages)
    if len(found) == 1 and (len(stages) == of or found == {Stage.SCHEDULED}):
        return stages[0]
    if Stage.FAILED in found and Stage.RUNNING not in found:
        return Stage.FAILED
    return Stage.CANCELLED if found == {Stage.DONE, Stage.CANCELLED} and len(stages) == of else Stage.RUNNING
