"""Named places at which the process can be made to die, for proving that nothing is lost there."""

import os
import signal
from collections import Counter
from pathlib import Path

#: Every name that is compiled in, so that a fault loop can ask for each of them.
NAMES = (
    "unit.before_decide",
    "unit.after_decide",
    "unit.after_changelog",
    "unit.after_outputs",
    "unit.after_store",
    "commit.before",
    "commit.after",
    "recovery.batch",
    "effects.before_attempts",
    "effects.after_attempts",
    "effects.before_call",
    "effects.after_call",
    "effects.after_results",
    "effects.after_statuses",
    "task.before_log",
    "timers.before_publish",
    "timers.after_publish",
    "sweep.before_log",
    "sweep.after_log",
)

_passed: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """SIGKILLs this very process at the nth passing of the place that CARILLON_FAILPOINT names.

    `CARILLON_FAILPOINT=unit.after_changelog:3` dies at the third passing; `…:3:stop` stops there (SIGSTOP)
    until somebody sends SIGCONT; unset, this does nothing.
    With CARILLON_FAILPOINT_LOG the name is appended to that file first, so that a fault loop can
    tell a failpoint that was hit from a process that died for another reason.
    """
    if not _ARMED:
        return
    _passed[name] += 1
    if name == _ARMED and _passed[name] == _NTH:
        if log := os.environ.get("CARILLON_FAILPOINT_LOG"):
            with Path(log).open("a") as file:
                file.write(name + "\n")
        os.kill(os.getpid(), _SIGNAL)


_ARMED, _nth, _how, *_ = [*os.environ.get("CARILLON_FAILPOINT", "").split(":"), "", ""]
_NTH = int(_nth or 1)
_SIGNAL = signal.SIGSTOP if _how == "stop" else signal.SIGKILL
if _ARMED and _ARMED not in NAMES:
    raise SystemExit(f"CARILLON_FAILPOINT: no failpoint {_ARMED!r}; there are {', '.join(NAMES)}")
