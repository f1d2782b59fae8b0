"""Telephone numbers: the one spelling that vendors take, and the country that each is of."""

import functools
import re

import phonenumbers

CACHED = 65_536
_WRITTEN = re.compile(r"\s*\+[0-9\s()./-]{2,60}")
"""How a number is written; what else is in a text the library would skip, or read as digits."""
MOST_DIGITS = 15
"""Of a country's code and a number together (E.164, 6.2)."""


@functools.lru_cache(CACHED)
def e164(number: str) -> str | None:
    """A number that begins with + and its country's code, as `+` and digits; None for what cannot be one.

    Spaces, dashes and the like fall away. Whether anybody has the number is not known.
    """
    found = _read(number)
    return None if found is None else phonenumbers.format_number(found, phonenumbers.PhoneNumberFormat.E164)


@functools.lru_cache(CACHED)
def country_of(number: str) -> str | None:
    """The country that a number is of, as ISO 3166 names it (`DE`); None where it is of none, or no number.

    Where countries share a code and the number tells no more it is the greatest of them: `US` for +1.
    """
    found = _read(number)
    if found is None:
        return None
    region = phonenumbers.region_code_for_number(found)
    region = region or phonenumbers.region_code_for_country_code(found.country_code or 0)
    return region if len(region) == 2 and region != phonenumbers.UNKNOWN_REGION else None


def _read(number: str) -> phonenumbers.PhoneNumber | None:
    if _WRITTEN.fullmatch(number) is None:
        return None
    try:
        found = phonenumbers.parse(number, None)
    except phonenumbers.NumberParseException:
        return None
    if found.extension is not None or not phonenumbers.is_possible_number(found):
        return None
    digits = f"{found.country_code}{phonenumbers.national_significant_number(found)}"
    return found if len(digits) <= MOST_DIGITS else None
