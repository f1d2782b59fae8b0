"""Reading events: both formats as they are meant, and whatever else is refused with the field's name."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

import schemas.event
from agents.intake import notify, take_in
from schemas.event import (
    MAX_EVENT_BYTES,
    MAX_METADATA_BYTES,
    MAX_RECIPIENTS,
    Contact,
    DirectContent,
    Event,
    PlainRequest,
    Request,
    Unreadable,
    milliseconds,
    read_event,
)
from schemas.kinds import Channel, Priority, Reason
from schemas.notification import Notification
from tables.claims import Origin
from tests.journeys.memory import NOON
from tests.journeys.samples import a_workflow, cloud_event, request, shop

POSITION = "events-0-7"
TODAY = NOON // 86_400_000
FILE = f"{'a' * 32}-5-{TODAY}"
Headers = list[tuple[str, bytes]]


def refused(value: bytes | None, headers: Headers | None = None) -> Unreadable:
    with pytest.raises(Unreadable) as found:
        read_event(value, headers or [], POSITION, NOON)
    return found.value


# -- the formats


def test_a_structured_cloud_event_is_read() -> None:
    event = read_event(cloud_event(data={"a": 1}), [], POSITION, NOON)
    assert (event.source, event.id, event.type) == ("https://shop.example", "e-1", "shop.order.confirmed")
    assert event.data == {"a": 1}
    assert event.request is None


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_any_minor_version_of_cloud_events_is_read(version: str) -> None:
    assert read_event(cloud_event(specversion=version), [], POSITION, NOON).id == "e-1"


@pytest.mark.parametrize(
    "kind", [b"application/cloudevents+json", b"Application/CloudEvents+JSON; charset=utf-8"]
)
def test_the_content_type_makes_a_cloud_event_of_it(kind: bytes) -> None:
    value = orjson.dumps({"id": "e-1", "source": "s", "type": "t"})
    assert str(refused(value, [("Content-Type", kind)])).startswith("specversion: ")
    assert read_event(cloud_event(), [("content-type", kind)], POSITION, NOON).id == "e-1"


def test_a_binary_cloud_event_is_read_from_its_headers() -> None:
    headers = [
        ("ce_specversion", b"1.0"), ("ce_id", b"e-2"), ("ce_source", "/zoë".encode()), ("ce_type", b"shop.x"),
        ("content-type", b"application/json"),
    ]  # fmt: skip
    event = read_event(b'{"customer": {"id": "u"}}', headers, POSITION, NOON)
    assert (event.source, event.id, event.type) == ("/zoë", "e-2", "shop.x")
    assert event.data == {"customer": {"id": "u"}}
    assert read_event(None, headers, POSITION, NOON).data == {}


def test_data_that_is_no_object_is_its_value() -> None:
    assert read_event(cloud_event(data=[1, 2]), [], POSITION, NOON).data == {"value": [1, 2]}
    assert read_event(cloud_event(data=None), [], POSITION, NOON).data == {}


def test_unknown_fields_are_ignored() -> None:
    assert read_event(cloud_event(extension="x"), [], POSITION, NOON).id == "e-1"
    assert read_event(request(mood="merry"), [], POSITION, NOON).request is not None


def test_our_own_request_is_read() -> None:
    event = read_event(
        request(idempotency_key="k", variables={"a": None}, priority="medium", channels=["sms"]),
        [], POSITION, NOON,
    )  # fmt: skip
    assert (event.source, event.id, event.type, event.data) == (
        "carillon",
        "k",
        "shop.order.confirmed",
        {"a": None},
    )
    assert event.request is not None
    assert event.request.user_id == "u-1"
    assert event.request.priority is Priority.NORMAL
    assert event.request.channels == (Channel.SMS,)


@pytest.mark.parametrize(("given_id", "text"), [(123, "123"), ("123", "123"), (0, "0"), (-5, "-5")])
def test_user_ids_are_text(given_id: Any, text: str) -> None:
    found = read_event(request(user_id=given_id), [], POSITION, NOON).request
    assert found is not None
    assert found.user_id == text
    many = read_event(request(user_id=None, recipients=[given_id, {"user_id": given_id}]), [], POSITION, NOON)
    assert many.request is not None
    assert many.request.recipients == (text, Contact(user_id=text))


def test_recipients_may_be_people_who_are_not_users() -> None:
    found = read_event(
        request(user_id=None, recipients=[{"email": "a@example.com"}]), [], POSITION, NOON
    ).request
    assert found is not None
    assert found.recipients == (Contact(email="a@example.com"),)
    assert Contact(email="a@example.com").identity.startswith("contact:")
    assert Contact(email="a@example.com").identity != Contact(email="b@example.com").identity


def test_words_may_come_with_the_request() -> None:
    found = read_event(request(content={"subject": "Hi", "body": "there"}), [], POSITION, NOON).request
    assert found is not None
    assert found.content == DirectContent(subject="Hi", body="there")


def test_without_a_key_the_record_itself_is_the_identity() -> None:
    def key(position: str = POSITION, at: int = NOON, **fields: Any) -> str:
        return read_event(request(**fields), [], position, at).id

    assert key() == key()
    assert len({key(), key(position="events-0-8"), key(at=NOON + 1), key(locale="de")}) == 4


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("1970-01-01T00:00:00.001Z", 1),
        ("1970-01-01t00:00:00.001999999z", 1),
        ("1970-01-01 00:00:00.001-00:00", 1),
        ("2026-10-01T08:00:00.123+02:00", 1_790_834_400_123),
        ("1969-12-31T23:59:59.999Z", -1),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
    ],
)
def test_times_are_milliseconds_to_the_last(given: str, expected: int) -> None:
    found = read_event(request(expires_at=given), [], POSITION, NOON).request
    assert found is not None
    assert milliseconds(found.expires_at) == expected


@given(st.datetimes(timezones=st.just(UTC)))
def test_any_time_is_a_whole_number_of_milliseconds(moment: datetime) -> None:
    found = milliseconds(moment)
    assert found is not None
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    assert timedelta(milliseconds=found) <= since < timedelta(milliseconds=found + 1)
    assert milliseconds(None) is None


# -- what is refused (rows 52 to 55 of the fault catalogue)

NOT_JSON: list[tuple[bytes | None, str]] = [
    (None, "no value"),
    (b"", "not JSON"),
    (b"\x00", "not JSON"),
    (b'{"event_type": "x", "user_id": "u"', "not JSON"),
    (b'{"event_type": "\xff"}', "not JSON"),
    (b"\xff\xfe\x00", "not JSON"),
    (b'{"event_type": "x\x00"}', "not JSON"),
    (b'{"variables": {"a": NaN}}', "not JSON"),
    (b'{"variables": {"a": Infinity}}', "not JSON"),
    (b'{"variables": {"a": 1e400}}', "not JSON"),
    (b'{"variables": {"a": ' + b"9" * 5_000 + b"}}", "not JSON"),
    (b'{"event_type": "\\ud800"}', "not JSON"),
    (b"[" * 200_000, "more than 200 lists"),
    (b'{"a":' * 200_000, "more than 200 lists"),
    (b"[]", "not a JSON object"),
    (b'"text"', "not a JSON object"),
    (b"null", "not a JSON object"),
    (b"12", "not a JSON object"),
]


@pytest.mark.parametrize(
    ("value", "what"), NOT_JSON, ids=[what + str(n) for n, (_, what) in enumerate(NOT_JSON)]
)
def test_what_is_no_json_object_is_refused(value: bytes | None, what: str) -> None:
    found = refused(value)
    assert what in str(found)
    assert found.reason is Reason.UNREADABLE
    assert len(str(found)) < 300


@pytest.mark.parametrize("broken", [b"\xc3", b"\xff", b"\xed\xa0\x80", b"\xf0\x9f"])
def test_what_is_not_utf_8_is_told_by_its_place_in_the_record(broken: bytes) -> None:
    before = request(variables={"name": "zoë"})[:-3]
    assert f" in position {len(before)}" in str(refused(before + broken + b'"}}'))
    data = b'{"name": "' + broken + b'"}'
    assert " in position 10" in str(refused(in_base64(data)))


def test_more_than_a_megabyte_is_refused() -> None:
    room = MAX_EVENT_BYTES - len(request(variables={"a": ""}))
    assert read_event(request(variables={"a": "x" * room}), [], POSITION, NOON).data["a"] == "x" * room
    found = refused(request(variables={"a": "x" * (room + 1)}))
    assert found.reason is Reason.TOO_LARGE


NO_TIMES: list[Any] = [
    1_700_000_000, 4_000_000_000, 4_000_000_000_000, 1.5, True, "4000000000", "4000000000.5", "2026-10-01",
    "2026-10-01T08:00:00", "2026-10-01T08:00Z", "20261001T080000Z", "2026-10-01T08:00:00+0200",
    "2026-13-01T08:00:00Z", "２026-10-01T08:00:00Z", "2026-10-01T08:00:00Z\n", "", [], {},
]  # fmt: skip
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"event_type": None}, "event_type"),
    ({"event_type": 5}, "event_type"),
    ({"event_type": ""}, "event_type"),
    ({"event_type": "x" * 513}, "event_type"),
    ({"event_type": "a\nb"}, "event_type"),
    ({"event_type": "a\x00b"}, "event_type"),
    ({"event_type": "a\u202eb"}, "event_type"),
    ({"event_type": "a\u2028b"}, "event_type"),
    ({"event_type": "a\x85b"}, "event_type"),
    ({"user_id": 1.5}, "user_id"),
    ({"user_id": True}, "user_id"),
    ({"user_id": ["u"]}, "user_id"),
    ({"user_id": {"id": "u"}}, "user_id"),
    ({"user_id": ""}, "user_id"),
    ({"user_id": "a\rb"}, "user_id"),
    ({"user_id": None}, "exactly one of"),
    ({"recipients": ["u"]}, "exactly one of"),
    ({"user_id": None, "recipients": [{}]}, "recipients.0"),
    ({"user_id": None, "recipients": ["u", 1.5]}, "recipients.1"),
    ({"user_id": None, "recipients": "u"}, "recipients"),
    ({"user_id": None, "recipients": ["u"] * (MAX_RECIPIENTS + 1)}, "recipients"),
    ({"channels": ["fax"]}, "channels.0"),
    ({"channels": "sms"}, "channels"),
    ({"priority": "urgent"}, "priority"),
    ({"priority": 1}, "priority"),
    ({"variables": [1]}, "variables"),
    ({"variables": "a"}, "variables"),
    ({"metadata": [1]}, "metadata"),
    ({"metadata": {"a": "x" * MAX_METADATA_BYTES}}, "metadata"),
    ({"expires_at": "soon"}, "expires_at"),
    *(
        ({name: moment}, f"{name}: Input should be a time")
        for name in ("expires_at", "scheduled_at")
        for moment in NO_TIMES
    ),
    ({"content": {"subject": "a"}}, "content.body"),
    ({"content": {"subject": "a\nBcc: b@example.com", "body": "b"}}, "content.subject"),
    ({"content": {"body": "b"}, "template_id": "t"}, "template_id or content"),
    ({"content": {"subject": "a", "body": "b"}, "channels": ["sms"]}, "content.subject"),
    ({"scheduled_at": "2028-10-01T08:00:00Z"}, "scheduled_at"),
    ({"attachments": ["a"]}, "attachments.0"),
    ({"attachments": [FILE, "../x"]}, "attachments.1"),
    ({"attachments": ["\0"]}, "attachments.0"),
    ({"attachments": ["x" * 300]}, "attachments.0"),
    ({"attachments": [FILE + "/"]}, "attachments.0"),
    ({"attachments": FILE}, "attachments"),
    ({"attachments": [FILE] * 11}, "attachments"),
    ({"attachments": [f"{'a' * 32}-5-{TODAY - 1}"]}, "attachments.0"),
    ({"segment": "s"}, "exactly one of user_id, recipients, segment"),
    ({"locale": 5}, "locale"),
    ({"idempotency_key": 5}, "idempotency_key"),
]


@pytest.mark.parametrize(
    ("fields", "field"), WRONG, ids=[f"{n}-{field}" for n, (_, field) in enumerate(WRONG)]
)
def test_a_request_with_a_wrong_field_is_refused_by_its_name(fields: dict[str, Any], field: str) -> None:
    found = refused(request(**fields))
    assert field in str(found)
    assert str(found).isprintable()


@pytest.mark.parametrize("field", ["specversion", "id", "source", "type"])
@pytest.mark.parametrize("value", [None, 5, "", "a\x00b", [], "x" * 600])
def test_a_cloud_event_with_a_wrong_attribute_is_refused_by_its_name(field: str, value: Any) -> None:
    assert str(refused(cloud_event(**{field: value}))).startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"user_id": None, "recipients": [{}]}, "recipients.0: a contact needs a user_id or an address"),
        ({"user_id": None, "recipients": [{"email": "a\n"}]},
         "recipients.0.email: holds a control character"),
        ({"user_id": None, "recipients": ["u", {"phone": 5}]},
         "recipients.1.phone: Input should be a valid string"),
        ({"user_id": None, "recipients": ["u", "a\n"]}, "recipients.1: holds a control character"),
        ({"user_id": None, "recipients": [True]}, "recipients.0: Input should be a string or an integer"),
        ({"user_id": None, "recipients": [1.5]}, "recipients.0: Input should be a user id or a contact"),
        ({"user_id": None, "recipients": [None]}, "recipients.0: Input should be a user id or a contact"),
        ({"user_id": None, "recipients": "u"}, "recipients: Input should be a list"),
        ({"user_id": None, "recipients": ["u"] * 1_001},
         "recipients: List should have at most 1000 items after validation, not 1001"),
        ({"recipients": ["u"]}, "give exactly one of user_id, recipients, segment"),
        ({"user_id": "a\n"}, "user_id: holds a control character"),
        ({"content": "Hello"}, "content: Input should be an object"),
        ({"variables": []}, "variables: Input should be an object"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_the_words_of_the_sender(fields: dict[str, Any], told: str) -> None:
    assert str(refused(request(**fields))) == told


@pytest.mark.parametrize("moment", NO_TIMES)
def test_the_time_of_a_cloud_event_is_a_time(moment: Any) -> None:
    assert str(refused(cloud_event(time=moment))).startswith("time: Input should be a time")


def test_a_time_that_is_made_here_has_its_zone_too() -> None:
    noon = datetime(2026, 10, 1, 12, tzinfo=UTC)
    made = Request(event_type="t", user_id="u", expires_at=noon)
    assert Request.model_validate_json(made.to_json()) == made
    with pytest.raises(ValidationError, match="expires_at"):
        Request(event_type="t", user_id="u", expires_at=noon.replace(tzinfo=None))


def test_attachments_must_last_until_they_are_due() -> None:
    id = f"{'a' * 32}-5-{TODAY + 20}"
    for scheduled, told in ((TODAY + 20, None), (TODAY + 21, "2026-10-11")):
        at = datetime.fromtimestamp(scheduled * 86_400, UTC)
        value = request(
            attachments=[FILE.replace(str(TODAY), str(TODAY + 20)), id], scheduled_at=at.isoformat()
        )
        if told is None:
            found = read_event(value, [], POSITION, NOON).request
            assert found is not None and found.attachments == (id, id)
        else:
            assert str(refused(value)) == f"attachments.0: is kept for what is due until {told}"


def in_base64(data: bytes, **fields: Any) -> bytes:
    """A CloudEvent whose data is these bytes."""
    return cloud_event(data_base64=base64.b64encode(data).decode(), **({"data": None} | fields))


@pytest.mark.parametrize(
    "kind",
    [None, "application/json", "Application/JSON; charset=utf-8", "text/json", "application/x.y-z+json"],
)
def test_data_in_base64_is_read_as_data_is(kind: str | None) -> None:
    def data(of: bytes) -> Any:
        return read_event(in_base64(of, datacontenttype=kind), [], POSITION, NOON).data

    assert data('{"customer": {"id": "zoë"}}'.encode()) == {"customer": {"id": "zoë"}}
    assert data(b"[1, 2]") == {"value": [1, 2]}
    assert data(b"null") == {}


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"data_base64": "e30"}, "not base64"),
        ({"data_base64": "e30=\n"}, "not base64"),
        ({"data_base64": "e3_-"}, "not base64"),
        ({"data_base64": "é"}, "not base64"),
        ({"data_base64": 5}, "a valid string"),
        ({"data_base64": ["e30="]}, "a valid string"),
        ({"data_base64": ""}, "not JSON"),
        ({"data_base64": "AA=="}, "not JSON"),
        ({"data_base64": "eyJhIjog"}, "not JSON"),
        ({"data_base64": "e30=", "data": {"a": 1}}, "data or data_base64, not both"),
        ({"data_base64": "e30=", "data": False}, "data or data_base64, not both"),
        ({"data_base64": "e30=", "datacontenttype": "application/xml"}, "holds no JSON"),
        ({"data_base64": "e30=", "datacontenttype": "application/jsonl"}, "holds no JSON"),
        ({"data_base64": "e30=", "datacontenttype": ""}, "holds no JSON"),
    ],
)
def test_what_data_in_base64_does_not_hold_is_told(fields: dict[str, Any], what: str) -> None:
    found = refused(cloud_event(**({"data": None} | fields)))
    assert str(found).startswith("data_base64: ")
    assert what in str(found)
    assert found.reason is Reason.UNREADABLE


def test_data_in_base64_is_as_free_of_nuls_as_deep_and_as_large_as_data() -> None:
    assert str(refused(in_base64(b'{"a": ["\\u0000"]}'))) == "data_base64.a.0: holds a NUL"
    for levels in (201, 1_000, 100_000):
        found = str(refused(in_base64(b"[" * levels + b"]" * levels)))
        assert found.startswith("data_base64") and "more than 200 lists" in found
    assert read_event(in_base64(b"[" * 150 + b"]" * 150), [], POSITION, NOON).data["value"]
    assert refused(in_base64(b'"' + b"x" * MAX_EVENT_BYTES + b'"')).reason is Reason.TOO_LARGE


def test_a_header_of_a_binary_event_holds_no_data() -> None:
    headers = [
        ("ce_specversion", b"1.0"), ("ce_id", b"e"), ("ce_source", b"s"), ("ce_type", b"t"),
        ("ce_data_base64", b"e30="),
    ]  # fmt: skip
    assert read_event(b'{"a": 1}', headers, POSITION, NOON).data == {"a": 1}


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (b'{"event_type":"x","user_id":"u","variables":{"a":[{"b":"\\u0000"}]}}', "variables.a.0.b"),
        (b'{"event_type":"x","user_id":"u","variables":{"a":{"b\\u0000":1}}}', "variables.a: "),
        (b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":"a\\u0000"}', "data"),
    ],
)
def test_a_nul_anywhere_is_refused_by_its_place(value: bytes, where: str) -> None:
    assert str(refused(value)).startswith(where)


def test_six_letters_that_spell_a_nul_are_not_one() -> None:
    assert read_event(request(variables={"a": "\\u0000"}), [], POSITION, NOON).data == {"a": "\\u0000"}


@pytest.mark.parametrize(
    ("headers", "what"),
    [
        ([("ce_id", b"1")], "specversion: "),
        (
            [("ce_specversion", b"1.0"), ("ce_id", b"\xff"), ("ce_source", b"s"), ("ce_type", b"t")],
            "ce_id: not UTF-8",
        ),
        ([("ce_specversion", b"1.0"), ("ce_id", None), ("ce_source", b"s"), ("ce_type", b"t")], "id: "),
        (
            [("ce_specversion", b"0.3"), ("ce_id", b"1"), ("ce_source", b"s"), ("ce_type", b"t")],
            "specversion: ",
        ),
    ],
)
def test_broken_headers_are_refused_by_their_name(headers: Any, what: str) -> None:
    assert str(refused(b"{}", headers)).startswith(what)


def nested(levels: int, **fields: Any) -> bytes:
    """A request with so many lists within each other."""
    return request(**fields)[:-1] + b',"variables":{"a":' + b"[" * levels + b"]" * levels + b"}}"


@pytest.mark.parametrize("contact", [{}, {"user_id": None, "recipients": [{"email": "a@example.com"}]}])
def test_what_is_read_can_also_travel_however_deep(contact: dict[str, Any]) -> None:
    for levels in (100, 150, 190):
        (send,) = take_in(nested(levels, **contact), [], Origin("events", 0, 7, NOON), shop())
        assert Notification.from_json(send.value).variables["a"] is not None
    for levels in (201, 300, 1_000, 1_020):
        with pytest.raises(Unreadable, match=r": more than 200 lists and objects"):
            take_in(nested(levels, **contact), [], Origin("events", 0, 7, NOON), shop())
    assert "variables.a.0" in str(refused(nested(201)))
    assert str(refused(nested(100)[:-2] + b',"b":"\\u0000"}}')) == "variables.b: holds a NUL"


# -- the plain request, which is read without the model


def by_the_model(value: bytes) -> Event | str:
    """What the model makes of it: never a plain request."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(schemas.event, "_plain_request", lambda _: None)
        return read_or_said(value)


def read_or_said(value: bytes) -> Event | str:
    try:
        return read_event(value, [], POSITION, NOON)
    except Unreadable as error:
        return str(error)


PLAIN = {"event_type": "t", "user_id": "u", "idempotency_key": "k"}
FIELDS = (
    "event_type", "user_id", "idempotency_key", "template_id", "category", "locale", "source", "variables",
    "priority", "channels", "recipients", "segment", "content", "scheduled_at", "expires_at", "attachments",
    "metadata", "specversion", "other",
)  # fmt: skip
odd = st.sampled_from(
    ["u", "", " ", "\u200b", "\u061c", "\x7f", "\u2028", "a\nb", "é", "x" * 513, 5, 2**70, 1.5, True,
     None, [], {}, "high", "medium", "normal", ["email"], ["email", "pigeon"],
     1_700_000_000, "1700000000", "2026-10-01T08:00:00Z", {"a": 1}, {"a": 2**70, "b": [None, -(2**64)]}]
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(FIELDS), odd | st.text(max_size=3), max_size=5))
def test_a_plain_request_is_read_as_the_model_reads_it(changed: dict[str, Any]) -> None:
    value = json.dumps(PLAIN | changed).encode("utf-8", "surrogatepass")
    quick, checked = read_or_said(value), by_the_model(value)
    if isinstance(quick, str) or isinstance(checked, str):
        assert quick == checked
        return
    assert quick[:4] == checked[:4]
    for name in ("user_id", "priority", "category", "channels", "locale", "template_id", "content",
                 "expires_at", "recipients"):  # fmt: skip
        assert getattr(quick.request, name) == getattr(checked.request, name), name
    workflow, shopper = a_workflow(), quick.request and quick.request.user_id
    first, second = (notify(event, workflow, shopper or "u", None, "p", NOON) for event in (quick, checked))
    assert first == second


def test_the_commonest_request_is_read_without_the_model() -> None:
    assert isinstance(read_event(request(idempotency_key="k"), [], POSITION, NOON).request, PlainRequest)
    assert isinstance(read_event(request(metadata={"a": 1}), [], POSITION, NOON).request, Request)


# -- totality

plain = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
fields = st.sampled_from(
    ["specversion", "id", "source", "type", "data", "data_base64", "datacontenttype", "time", "event_type",
     "user_id", "recipients", "segment",
     "template_id", "content", "variables", "priority", "idempotency_key", "channels", "category",
     "scheduled_at", "expires_at", "locale", "attachments", "metadata"]
)  # fmt: skip
sensible = st.sampled_from(
    ["1.0", "u", 5, "shop.order.confirmed", ["email"], {"customer": {"id": "u"}}, "high", "e30=", "text/json"]
)
bodies = st.dictionaries(fields, sensible | values, max_size=8)
headers_of_all_kinds = st.lists(
    st.tuples(
        st.sampled_from(["ce_id", "ce_specversion", "ce_source", "ce_type", "ce_data", "content-type", "x"]),
        st.sampled_from([b"1.0", b"application/cloudevents+json", b"", None]) | st.binary(max_size=8),
    ),
    max_size=5,
)


def takes_in_or_refuses(value: bytes | None, headers: Any) -> None:
    """Whatever comes, it is taken in, and then plan can read it, or refused with a message for people."""
    try:
        sends = take_in(value, headers, Origin("events", 0, 7, NOON), shop())
    except Unreadable as error:
        assert str(error)
        return
    for send in sends:
        if send.topic.startswith("notifications"):
            Notification.from_json(send.value)


@given(st.none() | st.binary(max_size=200), headers_of_all_kinds)
@example(b"[" * 200_000, [])
def test_any_bytes_are_read_or_refused(value: bytes | None, headers: Any) -> None:
    takes_in_or_refuses(value, headers)


@given(bodies, headers_of_all_kinds)
def test_any_json_is_read_or_refused(body: dict[str, Any], headers: Any) -> None:
    takes_in_or_refuses(json.dumps(body).encode("utf-8", "surrogatepass"), headers)


@given(st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0")), values, max_size=4))
def test_data_arrives_as_it_was_sent(data: dict[str, Any]) -> None:
    try:
        event = cloud_event(data={**data, "customer": {"id": "u"}})
        found = take_in(event, [], Origin("events", 0, 7, NOON), shop())
    except (Unreadable, TypeError):  # integers that orjson does not write; a NUL further in
        return
    read: Notification = Notification.from_json(found[0].value)
    assert read.variables == orjson.loads(event)["data"]
