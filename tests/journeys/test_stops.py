"""Stops on the whole way: what closes between the queue and the call is not called, and everyone is told."""

from collections.abc import Callable
from typing import Any

import pytest

from agents import topics
from agents.catalogue import Catalogue
from agents.sending import Send
from pipeline.web.story import Asked, Beside, explain
from schemas import outcome
from schemas.ids import target_id
from schemas.kinds import Channel, Priority, State
from schemas.notification import CANCEL, SUPPRESS, Signal
from schemas.outcome import Outcome
from tables import history, people
from tests.journeys.memory import NotingProvider, Pipeline
from tests.journeys.samples import ID, a_template, a_workflow, cloud_event

EMAIL = target_id("ada@example.com")


def pipeline(provider: NotingProvider | None = None, **workflow: Any) -> Pipeline:
    """Ada, who is reached by e-mail and in the inbox; the channels read nothing yet."""
    rule = a_workflow(**({"channels": ["email", "web"]} | workflow))
    found = Pipeline(Catalogue([rule], [a_template()]), provider)
    found.user("u-1", email="ada@example.com", phone="+15550100")
    found.is_paused = True
    return found


def called(found: Pipeline) -> list[str]:
    return [str(message.channel) for _, message in found.provider.calls]


def states(found: Pipeline) -> dict[str, tuple[str, str | None]]:
    story = history.find(found.status, ID)
    assert story is not None
    return {name.partition(":")[0]: (one["state"], one["reason"]) for name, one in story["pairs"].items()}


def timeline(found: Pipeline) -> list[tuple[str | None, str, str | None]]:
    story = history.find(found.status, ID)
    assert story is not None
    return [(entry[1], entry[3], entry[4]) for entry in story["timeline"]]


def cancel(found: Pipeline) -> None:
    found.signal(Signal(kind=CANCEL, id=ID, user_id=""))


def suppress(found: Pipeline) -> None:
    found.signal(
        Signal(
            kind=SUPPRESS, id=ID, user_id="u-1", channel=Channel.EMAIL, target_id=EMAIL, reason="complained"
        )
    )


Closes = Callable[[Pipeline], object]
CLOSINGS: dict[str, tuple[Closes, dict[str, tuple[str, str | None]]]] = {
    "opted out of a channel": (
        lambda p: p.preferences("u-1", channels={"email": False}),
        {"email": ("suppressed", "channel_opted_out"), "web": ("sent", None)},
    ),
    "opted out of a category": (
        lambda p: p.preferences("u-1", categories={"orders": {"web": False}}),
        {"email": ("sent", None), "web": ("suppressed", "category_opted_out")},
    ),
    "complained": (suppress, {"email": ("suppressed", "address_suppressed"), "web": ("sent", None)}),
    "erased": (
        lambda p: p.erase("u-1"),
        {"email": ("suppressed", "user_erased"), "web": ("suppressed", "user_erased")},
    ),
    "cancelled": (cancel, {"email": ("cancelled", "cancelled"), "web": ("cancelled", "cancelled")}),
}
every_closing = pytest.mark.parametrize("name", CLOSINGS)


@every_closing
def test_what_closes_between_the_queue_and_the_call_is_not_called(name: str) -> None:
    close, expected = CLOSINGS[name]
    found = pipeline()
    found.event(cloud_event())
    close(found)
    found.resume()
    assert states(found) == expected
    assert called(found) == [channel for channel, (state, _) in expected.items() if state == "sent"]


@every_closing
def test_what_comes_later_is_decided_by_core_alone(name: str) -> None:
    found = pipeline()
    CLOSINGS[name][0](found)
    found.user("u-1", email="eve@example.com")
    found.preferences("u-1")
    found.resume()
    found.event(cloud_event(id="e-2"))
    assert called(found) == ["email", "web"]


@every_closing
def test_all_of_it_read_again_says_the_same_and_calls_nobody(name: str) -> None:
    found = pipeline(NotingProvider(outcome.deferred("busy")))
    found.event(cloud_event())
    CLOSINGS[name][0](found)
    sent = found.resume()
    before, calls = dict(found.status), called(found)
    again = [send for channel in ("email", "web") for send in found.deliver_again(channel)]
    assert dict(found.status) == before
    assert called(found) == calls
    of_status = {send.value for send in sent if send.topic == topics.DELIVERY_STATUS}
    assert {send.value for send in again if send.topic == topics.DELIVERY_STATUS} <= of_status
    for topic in (topics.NOTIFICATIONS, topics.EVENTS):
        found.replay(topic)
    assert dict(found.status) == before
    assert called(found) == calls


def test_a_mandatory_one_goes_whatever_the_user_has_switched_off() -> None:
    found = pipeline(mandatory=True)
    found.event(cloud_event())
    found.preferences("u-1", channels={"email": False}, categories={"orders": {"web": False}})
    suppress(found)
    found.resume()
    assert called(found) == ["email", "web"]


def test_an_opt_out_while_a_retry_waits_ends_it() -> None:
    class OptsOut(NotingProvider):
        def send(self, message: Any, key: str) -> Outcome:
            answer = super().send(message, key)
            found.preferences("u-1", channels={"email": False})
            return answer

    found = pipeline(OptsOut(outcome.deferred("busy")), channels=["email"])
    found.event(cloud_event())
    found.resume()
    assert called(found) == ["email"]
    assert states(found) == {"email": ("suppressed", "channel_opted_out")}
    assert ("email", State.RETRYING, "busy") in timeline(found)


def test_a_chain_goes_on_past_a_channel_that_was_closed_meanwhile() -> None:
    found = pipeline(channels=["email"], fallback=["web"])
    found.event(cloud_event())
    found.preferences("u-1", channels={"email": False})
    found.resume()
    assert states(found) == {"email": ("suppressed", "channel_opted_out"), "web": ("sent", None)}


# -- cancelling


def test_a_cancel_is_in_time_for_the_channels_that_have_not_called() -> None:
    found = pipeline()
    found.event(cloud_event())
    waiting, found.waiting = found.waiting, [one for one in found.waiting if "email" in one[0].topic]
    found.resume()
    found.is_paused, found.waiting = True, [one for one in waiting if "email" not in one[0].topic]
    cancel(found)
    found.resume()
    assert states(found) == {"email": ("sent", None), "web": ("cancelled", "cancelled")}
    cancels = [entry for entry in timeline(found) if entry[1] == State.CANCELLED]
    assert sorted(cancels, key=str) == [
        ("email", "cancelled", "cancelled_too_late"), ("web", "cancelled", "cancelled"),
        (None, "cancelled", "cancel_asked"),
    ]  # fmt: skip
    story = history.find(found.status, ID)
    assert story is not None
    said = explain(Asked(id=ID), [story], Beside()).text
    assert said.startswith("u-1 was told by e-mail.")
    assert "but too late" in said and "It was cancelled in time" in said


def test_a_cancel_before_anything_was_queued_needs_no_channel() -> None:
    found = pipeline()
    cancel(found)
    found.event(cloud_event())
    assert found.waiting == []
    assert states(found) == {"": ("cancelled", "cancelled")}


def test_a_letter_that_is_put_back_after_an_opt_out_is_not_called() -> None:
    found = pipeline(NotingProvider(outcome.refused("no")), channels=["email"])
    found.event(cloud_event())
    found.resume()
    found.preferences("u-1", channels={"email": False})
    found.redrive(found.letter("dlq-email"))
    assert called(found) == ["email"]
    assert timeline(found)[-1] == ("email", "suppressed", "channel_opted_out")


# -- dead targets


def dead(since: int) -> Outcome:
    return Outcome(kind="refused", reason="410: gone", code="410", fault="target", dead_since=since)


def tokens(found: Pipeline) -> list[str]:
    return [device.token for device in people.devices(found.core, "u-1")]


def pushing(provider: NotingProvider, **workflow: Any) -> Pipeline:
    words: dict[str, Any] = {"push": {"text": "Order"}, "web": {"text": "Order"}}
    rule = a_workflow(**({"channels": ["push"]} | workflow))
    found = Pipeline(Catalogue([rule], [a_template(**words)]), provider)
    found.user("u-1")
    for token in ("a", "b", "c"):
        found.device("u-1", token)
    return found


@pytest.mark.parametrize("said", [False, True])
def test_a_dead_device_is_dropped_and_its_message_has_a_letter(said: bool) -> None:
    provider = NotingProvider()
    found = pushing(provider, fallback=["web"])
    provider.answers["b"] = dead(found.now + 1 if said else 0)
    found.event(cloud_event())
    assert tokens(found) == ["a", "c"]
    assert len(found.topics["dlq-push"]) == 1
    assert called(found) == ["push"] * 3  # two were reached, so that the chain ends here
    found.event(cloud_event(id="e-2"))
    assert called(found) == ["push"] * 5


def test_where_every_device_is_dead_the_fallback_is_used() -> None:
    found = pushing(NotingProvider(), fallback=["web"])
    found.provider.answers.update(dict.fromkeys("abc", dead(0)))
    found.event(cloud_event())
    assert tokens(found) == []
    assert called(found) == ["push"] * 3 + ["web"]


@pytest.mark.parametrize(
    ("since", "left"),
    [(None, ["b"]), (9, ["b"]), (10, []), (11, [])],
    ids=["not said", "before", "then", "later"],
)
def test_a_device_that_was_registered_again_since_stays(since: int | None, left: list[str]) -> None:
    """Where the vendor does not say since when, what was registered after the planning stays."""
    found = pushing(NotingProvider())
    found.is_paused = True
    found.event(cloud_event())
    found.provider.answer = dead(0 if since is None else found.now + since)
    found.now += 10
    found.device("u-1", "b")
    found.resume()
    assert tokens(found) == left


def test_a_rewind_of_the_registrations_and_the_signals_revives_and_drops_nobody_else() -> None:
    found = pushing(NotingProvider())
    registered = dict(found.core)
    found.provider.answers["b"] = dead(found.now)
    found.event(cloud_event())
    assert tokens(found) == ["a", "c"]
    for row in (key for key in registered if key.startswith(people.DEVICES)):
        at, value = registered[row][: people.TIME], registered[row][people.TIME :]
        people.upsert(found.core, row, int.from_bytes(at), value)
    assert tokens(found) == ["a", "c"]
    found.now += 10
    found.device("u-1", "b")
    found.replay(topics.NOTIFICATION_LANES[Priority.HIGH])
    assert tokens(found) == ["a", "b", "c"]


def test_an_address_that_was_refused_for_good_is_suppressed() -> None:
    found = pipeline(NotingProvider(dead(0)), channels=["email"])
    found.is_paused = False
    found.event(cloud_event())
    found.event(cloud_event(id="e-2"))
    assert called(found) == ["email"]
    refused: list[Send] = found.topics["dlq-email"]
    assert len(refused) == 1
