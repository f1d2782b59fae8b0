"""What a stage asks to be sent."""

import msgspec

MAX_BYTES = 900_000
"""The largest value that a stage should send; the topics take a little more."""


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
