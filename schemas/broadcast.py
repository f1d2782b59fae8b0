"""What travels of a broadcast beside its notifications: how far one partition has come."""

from enum import StrEnum

from schemas.base import Record
from schemas.notification import EventRef


class Stage(StrEnum):
    """Where a broadcast is, in a partition or in all."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Progress(Record, frozen=True, kw_only=True, tag_field="v", tag=2):
    """How far one partition has come: figures since its beginning, so that a repeat adds nothing.

    `turn` rises with each change. `told` of the users that were `looked_at` are in the segment; of
    `undecided` ones the rule could not be said, so that they are not. `at` and `event_at` are the broker's
    times in ms.
    """

    broadcast: str
    partition: int
    partitions: int
    turn: int
    stage: Stage
    told: int
    looked_at: int
    undecided: int
    segment: str
    workflow: str
    event: EventRef
    event_at: int
    at: int
