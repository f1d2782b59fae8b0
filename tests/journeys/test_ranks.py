"""A notification keeps its rank on its whole way: waits, digests, fallbacks, dead letters and redrives."""

from typing import Any

import pytest

from agents import topics
from agents.sending import RANK, RANKS, Send
from schemas import outcome
from schemas.kinds import Channel, Priority
from schemas.status import rfc3339
from tests.journeys.memory import NOON, Pipeline
from tests.journeys.test_deciding import HOUR, LIST, ask, channels, pipeline

LANED = tuple(name for name in (topics.NOTIFICATIONS, *topics.MESSAGES.values()))


def ranks(sends: list[Send]) -> dict[str, set[bytes | None]]:
    """The ranks that were told on each topic that has lanes."""
    found: dict[str, set[bytes | None]] = {}
    for send in sends:
        if send.topic.startswith(LANED):
            found.setdefault(send.topic, set()).add(dict(send.headers or ()).get(RANK))
    return found


def all_sent(found: Pipeline) -> list[Send]:
    return [send for sends in found.topics.values() for send in sends]


@pytest.mark.parametrize("priority", Priority)
@pytest.mark.parametrize(
    "workflow",
    [
        {},
        {"digest": {"window": 3_600, "template": "list"}, "channels": ["email"]},
        {"fallback": ["sms", "email"], "channels": ["web"]},
        {"escalate": [{"after": 3_600, "channels": ["sms"]}], "channels": ["web"]},
    ],
)
def test_a_rank_lasts_the_whole_way(priority: Priority, workflow: dict[str, Any]) -> None:
    found = pipeline(priority=str(priority), templates=[LIST], **workflow)
    found.provider.answer = outcome.refused("no")
    ask(found, scheduled_at=rfc3339(NOON + HOUR))
    found.pass_time(3 * HOUR)
    assert channels(found)
    told = dict(RANKS[priority] or ()).get(RANK)
    of_topics = ranks(all_sent(found))
    assert topics.NOTIFICATION_LANES[priority] in of_topics
    assert set(map(frozenset, of_topics.values())) == {frozenset({told})}
    assert len(of_topics) >= 2


def test_a_dead_letter_goes_back_with_its_rank() -> None:
    found = pipeline(outcome.refused("no"), priority="low")
    ask(found)
    back = found.redrive(found.letter("dlq-sms"))
    assert found.topics[topics.MESSAGES[Channel.SMS]][-1].headers
    assert ranks(found.topics[topics.MESSAGES[Channel.SMS]]) == {topics.MESSAGES[Channel.SMS]: {b"2"}}
    assert len(found.topics["dlq-sms"]) == 2 and back
