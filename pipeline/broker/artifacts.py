"""The jars of Kafka: what the lock file names, fetched once into the user's cache and checked.

`artifacts.lock` fixes every jar by coordinate, size and SHA-256; `pipeline.broker.resolution` writes it.
A jar counts only once its hash has been checked, and the marker `complete` is written after the last one,
so a fetch that was interrupted goes on where it stopped and a later start looks at sizes only, without
network. A file lock lets one process fetch while others wait for it.
CARILLON_MAVEN_REPOSITORY names another repository (a mirror) than Maven Central.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from concurrent.futures import TimeoutError as FuturesTimeoutError
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from pipeline.broker.failures import BrokerUnavailable

KAFKA_VERSION = "4.3.1"
LOCK_FILE = Path(__file__).with_name("artifacts.lock")
PARALLEL_FETCHES = 6
ATTEMPTS = 3
REQUEST_SECONDS = 30
FETCH_SECONDS = 900.0


@dataclass(frozen=True)
class Artifact:
    """One locked jar: `group:name:version`, its size in bytes and its SHA-256."""

    coordinate: str
    size: int
    sha256: str

    @property
    def filename(self) -> str:
        _, name, version = self.coordinate.split(":")
        return f"{name}-{version}.jar"


def locked() -> list[Artifact]:
    """The jars that the lock file names, in class-path order."""
    lines = LOCK_FILE.read_text().splitlines()
    fields = [line.split() for line in lines if line and not line.startswith("#")]
    return [Artifact(coordinate, int(size), sha256) for coordinate, size, sha256 in fields]


def cache_directory() -> Path:
    """Where the jars live; another lock file gets another directory."""
    digest = hashlib.sha256(LOCK_FILE.read_bytes()).hexdigest()[:12]
    return platformdirs.user_cache_path("carillon") / f"kafka-{KAFKA_VERSION}-{digest}"


def jars(cache: Path | None = None, repository: str | None = None) -> list[Path]:
    """The jars on disk, fetched first if need be; raises BrokerUnavailable if that fails."""
    directory = cache or cache_directory()
    artifacts = locked()
    paths = [directory / artifact.filename for artifact in artifacts]
    if not _complete(directory, artifacts):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with _only_one_fetching(directory):
                if not _complete(directory, artifacts):
                    _fetch_missing(directory, artifacts, repository)
        except OSError as error:
            raise unavailable(str(error)) from error
    return paths


def unavailable(reason: str) -> BrokerUnavailable:
    """The one line that says why there is no embedded Kafka, and the way around it."""
    return BrokerUnavailable(
        f"cannot fetch Kafka {KAFKA_VERSION}: {reason}; "
        "set KAFKA_BOOTSTRAP_SERVERS to use a Kafka that already runs"
    )


def _complete(directory: Path, artifacts: Sequence[Artifact]) -> bool:
    return (directory / "complete").exists() and not _missing(directory, artifacts)


def _missing(directory: Path, artifacts: Sequence[Artifact]) -> list[Artifact]:
    def present(artifact: Artifact) -> bool:
        path = directory / artifact.filename
        return path.exists() and path.stat().st_size == artifact.size

    return [artifact for artifact in artifacts if not present(artifact)]


@contextlib.contextmanager
def _only_one_fetching(directory: Path) -> Iterator[None]:
    deadline = time.monotonic() + FETCH_SECONDS
    with (directory / "lock").open("w") as lock:
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise unavailable("another process has been fetching it for too long") from None
                if not told:
                    sys.stderr.write(f"waiting for another process that fetches Kafka {KAFKA_VERSION}\n")
                    told = True
                time.sleep(0.1)
        yield


def _fetch_missing(directory: Path, artifacts: Sequence[Artifact], repository: str | None) -> None:
    missing = _missing(directory, artifacts)
    done = len(artifacts) - len(missing)
    staging = directory / "staging"
    shutil.rmtree(staging, ignore_errors=True)
    repository = repository or os.environ.get("CARILLON_MAVEN_REPOSITORY")
    pool = ThreadPoolExecutor(PARALLEL_FETCHES, thread_name_prefix="fetch")
    try:
        _report(done, len(artifacts))
        futures = [pool.submit(_fetch, artifact, directory, staging, repository) for artifact in missing]
        for future in as_completed(futures, timeout=FETCH_SECONDS):
            future.result()
            done += 1
            _report(done, len(artifacts))
    except FuturesTimeoutError as error:
        raise unavailable(f"not complete after {FETCH_SECONDS:.0f} s") from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    shutil.rmtree(staging, ignore_errors=True)
    (directory / "complete").touch()


def _report(done: int, total: int) -> None:
    text = f"fetching Kafka {KAFKA_VERSION}: {done} of {total} jars"
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text}" + ("\n" if done == total else ""))
    elif done % 10 == 0 or done == total:
        sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _fetch(artifact: Artifact, directory: Path, staging: Path, repository: str | None) -> None:
    # jgo takes a third of a second to import, which only a first fetch should pay.
    from jgo.maven import MavenContext

    reason = ""
    for attempt in range(ATTEMPTS):
        attempt_directory = staging / f"{artifact.filename}.{attempt}"
        context = MavenContext(
            repo_cache=attempt_directory,
            remote_repos={"configured": repository.rstrip("/")} if repository else None,
            timeout=REQUEST_SECONDS,
        )
        try:
            path = context.create_dependency(artifact.coordinate).artifact.resolve()
        except OSError as error:
            reason = f"{type(error).__name__} while fetching {artifact.coordinate}"
        except RuntimeError:
            reason = f"the Maven repository did not give {artifact.coordinate}"
        else:
            if hashlib.sha256(path.read_bytes()).hexdigest() == artifact.sha256:
                path.replace(directory / artifact.filename)
                return
            reason = f"{artifact.coordinate} does not match its locked SHA-256"
        time.sleep(0.5 * attempt)
    raise unavailable(reason)
