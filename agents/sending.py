"""What a stage asks to be sent."""

import msgspec

MAX_BYTES = 900_000
"""The largest value that a stage should send; the topics take a little more."""


class Send(msgspec.Struct, frozen=True, gc=False):
    """One record: `topic` without prefix; `hashed` the user hash that places it, if it is known."""

    topic: str
    key: bytes
    value: bytes | None
    hashed: int | None = None
    headers: list[tuple[str, bytes]] | None = None
