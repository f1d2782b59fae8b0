"""The doctor: each thing that can be wrong is found and mended by name, and where all is well nothing is."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.catalogue import Catalogue
from pipeline import state_owner
from pipeline.app import Roles
from pipeline.doctor import CLOCK_SECONDS, Facts, Finding, TopicFacts, findings, keyed, look
from pipeline.metrics import Metrics
from pipeline.settings import Settings, given
from pipeline.state_owner import Owner
from pipeline.topics import ROLES, all_topics, changelog
from schemas.kinds import Channel

CLUSTER = "here"
PREFIX = "p."


def settings(**kafka: Any) -> Settings:
    return given(
        state_dir=Path("/state"),
        kafka={"bootstrap_servers": "broker:9092", "topic_prefix": PREFIX, **kafka},
    )


def as_created(of: Settings) -> dict[str, TopicFacts]:
    """The topics as `carillon topics` creates them."""
    stamped = {"message.timestamp.type": "LogAppendTime"}
    return {
        PREFIX + topic.name: TopicFacts(topic.partitions, {**stamped, **topic.config})
        for topic in all_topics(of)
    }


def well(of: Settings | None = None) -> Facts:
    owners = {role: Owner(group=f"{PREFIX}carillon-{role}", cluster=CLUSTER) for role in ROLES}
    return Facts(cluster=CLUSTER, topics=as_created(of or settings()), owners=owners, ahead=0.01)


def found(facts: Facts, of: Settings | None = None) -> list[Finding]:
    return findings(of or settings(), facts)


def changed(name: str, config: Mapping[str, str] | None = None, partitions: int | None = None) -> Facts:
    """All is well but for this topic."""
    facts = well()
    old = facts.topics[PREFIX + name]
    new = TopicFacts(partitions or old.partitions, {**old.config, **(config or {})})
    return replace(facts, topics={**facts.topics, PREFIX + name: new})


def the_one(facts: Facts) -> Finding:
    (finding,) = found(facts)
    assert "\n" not in finding.what + finding.mend
    return finding


def with_config(name: str, config: Mapping[str, str]) -> Facts:
    facts = well()
    topic = replace(facts.topics[PREFIX + name], config=config)
    return replace(facts, topics={**facts.topics, PREFIX + name: topic})


# -- all is well


@pytest.mark.parametrize("kafka", [{}, {"partitions": {"core": 3, "sms": 1}}])
def test_nothing_is_found_where_all_is_well(kafka: dict[str, Any]) -> None:
    of = settings(**kafka)
    assert found(well(of), of) == []


def test_nothing_is_found_in_a_new_set_up_without_a_broker() -> None:
    assert found(Facts()) == []


def test_what_the_broker_does_not_tell_is_not_wrong() -> None:
    assert found(with_config("users", {})) == []


# -- the broker and the topics


def test_a_broker_that_is_away_is_named_with_its_address() -> None:
    finding = the_one(Facts(away="refused"))
    assert finding.what == "no broker answers at broker:9092 (refused)"
    assert "kafka.bootstrap_servers" in finding.mend


def test_a_missing_topic_is_named() -> None:
    facts = well()
    topics = {name: topic for name, topic in facts.topics.items() if name != PREFIX + "dlq-sms"}
    finding = the_one(replace(facts, topics=topics))
    assert finding.what == "topic p.dlq-sms is missing"
    assert "`carillon topics`" in finding.mend


def test_where_no_topic_is_there_one_line_says_so() -> None:
    assert f"none of the {len(all_topics(settings()))} topics" in the_one(replace(well(), topics={})).what


@pytest.mark.parametrize("name", ["users", "carillon-core-store-changelog", "notifications-express"])
def test_topics_of_one_role_that_differ_in_their_partitions_are_found(name: str) -> None:
    finding = the_one(changed(name, partitions=5))
    assert finding.what.startswith("the topics of core differ in their partitions (p.events 12, ")
    assert f"p.{name} 5" in finding.what


def test_topics_that_agree_but_not_with_the_settings_are_mended_by_the_settings() -> None:
    (finding,) = found(well(settings(partitions={"email": 4})))
    assert finding.what == "the topics of email have 4 partitions, the settings say 12"
    assert finding.mend.startswith("set kafka.partitions.email = 4")


def test_a_dead_letter_topic_with_too_few_partitions_is_found() -> None:
    finding = the_one(changed("dlq-events", partitions=3))
    assert finding.what == "topic p.dlq-events has 3 partitions, not 12"
    assert finding.mend == "kafka-topics.sh --alter --topic p.dlq-events --partitions 12"


def test_a_topic_that_is_read_whole_has_one_partition() -> None:
    finding = the_one(changed("workflows", partitions=3))
    assert finding.what == "topic p.workflows has 3 partitions, not 1"
    assert "cannot be taken away" in finding.mend


@pytest.mark.parametrize("topic", all_topics(settings()), ids=lambda topic: topic.name)
def test_a_topic_with_the_producers_time_is_found(topic: Any) -> None:
    finding = the_one(changed(topic.name, {"message.timestamp.type": "CreateTime"}))
    assert finding.what.startswith(f"topic p.{topic.name} has message.timestamp.type=CreateTime")
    assert finding.mend.endswith(
        f"--entity-name p.{topic.name} --add-config message.timestamp.type=LogAppendTime"
    )


@pytest.mark.parametrize("name", ["dlq-events", "dlq-email", changelog("core"), changelog("status")])
def test_a_dead_letter_topic_or_changelog_that_takes_too_little_is_found(name: str) -> None:
    finding = the_one(changed(name, {"max.message.bytes": "1048588"}))
    assert finding.what.startswith(f"topic p.{name} has max.message.bytes=1048588")
    largest = next(
        topic.config["max.message.bytes"] for topic in all_topics(settings()) if topic.name == name
    )
    assert finding.mend.endswith(f"--add-config max.message.bytes={largest}")


def test_how_large_events_may_be_is_upstreams_to_say_and_more_is_never_wrong() -> None:
    assert found(changed("events", {"max.message.bytes": "1000"})) == []
    assert found(changed("dlq-events", {"max.message.bytes": "99000000"})) == []


@pytest.mark.parametrize("policy", ["delete", "compact,delete"])
@pytest.mark.parametrize("name", ["users", "workflows", changelog("email")])
def test_a_compacted_topic_that_deletes_is_found(name: str, policy: str) -> None:
    finding = the_one(changed(name, {"cleanup.policy": policy}))
    assert "rows are lost with time" in finding.what
    assert finding.mend.endswith("--add-config cleanup.policy=compact")


def test_a_stream_that_compacts_is_found() -> None:
    finding = the_one(changed("notifications", {"cleanup.policy": "compact"}))
    assert "records of one key replace each other" in finding.what


# -- the state directory and the clock


def test_a_state_directory_of_another_group_is_found() -> None:
    owners = {"core": Owner(group="q.carillon-core", cluster=CLUSTER)}
    finding = the_one(replace(well(), owners=owners))
    assert finding.what == "/state/core is of the group q.carillon-core, this set-up's is p.carillon-core"
    assert "remove /state/core" in finding.mend


def test_a_state_directory_of_another_cluster_is_found() -> None:
    owners = {"email": Owner(group="p.carillon-email", cluster="elsewhere")}
    finding = the_one(replace(well(), owners=owners))
    assert finding.what == "/state/email is of the Kafka cluster elsewhere, this one is here"


def test_a_state_directory_is_compared_with_the_group_even_without_a_broker() -> None:
    owners = {"core": Owner(group="q.carillon-core", cluster="any")}
    assert "q.carillon-core" in the_one(Facts(owners=owners)).what
    assert found(Facts(owners={"core": Owner(group="p.carillon-core", cluster="any")})) == []


def test_a_state_directory_that_cannot_be_written_is_found() -> None:
    assert the_one(replace(well(), unwritable="No space left on device")).what == (
        "state_dir /state cannot be written (No space left on device)"
    )


@pytest.mark.parametrize(("ahead", "told"), [(3.0, "3.0 s ahead of"), (-60.0, "60.0 s behind")])
def test_clocks_that_are_apart_are_found(ahead: float, told: str) -> None:
    assert told in the_one(replace(well(), ahead=ahead)).what


@pytest.mark.parametrize("ahead", [None, 0.0, CLOCK_SECONDS, -CLOCK_SECONDS])
def test_clocks_that_are_near_or_unknown_are_not_wrong(ahead: float | None) -> None:
    assert found(replace(well(), ahead=ahead)) == []


# -- what it goes by


@pytest.mark.parametrize("role", [role for role in ROLES if role not in ("push", "chat")])
def test_the_topics_of_a_role_are_those_that_its_app_compares(role: str) -> None:
    app = Roles(given(), Catalogue(), Metrics()).build(role)
    assert sorted(keyed(role)) == sorted([*app.reads, app.changelog])


def test_every_role_has_topics_to_compare() -> None:
    created = {topic.name for topic in all_topics(given())}
    assert all(set(keyed(role)) <= created for role in ROLES)
    assert set(map(str, Channel)) < set(ROLES)


# -- what can be seen without a broker


async def test_the_owner_of_a_directory_is_read_and_what_is_no_owner_is_none(tmp_path: Path) -> None:
    of = given(state_dir=tmp_path)
    for role, text in {"core": '{"group":"g","cluster":"c"}', "email": "{", "sms": "{}"}.items():
        (tmp_path / role).mkdir()
        (tmp_path / role / state_owner.FILE).write_text(text)
    facts = await look(of)
    assert facts.owners == {"core": Owner(group="g", cluster="c")}
    assert facts.cluster is None
    assert facts.unwritable is None
    assert len(facts.skipped) == 1


async def test_a_directory_that_is_not_there_yet_can_be_written_and_is_not_made(tmp_path: Path) -> None:
    assert (await look(given(state_dir=tmp_path / "a" / "b"))).unwritable is None
    assert not list(tmp_path.iterdir())


async def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert (await look(given(state_dir=tmp_path / "file" / "b"))).unwritable == (
        f"{tmp_path / 'file'} is no directory"
    )


def test_mail_to_many_needs_a_way_out_and_a_sender() -> None:
    def of(**more: Any) -> list[str]:
        bulk = given(state_dir=Path("/state"), categories={"news": {"bulk": True}}, **more)
        return [finding.mend.partition(" ")[2].split()[0].rstrip(",") for finding in findings(bulk, Facts())]

    box = {"providers": {"outbox": {"kind": "outbox"}}}
    url, address = "https://notify.example", {"email": {**box, "postal_address": "1 High Street"}}
    assert of() == ["web.public_url", "channels.email.postal_address"]
    assert of(web={"public_url": url}) == ["web.link_secret", "channels.email.postal_address"]
    assert of(web={"public_url": url, "link_secret": "x"}, channels=address) == []
    assert findings(given(state_dir=Path("/state"), categories={"news": {"bulk": False}}), Facts()) == []
