"""What failed and is redriven goes the rest of its way, once, and its history says so."""

import orjson
import pytest

from agents import intake
from agents.catalogue import Catalogue
from agents.letters import Letter
from schemas import outcome
from schemas.event import Unreadable
from schemas.outcome import Outcome
from tables import history
from tables.claims import Origin
from tests.journeys.memory import NOON, NotingProvider, Pipeline
from tests.journeys.samples import a_template, a_workflow, cloud_event, request, shop


def a_pipeline(answer: Outcome | None = None, catalogue: Catalogue | None = None) -> Pipeline:
    pipeline = Pipeline(catalogue or shop(), NotingProvider(answer))
    pipeline.user("u-1", email="ada@example.com", phone="+15550100")
    return pipeline


def ids_of(pipeline: Pipeline) -> list[str]:
    return [found["id"] for found in history.of_user(pipeline.status, "u-1", 99)]


def states(pipeline: Pipeline) -> dict[str, str]:
    """Channel → state, over the user's one notification."""
    (found,) = history.of_user(pipeline.status, "u-1", 99)
    return {pair["channel"]: pair["state"] for pair in found["pairs"].values()}


@pytest.mark.parametrize("answer", [outcome.refused("no"), outcome.deferred("busy")])
def test_a_failed_message_is_sent_after_a_redrive_and_only_once(answer: Outcome) -> None:
    pipeline = a_pipeline(answer)
    pipeline.event(cloud_event())
    assert states(pipeline) == {"email": "failed", "sms": "failed", "web": "failed"}
    pipeline.provider.answer = outcome.sent("p-2")
    pipeline.provider.calls.clear()
    letter = pipeline.letter("dlq-sms")
    pipeline.redrive(letter)
    pipeline.redrive(letter)
    assert [message.channel for _, message in pipeline.provider.calls] == ["sms"]
    assert states(pipeline) == {"email": "failed", "sms": "sent", "web": "failed"}


def test_what_fails_again_leaves_one_letter_a_redrive_however_often_the_old_ones_go_back() -> None:
    pipeline = a_pipeline(outcome.refused("no"))
    pipeline.event(cloud_event())
    for turn in range(1, 5):
        for offset in range(len(pipeline.topics["dlq-sms"])):
            pipeline.redrive(pipeline.letter("dlq-sms", offset))
        assert len(pipeline.topics["dlq-sms"]) == turn + 1


def test_a_message_that_was_sent_is_not_sent_by_its_old_letter() -> None:
    pipeline = a_pipeline(outcome.refused("no"))
    pipeline.event(cloud_event())
    pipeline.provider.answer = outcome.sent("p-2")
    letter = pipeline.letter("dlq-email")
    pipeline.redrive(letter)
    calls = len(pipeline.provider.calls)
    pipeline.redrive(letter._replace(offset=77))  # a twin of the letter
    assert len(pipeline.provider.calls) == calls


@pytest.mark.parametrize("value", [request(variables={"order": {"id": "C-1"}}), cloud_event()])
def test_an_event_that_is_redriven_is_told_once_whether_it_had_failed_or_not(value: bytes) -> None:
    pipeline = a_pipeline()
    pipeline.event(value)
    assert len(pipeline.provider.calls) == 3
    sent = intake.dead(value, b"", Unreadable("no"), Origin("events", 0, 0, NOON + 1), "dlq-events")
    letter = Letter("dlq-events", "dlq-events", 0, 0, NOON, sent.key, sent.value, sent.headers or [])
    pipeline.redrive(letter)
    pipeline.redrive(letter)
    assert len(pipeline.provider.calls) == 3
    assert len(ids_of(pipeline)) == 1


def test_an_event_that_a_mended_rule_can_read_is_told_once() -> None:
    value = cloud_event(data={"customer": [{"id": "x" * 600}], "order": {"id": "C-1"}})
    pipeline = a_pipeline(catalogue=Catalogue([a_workflow(recipients=["customer[].id"])], [a_template()]))
    pipeline.event(value)
    assert pipeline.provider.calls == []
    letter = pipeline.letter("dlq-events")
    pipeline.redrive(letter)
    again = pipeline.letter("dlq-events")
    assert again.offset == letter.offset + 1
    assert again.headers == letter.headers, "it failed again as what it first was"
    pipeline.catalogue.set_workflow(a_workflow(recipients=["order.id"]))
    pipeline.user("C-1", email="ada@example.com", phone="+15550100")
    for one in (again, letter, again):
        pipeline.redrive(one)
    assert len(pipeline.provider.calls) == 3


@pytest.mark.parametrize("answer", [outcome.refused("no"), outcome.deferred("busy")])
def test_what_one_provider_failed_another_sends_once_and_the_history_names_it(answer: Outcome) -> None:
    pipeline, backup = a_pipeline(answer), NotingProvider(outcome.sent("b-1"))
    backup.name, pipeline.others["backup"] = "backup", backup
    pipeline.event(cloud_event())
    letter = pipeline.letter("dlq-sms")
    assert (letter.provider, letter.code) == ("noting", None)
    pipeline.provider.calls.clear()
    for _ in range(2):
        pipeline.redrive(letter, "backup")
    assert (len(backup.calls), pipeline.provider.calls) == (1, [])
    (found,) = history.of_user(pipeline.status, "u-1", 99)
    (pair,) = (pair for pair in found["pairs"].values() if pair["channel"] == "sms")
    assert (pair["state"], pair["provider"]) == ("sent", "backup")
    assert len(ids_of(pipeline)) == 1


def test_what_another_provider_refuses_too_leaves_a_letter_with_its_name_and_code() -> None:
    pipeline, backup = a_pipeline(outcome.refused("no")), NotingProvider()
    backup.name, pipeline.others["backup"] = "backup", backup
    backup.answer = Outcome(kind="refused", reason="opted out", code="21610")
    pipeline.event(cloud_event())
    pipeline.redrive(pipeline.letter("dlq-sms"), "backup")
    letter = pipeline.letter("dlq-sms")
    assert (letter.provider, letter.code, letter.told("error")) == ("backup", "21610", "opted out")
    (told,) = (one for send in pipeline.topics["delivery-status"]
               if (one := orjson.loads(send.value or b"")).get("code"))  # fmt: skip
    assert (told["provider"], told["code"], told["state"]) == ("backup", "21610", "failed")


def test_what_may_be_out_is_not_sent_by_another_provider() -> None:
    pipeline, backup = a_pipeline(outcome.refused("no")), NotingProvider()
    pipeline.others["backup"] = backup
    pipeline.event(cloud_event())
    letter = pipeline.letter("dlq-sms")
    pipeline.provider.answer = outcome.doubtful("timed out")
    pipeline.redrive(letter)
    assert states(pipeline)["sms"] == "unknown"
    pipeline.redrive(letter._replace(offset=77), "backup")
    assert backup.calls == []
    assert states(pipeline)["sms"] == "unknown"
