"""How many records in a row a stage may raise on before it is the stage that is broken, and not the records.

What a stage says of a record (an error that the role expects) goes to the dead letters without limit. Any
other error is a fault of the code; a bad deploy raises on everything, and would empty its topics into the
dead letters. So such errors are counted while they come in a row, a stage and partition: beyond the limit
nothing more is rejected, and the role stops. A record that is decided well begins the count anew.

The count is a row of the store, written with the dead letters that it counts: after a restart, on another
worker or from a lost disk it goes on where it was, so that a role that is started again and again
dead-letters nothing more. A mended stage needs no word: its first good record is the end of the count.
"""

from collections.abc import Iterable
from pathlib import Path
from traceback import extract_tb
from typing import NamedTuple

from pipeline.engine.marker import Deadly
from pipeline.engine.outbox import RecordTooLarge
from pipeline.engine.store import OWN

MOST_IN_A_ROW = 20
RAISED = OWN + b"raised|"
"""Before a stage's name: how often it has raised in a row."""


class StageBroken(Exception):
    """A stage raises on one record after another; nothing more of it is dead-lettered."""


class Patience(NamedTuple):
    """What a stage may raise of a record without limit, and how often in a row anything else."""

    expected: tuple[type[Exception], ...] = (Deadly, RecordTooLarge)
    most: int = MOST_IN_A_ROW

    @classmethod
    def with_errors(cls, expected: Iterable[type[Exception]]) -> "Patience":
        """One that also expects these."""
        return cls((*cls().expected, *expected))

    def after(self, raised: int, error: Exception) -> int | None:
        """The count after an error, or None where the stage has raised too often to reject it."""
        if isinstance(error, self.expected):
            return raised
        return raised + 1 if raised < self.most else None


def raised_key(stage: str) -> bytes:
    """The row that holds a stage's count."""
    return RAISED + stage.encode()


def broken(stage: str, most: int, place: str, error: Exception) -> StageBroken:
    """What is told of a stage whose next record stands at `place`; nothing of what is in the record."""
    frames = extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return StageBroken(
        f"stage {stage} raised on {most} records in a row and raises on {place} "
        f"({type(error).__name__}{where}): that record and what follows stay on the topic. Mend the stage, "
        f"and it goes on from there; or move the group past what it cannot decide"
    )
