"""Between the engine's units and the stages' plain functions: names with prefix, origins, sends."""

from collections.abc import Iterable, Mapping

from agents.sending import Send
from pipeline.engine import Record, Unit
from pipeline.engine.outbox import RECORD_BYTES, Target
from pipeline.topics import DEAD_LETTER_BYTES
from tables.claims import Origin

_DEAD = "dlq-"


class Wiring:
    """Knows the topics by their plain names."""

    def __init__(self, prefix: str, partitions: Mapping[str, int]) -> None:
        self.prefix = prefix
        #: plain name -> its name on the broker
        self.names = {name: prefix + name for name in partitions}
        #: name on the broker -> partitions
        self.partitions = {prefix + name: count for name, count in partitions.items()}
        self.targets: dict[str, Target] = {
            name: (prefix + name, count, DEAD_LETTER_BYTES if name.startswith(_DEAD) else RECORD_BYTES)
            for name, count in partitions.items()
        }

    def name(self, plain: str) -> str:
        """The name on the broker."""
        return self.names[plain]

    def plain(self, name: str) -> str:
        """The name without prefix."""
        return name.removeprefix(self.prefix)

    def send(self, unit: Unit, sends: Iterable[Send]) -> None:
        """Puts what a stage wants sent into the unit's outbox. Raises RecordTooLarge."""
        unit.outbox.extend(sends, self.targets)


def origin_of(record: Record) -> Origin:
    """Where a record stands, and its broker time."""
    return Origin(record.topic, record.partition, record.offset, record.timestamp)
