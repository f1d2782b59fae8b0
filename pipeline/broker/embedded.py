"""EmbeddedKafka: a real Kafka of one or three brokers as child processes of this one, on 127.0.0.1."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.broker.artifacts import jars
from pipeline.broker.failures import BrokerFailed, BrokerUnavailable
from pipeline.broker.java import java_command
from pipeline.broker.process import BrokerProcess
from pipeline.broker.properties import Ports
from pipeline.broker.readiness import living_brokers
from pipeline.broker.storage import broker_home, lay_out
from pipeline.broker.warmth import warm_flags

START_SECONDS = 90.0
LOCK_SECONDS = 20.0


class EmbeddedKafka:
    """Kafka 4.3.1 for development, tests, the demo and benchmarks.

    Data in an explicit `directory` outlives it and is found again by the next one there, under the same
    ports if they are free. Without one, all is in a temporary directory that goes with it. The brokers end
    when this process does, however it ends. Brokers are numbered from 1. Not for use by several threads.
    """

    def __init__(
        self,
        brokers: int = 1,
        directory: Path | None = None,
        heap_megabytes: int = 512,
        config: Mapping[str, str] | None = None,
    ) -> None:
        if brokers not in (1, 3):
            raise ValueError(f"an embedded Kafka has 1 or 3 brokers, not {brokers}")
        self.brokers = brokers
        self.directory = directory.expanduser().resolve() if directory else None
        self._heap_megabytes = heap_megabytes
        self._config = dict(config or {})
        self._root = Path()
        self._jars: list[Path] = []
        self._flags: list[str] = []
        self._ports: list[Ports] = []
        self._processes: dict[int, BrokerProcess] = {}
        self._lock: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def bootstrap_servers(self) -> str:
        """The clients' addresses of all brokers, killed ones too, as `host:port,host:port`."""
        return ",".join(f"127.0.0.1:{ports.client}" for ports in self._ports)

    @property
    def pids(self) -> dict[int, int]:
        """The JVMs' pids by broker number, of those that run."""
        return {number: process.pid for number, process in self._processes.items() if process.running}

    @property
    def log_paths(self) -> dict[int, Path]:
        """Each broker's `server.log` by broker number."""
        return {
            number: broker_home(self._root, number) / "server.log" for number in range(1, self.brokers + 1)
        }

    def start(self) -> None:
        """Fetch Kafka if need be, start every broker and return when each knows all; blocking.

        Raises BrokerUnavailable if Kafka cannot be had or the directory is taken, BrokerFailed if it does
        not come up; then its processes are gone and its logs are kept.
        """
        if self._lock is not None:
            raise BrokerUnavailable("this embedded Kafka is already started")
        self._jars = jars()
        self._flags = warm_flags(self._jars)
        self._open_directory()
        try:
            self._ports = lay_out(self._root, self.brokers, self._config, self._jars, self._flags)
            for number in range(1, self.brokers + 1):
                self._launch(number)
            self._wait_until_ready(range(1, self.brokers + 1))
        except BaseException:
            self._end(kill=True)
            raise

    def stop(self) -> None:
        """End every broker; a temporary directory is removed. Safe to repeat."""
        self._end(kill=False)

    def kill(self, number: int) -> None:
        """SIGKILL broker `number`; it keeps its data and its ports."""
        self._processes.pop(number).kill()

    def restart(self, number: int) -> None:
        """Start broker `number` again, killed first if it runs; returns when it is in service.

        After a kill that takes the five seconds in which the controller still counts on the old one.
        """
        running = self._processes.pop(number, None)
        if running is not None:
            running.kill()
        self._launch(number)
        self._wait_until_ready([number])

    def _open_directory(self) -> None:
        if self.directory is None:
            self._root = Path(tempfile.mkdtemp(prefix="carillon-kafka-"))
        else:
            self._root = self.directory
            self._root.mkdir(parents=True, exist_ok=True)
        # The leashes hold this lock too, so a directory is free only when the last JVM in it has ended.
        lock = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(lock)
                    raise BrokerUnavailable(f"another Kafka runs in {self._root}") from None
                time.sleep(0.05)
        self._lock = lock

    def _launch(self, number: int) -> None:
        assert self._lock is not None, "not started"
        command = java_command(
            self._jars, "kafka.Kafka", ["server.properties"], self._heap_megabytes, self._flags
        )
        disposable = self.directory is None
        self._processes[number] = BrokerProcess(
            broker_home(self._root, number), command, disposable, self._lock
        )

    def _wait_until_ready(self, numbers: Iterable[int]) -> None:
        deadline = time.monotonic() + START_SECONDS
        waiting = list(numbers)
        alive = frozenset(self._processes)
        while waiting:
            number = waiting[0]
            process = self._processes[number]
            if process.started and alive <= living_brokers(self._ports[number - 1].client, timeout=2.0):
                waiting.pop(0)
                continue
            for each in waiting:
                if not self._processes[each].running:
                    raise self._failed(each, "exited while it started")
            if time.monotonic() > deadline:
                raise self._failed(number, f"was not ready after {START_SECONDS:.0f} s")
            time.sleep(0.03)

    def _failed(self, number: int, what: str) -> BrokerFailed:
        process = self._processes[number]
        return BrokerFailed(
            f"Kafka broker {number} {what}; its log is {process.log_path}\n{process.last_lines()}"
        )

    def _end(self, kill: bool) -> None:
        processes = list(self._processes.values())
        self._processes.clear()
        for process in processes:
            process.kill() if kill else process.let_go()
        for process in processes:
            process.wait()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
            if self.directory is None and not kill:
                shutil.rmtree(self._root, ignore_errors=True)
