"""Money, numbers, dates and plurals as a locale writes them (CLDR), the same on every machine.

Nothing here knows a clock or the machine's zone; zones are those of the `tzdata` package.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Context, Decimal, localcontext
from functools import lru_cache
from importlib.resources import files
from typing import Any
from zoneinfo import ZoneInfo

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_datetime, format_time
from babel.numbers import NumberPattern, format_currency, list_currencies, parse_pattern

from agents.broken import TemplateBroken
from agents.locales import chain

STYLES = ("short", "medium", "long", "full")
CATEGORIES = ("zero", "one", "two", "few", "many", "other")
MAX_DIGITS = 20
_NUMBER = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{1,40})?", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_MOMENT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:)([0-9]{2})(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII,
)
_ZONE = re.compile(r"[A-Za-z0-9_+-]{1,40}(/[A-Za-z0-9_+-]{1,40}){0,2}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EXACT = Context(prec=400)
_currencies = frozenset(list_currencies())


@lru_cache(maxsize=1_000)
def known_locale(tag: str) -> Locale:
    """The locale of a tag, or the nearest one that is known; English in the end."""
    for one in chain(tag):
        try:
            return Locale.parse(one, sep="-")
        except (UnknownLocaleError, ValueError):
            continue
    return Locale("en")


@lru_cache(maxsize=1_000)
def zone(name: str) -> tzinfo:
    """A time zone by its name in the tz database. Raises TemplateBroken."""
    if _ZONE.fullmatch(name):
        file = files("tzdata").joinpath("zoneinfo", *name.split("/"))
        try:
            with file.open("rb") as data:
                return ZoneInfo.from_file(data, key=name)
        except (OSError, ValueError):
            pass
    raise TemplateBroken("there is no such time zone as the user's")


def money(amount: Any, currency: Any, locale: Locale) -> str:
    """An amount of a currency (ISO 4217), with as many digits as it has. Raises TemplateBroken."""
    number = _decimal("money", amount)
    if not isinstance(currency, str) or currency not in _currencies:
        raise TemplateBroken("money: the currency is no code of ISO 4217, such as EUR")
    with localcontext(_EXACT):
        return format_currency(number, str(currency), locale=locale)


def number(value: Any, digits: Any, locale: Locale) -> str:
    """A number, with so many digits after the point, or up to three. Raises TemplateBroken."""
    pattern = locale.decimal_formats[None]
    return _written("number", pattern, value, digits, locale)


def percent(value: Any, digits: Any, locale: Locale) -> str:
    """A share as per cent: 0.25 is 25 %. Raises TemplateBroken."""
    return _written("percent", locale.percent_formats[None], value, digits, locale)


def day(value: Any, style: Any, locale: Locale, at: str) -> str:
    """The date of a moment in a zone, or a date as it is. Raises TemplateBroken."""
    if isinstance(value, str) and _DATE.fullmatch(value):
        with _readable("date"):
            found = date.fromisoformat(value)
    else:
        found = _moment("date", value, at)
    return format_date(found, _style("date", style), locale=locale)


def clock(value: Any, style: Any, locale: Locale, at: str) -> str:
    """The time of day of a moment in a zone. Raises TemplateBroken."""
    moment = _moment("time", value, at)
    return format_time(moment, _style("time", style), tzinfo=moment.tzinfo, locale=locale)


def day_and_clock(value: Any, style: Any, locale: Locale, at: str) -> str:
    """Date and time of a moment in a zone. Raises TemplateBroken."""
    moment = _moment("datetime", value, at)
    return format_datetime(moment, _style("datetime", style), tzinfo=moment.tzinfo, locale=locale)


def plural(count: Any, forms: dict[str, Any], locale: Locale) -> str:
    """The form for a count by the locale's categories; `other` where its own is not given.

    Raises TemplateBroken.
    """
    unknown = [name for name in forms if name not in CATEGORIES]
    if unknown:
        raise TemplateBroken(f"plural: {unknown[0]} is none of {', '.join(CATEGORIES)}")
    if "other" not in forms:
        raise TemplateBroken("plural: other is missing")
    found = forms.get(locale.plural_form(abs(_decimal("plural", count))))
    return str(forms["other"] if found is None else found)


def _decimal(what: str, value: Any) -> Decimal:
    if isinstance(value, str):
        if _NUMBER.fullmatch(value):
            return Decimal(str(value))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        found = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
        if found.is_finite():
            return found
    raise TemplateBroken(f"{what}: that is no number but {_kind(value)}")


def _written(what: str, pattern: NumberPattern, value: Any, digits: Any, locale: Locale) -> str:
    number = _decimal(what, value)
    if digits is not None:
        if not isinstance(digits, int) or not 0 <= digits <= MAX_DIGITS:
            raise TemplateBroken(f"{what}: digits are a number from 0 to {MAX_DIGITS}")
        pattern = parse_pattern(pattern.pattern)
        pattern.frac_prec = (digits, digits)
    with localcontext(_EXACT):
        found: str = pattern.apply(number, locale)
    return found


def _moment(what: str, value: Any, at: str) -> datetime:
    with _readable(what):
        if isinstance(value, int) and not isinstance(value, bool):
            return (_EPOCH + timedelta(milliseconds=value)).astimezone(zone(at))
        found = _MOMENT.fullmatch(value) if isinstance(value, str) else None
        if found is not None:
            day, minute, second, fraction, offset = found.groups()
            second = "59" if second == "60" else second  # a leap second, which Python does not know
            text = f"{day}T{minute}{second}{(fraction or '')[:7]}{offset.upper()}"
            return datetime.fromisoformat(text).astimezone(zone(at))
    raise TemplateBroken(f"{what}: wanted is RFC 3339 with a zone, or milliseconds since 1970")


@contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except TemplateBroken:
        raise
    except (ValueError, OverflowError):
        raise TemplateBroken(f"{what}: there is no such date or time") from None


def _style(what: str, style: Any) -> Any:
    if style not in STYLES:
        raise TemplateBroken(f"{what}: a style is {', '.join(STYLES)}")
    return style


def _kind(value: Any) -> str:
    return "text" if isinstance(value, str) else type(value).__name__
