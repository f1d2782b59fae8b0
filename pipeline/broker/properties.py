"""The configuration of an embedded broker: what differs from Kafka's defaults, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LARGEST_MESSAGE = 20 * 1024 * 1024
# Kafka's main classes at INFO say enough; these would print hundreds of lines at each start.
LOGGING = """\
status=error
appender.stdout.type=Console
appender.stdout.name=stdout
appender.stdout.layout.type=PatternLayout
appender.stdout.layout.pattern=[%d] %p %m (%c)%n%throwable
rootLogger.level=info
rootLogger.appenderRef.stdout.ref=stdout
logger.settings.name=org.apache.kafka.common.config.AbstractConfig
logger.settings.level=warn
logger.state.name=state.change.logger
logger.state.level=warn
logger.appinfo.name=org.apache.kafka.common.utils.AppInfoParser
logger.appinfo.level=warn
logger.loader.name=org.apache.kafka.image.loader.MetadataLoader
logger.loader.level=warn
"""
TOOL_LOGGING = """\
status=error
appender.stderr.type=Console
appender.stderr.name=stderr
appender.stderr.target=SYSTEM_ERR
appender.stderr.layout.type=PatternLayout
appender.stderr.layout.pattern=%p %m%n
rootLogger.level=warn
rootLogger.appenderRef.stderr.ref=stderr
"""


@dataclass(frozen=True)
class Ports:
    """The two ports of one broker on 127.0.0.1: for clients, and for the controllers' quorum."""

    client: int
    controller: int


def broker_properties(node: int, ports: Sequence[Ports], config: Mapping[str, str]) -> dict[str, str]:
    """The settings of broker `node` (from 1) in a cluster with these ports; `config` has the last word."""
    own = ports[node - 1]
    replicas = str(min(len(ports), 3))
    in_sync = "2" if len(ports) > 1 else "1"
    settings = {
        "process.roles": "broker,controller",
        "node.id": str(node),
        "controller.quorum.voters": ",".join(
            f"{number}@127.0.0.1:{each.controller}" for number, each in enumerate(ports, 1)
        ),
        "listeners": f"PLAINTEXT://127.0.0.1:{own.client},CONTROLLER://127.0.0.1:{own.controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{own.client}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": "data",
        # Topics are created on purpose, and the broker's clock is the one that retention goes by.
        "auto.create.topics.enable": "false",
        "log.message.timestamp.type": "LogAppendTime",
        "message.max.bytes": str(LARGEST_MESSAGE),
        "replica.fetch.max.bytes": str(LARGEST_MESSAGE + 1024 * 1024),
        "replica.fetch.response.max.bytes": str(2 * LARGEST_MESSAGE),
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        # A killed broker is found out sooner than after nine seconds, and may come back as soon.
        "broker.heartbeat.interval.ms": "1000",
        "broker.session.timeout.ms": "5000",
        # Small machines: fewer threads, and 16 MB for compaction where the default takes 128 MB of the heap.
        "num.network.threads": "2",
        "num.io.threads": "4",
        "background.threads": "4",
        "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
    }
    return settings | dict(config)


def write_properties(path: Path, settings: Mapping[str, str]) -> None:
    """Write a Java properties file, which is Latin-1 with \\uXXXX for the rest."""
    lines = [f"{name}={_escaped(value)}\n" for name, value in settings.items()]
    path.write_text("".join(lines), encoding="ascii")


def _escaped(value: str) -> str:
    plain = value.replace("\\", "\\\\").replace("\n", "\\n")
    utf16 = plain.encode("utf-16-be")
    units = [int.from_bytes(utf16[i : i + 2], "big") for i in range(0, len(utf16), 2)]
    return "".join(chr(unit) if unit < 128 else f"\\u{unit:04x}" for unit in units)
