"""The process that holds a detached Kafka: `python -m pipeline.broker.holder DIRECTORY BROKERS`.

It has the brokers on its leash and writes `running.json` with its pid, theirs and the address into the
directory; SIGTERM ends it. Its first line on standard output is its pid, its second the outcome as JSON.
"""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from pipeline.broker.embedded import EmbeddedKafka
from pipeline.broker.failures import BrokerUnavailable


def hold(root: Path, brokers: int) -> None:
    """Be the holder: start, say so on standard output, and stop on SIGTERM or when no broker is left."""
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _say(os.getpid())
    kafka = EmbeddedKafka(brokers, root)
    state_path = root / "running.json"
    try:
        kafka.start()
        state = {"pid": os.getpid(), "brokers": brokers, "bootstrap_servers": kafka.bootstrap_servers}
        state_path.write_text(json.dumps(state | {"broker_pids": kafka.pids}))
        _say(json.dumps(state))
        sys.stdout = sys.stderr
        os.close(1)
        while kafka.pids:
            time.sleep(1.0)
    except BrokerUnavailable as error:
        _say(json.dumps({"error": str(error)}))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        kafka.stop()
        state_path.unlink(missing_ok=True)


def _leave(*_: object) -> NoReturn:
    raise SystemExit(0)


def _say(line: object) -> None:
    with contextlib.suppress(OSError):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    hold(Path(sys.argv[1]), int(sys.argv[2]))
