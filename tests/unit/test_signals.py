"""Signals: a cancel that knows nothing but the id is decided and told where its notification is."""

import pytest

from agents import topics
from agents.catalogue import Catalogue
from schemas import outcome
from schemas.ids import hash_in
from schemas.kinds import Channel, Reason, State
from schemas.message import Message
from schemas.notification import CANCEL, Signal
from schemas.outcome import Outcome
from schemas.status import Status
from tables import history
from tests.journeys.memory import NotingProvider, Pipeline
from tests.journeys.samples import ID, a_template, a_workflow, cloud_event


def told(pipeline: Pipeline) -> list[tuple[str, str | None]]:
    found = history.find(pipeline.status, ID)
    assert found is not None
    return [(entry[3], entry[4]) for entry in found["timeline"]]


def cancel(user: str = "") -> Signal:
    return Signal(kind=CANCEL, id=ID, user_id=user)


@pytest.mark.parametrize("user", ["", "u-1"])
def test_a_cancel_is_told_in_the_partition_of_its_id_whoever_the_user_is(user: str) -> None:
    pipeline = Pipeline(Catalogue([a_workflow()], [a_template()]))
    pipeline.user("u-1", email="ada@example.com")
    pipeline.event(cloud_event())
    sent = pipeline.signal(cancel(user))
    assert {send.hashed for send in sent} == {hash_in(ID)}
    told = [Status.from_json(s.value) for s in sent if s.topic == topics.DELIVERY_STATUS]
    assert [(status.channel, status.reason) for status in told] == [
        (None, Reason.CANCEL_ASKED), ("email", Reason.CANCELLED_TOO_LATE), ("web", Reason.CANCELLED_TOO_LATE),
    ]  # fmt: skip
    assert [s.topic for s in sent if s.topic != topics.DELIVERY_STATUS] == [
        "email-notifications-express", "web-notifications-express",
    ]  # fmt: skip
    found = history.find(pipeline.status, ID)
    assert found is not None and found["user_id"] == "u-1"


def test_one_that_comes_before_its_notification_keeps_it_from_being_sent() -> None:
    pipeline = Pipeline(Catalogue([a_workflow()], [a_template()]))
    pipeline.user("u-1", email="ada@example.com")
    assert pipeline.signal(cancel()) == []
    pipeline.event(cloud_event())
    assert told(pipeline) == [(State.CANCELLED, Reason.CANCELLED)]
    assert not pipeline.provider.calls


def test_what_failed_for_a_broken_template_is_not_sent_when_that_is_mended_after_a_cancel() -> None:
    pipeline = Pipeline(Catalogue([a_workflow()], [a_template("{{ no.such.thing }}")]))
    pipeline.user("u-1", email="ada@example.com")
    pipeline.event(cloud_event())
    pipeline.signal(cancel())
    pipeline.catalogue.set_template(a_template())
    pipeline.event(cloud_event())
    assert not pipeline.provider.calls
    assert told(pipeline)[:2] == [
        (State.FAILED, Reason.TEMPLATE_FAILED), (State.CANCELLED, Reason.CANCELLED),
    ]  # fmt: skip


class CancelledMeanwhile(NotingProvider):
    """Refuses a message that is cancelled while it is being sent."""

    def __init__(self) -> None:
        super().__init__(outcome.refused("550"))
        self.pipeline: Pipeline | None = None

    def send(self, message: Message, key: str) -> Outcome:
        if self.pipeline is not None:
            self.pipeline.signal(cancel())
        return super().send(message, key)


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_cancel_ends_the_chain_of_what_is_queued_already(cancelled: bool) -> None:
    provider = CancelledMeanwhile()
    rule = a_workflow(channels=["email"], fallback=["web"])
    pipeline = Pipeline(Catalogue([rule], [a_template()]), provider)
    provider.pipeline = pipeline if cancelled else None
    pipeline.user("u-1", email="ada@example.com")
    pipeline.event(cloud_event())
    called = [message.channel for _, message in provider.calls]
    assert called == ([Channel.EMAIL] if cancelled else [Channel.EMAIL, Channel.WEB])
