"""Stories: what the pipeline did is told in sentences that say it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import topics
from agents.catalogue import Catalogue
from agents.letters import is_of, summary
from agents.plan import Policy
from pipeline.explaining import topics_of
from pipeline.web.story import (
    DOUBTS,
    LETTERS,
    MOST_STORIES,
    RULES,
    SENTENCES,
    WAYS,
    Asked,
    Beside,
    Explanation,
    digests_of,
    explain,
)
from schemas import outcome
from schemas.ids import notification_id
from schemas.kinds import Channel, Doubt, Reason, State
from schemas.notification import CANCEL, EventRef, Signal
from schemas.status import Status
from tables import history
from tables.history import History
from tests.journeys.memory import NOON, MemoryRows, NotingProvider, Pipeline
from tests.journeys.samples import ID, SOURCE, a_template, a_workflow, cloud_event

MINUTE = 60_000
EVENT = Asked(source=SOURCE, event="e-1")


def shop(**workflow: Any) -> Catalogue:
    return Catalogue([a_workflow(**workflow)], [a_template()])


def a_pipeline(provider: NotingProvider | None = None, policy: Policy | None = None, **rule: Any) -> Pipeline:
    found = Pipeline(shop(**rule), provider, policy)
    found.user("u-1", email="ada@example.com")
    return found


def found_of(pipeline: Pipeline, asked: Asked = EVENT) -> list[History]:
    if asked.id is not None:
        one = history.find(pipeline.status, asked.id)
        return [] if one is None else [one]
    return list(history.of_event(pipeline.status, asked.source, asked.event))


def told(pipeline: Pipeline, asked: Asked = EVENT, **beside: Any) -> str:
    return explain(asked, found_of(pipeline, asked), Beside(**beside)).text


# -- the table


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_sentence(state: State) -> None:
    assert SENTENCES[state, None].endswith(".")


def test_every_reason_has_a_sentence() -> None:
    assert {reason for _, reason in SENTENCES if reason is not None} | set(LETTERS) == set(Reason)


def test_every_channel_and_every_policy_has_words() -> None:
    assert set(WAYS) == set(Channel)
    assert set(DOUBTS) == set(Doubt)


texts = st.text(max_size=20)
entries = st.tuples(
    texts | st.just("2026-09-21T14:13:20.000Z"), st.none() | st.sampled_from(Channel) | texts,
    st.none() | texts, st.sampled_from(State) | texts, st.none() | st.sampled_from(Reason) | texts,
    st.none() | texts, st.none() | st.integers(0, 99), st.none() | texts,
)  # fmt: skip


verdicts = st.fixed_dictionaries(
    {"rule": texts | st.sampled_from(list(RULES)), "saw": texts, "verdict": texts}
)


@given(st.lists(entries, max_size=5), st.lists(verdicts), texts)
def test_whatever_was_told_can_be_said(timeline: Any, why: Any, text: str) -> None:
    rows = MemoryRows()
    status = Status(
        notification_id=ID, user_id="{u}", state=State.ACCEPTED, at="x", event_at=NOON,
        event=EventRef(source=text or "s", id="{id}", type="{0}"), workflow="{w}",
    )  # fmt: skip
    history.tell(rows, status, NOON)
    found = history.find(rows, ID)
    assert found is not None
    found["timeline"], found["why"] = [list(one) for one in timeline], why
    said = explain(Asked(ID), [found], Beside())
    assert len(said.stories[0].sentences) >= 2 + len(timeline)


# -- what became of a notification


def test_who_was_told_and_who_was_not_is_said_with_the_rule_and_its_value() -> None:
    pipeline = a_pipeline()
    pipeline.preferences("u-1", channels={"web": False})
    pipeline.event(cloud_event())
    said = told(pipeline)
    assert said.startswith("u-1 was told by e-mail.\n")
    assert "(e-1 of https://shop.example) came on 2026-09-21 at 14:13:20 UTC" in said
    assert "the workflow order-confirmed chose u-1 to be told" in said
    assert "by e-mail to a••@example.com: It was sent: noting took it over at attempt 1." in said
    assert "by SMS: No address of the user was known for this." in said
    assert "in the inbox: The user has switched this channel off (channels.web: false)." in said
    assert "of what the user may be sent in a day, 0 of 50 had been (passes)" in said


def test_a_cap_is_said_with_its_count_and_its_limit() -> None:
    pipeline = a_pipeline(channels=["email"])
    pipeline.preferences("u-1", frequency_limit=1)
    pipeline.event(cloud_event(id="e-0"))
    pipeline.event(cloud_event())
    said = told(pipeline)
    assert said.startswith("u-1 was not told.\n")
    assert "The user had been sent as many that day as their limit allows (1 of 1)." in said


def test_a_category_and_a_throttle_are_said_too() -> None:
    no_rule: dict[str, Any] = {}
    for policy, rule, sentence in (
        (Policy(category_caps={"orders": 1}), no_rule, "of this category that day as are allowed (1 of 1)"),
        (None, {"throttle": {"limit": 1, "per": 3600}}, "as often as it may in that span of time (1 of 1)"),
    ):
        pipeline = a_pipeline(policy=policy, channels=["email"], **rule)
        pipeline.event(cloud_event(id="e-0"))
        pipeline.event(cloud_event())
        assert sentence in told(pipeline)


def test_an_event_that_no_workflow_wants_is_told_from_one_that_never_came() -> None:
    pipeline = a_pipeline()
    pipeline.event(cloud_event(type="odd"))
    assert "Nobody was told.\n" in told(pipeline)
    assert "No workflow wanted events of the type odd, so nobody was told." in told(pipeline)
    assert "No workflow wanted" in told(pipeline, EVENT._replace(user="u-7"))
    said = told(pipeline, Asked(source=SOURCE, event="e-2"))
    assert said.startswith("Nobody was told of an event e-2 of https://shop.example.\nNo such event came")
    assert "core has not come to 7 records yet" in told(pipeline, Asked(source=SOURCE, event="e-2"), behind=7)
    assert "Nothing is known of a notification" in told(pipeline, Asked(ID))


def test_somebody_whom_no_workflow_chose_was_not_told() -> None:
    pipeline = a_pipeline()
    pipeline.event(cloud_event())
    said = told(pipeline, EVENT._replace(user="u-7"))
    assert said.startswith("u-7 was not told.\n") and "one notification, for somebody else" in said
    assert "u-1 was told" not in said


def test_an_unknown_user_was_waited_for() -> None:
    pipeline = Pipeline(shop(), policy=Policy(grace=MINUTE))
    pipeline.event(cloud_event())
    assert "u-1 has not been told yet" in told(pipeline)
    pipeline.pass_time(2 * MINUTE)
    said = told(pipeline)
    assert "No user of this id was known yet, so it was put off until 2026-09-21 at 14:14:20 UTC" in said
    assert "No user of this id was known when it was decided." in said
    assert said.startswith("u-1 was not told.")


def test_quiet_hours_and_schedules_say_until_when() -> None:
    pipeline = a_pipeline(channels=["email"])
    pipeline.preferences("u-1", quiet_hours={"start": "14:00", "end": "15:00"})
    pipeline.event(cloud_event())
    said = told(pipeline)
    assert "It was put off until 2026-09-21 at 15:00:00 UTC, when the user's quiet hours end." in said
    assert "the user's quiet hours are 14:00 to 15:00 UTC (waits)" in said


def test_an_expired_one_says_so() -> None:
    pipeline = Pipeline(shop(expires_after=30), policy=Policy(grace=MINUTE))
    pipeline.event(cloud_event())
    pipeline.now += 31_000
    pipeline.user("u-1", email="ada@example.com")
    pipeline.pass_time(MINUTE)
    assert "It was not sent, because it had expired." in told(pipeline)


def test_a_digest_is_named_and_its_own_story_follows() -> None:
    words = a_template("{{ count }} orders", name="digest")
    rule = a_workflow(channels=["email"], digest={"window": 60, "template": "digest"})
    pipeline = Pipeline(Catalogue([rule], [a_template(), words]))
    pipeline.user("u-1", email="ada@example.com")
    pipeline.event(cloud_event())
    said = told(pipeline)
    assert said.startswith("u-1 is told of it in a digest.")
    assert said.rstrip().endswith("That digest still gathers, or is not decided yet.")
    (digest,) = digests_of(found_of(pipeline)[0])
    assert f"It went into the digest {digest}" in said
    pipeline.pass_time(2 * MINUTE)
    of_digest = history.find(pipeline.status, digest)
    assert of_digest is not None
    said = told(pipeline, digests={digest: of_digest})
    assert "still gathers" not in said
    assert f"It is the digest {digest} of the workflow order-confirmed, closed on 2026-09-21" in said
    assert said.count("u-1 was told by e-mail.") == 1


def test_a_cancel_says_whether_it_was_in_time() -> None:
    signal = Signal(kind=CANCEL, id=ID, user_id="u-1")
    early, late = Pipeline(shop(), policy=Policy(grace=MINUTE)), a_pipeline()
    for pipeline in (early, late):
        pipeline.event(cloud_event())
        pipeline.signal(signal)
    assert told(early).startswith("u-1 was not told.") and "It was cancelled in time" in told(early)
    assert told(late).startswith("u-1 was told by e-mail") and "but too late" in told(late)


def test_a_fallback_says_that_it_is_one() -> None:
    refusing = NotingProvider(outcome.refused("550 no such box ada@example.com"))
    pipeline = a_pipeline(refusing, channels=["email"], fallback=["web"])
    pipeline.event(cloud_event())
    said = told(pipeline)
    assert "noting refused attempt 1 for good (550 no such box a••@example.com)." in said
    assert "in the inbox: It was queued as a fallback: the channels before this one" in said
    at_once = a_pipeline(channels=["sms"], fallback=["web"])
    at_once.event(cloud_event())
    assert "in the inbox: It was queued as a fallback" in told(at_once)
    assert "fallback" not in told(a_told_one())


def a_told_one() -> Pipeline:
    pipeline = a_pipeline()
    pipeline.event(cloud_event())
    return pipeline


def test_an_escalation_is_said_and_why_there_was_none() -> None:
    rule: dict[str, Any] = {"channels": ["web"], "escalate": [{"after": 60, "channels": ["email"]}]}
    pipeline = a_pipeline(**rule)
    pipeline.event(cloud_event())
    assert "It has not been seen yet; if it stays so, it is escalated" in told(pipeline)
    pipeline.pass_time(2 * MINUTE)
    said = told(pipeline)
    assert (
        "by e-mail to a••@example.com: It was queued here too, because it had not been seen in time." in said
    )
    assert "has not been seen yet" not in said
    assert "of what the user may be sent in a day, 0 of 50 had been (passes)" in said
    nowhere = a_pipeline(channels=["web"], escalate=[{"after": 60, "channels": ["sms"]}])
    nowhere.event(cloud_event())
    nowhere.pass_time(2 * MINUTE)
    assert "by SMS: No address" in told(nowhere) and "has not been seen yet" not in told(nowhere)
    seen = a_pipeline(**rule)
    seen.event(cloud_event())
    (row,) = found_of(seen)
    (target,) = (name.partition(":")[2] for name in row["pairs"])
    status = Status(
        notification_id=ID, user_id="u-1", channel=Channel.WEB, target_id=target, state=State.OPENED,
        at="2026-09-21T14:13:30.000Z", event_at=NOON, event=EventRef(source=SOURCE, id="e-1", type="t"),
    )  # fmt: skip
    history.tell(seen.status, status, NOON + 10_000)
    assert "It was seen, so it was not escalated to further channels." in told(seen)


def test_a_doubt_is_said_with_its_policy() -> None:
    doubting = NotingProvider(outcome.doubtful("timed out"))
    pipeline = a_pipeline(doubting, channels=["email"], doubt="at_most_once")
    pipeline.event(cloud_event())
    said = told(pipeline, doubts={"order-confirmed": Doubt.AT_MOST_ONCE})
    assert said.startswith("It is not known whether u-1 was told.")
    assert "Whether attempt 1 by noting got through is not known (timed out)." in said
    assert "at_most_once: rather not at all than twice" in said
    assert "at_least_once" not in said


def test_a_template_that_fails_says_how_it_goes_on() -> None:
    pipeline = Pipeline(Catalogue([a_workflow()], [a_template("{{ no.such.thing }}")]))
    pipeline.user("u-1", email="ada@example.com")
    pipeline.event(cloud_event())
    said = told(pipeline)
    assert "Its template could not be filled (" in said and "a replay of the event decides it afresh" in said


def test_a_repeat_is_said() -> None:
    pipeline = a_told_one()
    pipeline.event(cloud_event())
    assert "The same event came once more (at events-0-1), and that repeat was dropped." in told(pipeline)


# -- of many, and of dead letters


def test_of_an_event_for_many_the_first_are_told() -> None:
    pipeline = a_pipeline(recipients=["everybody"])
    users = [f"u-{n}" for n in range(MOST_STORIES + 5)]
    pipeline.event(cloud_event(data={"everybody": users, "order": {"id": "1"}}))
    said = explain(EVENT, found_of(pipeline), Beside())
    assert said.sentences[0] == f"The event e-1 of {SOURCE} made {len(users)} notifications."
    assert len(said.stories) == MOST_STORIES
    last = explain(EVENT._replace(user="u-24"), found_of(pipeline), Beside())
    assert [story.user_id for story in last.stories] == ["u-24"]


def letter_of(pipeline: Pipeline, topic: str) -> dict[str, Any]:
    return summary(pipeline.letter(topic))


def test_a_poison_event_is_found_among_the_dead_letters() -> None:
    pipeline = a_pipeline()
    pipeline.event(cloud_event(specversion=7))
    letter = pipeline.letter(topics.DEAD_EVENTS)
    assert is_of(letter, event=(SOURCE, "e-1"))
    assert not is_of(letter, event=(SOURCE, "e-2")) and not is_of(letter, notification=ID)
    said = told(pipeline, letters=[summary(letter)], searched=True)
    assert "The event could not be read: specversion: " in said
    assert "It is kept as a dead letter: `carillon dlq show dlq-events 0 0`." in said
    assert "No such event came" not in said


def test_the_letters_that_may_tell_more_are_looked_for_and_no_others() -> None:
    assert topics_of(EVENT, [], came=False) == [topics.DEAD_EVENTS, topics.DEAD_NOTIFICATIONS]
    assert topics_of(EVENT, [], came=True) == [topics.DEAD_NOTIFICATIONS]
    assert topics.DEAD_MESSAGES[Channel.SMS] in topics_of(Asked(ID), [], came=False)
    assert topics_of(Asked(ID), found_of(a_told_one()), came=True) == []
    failed = a_pipeline(NotingProvider(outcome.refused("550")), channels=["email"])
    failed.event(cloud_event())
    assert topics_of(EVENT, found_of(failed), came=True) == [topics.DEAD_MESSAGES[Channel.EMAIL]]
    letter = failed.letter(topics.DEAD_MESSAGES[Channel.EMAIL])
    assert is_of(letter, notification=ID) and is_of(letter, event=(SOURCE, "e-1"), user="u-1")
    assert not is_of(letter, event=(SOURCE, "e-1"), user="u-2")
    said = told(failed, letters=[summary(letter)])
    assert "A record of it was refused for good by noting: 550. It is kept as a dead letter" in said


def test_what_was_not_looked_through_is_said() -> None:
    pipeline = a_pipeline()
    asked = Asked(source=SOURCE, event="e-9")
    assert "more dead letters than could be looked through" in told(pipeline, asked, searched=False)
    assert "Not every partition of status could be asked" in told(pipeline, asked, whole=False)
    assert explain(asked, [], Beside()) == Explanation(False, explain(asked, [], Beside()).sentences, ())


def test_ids_of_others_are_not_mixed_in() -> None:
    pipeline = a_pipeline()
    pipeline.event(cloud_event())
    other = notification_id("u-2", SOURCE, "e-1", "order-confirmed")
    assert not explain(Asked(other), found_of(pipeline, Asked(other)), Beside()).found
