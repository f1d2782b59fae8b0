"""A dead letter says why, where from, when and how often, in bytes that any tool can show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.intake import dead
from schemas import dead_letter
from schemas.event import Unreadable
from schemas.kinds import Reason
from tables.claims import Origin
from tests.journeys.memory import NOON

ORIGIN = Origin("events", 3, 42, NOON)


def test_the_headers_are_those_of_the_contract() -> None:
    found = dead_letter.headers(Reason.UNREADABLE, "type: Field required", "events", 3, 42, NOON, 2)
    assert found == [
        ("reason", b"unreadable"),
        ("error", b"type: Field required"),
        ("source-topic", b"events"),
        ("source-partition", b"3"),
        ("source-offset", b"42"),
        ("failed-at", b"2026-09-21T14:13:20.000Z"),
        ("attempts", b"2"),
    ]


@given(st.text(), st.integers(-(2**63), 2**63 - 1))
def test_any_error_at_any_time_makes_short_printable_headers(error: str, at: int) -> None:
    for _, value in dead_letter.headers(Reason.RAISED, error, "events", 0, 0, at):
        assert value.decode().isprintable()
        assert len(value) <= dead_letter.MAX_ERROR * 4


def test_who_was_called_last_and_the_vendors_code_stand_in_headers_where_there_are_any() -> None:
    found = dead_letter.headers(
        Reason.REFUSED, "no", "sms", 3, 42, NOON, 2, [("provider", b"theirs")], provider="main", code="21610"
    )
    assert found[7:] == [("provider", b"main"), ("code", b"21610"), ("original-provider", b"theirs")]
    assert dead_letter.by(found) == ("main", "21610")
    old = dead_letter.headers(Reason.REFUSED, "no", "sms", 3, 42, NOON, 2, [("code", b"theirs")])
    assert dead_letter.by(old) == (None, None)
    assert dead_letter.by([("provider", None), ("code", b"")]) == (None, None)


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_provider_and_code_are_short_and_printable_and_come_back(provider: str, code: str) -> None:
    found = dead_letter.headers(Reason.REFUSED, "", "sms", 0, 0, 0, provider=provider, code=code)
    told = dead_letter.by(found)
    for text, most, wrote in zip(told, (dead_letter.MAX_PROVIDER, dead_letter.MAX_CODE), (provider, code),
                                 strict=True):  # fmt: skip
        assert (text is None) == (not wrote)
        assert text is None or (text.isprintable() and len(text) <= most)
        if wrote and wrote.isprintable() and len(wrote) <= most:
            assert text == wrote


@given(st.binary(max_size=400))
def test_whatever_stands_in_those_headers_is_read_as_short_text(value: bytes) -> None:
    for text in dead_letter.by([("provider", value), ("code", value)]):
        assert text is None or (text.isprintable() and len(text) <= dead_letter.MAX_PROVIDER)


def test_the_letter_is_the_record_and_goes_where_its_key_goes() -> None:
    letter = dead(b"\xff", b"key", Unreadable("not JSON"), ORIGIN, "dlq-events")
    assert (letter.topic, letter.key, letter.value) == ("dlq-events", b"key", b"\xff")
    assert dict(letter.headers or [])["error"] == b"not JSON"
    assert dead(None, None, Unreadable("no value"), ORIGIN, "dlq-events").key == b""


def test_the_records_own_headers_go_along_under_a_name_of_their_own() -> None:
    own = [("ce_type", b"t"), ("reason", b"mine"), ("empty", None)]
    letter = dead(b"x", b"k", Unreadable("no"), ORIGIN, "dlq-events", own)  # type: ignore[arg-type]
    assert (letter.headers or [])[-3:] == [
        ("original-ce_type", b"t"), ("original-reason", b"mine"), ("original-empty", b""),
    ]  # fmt: skip
    assert dict(letter.headers or [])["reason"] == b"unreadable"


def test_no_value_stays_no_value() -> None:
    assert dead(None, b"k", Unreadable("no value"), ORIGIN, "dlq-events").value is None


def test_what_was_raised_is_named() -> None:
    letter = dead(b"x", b"k", KeyError("oh\nno"), ORIGIN, "dlq-notifications")
    headers = dict(letter.headers or [])
    assert headers["reason"] == b"raised"
    assert headers["error"] == rb"KeyError: 'oh\nno'"


def test_an_error_of_pythons_own_with_a_reason_in_its_own_words_was_raised() -> None:
    with pytest.raises(UnicodeDecodeError) as found:
        b"\xff".decode()
    headers = dict(dead(b"\xff", b"k", found.value, ORIGIN, "dlq-events").headers or [])
    assert headers["reason"] == b"raised"


def test_a_redelivery_writes_the_same_letter() -> None:
    error = Unreadable("not JSON", Reason.TOO_LARGE)
    assert dead(b"x", b"k", error, ORIGIN, "dlq-events") == dead(b"x", b"k", error, ORIGIN, "dlq-events")
