"""Receipts: what providers tell of a message ends the same in whatever order, and however often, it comes."""

from itertools import count, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import report, topics
from agents.catalogue import Catalogue
from agents.deliver import Parcel
from agents.report import sending
from agents.sending import Send
from schemas import outcome
from schemas.ids import phone_id, target_id
from schemas.kinds import Channel, Reason, State
from schemas.notification import LIFT, SUPPRESS, Signal
from schemas.report import NotOurs, Report, referred
from schemas.status import Status
from tables import history, reports, states, suppressed
from tables.claims import Origin
from tables.history import Pair
from tests.journeys.memory import NOON, NotingProvider, Pipeline
from tests.journeys.samples import ID, a_message, a_template, a_workflow, an_origin, cloud_event

EMAIL, PHONE = "ada@example.com", "+1 555 010-0100"
TARGET = target_id(EMAIL)


def a_report(state: State, channel: Channel = Channel.EMAIL, **fields: object) -> Report:
    reason = Reason.UNDELIVERED if state is State.FAILED else None
    given = {"notification_id": ID, "channel": channel, "target_id": TARGET, "step": "plan", "state": state,
             "reason": reason, "provider": "noting", "provider_message_id": "p-1"}  # fmt: skip
    return Report(**(given | fields))  # type: ignore[arg-type]  # fields of a report


def sent(channels: tuple[str, ...] = ("email",), **workflow: object) -> Pipeline:
    rule = a_workflow(channels=list(channels), **workflow)
    pipeline = Pipeline(Catalogue([rule], [a_template()]))
    pipeline.user("u-1", email=EMAIL, phone=PHONE)
    pipeline.event(cloud_event())
    return pipeline


def pair(pipeline: Pipeline, channel: Channel = Channel.EMAIL, target: str = TARGET) -> Pair:
    found = history.find(pipeline.status, ID)
    assert found is not None
    return found["pairs"][f"{channel}:{target}"]


def counted(pipeline: Pipeline) -> dict[tuple[str, str], int]:
    return {name: n for name, n in history.counts(pipeline.status).items() if n}


def bring(pipeline: Pipeline, *told: Report) -> list[Send]:
    return [one for each in told for one in pipeline.send(sending(each))]


REPORTS = (
    State.DELIVERED, State.OPENED, State.CLICKED, State.BOUNCED, State.COMPLAINED, State.UNSUBSCRIBED,
    State.FAILED,
)  # fmt: skip


@pytest.mark.parametrize(
    ("told", "ends"),
    [
        ((State.DELIVERED, State.OPENED), State.OPENED),
        ((State.FAILED, State.DELIVERED), State.DELIVERED),
        ((State.FAILED, State.BOUNCED), State.BOUNCED),
        ((State.DELIVERED, State.BOUNCED, State.COMPLAINED), State.COMPLAINED),
        ((State.OPENED, State.UNSUBSCRIBED, State.COMPLAINED), State.COMPLAINED),
        ((State.FAILED,), State.FAILED),
    ],
)
def test_reports_end_the_same_in_whatever_order_they_come(told: tuple[State, ...], ends: State) -> None:
    for order in permutations(told):
        pipeline = sent()
        bring(pipeline, *(a_report(state) for state in order))
        assert pair(pipeline)["state"] == ends, order


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_duplicates_and_orders_change_nothing(data: st.DataObject) -> None:
    """Statuses of our own come late too: a receipt may be quicker than the word that it was sent."""
    pipeline = sent()
    own = list(pipeline.topics[topics.DELIVERY_STATUS])
    told = data.draw(st.lists(st.sampled_from(REPORTS), min_size=1, max_size=4, unique=True))
    reported = [sending(a_report(state, at=NOON + n * 1000)) for n, state in enumerate(told)]
    plainly = Pipeline(Catalogue())
    for send in (*own, *reported):
        plainly.send(send)
    records = data.draw(st.permutations([*own, *reported, *reported]))
    shuffled = Pipeline(Catalogue())
    for send in records:
        shuffled.send(send)
    assert pair(shuffled)["state"] == pair(plainly)["state"]
    one, other = history.find(shuffled.status, ID), history.find(plainly.status, ID)
    assert one is not None and other is not None
    assert sorted(map(str, one["timeline"])) == sorted(map(str, other["timeline"]))
    assert counted(shuffled) == counted(plainly)


def test_a_status_of_a_receipt_says_all_that_others_say() -> None:
    pipeline = sent()
    [send] = [
        one for one in bring(pipeline, a_report(State.DELIVERED, detail="250: ok", at=NOON + 5))
        if one.topic == topics.DELIVERY_STATUS
    ]  # fmt: skip
    found = Status.from_json(send.value)
    assert (found.user_id, found.target, found.workflow, found.category) == (
        "u-1", "a••@example.com", "order-confirmed", "orders"
    )  # fmt: skip
    assert (found.event.id, found.provider, found.detail) == ("e-1", "noting", "250: ok")
    assert found.at == "2026-09-21T14:13:20.005Z"


def test_a_repeat_says_nothing_and_the_same_record_says_the_same_until_it_is_out() -> None:
    pipeline = sent()
    rows, told = pipeline.status, a_report(State.DELIVERED)
    origin = Origin(topics.CONTENTS, 0, 7, NOON)
    first = report.hear(told, origin, rows, 100, 99)
    assert len(first) == 1
    assert report.hear(told, origin, rows, 101, 99) == first
    assert report.hear(told, origin, rows, 102, 100) == ()
    assert report.hear(told, Origin(topics.CONTENTS, 0, 8, NOON), rows, 103, 99) == ()


def test_a_report_that_comes_before_its_message_waits_for_it() -> None:
    pipeline = sent()
    own = list(pipeline.topics[topics.DELIVERY_STATUS])
    late = Pipeline(Catalogue())
    assert bring(late, a_report(State.BOUNCED)) == []
    told = [one for send in own for one in late.send(send)]
    assert pair(late)["state"] == State.BOUNCED
    assert sum(one.topic == topics.DELIVERY_STATUS for one in told) == 1
    again = [one for send in own for one in late.send(send)]
    assert [one for one in again if one.topic == topics.DELIVERY_STATUS] == []


def test_reports_of_one_notification_are_bounded_and_a_complaint_always_fits() -> None:
    pipeline, numbers = sent(), count()
    for _ in range(reports.MOST_READ + 20):
        bring(pipeline, a_report(State.CLICKED, detail=f"link {next(numbers)}"))
    bring(pipeline, a_report(State.COMPLAINED))
    kept = reports.of(pipeline.status, ID)
    assert len(kept) == reports.MOST_READ + 1 and kept[-1].report.state is State.COMPLAINED
    reports.forget(pipeline.status, reports.key(ID), pipeline.status[reports.key(ID)], NOON)
    assert reports.of(pipeline.status, ID)
    reports.forget(pipeline.status, reports.key(ID), pipeline.status[reports.key(ID)], pipeline.now + 1)
    assert not reports.of(pipeline.status, ID)


@pytest.mark.parametrize("state", [State.BOUNCED, State.COMPLAINED])
def test_an_address_that_bounced_or_complained_is_not_used_again(state: State) -> None:
    pipeline = sent()
    bring(pipeline, a_report(state))
    pipeline.event(cloud_event(id="e-2"))
    assert len(pipeline.provider.calls) == 1


def test_what_failed_for_another_reason_leaves_the_address_alone() -> None:
    pipeline = sent()
    bring(pipeline, a_report(State.FAILED))
    pipeline.event(cloud_event(id="e-2"))
    assert len(pipeline.provider.calls) == 2


def test_who_unsubscribes_by_mail_is_told_of_other_things_still() -> None:
    other = a_workflow(name="news", on="shop.news", category="news", channels=["email"])
    pipeline = sent()
    pipeline.catalogue.set_workflow(other)
    bring(pipeline, a_report(State.UNSUBSCRIBED))
    pipeline.event(cloud_event(id="e-2"))
    assert len(pipeline.provider.calls) == 1
    pipeline.event(cloud_event(id="e-3", type="shop.news"))
    assert len(pipeline.provider.calls) == 2


@pytest.mark.parametrize("state", [State.FAILED, State.BOUNCED])
def test_what_comes_to_nothing_after_it_was_sent_goes_on_along_its_chain(state: State) -> None:
    pipeline = sent(fallback=["sms"])
    assert [message.channel for _, message in pipeline.provider.calls] == [Channel.EMAIL]
    bring(pipeline, a_report(state))
    bring(pipeline, a_report(state))
    assert [message.channel for _, message in pipeline.provider.calls] == [Channel.EMAIL, Channel.SMS]


def test_what_arrived_does_not_go_on_along_its_chain_when_a_failure_is_told_late() -> None:
    pipeline = sent(fallback=["sms"])
    bring(pipeline, a_report(State.DELIVERED), a_report(State.FAILED))
    assert len(pipeline.provider.calls) == 1
    assert pair(pipeline)["state"] == State.DELIVERED


def test_a_failure_told_by_a_provider_that_was_not_the_last_changes_nothing() -> None:
    pipeline = sent()
    bring(pipeline, a_report(State.FAILED, provider="other"))
    assert pair(pipeline)["state"] == State.SENT


def test_what_a_receipt_does_not_say_is_kept_of_what_was_known() -> None:
    pipeline = sent()
    bring(pipeline, a_report(State.OPENED, provider=None, provider_message_id=None))
    assert (pair(pipeline)["provider"], pair(pipeline)["provider_message_id"]) == ("noting", "p-1")


def test_a_failure_of_a_call_is_no_receipt() -> None:
    provider = NotingProvider(outcome.refused("550"))
    pipeline = Pipeline(Catalogue([a_workflow(channels=["email"])], [a_template()]), provider)
    pipeline.user("u-1", email=EMAIL)
    pipeline.event(cloud_event())
    assert pair(pipeline)["state"] == State.FAILED
    assert states.advance(State.SENT, State.FAILED) is State.SENT


# -- STOP and START


def stopped(pipeline: Pipeline, kind: str, phone: str = "15550100100") -> None:
    pipeline.signal(
        Signal(
            kind=kind,
            id="",
            user_id="",
            channel=Channel.SMS,
            target_id=phone_id(phone),
            reason="unsubscribed",
        )
    )


def test_stop_is_for_whoever_has_the_number_and_start_lifts_it() -> None:
    pipeline = sent(("sms",))
    stopped(pipeline, SUPPRESS)
    pipeline.event(cloud_event(id="e-2"))
    assert len(pipeline.provider.calls) == 1
    stopped(pipeline, LIFT)
    pipeline.event(cloud_event(id="e-3"))
    assert len(pipeline.provider.calls) == 2


def test_an_earlier_word_that_comes_again_changes_nothing() -> None:
    pipeline = sent(("sms",))
    number = phone_id(PHONE)
    for reason, at in (("unsubscribed", 10), (None, 20), ("unsubscribed", 10), (None, 15)):
        suppressed.tell_number(pipeline.core, number, reason, at)
    assert suppressed.of_number(pipeline.core, number) == (None, 20)
    name = suppressed.name(Channel.EMAIL, TARGET)
    for reason, at in (("bounced", 10), ("complained", 12), (None, 20), ("bounced", 15)):
        suppressed.tell(pipeline.core, "u-1", name, reason, at)
    assert suppressed.of_user(pipeline.core, "u-1") == {name: (None, 20)}


def test_start_takes_back_that_a_carrier_knew_of_a_stop_and_not_that_the_number_is_dead() -> None:
    for state, calls in ((State.UNSUBSCRIBED, 2), (State.BOUNCED, 1)):
        pipeline = sent(("sms",))
        bring(pipeline, a_report(state, Channel.SMS, target_id=target_id(PHONE)))
        pipeline.event(cloud_event(id="e-2"))
        assert len(pipeline.provider.calls) == 1
        stopped(pipeline, LIFT)
        pipeline.event(cloud_event(id="e-3"))
        assert len(pipeline.provider.calls) == calls


def test_stop_leaves_mail_and_what_must_be_told_alone() -> None:
    pipeline = sent(("email", "sms"))
    stopped(pipeline, SUPPRESS)
    pipeline.event(cloud_event(id="e-2"))
    assert [message.channel for _, message in pipeline.provider.calls[2:]] == [Channel.EMAIL]
    pipeline.catalogue.set_workflow(a_workflow(channels=["sms"], mandatory=True))
    pipeline.event(cloud_event(id="e-3"))
    assert pipeline.provider.calls[-1][1].channel is Channel.SMS


@pytest.mark.parametrize("phone", ["+15550100100", "0015550100100", "1 (555) 010-0100", "+1.555.010.0100"])
def test_a_number_is_the_same_however_it_is_written(phone: str) -> None:
    assert phone_id(phone) == phone_id(PHONE)


@pytest.mark.parametrize(
    "step", ["plan", "resume:3", "fallback:1", "fallback:1/resume:2", "escalate:2", "digest"]
)
def test_a_reference_leads_back_to_its_message(step: str) -> None:
    parcel = Parcel(a_message(step=step, target_id=TARGET), b"", an_origin())
    assert referred(parcel.key) == (ID, TARGET, step)
    with pytest.raises(NotOurs):
        referred(parcel.key + "!")


def test_what_was_lifted_stays_so_when_statuses_are_read_anew() -> None:
    pipeline = sent()
    bring(pipeline, a_report(State.UNSUBSCRIBED))
    lift = {"channel": Channel.EMAIL, "target_id": TARGET, "category": "orders"}
    pipeline.signal(Signal(kind=LIFT, id=ID, user_id="u-1", **lift))  # type: ignore[arg-type]  # its fields
    for status in list(pipeline.topics[topics.DELIVERY_STATUS]):
        pipeline.send(status)
    pipeline.event(cloud_event(id="e-2"))
    assert len(pipeline.provider.calls) == 2
