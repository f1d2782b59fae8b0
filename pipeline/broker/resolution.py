"""Writes `artifacts.lock` anew: what an upgrade of Kafka runs, `python -m pipeline.broker.resolution`.

Kafka's roots are resolved alone and the log4j binding is added by hand: resolved together, jgo takes the
binding's dependency management for a bill of materials and brings kafka-clients down to an older version.
"""

import hashlib
import re
import tempfile
from pathlib import Path

from jgo.maven import MavenContext

from pipeline.broker.artifacts import KAFKA_VERSION, LOCK_FILE

ROOTS = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}")
# Of Kafka Connect and its web server neither the broker nor the tools that we run load a class.
LEFT_OUT = re.compile(
    r"jetty|jersey|hk2|swagger|jakarta|javax|javassist|classgraph|maven|plexus|:connect-|blackbird"
    r"|aopalliance|osgi|activation"
)
BINDING = "org.apache.logging.log4j:log4j-slf4j-impl"


def resolve(repo_cache: Path) -> list[tuple[str, Path]]:
    """Every coordinate that Kafka needs to run, with its jar on disk, sorted."""
    context = MavenContext(repo_cache=repo_cache, timeout=60)
    inputs, transitive = context.resolver.resolve([context.create_dependency(root) for root in ROOTS])
    found = [d for d in (*inputs, *transitive) if not LEFT_OUT.search(f"{d.groupId}:{d.artifactId}")]
    log4j = next(d.version for d in found if d.artifactId == "log4j-core")
    found.append(context.create_dependency(f"{BINDING}:{log4j}"))
    return sorted((f"{d.groupId}:{d.artifactId}:{d.version}", d.artifact.resolve()) for d in found)


def main() -> None:
    """Resolve and write the lock file."""
    with tempfile.TemporaryDirectory() as scratch:
        lines = [
            f"{coordinate} {path.stat().st_size} {hashlib.sha256(path.read_bytes()).hexdigest()}"
            for coordinate, path in resolve(Path(scratch))
        ]
    header = "# coordinate, bytes, SHA-256; written by `python -m pipeline.broker.resolution`"
    LOCK_FILE.write_text("\n".join([header, *lines]) + "\n")


if __name__ == "__main__":
    main()
