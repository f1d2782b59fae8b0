"""What a stage asks to be sent."""

from collections.abc import Mapping

import msgspec

from schemas.kinds import Priority

MAX_BYTES = 900_000
"""The largest value that a stage should send; the topics take a little more."""

RANK = "rank"
_FIRST, _LAST = [(RANK, b"0")], [(RANK, b"2")]
RANKS: Mapping[Priority, list[tuple[str, bytes]] | None] = {
    Priority.CRITICAL: _FIRST, Priority.HIGH: None, Priority.NORMAL: None, Priority.LOW: _LAST,
}  # fmt: skip
"""The header by which records of one lane overtake each other: critical before high on the express lane, low
after normal on the other. Most carry none."""


class Send(msgspec.Struct, frozen=True, gc=False):
    """One record: `topic` without prefix; `hashed` the user hash that places it, if it is known.

    One to go `everywhere` has no hash, and is sent to each partition of its topic.
    """

    topic: str
    key: bytes
    value: bytes | None
    hashed: int | None = None
    headers: list[tuple[str, bytes]] | None = None
    everywhere: bool = False
