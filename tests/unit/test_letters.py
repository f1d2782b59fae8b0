"""A list of dead letters says whose each is, and never a body or an address."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import letters
from agents.intake import dead
from agents.letters import Letter, Said, redacted, summary
from schemas import dead_letter
from schemas.event import Unreadable
from schemas.kinds import Reason
from tables.claims import Origin
from tests.journeys.memory import NOON
from tests.journeys.samples import ID, SOURCE, a_message, a_notification, cloud_event, request

ORIGIN = Origin("p.events", 3, 42, NOON)


def a_letter(value: bytes | None, plain: str = "dlq-events", error: str = "no", **fields: Any) -> Letter:
    send = dead(value, b"k", Unreadable(error), ORIGIN, plain, fields.pop("headers", ()))
    return Letter("p." + plain, plain, 1, 5, NOON + 9, send.key, send.value, send.headers or [])._replace(
        **fields
    )


def test_a_letter_tells_where_it_is_and_where_it_came_from() -> None:
    letter = a_letter(b"x", error="type: Field required")
    assert letter.name == "p.dlq-events-1-5"
    assert letter.source == ORIGIN
    assert summary(letter) == {
        "topic": "p.dlq-events", "partition": 1, "offset": 5, "failed_at": "2026-09-21T14:13:20.000Z",
        "reason": "unreadable", "error": "type: Field required", "attempts": "0", "provider": None,
        "code": None, "source": "p.events-3-42", "notification_id": None, "event": None,
    }  # fmt: skip


def test_a_place_that_gives_orders_to_a_terminal_is_told_without_them() -> None:
    letter = a_letter(b"x")
    evil = [(n, b"\x1b[2J" if n == "source-topic" else v) for n, v in letter.headers]
    assert summary(letter._replace(headers=evil))["source"] == "\N{REPLACEMENT CHARACTER}[2J-3-42"


@pytest.mark.parametrize(
    ("value", "headers", "found"),
    [
        (cloud_event(), [], (SOURCE, "e-1")),
        (cloud_event(type=None), [], (SOURCE, "e-1")),
        (b"{}", [("ce_id", b"e-2"), ("ce_source", b"s")], ("s", "e-2")),
        (request(idempotency_key="i"), [], ("carillon", "i")),
        (cloud_event(id="a@example.com"), [], (SOURCE, "a••@example.com")),
    ],
)
def test_an_event_is_named_where_its_bytes_say_who_it_is(
    value: bytes, headers: list[tuple[str, bytes]], found: tuple[str, str]
) -> None:
    assert summary(a_letter(value, headers=headers))["event"] == {"source": found[0], "id": found[1]}


def test_an_event_without_a_key_is_named_by_its_first_place() -> None:
    found = summary(a_letter(request()))["event"]
    assert found["id"].startswith(f"p.events-3-42@{NOON}:")


@pytest.mark.parametrize(
    ("plain", "value"),
    [
        ("dlq-sms", a_message().to_json()),
        ("dlq-notifications", a_notification().to_json()),
        ("dlq-status", orjson.dumps({"notification_id": ID})),
        ("dlq-sms", orjson.dumps({"id": ID, "channel": "pigeon"})),
    ],
)
def test_a_message_is_named_by_its_notification(plain: str, value: bytes) -> None:
    assert summary(a_letter(value, plain))["notification_id"] == ID


@given(st.none() | st.binary(max_size=60) | st.sampled_from([b'{"id":5}', b"[" * 9_000, b'{"id":"x\\n"}']))
@pytest.mark.parametrize("plain", letters.DEAD)
def test_any_bytes_have_a_summary(plain: str, value: bytes | None) -> None:
    assert orjson.dumps(summary(a_letter(value, plain)))


@given(st.lists(st.tuples(st.sampled_from(["source-topic", "source-partition", "source-offset", "failed-at"]),
                          st.none() | st.binary(max_size=30))))  # fmt: skip
def test_any_headers_have_a_summary(headers: list[tuple[str, bytes | None]]) -> None:
    assert orjson.dumps(summary(a_letter(b"x")._replace(headers=headers)))


@pytest.mark.parametrize(
    "address",
    ["ada@example.com", "<ada@example.com>", "+15550100", "+1 (555) 010-0123", "15550100123",
     "https://hooks.example/secret?token=1"],
)  # fmt: skip
def test_no_address_is_in_a_list(address: str) -> None:
    told = summary(a_letter(b"x", "dlq-email", error=f"550 5.1.1 {address}: nobody of that name"))["error"]
    assert address.strip("<>") not in told
    assert "secret" not in told
    assert told.startswith("550 5.1.1 ")
    assert told.endswith("nobody of that name")


def test_no_body_is_in_a_list() -> None:
    value = a_message(text="hush-4711", target="+15550199").to_json()
    told = repr(summary(a_letter(value, "dlq-sms")))
    assert "hush-4711" not in told
    assert "15550199" not in told


def test_what_is_no_address_is_left_alone() -> None:
    text = "KeyError: 'order' at 2026-09-21, 3 of 12"
    assert redacted(text) == text


@pytest.mark.parametrize(
    ("said", "fits"),
    [
        (Said(), True),
        (Said("refused"), True),
        (Said("raised"), False),
        (Said(provider="main"), True),
        (Said(provider="mai"), False),
        (Said(provider="main", codes=("550",)), True),
        (Said(codes=("421", "550")), True),
        (Said(codes=("55",)), False),
        (Said(codes=("55*",)), True),
        (Said(codes=("*",)), True),
        (Said("raised", "main", ("550",)), False),
        (Said("refused", "backup", ("550",)), False),
    ],
)
def test_letters_are_chosen_by_all_that_they_must_say_and_any_of_some_codes(said: Said, fits: bool) -> None:
    told = dead_letter.headers(Reason.REFUSED, "no", "sms", 0, 1, NOON, provider="main", code="550")
    letter = Letter("dlq-sms", "dlq-sms", 0, 1, NOON, b"k", b"v", tuple(told))
    assert said.fits(letter) is fits
    assert said.asks is (said != Said())
    assert (summary(letter)["provider"], summary(letter)["code"]) == ("main", "550")


@pytest.mark.parametrize("said", [Said(provider="main"), Said(codes=("*",)), Said(codes=("",))])
def test_a_letter_that_names_neither_is_none_of_a_provider_or_a_code(said: Said) -> None:
    assert not said.fits(a_letter(b"x"))
