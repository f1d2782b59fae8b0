"""One broker's JVM, started on a leash in its own directory: start it, kill it, let it go."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from pipeline.broker.failures import BrokerFailed
from pipeline.broker.java import java_environment

LEASH = Path(__file__).with_name("leash.py")
GRACE_SECONDS = 10.0
STARTED = b"Kafka Server started"


class BrokerProcess:
    """A running JVM; `directory` is its working directory and takes its `server.log`."""

    def __init__(self, directory: Path, command: Sequence[str], disposable: bool, held_open: int) -> None:
        self.log_path = directory / "server.log"
        self.pid = 0
        self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        # -I -S: isolated and without site-packages, so that the leash costs 10 MB and a few milliseconds.
        leash = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), str(self.log_path)]
        with self.log_path.open("ab") as log:
            self._leash = subprocess.Popen(
                [*leash, str(GRACE_SECONDS), str(directory) if disposable else "", *command],
                cwd=directory,
                env=java_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C on the terminal must reach us, and not our broker
                pass_fds=(held_open,),
            )
        try:
            self.pid = int(_pipe(self._leash.stdout).readline() or b"0")
        except BaseException:
            self.kill()
            raise
        if not self.pid:
            self.wait()
            raise BrokerFailed(f"Java could not be started\n{self.last_lines()}")

    @property
    def running(self) -> bool:
        return self._leash.poll() is None

    @property
    def started(self) -> bool:
        """Whether this run of the broker has logged that it is in service."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return STARTED in log.read()

    def last_lines(self, count: int = 15) -> str:
        """The end of the log of this run."""
        with contextlib.suppress(OSError), self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-count:])
        return ""

    def kill(self) -> None:
        """SIGKILL to the JVM; its directory stays."""
        with contextlib.suppress(OSError):
            _pipe(self._leash.stdin).write(b"k")
            _pipe(self._leash.stdin).flush()
        self.wait()

    def let_go(self) -> None:
        """Ask for the end, without waiting: an orderly stop, or for a disposable directory a quick one."""
        with contextlib.suppress(OSError):
            _pipe(self._leash.stdin).close()

    def wait(self) -> None:
        """Wait until the JVM and its leash have ended, and make sure of it."""
        try:
            self._leash.wait(GRACE_SECONDS + 10)
        except subprocess.TimeoutExpired:
            self._leash.kill()
            self._leash.wait()
        self.let_go()
        _pipe(self._leash.stdout).close()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
