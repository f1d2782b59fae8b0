"""What travels on `control`: what the members of a group are told."""

from schemas.base import Record


class Place(Record, frozen=True, kw_only=True):
    """The offset of a partition at which to begin; `topic` is its name on the broker."""

    topic: str
    partition: int
    offset: int


class Replay(Record, frozen=True, kw_only=True, tag_field="v", tag=1):
    """Begin anew at these places. They are offsets, so that every member and every retry means the same."""

    id: str
    group: str
    places: tuple[Place, ...]
