"""Runs Kafka's own command-line tools from the same jars: `kafka-topics`, `kafka-consumer-groups`, …"""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.broker.artifacts import jars
from pipeline.broker.failures import ToolFailed
from pipeline.broker.java import java_command, java_environment, prepare_directory
from pipeline.broker.properties import TOOL_LOGGING
from pipeline.broker.warmth import warm_flags

MAIN_CLASSES = {
    "kafka-broker-api-versions": "org.apache.kafka.tools.BrokerApiVersionsCommand",
    "kafka-cluster": "org.apache.kafka.tools.ClusterTool",
    "kafka-configs": "kafka.admin.ConfigCommand",
    "kafka-console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "kafka-console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "kafka-consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-consumer-perf-test": "org.apache.kafka.tools.ConsumerPerformance",
    "kafka-delete-records": "org.apache.kafka.tools.DeleteRecordsCommand",
    "kafka-dump-log": "org.apache.kafka.tools.DumpLogSegments",
    "kafka-features": "org.apache.kafka.tools.FeatureCommand",
    "kafka-get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "kafka-groups": "org.apache.kafka.tools.GroupsCommand",
    "kafka-leader-election": "org.apache.kafka.tools.LeaderElectionCommand",
    "kafka-log-dirs": "org.apache.kafka.tools.LogDirsCommand",
    "kafka-metadata-quorum": "org.apache.kafka.tools.MetadataQuorumCommand",
    "kafka-producer-perf-test": "org.apache.kafka.tools.ProducerPerformance",
    "kafka-reassign-partitions": "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
    "kafka-topics": "org.apache.kafka.tools.TopicCommand",
    "kafka-transactions": "org.apache.kafka.tools.TransactionsCommand",
}


def run_tool(
    name_or_main_class: str,
    args: Sequence[str] = (),
    bootstrap: str | None = None,
    *,
    standard_input: str = "",
    timeout: float = 120.0,
) -> str:
    """What the tool wrote on standard output; raises ToolFailed with its message if it fails.

    `bootstrap` is passed as `--bootstrap-server` before `args`; paths in `args` must be absolute.
    """
    main_class = MAIN_CLASSES.get(name_or_main_class, name_or_main_class)
    arguments = [*(("--bootstrap-server", bootstrap) if bootstrap else ()), *args]
    paths = jars()
    with tempfile.TemporaryDirectory(prefix="carillon-kafka-tool-") as scratch:
        prepare_directory(Path(scratch), TOOL_LOGGING)
        try:
            finished = subprocess.run(
                java_command(paths, main_class, arguments, 256, warm_flags(paths)),
                cwd=scratch,
                env=java_environment(),
                input=standard_input,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ToolFailed(f"{name_or_main_class} did not end within {timeout:.0f} s") from error
    if finished.returncode:
        said = [*finished.stderr.splitlines(), *finished.stdout.splitlines()]
        message = "\n".join(line for line in said if line.strip() and not line.startswith("\tat "))
        raise ToolFailed(f"{name_or_main_class} failed: {message or f'exit status {finished.returncode}'}")
    return finished.stdout
