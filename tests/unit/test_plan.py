"""Plan: every rule gives each channel exactly one outcome, and a day's cap counts each notification once."""

from itertools import product
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import plan, topics
from agents.catalogue import Catalogue
from agents.know import know
from agents.rules import address
from agents.sending import Send
from schemas.event import Unreadable
from schemas.kinds import Channel, Priority, Reason
from schemas.notification import Addresses, GivenContent, Notification
from tables import caps, claims
from tables.caps import DAY
from tables.claims import Pinned
from tables.people import Person
from tests.journeys.memory import NOON, MemoryRows
from tests.journeys.samples import a_notification, a_template, an_origin

ALL = tuple(str(channel) for channel in Channel)
ADDRESSES = {
    "email": "ada@example.com",
    "phone": "+15550100",
    "slack": "U1",
    "webhook_url": "https://x.example",
}


def rows_with(
    user: dict[str, Any] | None, wants: dict[str, Any] | None = None, counted: int = 0
) -> MemoryRows:
    rows = MemoryRows()
    if user is not None:
        know(topics.USERS, b"u-1", orjson.dumps({"user_id": "u-1"} | user), NOON, rows)
    if wants is not None:
        know(topics.PREFERENCES, b"u-1", orjson.dumps({"user_id": "u-1"} | wants), NOON, rows)
    if counted:
        rows.put(caps.key("u-1", NOON // DAY), b"%d" % counted)
    return rows


def chosen(notification: Notification, rows: MemoryRows) -> tuple[Pinned, ...]:
    """What planning pins, words given with the notification."""
    direct = msgspec.structs.replace(notification, content=GivenContent(body="x"))
    plan.plan(direct, an_origin(at=NOON), plan.Work(rows, 1, 0, Catalogue()))
    claim = claims.find(rows, claims.key(notification.id, notification.step))
    assert claim is not None
    return claim.pinned


on_or_off = st.dictionaries(st.sampled_from(ALL), st.booleans())


@given(
    user=st.none() | st.dictionaries(st.sampled_from(sorted(ADDRESSES)), st.just("x")),
    contact=st.none() | st.dictionaries(st.sampled_from(sorted(ADDRESSES)), st.just("y"), min_size=1),
    channels=st.lists(st.sampled_from(ALL), min_size=1, max_size=8),
    wants=st.none()
    | st.fixed_dictionaries(
        {
            "channels": on_or_off,
            "categories": st.dictionaries(st.sampled_from(["orders", "other"]), on_or_off),
        },
        optional={"frequency_limit": st.integers(0, 3)},
    ),
    counted=st.integers(0, 3),
    mandatory=st.booleans(),
    priority=st.sampled_from([str(p) for p in Priority]),
    expires=st.none() | st.integers(NOON - 2, NOON + 2),
)
def test_every_combination_of_rules_gives_each_channel_exactly_one_outcome(
    user: dict[str, str] | None,
    contact: dict[str, str] | None,
    channels: list[str],
    wants: dict[str, Any] | None,
    counted: int,
    mandatory: bool,
    priority: str,
    expires: int | None,
) -> None:
    rows = rows_with(user, wants, counted)
    notification = a_notification(
        channels=channels, contact=contact, mandatory=mandatory, priority=priority, expires_at=expires
    )
    found = chosen(notification, rows)
    assert [p.channel for p in found] == list(dict.fromkeys(channels))
    wanted = wants or {}
    limit = wanted.get("frequency_limit", 50)
    addresses = (user or {}) | (contact or {}) | {"user": "u-1"}
    fields: dict[str, str] = {
        "email": "email",
        "sms": "phone",
        "chat": "slack",
        "webhook": "webhook_url",
        "web": "user",
    }
    for one in found:
        channel, target, reason, saw = one.channel, one.target, one.reason, one.saw
        if user is None and contact is None:
            expected: str | None = Reason.UNKNOWN_USER
        elif expires is not None and expires <= NOON:
            expected = Reason.EXPIRED
        elif fields.get(channel) not in addresses:
            expected = Reason.NO_ADDRESS
        elif not mandatory and wanted.get("channels", {}).get(channel) is False:
            expected = Reason.CHANNEL_OPTED_OUT
        elif not mandatory and wanted.get("categories", {}).get("orders", {}).get(channel) is False:
            expected = Reason.CATEGORY_OPTED_OUT
        elif not mandatory and priority != "critical" and counted >= limit:
            expected = Reason.DAILY_CAP
        else:
            expected = None
        assert reason == expected
        assert (target is not None) == (reason is None)
        assert target is None or target == addresses[fields[channel]]
        assert bool(saw) == (
            reason in (Reason.CHANNEL_OPTED_OUT, Reason.CATEGORY_OPTED_OUT, Reason.DAILY_CAP)
        )


def test_what_a_rule_saw_is_told() -> None:
    seen = {
        p.channel: p.saw
        for p in chosen(
            a_notification(),
            rows_with(ADDRESSES, {"channels": {"sms": False}, "categories": {"orders": {"web": False}},
                                  "frequency_limit": 2}, counted=2),
        )
    }  # fmt: skip
    assert seen == {"email": "2 of 2", "sms": "channels.sms: false", "web": "categories.orders.web: false"}


@pytest.mark.parametrize(
    ("channel", "known"), list(product([one for one in Channel if one is not Channel.PUSH], [True, False]))
)
def test_a_contacts_address_comes_before_the_users(channel: Channel, known: bool) -> None:
    user = Person(**ADDRESSES) if known else None
    contact = Addresses(email="other@example.com")
    expected = {
        Channel.EMAIL: "other@example.com",
        Channel.WEB: "u-1",
        Channel.SMS: ADDRESSES["phone"] if known else None,
        Channel.CHAT: ADDRESSES["slack"] if known else None,
        Channel.WEBHOOK: ADDRESSES["webhook_url"] if known else None,
    }
    assert address(channel, "u-1", user, contact) == expected[channel]


# -- caps


def planned(rows: MemoryRows, n: int, at: int = NOON, **fields: Any) -> list[Send]:
    catalogue = Catalogue(templates=[a_template()])
    identity = f"d24fdb77-1448-8c4e-bac4-{n:012x}"
    notification = a_notification(id=identity, position=f"events-0-{n}", **fields)
    return list(plan.plan(notification, an_origin(offset=n, at=at), plan.Work(rows, n, n - 1, catalogue)))


def counted(rows: MemoryRows, at: int = NOON) -> int:
    return caps.count(rows, caps.key("u-1", at // DAY))


def test_a_notification_counts_once_however_many_channels_it_has() -> None:
    rows = rows_with(ADDRESSES)
    planned(rows, 1)
    assert counted(rows) == 1
    planned(rows, 2, channels=["web"])
    assert counted(rows) == 2


def test_a_redelivery_does_not_count_again() -> None:
    rows = rows_with(ADDRESSES)
    for _ in range(3):
        planned(rows, 1)
    assert counted(rows) == 1


def test_the_cap_lets_through_exactly_as_many_as_it_says() -> None:
    rows = rows_with(ADDRESSES, {"frequency_limit": 3})
    went_out = [any(send.topic == "email-notifications" for send in planned(rows, n)) for n in range(1, 6)]
    assert went_out == [True, True, True, False, False]
    assert counted(rows) == 3


def test_a_new_day_is_a_new_count() -> None:
    rows = rows_with(ADDRESSES, {"frequency_limit": 1})
    midnight = (NOON // DAY + 1) * DAY
    assert planned(rows, 1, at=midnight - 1)[0].topic == "email-notifications"
    assert planned(rows, 2, at=midnight - 1)[0].topic == "delivery-status"
    assert planned(rows, 3, at=midnight)[0].topic == "email-notifications"


@pytest.mark.parametrize("fields", [{"mandatory": True}, {"priority": "critical"}])
def test_what_must_get_through_passes_the_cap_and_is_counted(fields: dict[str, Any]) -> None:
    rows = rows_with(ADDRESSES, {"frequency_limit": 0})
    assert planned(rows, 1, **fields)[0].topic.startswith("email-notifications")
    assert counted(rows) == 1


@pytest.mark.parametrize(
    ("user", "wants", "fields"),
    [
        (None, None, {}),
        (ADDRESSES, {"channels": {"email": False, "sms": False, "web": False}}, {}),
        ({}, None, {"channels": ["email", "sms"]}),
        (ADDRESSES, None, {"expires_at": NOON}),
        (ADDRESSES, None, {"channels": ["webhook"]}),  # the template has no words for it
        (ADDRESSES, None, {"template": "other"}),
        (ADDRESSES, None, {"variables": {}}),
    ],
)
def test_what_does_not_go_out_is_not_counted(user: Any, wants: Any, fields: dict[str, Any]) -> None:
    rows = rows_with(user, wants)
    sends = planned(rows, 1, **fields)
    assert {send.topic for send in sends} == {"delivery-status"}
    assert counted(rows) == 0


def test_a_channel_without_words_is_suppressed_and_the_others_go_out() -> None:
    sends = planned(rows_with(ADDRESSES), 1, channels=["webhook", "email"])
    told = [orjson.loads(s.value or b"") for s in sends if s.topic == "delivery-status"]
    assert [(t["channel"], t["state"], t.get("reason")) for t in told] == [
        ("webhook", "suppressed", "no_template_for_channel"), ("email", "queued", None),
    ]  # fmt: skip


# -- what is told


def test_the_whole_why_travels_once() -> None:
    sends = planned(rows_with(ADDRESSES, {"channels": {"sms": False}}), 1)
    told = [orjson.loads(s.value or b"") for s in sends if s.topic == "delivery-status"]
    assert [t.get("why") is not None for t in told] == [True, False, False]
    assert told[0]["why"] == [
        {"rule": "workflow", "saw": "shop.order.confirmed", "verdict": "order-confirmed"},
        {"rule": "daily_cap", "saw": "0 of 50", "verdict": "passes"},
        {"rule": "email", "verdict": "queued"},
        {"rule": "sms", "saw": "channels.sms: false", "verdict": "suppressed: channel_opted_out"},
        {"rule": "web", "verdict": "queued"},
    ]


def test_what_has_expired_is_told_as_expired() -> None:
    sends = planned(rows_with(ADDRESSES), 1, expires_at=NOON)
    assert {orjson.loads(s.value or b"")["state"] for s in sends} == {"expired"}


def test_statuses_show_no_address() -> None:
    for send in planned(rows_with(ADDRESSES), 1):
        if send.topic == "delivery-status":
            for address_ in ADDRESSES.values():
                assert address_.encode() not in (send.value or b"")


def test_words_of_the_request_go_out_as_they_are() -> None:
    sends = planned(
        rows_with(ADDRESSES), 1, template=None, content={"subject": "{{ hi }}", "body": "{{ there }} <b>"},
        channels=["email", "sms"],
    )  # fmt: skip
    email, sms = (orjson.loads(send.value or b"") for send in sends[:2])
    assert (email["subject"], email["text"], email.get("html")) == ("{{ hi }}", "{{ there }} <b>", None)
    assert (sms.get("subject"), sms["text"]) == (None, "{{ there }} <b>")


@pytest.mark.parametrize(
    ("priority", "lane"), [("critical", "-express"), ("high", "-express"), ("normal", ""), ("low", "")]
)
def test_messages_keep_their_lane(priority: str, lane: str) -> None:
    sends = planned(rows_with(ADDRESSES), 1, priority=priority)
    assert [send.topic for send in sends[:3]] == [f"{c}-notifications{lane}" for c in ("email", "sms", "web")]


@given(st.none() | st.binary(max_size=100) | st.just(b'{"id": 5}'))
def test_what_is_no_notification_is_refused_with_its_field(value: bytes | None) -> None:
    with pytest.raises(Unreadable, match=": "):
        plan.read(value)
