"""What a stage asks to be sent."""

from typing import NamedTuple


class Send(NamedTuple):
    """One record: `topic` without prefix; `hashed` the user hash that places it, if it is known."""

    topic: str
    key: bytes
    value: bytes | None
    hashed: int | None = None
    headers: list[tuple[str, bytes]] | None = None
