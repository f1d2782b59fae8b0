"""Intake: who an event is for, each once, and what planning will need to know."""

from typing import Any

import jmespath
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import intake
from agents.catalogue import Catalogue
from agents.intake import take_in
from agents.sending import Send
from schemas.event import MAX_RECIPIENTS, Contact, Unreadable, read_event
from schemas.ids import broadcast_id, hash_in, notification_id, user_hash
from schemas.kinds import Reason
from schemas.notification import FanOut, Notification
from schemas.segment import Segment
from schemas.status import Status
from tables.claims import Origin
from tests.journeys.memory import NOON
from tests.journeys.samples import SOURCE, a_workflow, cloud_event, request, shop

ORIGIN = Origin("events", 0, 7, NOON)


def taken(value: bytes, *rules: Any) -> list[Send]:
    return take_in(value, [], ORIGIN, Catalogue(rules) if rules else shop())


def users(value: bytes, *rules: Any) -> list[str]:
    return [Notification.from_json(send.value).user_id for send in taken(value, *rules)]


def ignored(value: bytes, *rules: Any) -> Status:
    (send,) = taken(value, *rules)
    assert send.topic == "delivery-status"
    return Status.from_json(send.value)


def test_an_event_becomes_a_notification_that_planning_reads() -> None:
    (send,) = taken(cloud_event())
    notification = Notification.from_json(send.value)
    assert notification.id == notification_id("u-1", SOURCE, "e-1", "order-confirmed")
    assert (notification.position, notification.event_at, notification.step) == ("events-0-7", NOON, "plan")
    assert (notification.workflow, notification.category, notification.template) == (
        "order-confirmed", "orders", "order",
    )  # fmt: skip
    assert list(notification.channels) == ["email", "sms", "web"]
    assert notification.variables["order"] == {"id": "C-1"}
    assert (send.topic, send.key, send.hashed) == ("notifications", b"u-1", user_hash("u-1"))
    assert send.hashed == hash_in(notification.id)


def test_a_redelivery_makes_the_same_bytes() -> None:
    assert taken(cloud_event()) == taken(cloud_event())
    assert taken(request()) == taken(request())


def test_the_request_outweighs_the_rule() -> None:
    (send,) = taken(
        request(
            priority="high", channels=["push"], category="c", template_id="other", locale="de",
            metadata={"a": 1}, expires_at="2030-01-01T00:00:00Z", variables={"x": None},
        )
    )  # fmt: skip
    found = Notification.from_json(send.value)
    assert send.topic == "notifications-express"
    assert (found.priority, *found.channels, found.category, found.template, found.locale) == (
        "high", "push", "c", "other", "de",
    )  # fmt: skip
    assert (found.metadata, found.expires_at, found.variables) == ({"a": 1}, 1_893_456_000_000, {"x": None})


def test_what_the_request_leaves_open_the_rule_says() -> None:
    rule = a_workflow(priority="critical", expires_after=60, mandatory=True, doubt="at_most_once")
    (send,) = taken(request(), rule)
    found = Notification.from_json(send.value)
    assert send.topic == "notifications-express"
    assert (found.priority, found.mandatory, found.doubt) == ("critical", True, "at_most_once")
    assert b"metadata" not in (send.value or b"")
    assert found.expires_at == NOON + 60_000


def test_a_request_with_its_own_words_needs_no_rule() -> None:
    (send,) = taken(request(event_type="unknown", content={"subject": "Hi", "body": "there"}))
    found = Notification.from_json(send.value)
    assert (found.workflow, found.template) == ("direct", None)
    assert found.content is not None
    assert (found.content.subject, found.content.body) == ("Hi", "there")
    (send,) = taken(request(event_type="unknown", template_id="order"))
    assert Notification.from_json(send.value).template == "order"


def test_a_contact_travels_with_its_notification() -> None:
    (send,) = taken(request(user_id=None, recipients=[{"email": "a@example.com"}]))
    found = Notification.from_json(send.value)
    assert found.contact is not None
    assert found.contact.email == "a@example.com"
    assert found.user_id == Contact(email="a@example.com").identity


def test_somebody_who_is_named_twice_is_told_once() -> None:
    contact = {"user_id": "u", "email": "a@example.com"}
    for recipients in ([contact, "u"], ["u", contact]):
        (send,) = taken(request(user_id=None, recipients=recipients))
        assert Notification.from_json(send.value).contact is not None
    event = cloud_event(data={"a": "u", "b": ["u", "v", "u"]})
    assert users(event, a_workflow(recipients=["a", "b[]"])) == ["u", "v"]


def test_a_segment_makes_one_fan_out_for_every_partition_with_the_rule_of_now() -> None:
    rule = a_workflow(recipients=["customer.id"], segment="pro")
    catalogue = Catalogue([rule])
    catalogue.set_segment(Segment(name="pro", rule="true"))
    one, whole = take_in(cloud_event(), [], ORIGIN, catalogue)
    assert Notification.from_json(one.value).user_id == "u-1"
    assert (whole.topic, whole.everywhere, whole.hashed) == ("notifications", True, None)
    found = FanOut.from_json(whole.value)
    assert (found.n, found.segment, found.rule, found.after) == (0, "pro", "true", None)
    assert (found.pattern.user_id, found.pattern.broadcast) == ("", found.id)
    assert found.id == broadcast_id(SOURCE, "e-1", rule.id)
    assert found.id != Notification.from_json(one.value).id


def test_a_request_for_a_segment_tells_nobody_else_and_one_for_a_user_no_segment() -> None:
    rule = a_workflow(users=["u-9"], segment="pro")
    (whole,) = taken(request(user_id=None, segment="vip", priority="high"), rule)
    found = FanOut.from_json(whole.value)
    assert (whole.topic, found.segment, found.rule) == ("notifications-express", "vip", None)
    (one,) = taken(request(), rule)
    assert Notification.from_json(one.value).user_id == "u-1"


def test_two_rules_make_two_notifications_with_ids_of_their_own() -> None:
    sends = taken(cloud_event(), a_workflow(), a_workflow(name="other", on="shop.*"))
    assert len({Notification.from_json(send.value).id for send in sends}) == 2


@pytest.mark.parametrize(
    ("data", "path", "found"),
    [
        ({"customer": {"id": "u"}}, "customer.id", ["u"]),
        ({"customer": {"id": 5}}, "customer.id", ["5"]),
        ({"all": [{"id": "u"}, {"id": None}, {}, {"id": 7}]}, "all[].id", ["u", "7"]),
        ({"all": [[["u"], "v"]]}, "all", ["u", "v"]),
        ({"a": {"b-c": "u"}}, 'a."b-c"', ["u"]),
        ({"ok": True, "id": "u"}, "ok && id", ["u"]),
        ({"ok": None, "id": "u"}, "ok && id", []),
        ({"kind": "x", "id": "u"}, "kind == 'y' && id", []),
        ({}, "customer.id", []),
        ({"customer": None}, "customer.id", []),
        ({"customer": "u"}, "customer.id", []),
        ({"customer": ["u"]}, "customer.id", []),
        ({"customer": {"id": ""}}, "customer.id", []),
        ({"customer": {"id": True}}, "customer.id", []),
        ({"customer": {"id": 1.5}}, "customer.id", []),
        ({"customer": {"id": {"x": "u"}}}, "customer.id", []),
    ],
)
def test_recipients_are_found_where_the_rule_says(data: Any, path: str, found: list[str]) -> None:
    rule = a_workflow(recipients=[path])
    event = cloud_event(data=data)
    if found:
        assert users(event, rule) == found
    else:
        assert ignored(event, rule).reason == Reason.NO_RECIPIENT


names = st.sampled_from(["a", "b", "items", "length", "_x1"])
data = st.recursive(
    st.none()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
)


@given(data, st.lists(names, min_size=1, max_size=4))
def test_the_short_way_for_plain_paths_finds_what_jmespath_finds(value: Any, path: list[str]) -> None:
    dotted = ".".join(path)
    assert intake._compiled(dotted)(value) == jmespath.search(dotted, value)


@pytest.mark.parametrize("bad", ["a\nb", "a\x00b", "x" * 513, "a\u202eb"])
def test_a_recipient_that_cannot_be_a_key_is_refused_by_its_path(bad: str) -> None:
    event = read_event(cloud_event(), [], "p", NOON)._replace(data={"customer": {"id": bad}})
    with pytest.raises(Unreadable, match=r"recipients, customer\.id: (?!\(whole\))") as found:
        intake.recipients(event, a_workflow())
    assert bad not in str(found.value)
    assert str(found.value).isprintable()


@pytest.mark.parametrize(
    "path", ["join(',', id)", "sort_by(id, &x)", "to_number(id) > `1`", "length(id)", "abs(id)"]
)
@given(data)
def test_an_expression_that_does_not_fit_its_data_is_refused_by_its_name(path: str, value: Any) -> None:
    try:
        taken(cloud_event(data={"id": value}), a_workflow(recipients=[path]))
    except Unreadable as error:
        assert str(error).startswith(f"recipients, {path}: ")


def test_more_recipients_than_fit_are_refused() -> None:
    rule = a_workflow(recipients=["all"])
    assert (
        len(users(cloud_event(data={"all": [f"u{n}" for n in range(MAX_RECIPIENTS)]}), rule))
        == MAX_RECIPIENTS
    )
    with pytest.raises(Unreadable, match="1001 recipients") as found:
        users(cloud_event(data={"all": [f"u{n}" for n in range(MAX_RECIPIENTS + 1)]}), rule)
    assert found.value.reason is Reason.TOO_LARGE


def test_a_large_event_is_not_multiplied_by_its_recipients() -> None:
    event = cloud_event(data={"all": [f"u{n}" for n in range(500)], "blob": "x" * 200_000})
    with pytest.raises(Unreadable, match="too many") as found:
        taken(event, a_workflow(recipients=["all"]))
    assert found.value.reason is Reason.TOO_LARGE


def test_what_nobody_wants_is_ignored_with_an_id_of_its_own() -> None:
    status = ignored(cloud_event(type="shop.cart.viewed"))
    assert (status.state, status.reason, status.user_id) == ("ignored", Reason.NO_WORKFLOW, "")
    assert status.notification_id == notification_id(f"{SOURCE}|e-1", SOURCE, "e-1", "")
    assert status.event.id == "e-1"
    (send,) = taken(cloud_event(type="shop.cart.viewed"))
    assert send.hashed == hash_in(status.notification_id)


def test_data_travels_whole() -> None:
    data = {"customer": {"id": "u"}, "a": [1, 2.5, None, True, "é\u2028", {"b": 1e22}], "": {}, "big": 2**63}
    (send,) = taken(cloud_event(data=data))
    assert Notification.from_json(send.value).variables == orjson.loads(orjson.dumps(data))


def test_attachments_travel_with_the_request_that_names_them() -> None:
    id = f"{'a' * 32}-5-{NOON // 86_400_000}"
    value = request(attachments=[id], user_id=None, recipients=["u-1", "u-2"])
    assert [Notification.from_json(send.value).attachments for send in taken(value)] == [(id,), (id,)]
    for plain in (request(), request(attachments=[]), request(attachments=None, metadata={"a": 1})):
        (send,) = taken(plain)
        assert b"attachments" not in (send.value or b"")
