"""Journeys of one notification each, from its event to its end, through everything that may keep it."""

import re
from collections.abc import Sequence
from typing import Any

import pytest

from agents import topics
from agents.catalogue import Catalogue
from agents.gather import MAX_ITEM_BYTES
from agents.plan import Policy
from agents.sending import Send
from agents.versions import rolled_back
from schemas import outcome
from schemas.ids import notification_id
from schemas.notification import Signal
from schemas.status import Status, rfc3339
from schemas.template import Template
from tables import history, waits
from tests.journeys.memory import NOON, NotingProvider, Pipeline
from tests.journeys.samples import a_template, a_workflow, request

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
GRACE = MINUTE
MIDNIGHT = NOON // DAY * DAY
"""UTC; NOON is 14:13."""


def pipeline(answer: Any = None, templates: Sequence[Any] = (), **workflow: Any) -> Pipeline:
    """One workflow, ada with two addresses and a phone."""
    catalogue = Catalogue([a_workflow(**workflow)], [a_template(), *templates])
    found = Pipeline(catalogue, NotingProvider(answer), Policy(grace=GRACE))
    found.user("u-1", email="ada@example.com", phone="+15550100")
    return found


def ask(found: Pipeline, key: str = "k-1", **fields: Any) -> list[Send]:
    return found.event(request(**{"idempotency_key": key, "variables": {"order": {"id": key}}} | fields))


def named(key: str = "k-1", user: str = "u-1") -> str:
    return notification_id(user, "carillon", key, "order-confirmed")


def told(found: Pipeline) -> list[tuple[str, str]]:
    """Channel and words of everything that was sent, in order."""
    return [(str(message.channel), message.text) for _, message in found.provider.calls]


def channels(found: Pipeline) -> list[str]:
    return [channel for channel, _ in told(found)]


def states(found: Pipeline, key: str = "k-1", user: str = "u-1") -> dict[str, tuple[str, str | None]]:
    """Channel (empty: the whole) → state and reason, as history has it."""
    story = history.find(found.status, named(key, user))
    assert story is not None
    return {pair["channel"]: (pair["state"], pair["reason"]) for pair in story["pairs"].values()}


def why(found: Pipeline, key: str = "k-1") -> list[tuple[str, str, str]]:
    story = history.find(found.status, named(key))
    assert story is not None
    return [(one["rule"], one["saw"], one["verdict"]) for one in story["why"]]


def cancel(found: Pipeline, key: str = "k-1") -> None:
    found.signal(Signal(kind="cancel", id=named(key), user_id="u-1"))


def nothing_waits(found: Pipeline) -> bool:
    return not list(found.core.scan(waits.PREFIX)) and not list(found.core.scan(waits.BY_ID))


# -- scheduled


def test_what_is_scheduled_goes_out_at_its_time_and_not_a_moment_before() -> None:
    found = pipeline()
    due = NOON + HOUR
    ask(found, scheduled_at=rfc3339(due))
    assert states(found) == {"": ("scheduled", "scheduled")}
    found.pass_time(due - found.now - 1)
    assert told(found) == []
    found.pass_time(1)
    assert channels(found) == ["email", "sms", "web"]
    assert {state for state, _ in states(found).values()} == {"sent"}
    assert nothing_waits(found)


def test_attachments_are_still_there_after_a_wait_and_not_in_a_digest() -> None:
    id = f"{'a' * 32}-5-{NOON // 86_400_000 + 1}"
    found = pipeline(channels=["email", "sms"])
    ask(found, scheduled_at=rfc3339(NOON + HOUR), attachments=[id])
    found.pass_time(HOUR)
    assert {m.channel: m.attachments for _, m in found.provider.calls} == {"email": (id,), "sms": None}
    found = digesting(flush_at=2)
    for n in range(2):
        ask(found, f"k-{n}", attachments=[id])
    assert [message.attachments for _, message in found.provider.calls] == [None]


def test_what_is_scheduled_then_cancelled_never_goes_out() -> None:
    found = pipeline()
    ask(found, scheduled_at=rfc3339(NOON + HOUR))
    cancel(found)
    assert states(found) == {"": ("cancelled", "cancelled")}
    found.pass_time(DAY)
    assert told(found) == [] and nothing_waits(found)


def test_what_is_on_its_way_when_it_is_cancelled_finds_its_wait_gone() -> None:
    found = pipeline()
    ask(found, scheduled_at=rfc3339(NOON + HOUR))
    [(_, due, wait)] = waits.read(list(found.core.scan(waits.PREFIX)))
    found.now = due
    cancel(found)
    found.send(Send(wait.topic, wait.key, wait.value, headers=[("due", b"%d" % due)]))
    assert told(found) == []


def test_what_comes_up_twice_goes_out_once() -> None:
    found = pipeline()
    ask(found, scheduled_at=rfc3339(NOON + HOUR))
    [(_, due, wait)] = waits.read(list(found.core.scan(waits.PREFIX)))
    found.now = due
    for _ in range(2):
        found.send(Send(wait.topic, wait.key, wait.value, headers=[("due", b"%d" % due)]))
    assert channels(found) == ["email", "sms", "web"]
    story = history.find(found.status, named())
    assert story is not None and story["duplicates"] == 0


def test_a_cancel_that_comes_first_is_remembered() -> None:
    found = pipeline()
    cancel(found)
    ask(found)
    assert told(found) == [] and states(found) == {"": ("cancelled", "cancelled")}
    found.pass_time(DAY)
    ask(found)  # the same again
    assert told(found) == []


def test_a_cancel_that_comes_late_says_so_and_changes_nothing() -> None:
    found = pipeline()
    ask(found)
    before = states(found)
    cancel(found)
    assert states(found) == before
    story = history.find(found.status, named())
    assert story is not None and ["cancelled", "cancelled_too_late"] in [e[3:5] for e in story["timeline"]]


def test_a_schedule_that_has_passed_goes_out_at_once() -> None:
    found = pipeline()
    ask(found, scheduled_at=rfc3339(NOON - HOUR))
    assert channels(found) == ["email", "sms", "web"]


# -- quiet hours

NIGHT = {"quiet_hours": {"start": "22:00", "end": "07:00"}}


def at_night(**workflow: Any) -> Pipeline:
    found = pipeline(**workflow)
    found.preferences("u-1", **NIGHT)
    found.now = MIDNIGHT + 23 * HOUR
    return found


def test_what_comes_in_quiet_hours_is_delivered_at_their_end() -> None:
    found = at_night()
    ask(found)
    assert states(found) == {"": ("scheduled", "quiet_hours")}
    assert ("quiet_hours", "22:00 to 07:00 UTC, until " + rfc3339(MIDNIGHT + 31 * HOUR), "waits") in why(
        found
    )
    found.pass_time(MIDNIGHT + 31 * HOUR - 1 - found.now)
    assert told(found) == []
    found.pass_time(1)
    assert channels(found) == ["email", "sms", "web"]


def test_who_opts_out_in_quiet_hours_is_not_told_at_their_end() -> None:
    found = at_night()
    ask(found)
    found.preferences("u-1", **NIGHT, channels={"email": False, "sms": False, "web": False})
    found.pass_time(DAY)
    assert told(found) == []
    assert set(states(found).values()) == {("suppressed", "channel_opted_out")}


def test_critical_passes_quiet_hours_and_says_so() -> None:
    found = at_night(priority="critical")
    ask(found)
    assert channels(found) == ["email", "sms", "web"]
    assert ("quiet_hours", "22:00 to 07:00 UTC", "passes: critical") in why(found)


def test_quiet_hours_are_those_of_the_users_own_zone() -> None:
    found = at_night()
    found.user("u-1", email="ada@example.com", timezone="America/New_York")  # 19:00 there
    ask(found, channels=["email"])
    assert channels(found) == ["email"]


def test_what_expires_while_it_waits_is_told_as_expired() -> None:
    found = at_night()
    ask(found, expires_at=rfc3339(found.now + HOUR))
    found.pass_time(DAY)
    assert told(found) == [] and set(states(found).values()) == {("expired", "expired")}


# -- caps


def test_a_category_has_its_own_cap_a_day() -> None:
    found = pipeline()
    found.policy = Policy(category_caps={"orders": 2})
    for n in range(4):
        ask(found, f"k-{n}", channels=["email"])
    assert len(told(found)) == 2
    assert states(found, "k-3") == {"email": ("suppressed", "category_cap")}
    found.pass_time(DAY)
    ask(found, "k-9", channels=["email"])
    assert len(told(found)) == 3


def test_a_throttled_workflow_tells_so_often_in_a_span() -> None:
    found = pipeline(throttle={"limit": 1, "per": 60})
    found.now = MIDNIGHT
    for n in range(3):
        ask(found, f"k-{n}", channels=["email"])
    assert states(found, "k-2") == {"email": ("suppressed", "throttled")}
    found.pass_time(MINUTE)
    ask(found, "k-3", channels=["email"])
    assert [text for _, text in told(found)] == ["Order k-0", "Order k-3"]


def test_the_day_of_a_cap_is_the_users_own() -> None:
    found = pipeline()
    found.user("u-1", email="ada@example.com", timezone="Pacific/Auckland")  # midnight there is noon here
    found.preferences("u-1", frequency_limit=1)
    found.now = MIDNIGHT + 11 * HOUR + 30 * MINUTE
    ask(found, "k-1", channels=["email"])
    ask(found, "k-2", channels=["email"])
    found.now = MIDNIGHT + 12 * HOUR + 30 * MINUTE
    ask(found, "k-3", channels=["email"])
    assert [text for _, text in told(found)] == ["Order k-1", "Order k-3"]


def test_capped_is_said_with_its_count() -> None:
    found = pipeline()
    found.preferences("u-1", frequency_limit=1)
    ask(found, "k-1", channels=["email"])
    ask(found, "k-2", channels=["email"])
    assert states(found, "k-2") == {"email": ("suppressed", "daily_cap")}
    assert ("daily_cap", "1 of 1", "stands against it") in why(found, "k-2")


# -- preferences


def test_what_is_mandatory_passes_an_opt_out_of_its_category() -> None:
    for mandatory, expected in ((True, ["email"]), (False, [])):
        found = pipeline(mandatory=mandatory)
        found.preferences("u-1", categories={"orders": {"email": False}})
        ask(found, channels=["email"])
        assert channels(found) == expected


def test_an_address_that_bounced_is_not_used_any_more() -> None:
    found = pipeline()
    ask(found, "k-1", channels=["email"])
    report(found, "k-1", "email", "bounced")
    ask(found, "k-2", channels=["email", "sms"])
    assert states(found, "k-2")["email"] == ("suppressed", "address_suppressed")
    assert states(found, "k-2")["sms"][0] == "sent"
    found.user("u-1", email="ada@other.example", phone="+15550100")
    ask(found, "k-3", channels=["email"])
    assert states(found, "k-3")["email"][0] == "sent"


def report(found: Pipeline, key: str, channel: str, state: str) -> None:
    """A provider's receipt for a message that was sent."""
    story = history.find(found.status, named(key))
    assert story is not None
    name = next(name for name in story["pairs"] if name.startswith(f"{channel}:"))
    event = {"source": "carillon", "id": key, "type": "shop.order.confirmed"}
    status = Status.from_dict(
        {
            "notification_id": named(key), "user_id": "u-1", "channel": channel,
            "target_id": name.partition(":")[2], "state": state, "at": rfc3339(found.now),
            "event_at": NOON, "event": event,
        }
    )  # fmt: skip
    found.send(Send(topics.DELIVERY_STATUS, b"u-1", status.to_json()))


# -- unknown users


def test_a_user_who_appears_within_the_grace_is_told_at_once() -> None:
    found = pipeline()
    ask(found, user_id="u-2", channels=["email"])
    assert states(found, user="u-2") == {"": ("scheduled", "unknown_user")}
    found.pass_time(GRACE // 2)
    found.user("u-2", email="bob@example.com")
    found.pass_time(0)
    assert channels(found) == ["email"] and nothing_waits(found)


def test_a_user_who_does_not_appear_within_the_grace_is_unknown() -> None:
    found = pipeline()
    ask(found, user_id="u-2", channels=["email"])
    found.pass_time(GRACE - 10)
    assert states(found, user="u-2") == {"": ("scheduled", "unknown_user")}
    found.pass_time(20)
    assert states(found, user="u-2") == {"email": ("suppressed", "unknown_user")}
    found.user("u-2", email="bob@example.com")
    found.pass_time(DAY)
    assert told(found) == [] and nothing_waits(found)


# -- failures that can be mended


def test_an_unknown_template_is_told_and_goes_out_once_it_is_there() -> None:
    found = pipeline(template="later")
    ask(found, channels=["email"])
    assert states(found) == {"": ("failed", "unknown_template")}
    found.catalogue.set_template(a_template(name="later"))
    ask(found, channels=["email"])
    assert channels(found) == ["email"]


def test_variables_that_do_not_fill_the_template_are_told() -> None:
    found = pipeline()
    ask(found, variables={"no": "order"})
    [(state, reason)] = states(found).values()
    assert state == "failed" and reason in ("template_failed", "invalid_variables")
    assert told(found) == []


# -- digests

TEXT = "{% for i in items %}{{ i.order.id }} {% endfor %}"
LIST = a_template(
    name="list",
    email={"subject": "{{ count }}", "text": TEXT},
)


def digesting(**rule: Any) -> Pipeline:
    return pipeline(templates=[LIST], channels=["email"], digest={"window": 3600, "template": "list"} | rule)


def test_what_comes_within_the_window_goes_out_as_one() -> None:
    found = digesting()
    for n in range(3):
        ask(found, f"k-{n}")
        assert states(found, f"k-{n}") == {"": ("digested", "in_digest")}
    found.pass_time(HOUR)
    assert told(found) == [("email", "k-0 k-1 k-2 ")]
    assert nothing_waits(found)
    ask(found, "k-3")
    found.pass_time(HOUR)
    assert told(found)[1:] == [("email", "k-3 ")]


def test_a_digest_that_is_full_goes_out_at_once() -> None:
    found = digesting(flush_at=2)
    for n in range(5):
        ask(found, f"k-{n}")
    assert told(found) == [("email", "k-0 k-1 "), ("email", "k-2 k-3 ")]
    found.pass_time(HOUR)
    assert told(found)[2:] == [("email", "k-4 ")] and nothing_waits(found)


def test_each_key_has_its_own_digest() -> None:
    found = digesting(by="order.shop")
    for n, shop in enumerate("abab"):
        ask(found, f"k-{n}", variables={"order": {"id": f"k-{n}", "shop": shop}})
    found.pass_time(HOUR)
    assert sorted(told(found)) == [("email", "k-0 k-2 "), ("email", "k-1 k-3 ")]


def test_who_opts_out_while_it_gathers_is_told_nothing() -> None:
    found = digesting()
    ask(found)
    found.preferences("u-1", channels={"email": False})
    found.pass_time(HOUR)
    assert told(found) == []


def test_a_digest_that_closes_in_quiet_hours_waits_for_their_end() -> None:
    found = digesting()
    found.preferences("u-1", **NIGHT)
    found.now = MIDNIGHT + 21 * HOUR + 30 * MINUTE
    ask(found)
    found.pass_time(2 * HOUR)
    assert told(found) == []
    found.pass_time(8 * HOUR)
    assert told(found) == [("email", "k-1 ")]


def test_an_item_that_is_cancelled_is_not_in_the_digest() -> None:
    found = digesting()
    for n in range(3):
        ask(found, f"k-{n}")
    cancel(found, "k-1")
    assert states(found, "k-1") == {"": ("cancelled", "cancelled")}
    found.pass_time(HOUR)
    assert told(found) == [("email", "k-0 k-2 ")]


def test_a_digest_counts_once_against_the_cap() -> None:
    found = digesting()
    found.preferences("u-1", frequency_limit=1)
    for n in range(3):
        ask(found, f"k-{n}")
    found.pass_time(HOUR)
    assert len(told(found)) == 1


def test_what_is_too_large_to_be_gathered_goes_out_at_once_as_a_digest_of_one() -> None:
    found = digesting()
    ask(found, "k-0")
    large = {"order": {"id": "k-1", "notes": "x" * MAX_ITEM_BYTES}}
    ask(found, "k-1", variables=large)
    ask(found, "k-2")
    assert told(found) == [("email", "k-1 ")]
    assert states(found, "k-1") == {"": ("digested", "in_digest")}
    found.pass_time(HOUR)
    assert told(found) == [("email", "k-1 "), ("email", "k-0 k-2 ")]
    assert nothing_waits(found)
    for topic in (topics.EVENTS, topics.NOTIFICATIONS):
        found.replay(topic)
    assert len(told(found)) == 2


# -- fallback

ALSO_PUSH = a_template(name="order", email={"subject": "s", "text": "mail {{ order.id }}"},
                       push={"text": "push {{ order.id }}"}, sms={"text": "sms {{ order.id }}"})  # fmt: skip


def chained(answer: Any = None) -> Pipeline:
    return pipeline(answer, templates=[ALSO_PUSH], channels=["push"], fallback=["email", "sms"])


def test_push_without_a_token_falls_back_to_e_mail() -> None:
    found = chained()
    ask(found)
    assert channels(found) == ["email"]
    assert states(found) == {"push": ("suppressed", "no_address"), "email": ("sent", None)}


def test_with_a_token_the_chain_is_not_used() -> None:
    found = chained()
    found.device("u-1", "token-1")
    ask(found)
    assert channels(found) == ["push"]
    assert states(found)["push"][0] == "sent"


def test_every_device_is_told() -> None:
    found = chained()
    found.device("u-1", "token-1")
    found.device("u-1", "token-2")
    ask(found)
    assert sorted(message.target for _, message in found.provider.calls) == ["token-1", "token-2"]


def test_the_chain_goes_on_when_the_last_target_has_failed() -> None:
    found = chained(outcome.refused("gone"))
    found.device("u-1", "token-1")
    found.device("u-1", "token-2")
    ask(found)
    assert channels(found) == ["push", "push", "email", "sms"]


def test_one_target_that_is_reached_is_enough() -> None:
    found = chained()
    found.provider.answers = {"token-1": outcome.refused("gone")}
    found.device("u-1", "token-1")
    found.device("u-1", "token-2")
    ask(found)
    assert channels(found) == ["push", "push"]


def test_a_failure_that_is_heard_again_does_not_go_on_again() -> None:
    found = chained(outcome.refused("gone"))
    found.device("u-1", "token-1")
    ask(found)
    before = told(found)
    for signal in [s for s in found.topics[topics.NOTIFICATIONS] if b'"kind":"failed"' in (s.value or b"")]:
        found.send(signal)
    assert told(found) == before


# -- escalation


def escalating() -> Pipeline:
    return pipeline(channels=["email"], escalate=[{"after": 600, "channels": ["sms"]}])


def test_what_is_not_seen_is_told_on_another_channel() -> None:
    found = escalating()
    ask(found)
    assert channels(found) == ["email"]
    found.pass_time(10 * MINUTE)
    assert channels(found) == ["email", "sms"] and nothing_waits(found)


@pytest.mark.parametrize("state", ["opened", "clicked"])
def test_what_was_seen_is_not_escalated(state: str) -> None:
    found = escalating()
    ask(found)
    found.pass_time(5 * MINUTE)
    report(found, "k-1", "email", state)
    found.pass_time(DAY)
    assert channels(found) == ["email"] and nothing_waits(found)


def test_an_escalation_looks_at_everything_again() -> None:
    found = escalating()
    ask(found)
    found.preferences("u-1", channels={"sms": False})
    found.pass_time(DAY)
    assert channels(found) == ["email"]
    assert states(found)["sms"] == ("suppressed", "channel_opted_out")


def test_a_cancel_stops_the_escalation() -> None:
    found = escalating()
    ask(found)
    cancel(found)
    found.pass_time(DAY)
    assert channels(found) == ["email"]


def test_an_escalation_to_the_same_target_has_a_key_of_its_own() -> None:
    found = pipeline(channels=["email"], escalate=[{"after": 600, "channels": ["email"]}])
    ask(found)
    found.pass_time(HOUR)
    keys = [key for key, _ in found.provider.calls]
    assert len(keys) == len(set(keys)) == 2
    assert all(re.fullmatch(r"[0-9a-zA-Z.-]+", key) for key in keys), "they stand in a Message-ID"


# -- again


SCENES: dict[str, dict[str, Any]] = {
    "plain": {},
    "scheduled": {"scheduled_at": rfc3339(NOON + HOUR)},
    "unknown": {"user_id": "u-2"},
}


WORKFLOWS: list[dict[str, Any]] = [
    {},
    {"digest": {"window": 60, "flush_at": 2}},
    {"escalate": [{"after": 60, "channels": ["sms"]}], "channels": ["email"]},
    {"channels": ["push"], "fallback": ["email"]},
]


@pytest.mark.parametrize("workflow", WORKFLOWS)
@pytest.mark.parametrize("fields", SCENES.values(), ids=SCENES)
def test_a_replay_of_everything_is_silent(workflow: dict[str, Any], fields: dict[str, Any]) -> None:
    found = pipeline(**workflow)
    for n in range(3):
        ask(found, f"k-{n}", **fields)
    found.pass_time(DAY)
    before, rows = told(found), {**found.core}
    for lane in ("", topics.EXPRESS):
        for topic in (topics.EVENTS, topics.NOTIFICATIONS):
            found.replay(topic + lane)
    assert told(found) == before
    assert found.core == rows
    found.pass_time(DAY)
    assert told(found) == before


# -- words

EUR = "Order {{ order.id }}, {{ 1234.5 | money('EUR') }}"
BRL = "Pedido {{ order.id }}, {{ 1234.5 | money('BRL') }}"
SPOKEN = Template.model_validate(
    {
        "name": "order",
        "versions": {
            1: {
                "channels": {"email": {"subject": "s", "text": EUR}},
                "locales": {
                    "pt": {"email": {"subject": "s", "text": "Pedido {{ order.id }}"}},
                    "pt-BR": {"email": {"subject": "s", "text": BRL}},
                },
                "schema": {
                    "type": "object", "required": ["order"],
                    "properties": {"order": {"type": "object", "properties": {"id": {"type": "string"}}}},
                },
            }
        },
    }
)  # fmt: skip


@pytest.mark.parametrize(
    ("locale", "words"),
    [
        ("pt-BR", "Pedido k-1, R$\xa01.234,50"),
        ("pt-PT", "Pedido k-1"),
        ("ja", "Order k-1, €1,234.50"),
        ("en-GB", "Order k-1, €1,234.50"),
    ],
)
def test_a_user_is_told_in_their_language_or_the_nearest_there_is(locale: str, words: str) -> None:
    found = pipeline(templates=[SPOKEN], channels=["email"])
    found.user("u-1", email="ada@example.com", locale=locale)
    ask(found)
    assert told(found) == [("email", words)]


def test_a_locale_that_stood_in_is_told() -> None:
    found = pipeline(templates=[SPOKEN], channels=["email"])
    found.user("u-1", email="ada@example.com", locale="pt-PT")
    ask(found)
    assert ("locale", "pt-PT", "pt") in why(found)


def test_variables_that_the_schema_does_not_take_are_named_before_anything_is_queued() -> None:
    found = pipeline(templates=[SPOKEN], channels=["email"])
    ask(found, variables={"order": {"id": 7}})
    assert states(found) == {"": ("failed", "invalid_variables")} and told(found) == []
    story = history.find(found.status, named())
    assert story is not None and "order.id" in story["timeline"][-1][7]


def test_a_template_that_is_rolled_back_speaks_as_before_and_what_is_out_stays_as_it_was() -> None:
    found = pipeline(channels=["email"])
    first = a_template("First {{ order.id }}").versions[1]
    second = a_template("Second {{ order.id }}").versions[1]
    both = Template(name="order", versions={1: first, 2: second}, current=2)
    found.catalogue.set_template(both)
    ask(found, "k-1")
    found.catalogue.set_template(rolled_back(both, 1))
    ask(found, "k-2")
    assert [text for _, text in told(found)] == ["Second k-1", "First k-2"]


def test_a_variant_is_stable_for_a_user_and_counted() -> None:
    half = Template.model_validate(
        {
            "name": "order",
            "versions": {
                1: {
                    "channels": {"email": {"subject": "s", "text": "plain"}},
                    "variants": [
                        {"name": "a", "weight": 50},
                        {"name": "b", "weight": 50, "channels": {"email": {"subject": "s", "text": "bold"}}},
                    ],
                }
            },
        }
    )
    found = pipeline(templates=[half], channels=["email"])
    for n in range(40):
        user = f"u-{n % 20}"
        found.user(user, email=f"{user}@example.com")
        ask(found, f"k-{n}", user_id=user)
    by_user: dict[str, set[str]] = {}
    for _, message in found.provider.calls:
        by_user.setdefault(message.user_id, set()).add(message.text)
    assert all(len(words) == 1 for words in by_user.values())
    counts = history.variants(found.status)
    sent = {variant: n for (_, variant, _, state), n in counts.items() if state == "sent"}
    assert sum(sent.values()) == 40 and set(sent) == {"a", "b"}
    assert sent["b"] == sum(message.text == "bold" for _, message in found.provider.calls)
