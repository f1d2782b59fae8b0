"""An embedded Kafka that goes on after the command that started it, until it is stopped by its directory.

A holder process (`pipeline.broker.holder`) has the brokers on its leash.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import platformdirs

from pipeline.broker.artifacts import jars
from pipeline.broker.embedded import START_SECONDS
from pipeline.broker.failures import BrokerFailed, BrokerUnavailable
from pipeline.broker.process import GRACE_SECONDS
from pipeline.broker.storage import remembered_brokers
from pipeline.broker.warmth import warm_flags

HOLDER = "pipeline.broker.holder"


def default_directory() -> Path:
    """Where a detached Kafka keeps its data when nothing else is said."""
    return platformdirs.user_data_path("carillon") / "broker"


def start_detached(brokers: int | None = None, directory: Path | None = None) -> str:
    """Start a Kafka that outlives this process; its bootstrap servers. One that runs already is kept.

    Without `brokers` there are as many as the directory has from before, or one. Raises BrokerUnavailable.
    """
    root = (directory or default_directory()).expanduser().resolve()
    running = _running(root)
    if running is not None:
        if brokers not in (None, running["brokers"]):
            raise BrokerUnavailable(f"a Kafka of {running['brokers']} brokers already runs in {root}")
        return str(running["bootstrap_servers"])
    warm_flags(jars())  # fetched here, where its progress is seen
    root.mkdir(parents=True, exist_ok=True)
    wanted = str(brokers or remembered_brokers(root) or 1)
    with (root / "holder.log").open("ab") as log:
        starting = subprocess.Popen(
            [sys.executable, "-m", HOLDER, str(root), wanted],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert starting.stdout is not None
    with starting.stdout as answers:
        starting.wait(START_SECONDS)  # ends at once: the holder is its child
        holder = int(answers.readline() or b"0")
        try:
            answer = _answer(answers)
        except BaseException:
            if holder:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(holder, signal.SIGTERM)
            raise
    if "bootstrap_servers" not in answer:
        raise BrokerFailed(
            answer.get("error") or f"the embedded Kafka did not start; see {root / 'holder.log'}"
        )
    return str(answer["bootstrap_servers"])


def stop_detached(directory: Path | None = None) -> bool:
    """Stop the Kafka that `start_detached` left in the directory; False if none runs there."""
    root = (directory or default_directory()).expanduser().resolve()
    running = _running(root)
    if running is None:
        (root / "running.json").unlink(missing_ok=True)
        return False
    os.kill(running["pid"], signal.SIGTERM)
    deadline = time.monotonic() + 2 * GRACE_SECONDS + 5
    while _is_holder(running["pid"], root):
        if time.monotonic() > deadline:
            os.kill(running["pid"], signal.SIGKILL)
        time.sleep(0.05)
    (root / "running.json").unlink(missing_ok=True)
    return True


def _answer(answers: IO[bytes]) -> dict[str, Any]:
    readable, _, _ = select.select([answers], [], [], 2 * START_SECONDS)
    line = answers.readline() if readable else b""
    answer: dict[str, Any] = json.loads(line or b"{}")
    return answer


def _running(root: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads((root / "running.json").read_text())
        return state if _is_holder(state["pid"], root) else None
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _is_holder(pid: int, root: Path) -> bool:
    """Whether this pid is a holder of this directory, and not a process that came to have its number."""
    process = Path(f"/proc/{pid}/cmdline")
    if sys.platform == "linux":
        command = process.read_bytes().decode(errors="replace").split("\0") if process.exists() else []
        return HOLDER in command and str(root) in command
    listing = subprocess.run(
        ["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return f"{HOLDER} {root}" in listing.stdout
