"""Where a failpoint of a task is to strike, more exactly than its name says: by what is written there."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from agents import topics
from pipeline.engine import task as engine_task
from pipeline.engine.failpoint import failpoint
from pipeline.engine.store import OWN
from pipeline.engine.task import Task
from tables import claims

Rows = Mapping[bytes, bytes | None]
Aim = Callable[[Task, Rows], bool]
PLAIN = OWN + b"unit|" + topics.NOTIFICATIONS.encode()


def claimed(task: Task, rows: Rows) -> bool:
    """Claims that depend on what the users want: those of critical ones, on the other lane, do not."""
    return PLAIN in rows and any(key.startswith(claims.PREFIX) for key in rows)


def mended(task: Task, rows: Rows) -> bool:
    """Claims of what had failed, and now did not."""
    for key in rows:
        if key.startswith(claims.PREFIX):
            before = claims.find(task.db, key)
            after = claims.find(rows, key)  # type: ignore[arg-type]
            if before is not None and before.mendable and after is not None and not after.mendable:
                return True
    return False


AIMS: dict[str, Aim] = {"claimed": claimed, "mended": mended}


def aim_at(holds: Aim) -> None:
    """Lets the failpoints of tasks pass unless the batch of changes that is being landed is of that kind."""
    log, aimed = Task.log, ContextVar("aimed", default=False)

    async def log_aimed(self: Task, rows: dict[bytes, bytes | None]) -> int:
        aimed.set(holds(self, rows))
        return await log(self, rows)

    def strike(name: str) -> None:
        if aimed.get():
            failpoint(name)

    Task.log = log_aimed  # type: ignore[method-assign]
    patched: Any = engine_task
    patched.failpoint = strike
