"""What the engine promises of rows that have a window: past it they go, whoever dies, and no others."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine import UnitApp
from pipeline.engine import sweep as engine_sweep
from pipeline.engine.sweep import STEP_ROWS, SWEPT
from schemas.ids import notification_id
from schemas.kinds import State
from schemas.notification import EventRef
from schemas.status import Status, rfc3339
from tables import caps, claims, effects, history
from tables.claims import Claim, Origin
from tables.effects import Attempt, Result
from tests.journeys.memory import MemoryRows
from tests.kafka.engine_app import (
    Ground,
    Notes,
    Rows,
    Worker,
    becomes,
    eventually,
    fold,
    keeping_app,
    rows_of,
    rows_on_disk,
    running,
)

pytestmark = pytest.mark.kafka

DAY = 86_400_000
KEPT = 8
"""Days that claims and caps are kept, the shortest of all windows."""


def some_id(n: int) -> str:
    return notification_id(f"u-{n}", "test", f"e-{n}", "workflow")


def core_rows(count: int, at: int) -> MemoryRows:
    rows = MemoryRows()
    for n in range(count):
        claim = Claim(Origin("notifications", 0, n, at), f"events-0-{n}", 1, 1, ())
        claims.put(rows, claims.key(some_id(n + at), "plan"), claim)
    rows.put(caps.key("u", at // caps.DAY), b"7")
    return rows


def email_rows(count: int, at: int) -> MemoryRows:
    rows = MemoryRows()
    for n in range(count):
        effect = effects.effect(some_id(n + at), "plan", "t")
        for k in (1, 2):
            effects.put_attempt(rows, effect, Attempt(k, "key", "hash", "main", at + k))
            effects.put_result(rows, effect, Result(k, "deferred", at + k, "main"))
    return rows


def status_rows(count: int, at: int) -> MemoryRows:
    rows = MemoryRows()
    for n in range(count):
        status = Status(
            notification_id=some_id(n + at), user_id="u", state=State.SENT, at=rfc3339(at), event_at=at,
            event=EventRef(source="test", id=str(n), type="t"),
        )  # fmt: skip
        history.tell(rows, status, at)
    return rows


MAKE: dict[str, Any] = {"core": core_rows, "email": email_rows, "status": status_rows}


async def tell(ground: Ground, rows: MemoryRows) -> None:
    """Has rows written, some a record."""
    items = [(key.hex(), value.hex()) for key, value in rows.items()]
    pieces = [dict(items[start : start + 100]) for start in range(0, len(items), 100)]
    await ground.send("in", [(b"k", json.dumps(piece).encode()) for piece in pieces])


def merged(role: str, past: MemoryRows, kept: MemoryRows) -> MemoryRows:
    """Both, with counts that are of both."""
    rows = MemoryRows(past | kept)
    for key, value in past.items():
        if role == "status" and key.startswith((history.COUNTS, history.LATENCIES)):
            rows[key] = b"%d" % (int(value) + int(kept.get(key, 0)))
    return rows


def left_of(role: str, past: MemoryRows, kept: MemoryRows) -> Rows:
    """What is to be left: latencies have no window."""
    if role != "status":
        return dict(kept)
    return merged(role, MemoryRows({k: v for k, v in past.items() if k.startswith(history.LATENCIES)}), kept)


@pytest.mark.parametrize("role", MAKE)
async def test_past_rows_go_and_no_others_and_the_changelog_restores_what_is_left(
    kafka: str, tmp_path: Path, role: str
) -> None:
    ground, notes, now = Ground(kafka), Notes(), time.time_ns() // 1_000_000
    await ground.create("in", "dlq")
    past, kept = MAKE[role](STEP_ROWS, now - 40 * DAY), MAKE[role](50, now - (KEPT - 1) * DAY)
    await tell(ground, merged(role, past, kept))
    expected = left_of(role, past, kept)
    first = keeping_app(ground, tmp_path / "first", role, "in", notes=notes)
    async with running(first):
        await becomes(lambda: ground.caught_up("in"), "all committed")
        await eventually(lambda: rows_of(first.store.db(0)) == expected, "past rows gone, the others kept")
        await eventually(lambda: first.store.db(0).get(SWEPT) == b"", "the end of the pass")
    assert fold(await ground.read(ground.changelog)) == expected
    assert notes.swept_rows == len(past) - sum(key in expected for key in past)
    other = keeping_app(ground, tmp_path / "other", role, "in")
    async with running(other):
        assert rows_of(other.store.db(0)) == expected


async def has_left(app: UnitApp, rows: Rows) -> bool:
    return rows_of(app.store.db(0)) == rows


@pytest.mark.parametrize("point", ["sweep.before_log:2", "sweep.after_log:2"])
async def test_a_kill_in_the_middle_of_a_sweep_loses_no_row_and_keeps_none_that_is_past(
    kafka: str, tmp_path: Path, point: str
) -> None:
    ground, now = Ground(kafka), time.time_ns() // 1_000_000
    await ground.create("in", "out", "dlq")
    past, kept = core_rows(5 * STEP_ROWS, now - 40 * DAY), core_rows(500, now - (KEPT - 1) * DAY)
    await tell(ground, merged("core", past, kept))
    worker = Worker(ground, tmp_path / "a", ("in",), sweeps="core", failpoint=point)
    async with worker:
        await worker.dies()
    logged, stored = fold(await ground.read(ground.changelog)), rows_on_disk(tmp_path / "a")
    for rows in (logged, stored):
        assert kept.items() <= rows.items()
        assert len(kept) < len(rows) < len(kept) + len(past), "one step of it was done"
    assert (logged == stored) is point.startswith("sweep.before"), "a step lands in the changelog first"
    for state in ("a", "b"):  # with its disk, and without it
        app = keeping_app(ground, tmp_path / state, "core", "in")
        async with running(app):
            await becomes(partial(has_left, app, kept), "past rows gone, the others kept")
    assert fold(await ground.read(ground.changelog)) == kept


async def test_nothing_is_swept_before_the_task_has_passed_what_stood_there(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is still to come may look for its rows, however old they are."""
    ground, now = Ground(kafka), time.time_ns() // 1_000_000
    await ground.create("in", "dlq")
    past = core_rows(10, now - 40 * DAY)
    await tell(ground, past)
    app = keeping_app(ground, tmp_path, "core", "in")
    monkeypatch.setattr(engine_sweep.Sweeper, "look", lambda *_: pytest.fail("it is swept"))
    seen: list[int] = []

    def has_passed(timers: Any) -> bool:
        seen.append(1)
        return False

    monkeypatch.setattr("pipeline.engine.timers.Timers.has_passed", has_passed)
    async with running(app):
        await becomes(lambda: ground.caught_up("in"), "all committed")
        await eventually(lambda: len(seen) > 5, "it was asked whether it may")
        assert rows_of(app.store.db(0)) == past
