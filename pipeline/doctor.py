"""What is wrong with a set-up, and how to mend it: the facts are collected first, then judged.

`look` asks the broker and the disk and judges nothing; `findings` is pure.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from agents import topics
from pipeline import state_owner
from pipeline.control import DOCTOR
from pipeline.settings import Settings, bootstrap_servers
from pipeline.state_owner import Owner
from pipeline.topics import ROLES, Topic, all_topics, changelog, client_options, partitions
from schemas.kinds import Channel

CLOCK_SECONDS = 2.0
"""How far the clocks of this machine and of the broker may be apart."""
ANSWER_MS = 5_000
STAMPED = "message.timestamp.type"
BROKERS_TIME = "LogAppendTime"
POLICY = "cleanup.policy"
LARGEST = "max.message.bytes"
UPSTREAMS = {topics.EVENTS, topics.EVENTS + topics.EXPRESS}
"""Topics that others write: how large their records may be is theirs to say."""


class Finding(NamedTuple):
    """Something that is wrong, and what to do about it."""

    what: str
    mend: str


@dataclass(frozen=True)
class TopicFacts:
    """A topic as it is; `config` is empty where the broker would not tell."""

    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """A set-up as it is. `topics` go by their names on the broker, `owners` by role."""

    #: the broker's cluster; None where no broker was asked
    cluster: str | None = None
    #: why no broker answers
    away: str | None = None
    topics: Mapping[str, TopicFacts] = field(default_factory=dict)
    owners: Mapping[str, Owner] = field(default_factory=dict)
    #: why the state directory cannot be written
    unwritable: str | None = None
    #: seconds that this machine's clock is ahead of the broker's
    ahead: float | None = None
    #: what was not looked at, and why
    skipped: tuple[str, ...] = ()


# -- judging


def findings(settings: Settings, facts: Facts) -> list[Finding]:
    """What is wrong, in the order in which it is best mended."""
    found: list[Finding] = []
    if facts.away is not None:
        found.append(
            Finding(
                f"no broker answers at {bootstrap_servers(settings)} ({facts.away})",
                "start it, or set kafka.bootstrap_servers and kafka.security_protocol to where it is and "
                "how it speaks; `carillon broker start` starts one here",
            )
        )
    found += _of_state(settings, facts)
    found += _of_mail(settings)
    if facts.cluster is not None:
        prefix = settings.kafka.topic_prefix
        there = {
            topic.name: facts.topics[prefix + topic.name]
            for topic in all_topics(settings)
            if prefix + topic.name in facts.topics
        }
        found += _missing(settings, there)
        found += _partitions(settings, there)
        for topic in all_topics(settings):
            if topic.name in there:
                found += _config(prefix, topic, there[topic.name].config)
    if facts.ahead is not None and abs(facts.ahead) > CLOCK_SECONDS:
        than = "ahead of" if facts.ahead > 0 else "behind"
        found.append(
            Finding(
                f"this machine's clock is {abs(facts.ahead):.1f} s {than} the broker's",
                "let NTP set the clocks of both",
            )
        )
    return found


def _of_mail(settings: Settings) -> Iterator[Finding]:
    """What mail to many lacks, once somebody says that there is any."""
    bulk = [name for name, category in settings.categories.items() if category.bulk]
    if not bulk or (email := settings.channels.get(Channel.EMAIL)) is None:
        return
    named = f"e-mails of category {bulk[0]}"
    if not settings.web.public_url.startswith("https://"):
        yield Finding(
            f"{named} have no way out at one click (RFC 8058)",
            "set web.public_url to the https address under which readers reach this process",
        )
    elif settings.web.link_secret is None:
        yield Finding(
            f"the links in {named} are good for this machine alone",
            "set web.link_secret, the same everywhere",
        )
    if not email.postal_address.strip():
        yield Finding(
            f"{named} do not say who sends them, as the law of many countries asks",
            "set channels.email.postal_address",
        )


def _of_state(settings: Settings, facts: Facts) -> Iterator[Finding]:
    if facts.unwritable is not None:
        yield Finding(
            f"state_dir {settings.state_dir} cannot be written ({facts.unwritable})",
            "give this user the right to, make room, or set another state_dir",
        )
    for role, owner in facts.owners.items():
        if (what := state_owner.foreign(settings, role, owner, facts.cluster)) is not None:
            place = state_owner.directory(settings, role)
            yield Finding(
                what, f"set another state_dir, or stop the role and remove {place}: it is restored from Kafka"
            )


def _missing(settings: Settings, there: Mapping[str, TopicFacts]) -> Iterator[Finding]:
    wanted, create = all_topics(settings), "`carillon topics` creates what is missing"
    if not there:
        under = f" under the prefix {settings.kafka.topic_prefix!r}" if settings.kafka.topic_prefix else ""
        yield Finding(f"none of the {len(wanted)} topics is there{under}", create)
        return
    for topic in wanted:
        if topic.name not in there:
            yield Finding(f"topic {settings.kafka.topic_prefix}{topic.name} is missing", create)


def keyed(role: str) -> tuple[str, ...]:
    """The topics of a role that must have as many partitions as each other: what it reads, its changelog."""
    if role == "core":
        read = [
            *(name + lane for name in (topics.EVENTS, topics.NOTIFICATIONS) for lane in ("", topics.EXPRESS)),
            topics.USERS, topics.PREFERENCES, topics.DEVICES,
        ]  # fmt: skip
    elif role == "status":
        read = [topics.DELIVERY_STATUS, topics.CONTENTS]
    else:
        plain = topics.MESSAGES[Channel(role)]
        read = [plain, plain + topics.EXPRESS]
    return (*read, changelog(role))


def _partitions(settings: Settings, there: Mapping[str, TopicFacts]) -> Iterator[Finding]:
    prefix, checked = settings.kafka.topic_prefix, set[str]()
    agreed: dict[str, int] = {}
    for role in ROLES:
        counts = {name: there[name].partitions for name in keyed(role) if name in there}
        checked |= counts.keys()
        different, wanted = set(counts.values()), partitions(settings, role)
        if len(different) > 1:
            told = ", ".join(f"{prefix}{name} {count}" for name, count in counts.items())
            yield Finding(
                f"the topics of {role} differ in their partitions ({told})",
                "it takes nothing, for keys would part ways: create topics under another "
                "kafka.topic_prefix and move the records there, in their order",
            )
        elif different and different != {wanted}:
            (count,) = different
            agreed[role] = count  # with that mended, its dead letters are right or wrong by this
            yield Finding(
                f"the topics of {role} have {count} partitions, the settings say {wanted}",
                f"set kafka.partitions.{role} = {count}, or create topics under another kafka.topic_prefix",
            )
    mended = settings.kafka.model_copy(update={"partitions": {**settings.kafka.partitions, **agreed}})
    for topic in all_topics(settings.model_copy(update={"kafka": mended})):
        if topic.name in checked or topic.name not in there:
            continue
        name, count = prefix + topic.name, there[topic.name].partitions
        if count < topic.partitions:
            mend = f"kafka-topics.sh --alter --topic {name} --partitions {topic.partitions}"
        elif count > topic.partitions:
            mend = "partitions cannot be taken away: remove it once it is drained, then `carillon topics`"
        else:
            continue
        yield Finding(f"topic {name} has {count} partitions, not {topic.partitions}", mend)


def _config(prefix: str, topic: Topic, config: Mapping[str, str]) -> Iterator[Finding]:
    name = prefix + topic.name

    def wrong(setting: str, wanted: str, why: str) -> Finding:
        return Finding(
            f"topic {name} has {setting}={config[setting]}, {why}",
            f"kafka-configs.sh --alter --entity-type topics --entity-name {name} "
            f"--add-config {setting}={wanted}",
        )

    if config.get(STAMPED, BROKERS_TIME) != BROKERS_TIME:
        yield wrong(STAMPED, BROKERS_TIME, "so its times are the producers'")
    policy = topic.config.get(POLICY)
    if policy is not None and _listed(config.get(POLICY, policy)) != _listed(policy):
        lost = "rows are lost with time" if policy == "compact" else "records of one key replace each other"
        yield wrong(POLICY, policy, f"so {lost}")
    largest = topic.config.get(LARGEST)
    if (
        largest is not None
        and topic.name not in UPSTREAMS
        and int(config.get(LARGEST, largest)) < int(largest)
    ):
        yield wrong(LARGEST, largest, "too small for what is written there")


def _listed(policy: str) -> set[str]:
    return {part.strip() for part in policy.split(",")}


# -- collecting


async def look(settings: Settings) -> Facts:
    """The facts of this set-up. Writes nothing but two empty records to `control`, for the clock."""
    owners = {role: owner for role in ROLES if (owner := state_owner.read(settings, role)) is not None}
    unwritable = _unwritable(Path(settings.state_dir))
    if not bootstrap_servers(settings):
        why = "the broker and its topics: none is set, so `carillon run` starts one of its own"
        return Facts(owners=owners, unwritable=unwritable, skipped=(why,))
    admin: Any = AIOKafkaAdminClient(**client_options(settings), request_timeout_ms=ANSWER_MS)
    try:
        await admin.start()
        cluster = await state_owner.cluster_of(admin)
        found, skipped = await _topics(admin, settings)
    except (KafkaError, TimeoutError, OSError) as error:
        return Facts(away=str(error) or type(error).__name__, owners=owners, unwritable=unwritable)
    finally:
        await admin.close()
    ahead, unknown = await _clock(settings, found)
    return Facts(
        cluster=cluster, topics=found, owners=owners, unwritable=unwritable, ahead=ahead,
        skipped=(*skipped, *unknown),
    )  # fmt: skip


async def _topics(admin: Any, settings: Settings) -> tuple[dict[str, TopicFacts], tuple[str, ...]]:
    ours = {settings.kafka.topic_prefix + topic.name for topic in all_topics(settings)}
    counts = {
        topic["topic"]: len(topic["partitions"])
        for topic in await admin.describe_topics()
        if topic["topic"] in ours
    }
    configs: dict[str, dict[str, str]] = {}
    if counts:
        asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in sorted(counts)]
        for answer in await admin.describe_configs(asked):
            for code, _, _, name, entries in answer.resources:
                if code == 0:
                    configs[name] = {entry[0]: entry[1] for entry in entries}
    silent = sorted(counts.keys() - configs.keys())
    skipped = (f"the settings of {', '.join(silent)}: the broker does not tell them",) if silent else ()
    return {name: TopicFacts(count, configs.get(name, {})) for name, count in counts.items()}, skipped


async def _clock(settings: Settings, found: Mapping[str, TopicFacts]) -> tuple[float | None, tuple[str, ...]]:
    """How far this clock is ahead of the broker's, by a record that the broker stamps."""
    topic = settings.kafka.topic_prefix + topics.CONTROL
    if topic not in found:
        return None, (f"the clocks: there is no topic {topic} to compare them with",)
    if found[topic].config.get(STAMPED) != BROKERS_TIME:
        return None, (f"the clocks: {topic} does not carry the broker's time",)
    producer = AIOKafkaProducer(**client_options(settings), acks="all", request_timeout_ms=ANSWER_MS)
    try:
        await producer.start()
        await producer.send_and_wait(topic, b"{}", key=DOCTOR)  # the first one finds its way
        before = time.time()
        stamped = await producer.send_and_wait(topic, b"{}", key=DOCTOR)
        after = time.time()
    except (KafkaError, TimeoutError, OSError) as error:
        return None, (f"the clocks: {topic} cannot be written ({error!r})",)
    finally:
        await producer.stop()
    at = stamped.timestamp / 1000
    # The broker stamped it in between: only what lies outside is surely a difference.
    return before - at if at < before else after - at if at > after else 0.0, ()


def _unwritable(directory: Path) -> str | None:
    """Why nothing can be written below a directory that may not be there yet, or None."""
    place = directory
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return f"{place} is no directory"
    if place != directory:
        return None if os.access(place, os.W_OK | os.X_OK) else f"{place} is not writable"
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return None
