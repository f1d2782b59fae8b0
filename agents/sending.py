"""What a stage asks to be sent."""

from typing import NamedTuple

MAX_BYTES = 900_000
"""The largest value that a stage should send; the topics take a little more."""


class Send(NamedTuple):
    """One record: `topic` without prefix; `hashed` the user hash that places it, if it is known."""

    topic: str
    key: bytes
    value: bytes | None
    hashed: int | None = None
    headers: list[tuple[str, bytes]] | None = None
