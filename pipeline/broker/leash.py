"""Holds one JVM on a leash: when the process that started it lets go, or dies, the JVM ends too.

Run as a script in its own session: `leash.py PARENT LOG GRACE DISPOSABLE COMMAND...` with standard input as
the leash. It starts COMMAND in the current directory with its output appended to LOG, writes the pid on
standard output and ends when the command ends. On standard input the byte `k` kills the command at once;
its end (also when the parent was killed -9) stops it with SIGTERM, and with SIGKILL after GRACE seconds.
With DISPOSABLE set to a directory, that end kills at once and removes it, and the cluster's directory above
it with the last one.

The kernel's own PR_SET_PDEATHSIG would follow the parent's *thread*, so it is used only for the step from
this single-threaded start to the JVM, against a leash that is itself killed. Standard library only.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG = 1


def main(parent: int, log: Path, grace: float, disposable: str, command: list[str]) -> int:
    """Run the command until it ends or is let go; the command's exit status."""
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    with log.open("ab") as output:
        jvm = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=_die_with_the_leash(),  # noqa: PLW1509 - no second thread runs yet
        )
    signal.signal(signal.SIGTERM, lambda *_: jvm.terminate())
    sys.stdout.write(f"{jvm.pid}\n")
    sys.stdout.flush()
    threading.Thread(target=_hold, args=(jvm, parent, grace, disposable), daemon=True).start()
    status = jvm.wait()
    if disposable and _LET_GO.is_set():
        shutil.rmtree(disposable, ignore_errors=True)
        cluster = Path(disposable).parent
        if not any(
            cluster.glob("broker-*")
        ):  # the last of several brokers takes the cluster's directory along
            shutil.rmtree(cluster, ignore_errors=True)
    return status


_LET_GO = threading.Event()


def _hold(jvm: "subprocess.Popen[bytes]", parent: int, grace: float, disposable: str) -> None:
    # The parent's pid is watched besides the pipe, because a child that it forked may hold the pipe open.
    while not select.select([0], [], [], 1.0)[0]:
        if os.getppid() != parent:
            break
    else:
        if os.read(0, 1) == b"k":
            jvm.kill()
            return
    _LET_GO.set()
    if not disposable:
        jvm.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            jvm.wait(grace)
    jvm.kill()


def _die_with_the_leash() -> Callable[[], object] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4], sys.argv[5:]))
