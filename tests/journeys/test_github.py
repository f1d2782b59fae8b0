"""GitHub's own webhooks become the notifications that a person read off them, and nothing else."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from agents import topics
from agents.catalogue import Catalogue
from agents.sending import Send
from pipeline import rules
from schemas.ids import notification_id
from tables import caps
from tests.journeys.github_expected import NOBODY, TOLD, UNWANTED, ids
from tests.journeys.memory import NotingProvider, Pipeline

ROOT = Path(__file__).parents[2]
EVENTS = Path(os.environ.get("CARILLON_GITHUB_EVENTS", ROOT / "../shared/data/github-events.ndjson"))
PEOPLE = ("Codertocat", "octocat", "hacktocat", "Octocoders", "wolfy1339")
HOW_MANY = 273
TYPE = "com.github."

needs_events = pytest.mark.skipif(not EVENTS.exists(), reason=f"GitHub's events are not at {EVENTS}")


def a_pipeline() -> Pipeline:
    """Everybody in the events has an address for every channel, and no cap."""
    workflows = rules.load_workflows(ROOT / "workflows")
    templates = [rules.next_template(None, source) for source in rules.load_templates(ROOT / "templates")]
    pipeline = Pipeline(Catalogue(workflows, [template for template in templates if template]))
    for login in PEOPLE:
        pipeline.user(login, email=f"{login}@example.com", webhook_url=f"https://hooks.example/{login}")
        pipeline.preferences(login, frequency_limit=1_000_000)
    return pipeline


def events() -> list[bytes]:
    return EVENTS.read_bytes().splitlines()


def told_by(sends: list[Send]) -> dict[tuple[str, str], set[str]]:
    """(rule, person) → the channels on which a message went out."""
    found: dict[tuple[str, str], set[str]] = {}
    rule_of: dict[str, str] = {}
    for send in sends:
        value = orjson.loads(send.value or b"")
        if send.topic.startswith(topics.NOTIFICATIONS):
            rule_of[value["id"]] = value["workflow"]
            found[value["workflow"], value["user_id"]] = set()
        elif "-notifications" in send.topic:
            found[rule_of[value["id"]], value["user_id"]].add(value["channel"])
    return found


def ignored_as(sends: list[Send]) -> str | None:
    """The reason why an event was ignored, if it was."""
    values = [orjson.loads(send.value or b"") for send in sends]
    return values[0]["reason"] if len(values) == 1 and values[0].get("state") == "ignored" else None


def test_the_table_speaks_of_each_event_once() -> None:
    spoken_of = [one for row in TOLD for one in ids(row.ids)] + [
        one for some in NOBODY.values() for one in ids(some)
    ]
    assert len(spoken_of) == len(set(spoken_of))
    assert len(spoken_of) + sum(UNWANTED.values()) == HOW_MANY


@needs_events
def test_every_event_is_notified_or_ignored_as_the_table_says() -> None:
    pipeline = a_pipeline()
    told = {one: row for row in TOLD for one in ids(row.ids)}
    nobody = {one for some in NOBODY.values() for one in ids(some)}
    unwanted: Counter[str] = Counter()
    for line in events():
        event = orjson.loads(line)
        which, kind = event["id"], event["type"].removeprefix(TYPE)
        sends = pipeline.event(line)
        if (row := told.get(which)) is not None:
            assert kind == row.type, which
            expected = {(row.workflow, who): set(row.where.split()) for who in row.who.split()}
            assert told_by(sends) == expected, which
        elif which in nobody:
            assert ignored_as(sends) == "no_recipient", which
        else:
            assert ignored_as(sends) == "no_workflow", which
            unwanted[kind] += 1
    assert unwanted == UNWANTED
    assert not [topic for topic in pipeline.topics if topic.startswith("dlq")]


@needs_events
def test_every_message_reaches_the_provider_once_and_ends_as_sent() -> None:
    pipeline = a_pipeline()
    for line in events():
        pipeline.event(line)
    expected = sum(len(ids(row.ids)) * len(row.who.split()) * len(row.where.split()) for row in TOLD)
    assert len(pipeline.provider.calls) == len({key for key, _ in pipeline.provider.calls}) == expected
    states = Counter(orjson.loads(s.value or b"")["state"] for s in pipeline.topics[topics.DELIVERY_STATUS])
    assert states == {
        "queued": expected, "sent": expected,
        "ignored": HOW_MANY - sum(len(ids(row.ids)) for row in TOLD),
    }  # fmt: skip


@needs_events
def test_a_second_delivery_of_all_events_tells_nobody_again() -> None:
    pipeline = a_pipeline()
    for line in events():
        pipeline.event(line)
    calls = len(pipeline.provider.calls)
    for line in events():
        pipeline.event(line)
    assert len(pipeline.provider.calls) == calls
    states = Counter(orjson.loads(s.value or b"")["state"] for s in pipeline.topics[topics.DELIVERY_STATUS])
    assert states["duplicate"] == sum(len(ids(row.ids)) * len(row.who.split()) for row in TOLD)


@needs_events
def test_security_alerts_take_the_express_lane_and_nothing_else_does() -> None:
    pipeline = a_pipeline()
    for line in events():
        pipeline.event(line)
    for topic, sends in pipeline.topics.items():
        if "notifications" in topic:
            express = {orjson.loads(s.value or b"")["category"] == "security" for s in sends}
            assert express == {topic.endswith("-express")}, topic


@needs_events
def test_what_is_sent_reads_well() -> None:
    """No null, no Python, no unfilled hole; webhooks are JSON; mails have a subject and HTML."""
    provider = NotingProvider()
    pipeline = a_pipeline()
    pipeline.provider = provider
    for line in events():
        pipeline.event(line)
    for key, message in provider.calls:
        words = f"{message.subject} {message.text} {message.html}" if message.html else message.text
        if message.channel == "webhook":
            payload = orjson.loads(message.text)
            assert set(payload) == {"type", "timestamp", "data"}, key
        else:
            for odd in ("None", "{{", "{%", "Undefined", "[]", "{}", "\n\n\n"):
                assert odd not in words, (key, odd, message.event)
            assert message.subject
            assert message.text == message.text.strip(), message.event
        if message.channel == "email":
            assert message.html is not None
            assert message.html.startswith("<!doctype html>"), message.event
            assert "</html>" in message.html


@needs_events
def test_each_person_is_counted_once_a_notification() -> None:
    pipeline = a_pipeline()
    for line in events():
        pipeline.event(line)
    expected = Counter(dict.fromkeys(PEOPLE, 0))
    for row in TOLD:
        for who in row.who.split():
            expected[who] += len(ids(row.ids))
    assert {
        who: caps.count(pipeline.core, caps.key(who, pipeline.now // caps.DAY)) for who in PEOPLE
    } == expected


@needs_events
def test_a_failed_workflow_reaches_the_one_who_started_it() -> None:
    pipeline = a_pipeline()
    event = orjson.loads(next(line for line in events() if b'"gh-00269"' in line[:400]))
    event["data"]["workflow_run"]["conclusion"] = "failure"
    assert told_by(pipeline.event(orjson.dumps(event))) == {
        ("github-workflow-failed", "Codertocat"): {"email", "web"}
    }


@needs_events
@pytest.mark.parametrize("reviewer", [None, {}, {"login": None}, {"login": ""}, "octocat", 7, ["octocat"]])
def test_a_reviewer_without_a_login_is_nobody(reviewer: Any) -> None:
    pipeline = a_pipeline()
    event = orjson.loads(next(line for line in events() if b'"gh-00188"' in line[:400]))
    event["data"]["requested_reviewer"] = reviewer
    assert ignored_as(pipeline.event(orjson.dumps(event))) == "no_recipient"


@needs_events
def test_the_ids_are_those_of_source_event_person_and_rule() -> None:
    pipeline = a_pipeline()
    line = events()[36]
    event = orjson.loads(line)
    notification = next(s for s in pipeline.event(line) if s.topic.startswith(topics.NOTIFICATIONS))
    assert orjson.loads(notification.value or b"")["id"] == notification_id(
        "wolfy1339", event["source"], event["id"], "github-dependabot"
    )
