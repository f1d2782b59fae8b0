"""Which record a process was deciding when it died: the one that kills it goes to the dead letters.

A file a task, in the state directory. What was written to it outlives the process, though not the machine,
and needs no sync for that.
"""

import os
from pathlib import Path
from typing import NamedTuple

SIZE = 512
MOST_DEATHS = 3
"""So often may a process die on one record before that record is given up."""


class Deadly(Exception):
    """A record on which the process died again and again."""

    reason = "deadly"


class Found(NamedTuple):
    """What a process died of: a unit's records, and the very one (-1: not known), with its deaths so far."""

    topic: str
    first: int
    last: int
    record: int
    deaths: int


class Marker:
    """Says what is being decided, as long as it is.

    A death in a unit makes its records suspects: they are marked one by one when they come up again, so that
    the next death names the record.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.suspects: Found | None = None
        self.deaths = 0
        if (found := _read(os.pread(self.file, SIZE, 0))) is not None:
            self.suspects = found
            self.deaths = found.deaths + (found.record >= 0)

    def suspects_in(self, topic: str, first: int) -> bool:
        """Whether a unit of that topic that begins at that offset holds suspects."""
        found = self.suspects
        if found is None or found.topic != topic:
            return False
        if first > found.last:
            self.suspects = None  # they are done
            return False
        return True

    def unit(self, topic: str, first: int, last: int) -> None:
        """A unit is being decided."""
        self.write(Found(topic, first, last, -1, 0))

    def record(self, topic: str, first: int, last: int, offset: int) -> None:
        """A suspect is being decided. Raises Deadly where the process has died on it too often."""
        found = self.suspects
        deaths = self.deaths if found is not None and found.record == offset else 0
        if deaths >= MOST_DEATHS:
            raise Deadly(f"the process died {deaths} times while deciding it")
        self.write(Found(topic, first, last, offset, deaths))

    def clear(self) -> None:
        """Nothing is being decided."""
        os.pwrite(self.file, b" " * SIZE, 0)

    def write(self, found: Found) -> None:
        """Puts down what is being decided."""
        line = b"%s %d %d %d %d" % (found.topic.encode(), *found[1:])
        os.pwrite(self.file, line.ljust(SIZE), 0)

    def close(self) -> None:
        """Lets the file go; what it says stays."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


def _read(line: bytes) -> Found | None:
    """What a file says; None for nothing, and for what is torn."""
    try:
        topic, first, last, record, deaths = line.decode().split()
        return Found(topic, int(first), int(last), int(record), int(deaths))
    except ValueError:
        return None
