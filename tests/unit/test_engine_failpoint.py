"""Failpoints refuse names that are not there, and die at the place and the passing that was asked for."""

import os
import signal
import subprocess
import sys
from pathlib import Path

CODE = """
from pipeline.engine.failpoint import failpoint
for n in range(5):
    failpoint("unit.after_store")
    failpoint("unit.after_changelog")
    print(n, flush=True)
"""


def run(failpoint: str, log: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CARILLON_FAILPOINT": failpoint, "CARILLON_FAILPOINT_LOG": str(log)}
    return subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False
    )


def test_it_dies_at_the_passing_that_was_asked_for_and_says_so(tmp_path: Path) -> None:
    died = run("unit.after_changelog:3", tmp_path / "log")
    assert died.returncode == -signal.SIGKILL
    assert died.stdout.split() == ["0", "1"]
    assert (tmp_path / "log").read_text().split() == ["unit.after_changelog"]


def test_unset_it_does_nothing(tmp_path: Path) -> None:
    assert run("", tmp_path / "log").stdout.split() == ["0", "1", "2", "3", "4"]
    assert not (tmp_path / "log").exists()


def test_a_name_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    refused = run("unit.after_all", tmp_path / "log")
    assert refused.returncode == 1
    assert "no failpoint 'unit.after_all'; there are unit.before_decide" in refused.stderr
