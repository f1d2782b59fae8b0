"""What a side's process is told, and how it measures itself."""

import dataclasses
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Order:
    """One measured run of one side. `outputs` are the topics by channel; `group` is the consumer group."""

    bootstrap_servers: str
    source: str
    outputs: dict[str, str]
    group: str
    prefix: str
    events: int
    partitions: int
    state_dir: str

    def line(self) -> str:
        """As one argument."""
        return json.dumps(dataclasses.asdict(self))


def order() -> Order:
    """The order that this process was given."""
    return Order(**json.loads(sys.argv[1]))


class Stopwatch:
    """CPU seconds of this process, all its threads, user and system; and wall seconds beside."""

    def __init__(self) -> None:
        self.began: tuple[float, float] | None = None
        self.took: tuple[float, float] | None = None

    def start(self) -> None:
        """Begins at the first record decided; later calls change nothing."""
        if self.began is None:
            self.began = time.process_time(), time.perf_counter()

    def stop(self) -> None:
        """Ends when all outputs are acknowledged and the offsets committed."""
        if self.began is None:
            raise RuntimeError("nothing was decided")
        cpu, wall = self.began
        self.took = time.process_time() - cpu, time.perf_counter() - wall


def report(watch: Stopwatch, **more: Any) -> None:
    """Prints what was measured, as the last line of standard output."""
    if watch.took is None:
        raise RuntimeError("the watch was not stopped")
    cpu, wall = watch.took
    print(json.dumps({"cpu": cpu, "wall": wall, **more}), flush=True)


def report_parts(parts: Mapping[str, float], **more: Any) -> None:
    """The same for a measure of several parts."""
    print(json.dumps({**parts, **more}), flush=True)
