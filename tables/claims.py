"""Claims: which record decided a notification's step, when, and what its outputs' bytes depend on."""

from typing import NamedTuple

import orjson

from schemas.ids import packed
from tables.rows import Rows

PREFIX = b"c|"


class Origin(NamedTuple):
    """The `notifications` record that something was decided from; `at` is the broker's time in ms."""

    topic: str
    partition: int
    offset: int
    at: int


class Pinned(NamedTuple):
    """The outcome of one channel: a target and the template version, or the reason why there is none."""

    channel: str
    target: str | None
    reason: str | None = None
    saw: str = ""


class Claim(NamedTuple):
    """What one step of a notification came to.

    `position` is the place of the `events` record behind it; `number` the unit that decided it;
    `mendable` marks a failure that is decided afresh when it comes up again.
    """

    origin: Origin
    position: str
    number: int
    version: int
    pinned: tuple[Pinned, ...]
    mendable: bool = False
    failure: str | None = None


def key(notification: str, step: str) -> bytes:
    """The row key of a claim."""
    return PREFIX + packed(notification) + step.encode()


def find(rows: Rows, notification: str, step: str) -> Claim | None:
    """The claim of a step, or None."""
    row = rows.get(key(notification, step))
    if row is None:
        return None
    origin, position, number, version, pinned, mendable, failure = orjson.loads(row)
    return Claim(
        Origin(*origin), position, number, version, tuple(Pinned(*p) for p in pinned), bool(mendable), failure
    )


def put(rows: Rows, notification: str, step: str, claim: Claim) -> None:
    """Claims a step."""
    origin, pinned = claim.origin, claim.pinned
    rows.put(
        key(notification, step),
        orjson.dumps(
            [
                [origin.topic, origin.partition, origin.offset, origin.at],
                claim.position,
                claim.number,
                claim.version,
                [[p.channel, p.target, p.reason, p.saw] for p in pinned],
                claim.mendable,
                claim.failure,
            ]
        ),
    )
