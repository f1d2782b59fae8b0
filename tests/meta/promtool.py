"""Prometheus' own checker: on the PATH, or taken out of a Debian package that is not installed."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

KEPT = Path(__file__).parents[2] / ".carillon" / "promtool"
SECONDS = 100


class Unavailable(Exception):
    """It cannot be had here; the message says why."""


@cache
def promtool() -> str:
    """The path of promtool. Skips the test where it cannot be had; fails it where CI is true."""
    found = shutil.which("promtool")
    if found:
        return found
    if not KEPT.exists():
        try:
            _fetch()
        except (Unavailable, OSError, subprocess.SubprocessError) as error:
            reason = f"promtool is not on the PATH and cannot be fetched: {error}"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
    return str(KEPT)


def _fetch() -> None:
    """Takes it out of Debian's package, with package lists of our own where the machine has none."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise Unavailable(f"there is no {tool}")
    room = KEPT.with_name("promtool.tmp")
    shutil.rmtree(room, ignore_errors=True)
    room.mkdir(parents=True)
    try:
        if not _download(room, []):
            own = ["-o", f"Dir::State={room}/state", "-o", f"Dir::Cache={room}/cache"]
            (room / "state" / "lists" / "partial").mkdir(parents=True)
            (room / "cache" / "archives" / "partial").mkdir(parents=True)
            _run(room, ["apt-get", *own, "-q", "update"])
            if not _download(room, own):
                raise Unavailable("apt-get download prometheus failed")
        (package,) = room.glob("prometheus_*.deb")
        _run(room, ["dpkg-deb", "-x", str(package), "unpacked"])
        (room / "unpacked" / "usr" / "bin" / "promtool").rename(KEPT)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _download(room: Path, options: list[str]) -> bool:
    return _run(room, ["apt-get", *options, "-q", "download", "prometheus"], check=False) == 0


def _run(room: Path, command: list[str], *, check: bool = True) -> int:
    done = subprocess.run(command, cwd=room, capture_output=True, text=True, timeout=SECONDS)
    if check and done.returncode:
        raise Unavailable(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    return done.returncode
