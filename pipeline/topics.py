"""The topics: their names, partitions and retention; creating them."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import faust
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAlreadyExistsError

from agents import topics
from pipeline.settings import Settings, SettingsError, bootstrap_servers
from schemas.kinds import Channel

ROLES = ("core", *(str(channel) for channel in Channel), "status")
PARTITIONS = {
    "core": 12, "email": 12, "sms": 6, "push": 12, "web": 6, "chat": 6, "webhook": 6, "status": 12,
}  # fmt: skip
DAYS = 86_400_000
MESSAGE_BYTES = 1_048_576
DEAD_LETTER_BYTES = 4 << 20
"""A dead letter is its original and some headers, so it must fit where the original did."""
DEAD_LETTER_DAYS = 30
CHANGELOG_BYTES = 20_000_000
METADATA_SECONDS = 20.0


@dataclass(frozen=True)
class Topic:
    """One topic as it should be; `name` is without prefix."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


def group(settings: Settings, role: str) -> str:
    """The consumer group of a role."""
    return f"{settings.kafka.topic_prefix}carillon-{role}"


def changelog(role: str) -> str:
    """The changelog of a role's store, without prefix."""
    return f"carillon-{role}-store-changelog"


def partitions(settings: Settings, role: str) -> int:
    """How many partitions a role's topics have."""
    return settings.kafka.partitions.get(role, PARTITIONS[role])


def kept(days: float, size: int = MESSAGE_BYTES) -> dict[str, str]:
    """Deleted after so many days."""
    return {"cleanup.policy": "delete", "retention.ms": str(int(days * DAYS)), "max.message.bytes": str(size)}


def compacted(size: int = MESSAGE_BYTES) -> dict[str, str]:
    """The latest value of each key, for ever."""
    return {"cleanup.policy": "compact", "max.message.bytes": str(size)}


def all_topics(settings: Settings) -> list[Topic]:
    """Every topic of ours, in the order of a notification's way."""
    core, status = partitions(settings, "core"), partitions(settings, "status")
    sources, statuses = settings.retention.sources, settings.retention.statuses
    found = [
        Topic(topics.EVENTS, core, kept(sources)),
        Topic(topics.EVENTS + topics.EXPRESS, core, kept(sources)),
        Topic(topics.NOTIFICATIONS, core, kept(sources, 2 * MESSAGE_BYTES)),
        Topic(topics.NOTIFICATIONS + topics.EXPRESS, core, kept(sources, 2 * MESSAGE_BYTES)),
        *(Topic(name, core, compacted()) for name in (topics.USERS, topics.PREFERENCES, topics.DEVICES)),
        *(
            Topic(name, 1, compacted(4 << 20))
            for name in (topics.TEMPLATES, topics.WORKFLOWS, topics.SEGMENTS)
        ),
        Topic(topics.DELIVERY_STATUS, status, kept(statuses)),
        Topic(topics.CONTENTS, status, kept(statuses, 2 * MESSAGE_BYTES)),
        Topic(topics.CONTROL, 1, kept(7)),
        Topic(topics.DEAD_EVENTS, core, kept(DEAD_LETTER_DAYS, DEAD_LETTER_BYTES)),
        Topic(topics.DEAD_NOTIFICATIONS, core, kept(DEAD_LETTER_DAYS, DEAD_LETTER_BYTES)),
        Topic(topics.DEAD_PEOPLE, core, kept(DEAD_LETTER_DAYS, DEAD_LETTER_BYTES)),
        Topic(topics.DEAD_STATUS, status, kept(DEAD_LETTER_DAYS, DEAD_LETTER_BYTES)),
    ]
    for channel in Channel:
        count, name = partitions(settings, channel), topics.MESSAGES[channel]
        found += [
            Topic(name, count, kept(sources, 2 * MESSAGE_BYTES)),
            Topic(name + topics.EXPRESS, count, kept(sources, 2 * MESSAGE_BYTES)),
            Topic(topics.DEAD_MESSAGES[channel], count, kept(DEAD_LETTER_DAYS, DEAD_LETTER_BYTES)),
        ]
    lag = {"min.compaction.lag.ms": str(3_600_000)}
    found += [
        Topic(changelog(role), partitions(settings, role), compacted(CHANGELOG_BYTES) | lag) for role in ROLES
    ]
    return found


def counts(settings: Settings) -> dict[str, int]:
    """Each topic's partitions, by its name without prefix."""
    return {topic.name: topic.partitions for topic in all_topics(settings)}


def client_options(settings: Settings) -> dict[str, Any]:
    """What every aiokafka client of ours is made with."""
    kafka = settings.kafka
    found: dict[str, Any] = {"bootstrap_servers": bootstrap_servers(settings)}
    if kafka.security_protocol != "PLAINTEXT":
        found["security_protocol"] = kafka.security_protocol
        if "SSL" in kafka.security_protocol:
            found["ssl_context"] = _ssl_context(settings)
        if "SASL" in kafka.security_protocol:
            found |= {
                "sasl_mechanism": kafka.sasl_mechanism,
                "sasl_plain_username": kafka.sasl_username,
                "sasl_plain_password": kafka.sasl_password.get_secret_value(),
            }
    return found


def credentials(settings: Settings) -> Any:
    """The same for Faust; None where nothing is needed."""
    kafka = settings.kafka
    if kafka.security_protocol == "PLAINTEXT":
        return None
    context = _ssl_context(settings) if "SSL" in kafka.security_protocol else None
    if "SASL" not in kafka.security_protocol:
        return faust.SSLCredentials(context)
    return faust.SASLCredentials(
        username=kafka.sasl_username, password=kafka.sasl_password.get_secret_value(), ssl_context=context,
        mechanism=kafka.sasl_mechanism,
    )  # fmt: skip


def _ssl_context(settings: Settings) -> Any:
    from aiokafka.helpers import create_ssl_context

    kafka = settings.kafka
    try:
        return create_ssl_context(
            cafile=str(kafka.ssl_cafile) if kafka.ssl_cafile else None,
            certfile=str(kafka.ssl_certfile) if kafka.ssl_certfile else None,
            keyfile=str(kafka.ssl_keyfile) if kafka.ssl_keyfile else None,
        )
    except OSError as error:
        raise SettingsError(f"kafka.ssl_…: {error}") from None


async def create(settings: Settings, wanted: Iterable[Topic] | None = None) -> list[str]:
    """Creates the topics that do not exist and waits until each has its leaders; returns their names.

    Raises SettingsError where the broker is away.
    """
    prefix, wanted = settings.kafka.topic_prefix, list(wanted or all_topics(settings))
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await admin.start()
    except KafkaConnectionError as error:
        raise SettingsError(f"kafka.bootstrap_servers: no broker answers ({error})") from None
    try:
        known = set(await admin.list_topics())
        missing = [topic for topic in wanted if prefix + topic.name not in known]
        new = [
            NewTopic(
                prefix + topic.name, topic.partitions, settings.kafka.replication_factor,
                topic_configs={"message.timestamp.type": "LogAppendTime", **topic.config},
            )
            for topic in missing
        ]  # fmt: skip
        if new:
            try:
                await admin.create_topics(new)
            except TopicAlreadyExistsError:
                pass  # somebody else was quicker
            except KafkaError as error:
                raise SettingsError(f"topics cannot be created: {error}") from None
        await _wait_for_leaders(admin, {prefix + topic.name for topic in wanted})
        return [prefix + topic.name for topic in missing]
    finally:
        await admin.close()


async def _wait_for_leaders(admin: Any, names: set[str]) -> None:
    async with asyncio.timeout(METADATA_SECONDS):
        while True:
            described = await admin.describe_topics(sorted(names))
            led = {
                topic["topic"]
                for topic in described
                if topic["error_code"] == 0 and all(p["leader"] >= 0 for p in topic["partitions"])
            }
            if names <= led:
                return
            await asyncio.sleep(0.02)
