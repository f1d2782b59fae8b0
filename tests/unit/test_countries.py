"""Telephone numbers: what is one, how it is spelt, and which country it is of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.providers.countries import CACHED, country_of, e164


@pytest.mark.parametrize(
    ("number", "country"),
    [
        ("+12125550123", "US"),
        ("+14165550123", "CA"),
        ("+18765551234", "JM"),
        ("+15550000007", "US"),  # of no country's plan: the code's own
        ("+447700900123", "GB"),  # kept for films: in nobody's hands
        ("+447781123456", "GG"),
        ("+4915112345678", "DE"),
        ("+49 (0)151 1234-5678", "DE"),
        ("+390612345678", "IT"),
        ("+77012345678", "KZ"),
        ("+79161234567", "RU"),
        ("+80012345678", None),  # freephone, of no country
        ("+881612345678", None),  # a satellite
        ("", None),
        ("0151 12345678", None),
        ("+", None),
        ("+1", None),
        ("+999123456789", None),
        ("+1" + "2" * 100, None),
        ("kim@example.com", None),
    ],
)
def test_a_number_tells_its_country(number: str, country: str | None) -> None:
    assert country_of(number) == country


@pytest.mark.parametrize(
    ("number", "spelt"),
    [
        ("+4915112345678", "+4915112345678"),
        (" +49 (0)151 / 1234-5678 ", "+4915112345678"),
        ("+1 (212) 555-0123", "+12125550123"),
        ("+390612345678", "+390612345678"),  # Italy's zero is part of it
        ("+1 212 555 0123 ext. 4", None),
        ("tel:+12125550123", None),
        ("0049 151 12345678", None),
        ("+1 800 FLOWERS", None),
        ("+4915112345678x", None),
        ("+4915112345678\ud800", None),
        ("+49 151 12345678 +49 151 12345679", None),
        ("+12", None),
        ("+49151123456789012", None),
    ],
)
def test_a_number_has_one_spelling(number: str, spelt: str | None) -> None:
    assert e164(number) == spelt


@given(st.text(max_size=80) | st.from_regex(r"\+[0-9 ()/-]{1,40}", fullmatch=True))
def test_whatever_is_asked_there_is_an_answer(number: str) -> None:
    country, spelt = country_of(number), e164(number)
    assert country is None or (len(country) == 2 and country.isupper())
    assert country is None or spelt is not None
    if spelt is not None:
        assert spelt[0] == "+"
        assert spelt[1:].isascii()
        assert spelt[1:].isdigit()
        assert e164(spelt) in {spelt, None}


def test_what_is_remembered_has_a_bound() -> None:
    assert country_of.cache_info().maxsize == e164.cache_info().maxsize == CACHED
