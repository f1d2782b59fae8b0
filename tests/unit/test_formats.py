"""Formats: money, numbers, dates and plurals as a locale writes them, the same on every machine."""

import os
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.render import Contexts, TemplateBroken, compile_parts, render
from schemas.kinds import Channel
from schemas.template import Parts

NIGHT = "2026-03-01T23:30:00Z"


def written(text: str, locale: str = "en", timezone: str | None = None, **data: Any) -> str:
    """What a text in that language says; the spaces that do not break are plain ones."""
    rendering = compile_parts(Channel.SMS, Parts(text=text), locale=locale.split("-")[0])
    found = render(rendering, Contexts(data, locale, timezone)).text
    return found.replace("\u00a0", " ").replace("\u202f", " ")


def broken(text: str, timezone: str | None = None, **data: Any) -> str:
    with pytest.raises(TemplateBroken) as found:
        written(text, timezone=timezone, **data)
    return str(found.value)


# What changes here with a new Babel changes what customers read: say so in the changelog.
@pytest.mark.parametrize(
    ("text", "locale", "expected"),
    [
        ("{{ 1234.5 | money('EUR') }}", "en", "€1,234.50"),
        ("{{ 1234.5 | money('EUR') }}", "de", "1.234,50 €"),
        ("{{ 1234.5 | money('EUR') }}", "de-AT", "€ 1.234,50"),
        ("{{ '19.00' | money('BRL') }}", "pt-BR", "R$ 19,00"),
        ("{{ 1234.5 | money('JPY') }}", "en", "¥1,234"),
        ("{{ -3 | money('USD') }}", "en", "-$3.00"),
        ("{{ 1234567.8912 | number }}", "en", "1,234,567.891"),
        ("{{ 1234567 | number }}", "hi", "12,34,567"),
        ("{{ 3 | number(2) }} {{ '2.005' | number(digits=2) }}", "en", "3.00 2.00"),
        ("{{ 0.256 | percent }} {{ 0.256 | percent(1) }}", "de", "26 % 25,6 %"),
        ("{{ d | date }}", "en", "Mar 1, 2026"),
        ("{{ d | date('full') }}", "pt-BR", "domingo, 1 de março de 2026"),
        ("{{ d | time }}", "en", "11:30 PM"),
        ("{{ d | time }}", "de", "23:30"),
        ("{{ d | datetime('short') }}", "en-GB", "01/03/2026, 23:30"),
        ("{{ '2026-03-01' | date }}", "de", "01.03.2026"),
        ("{{ 0 | datetime }}", "en", "Jan 1, 1970, 12:00:00 AM"),
        ("{{ '2016-12-31T23:59:60Z' | time('medium') }}", "de", "23:59:59"),
        ("{{ '2026-03-01t23:30:00.123456789z' | time('medium') }}", "de", "23:30:00"),
        ("{{ 1 | plural(one='bell', other='bells') }}", "en", "bell"),
        ("{{ 0 | plural(one='bell', other='bells') }}", "en", "bells"),
        ("{{ 0 | plural(one='cloche', other='cloches') }}", "fr", "cloche"),
        ("{{ 3 | plural(one='zvon', few='zvony', other='zvonů') }}", "cs", "zvony"),
        ("{{ '1.5' | plural(one='zvon', few='zvony', many='zvonu', other='zvonů') }}", "cs", "zvonu"),
        ("{{ 2 | plural(other='bells') }}", "ar", "bells"),
        ("{{ 1.5 | number }}", "xx", "1.5"),
    ],
)
def test_a_locale_has_its_own_way(text: str, locale: str, expected: str) -> None:
    assert written(text, locale, d=NIGHT) == expected


@pytest.mark.parametrize(
    ("timezone", "expected"),
    [
        (None, "2026-03-01 23:30"),
        ("UTC", "2026-03-01 23:30"),
        ("America/Sao_Paulo", "2026-03-01 20:30"),
        ("Asia/Kathmandu", "2026-03-02 05:15"),
    ],
)
def test_a_moment_is_told_in_the_zone_of_the_user(timezone: str | None, expected: str) -> None:
    text = "{{ d | date('short') }} {{ d | time }}"
    assert written(text, "sv", timezone, d=NIGHT) == expected
    assert written(text, "sv", timezone, d=1_772_407_800_000) == expected


def test_the_zone_of_the_machine_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for zone in ("UTC", "Asia/Tokyo"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        found.append(written("{{ d | datetime('full') }}", timezone="Europe/Berlin", d=NIGHT))
    monkeypatch.delenv("TZ")
    time.tzset()
    assert found[0] == found[1] == "Monday, March 2, 2026, 12:30:00 AM Central European Standard Time"
    assert "TZ" not in os.environ


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{{ 'x' | money('EUR') }}", "money: that is no number but text"),
        ("{{ '1e999999999' | money('EUR') }}", "no number"),
        ("{{ '٣' | number }}", "no number"),
        ("{{ true | number }}", "no number but bool"),
        ("{{ nothing | number }}", "no number but NoneType"),
        ("{{ [1] | percent }}", "no number but list"),
        ("{{ 1 | money('XXQ') }}", "no code of ISO 4217"),
        ("{{ 1 | money }}", "no code of ISO 4217"),
        ("{{ 1 | number(21) }}", "from 0 to 20"),
        ("{{ 1 | number(-1) }}", "from 0 to 20"),
        ("{{ missing | money('EUR') }}", "'missing' is undefined"),
        ("{{ 1 | money(missing) }}", "'missing' is undefined"),
        ("{{ 'soon' | date }}", "RFC 3339"),
        ("{{ '2026-03-01T23:30:00' | time }}", "RFC 3339 with a zone"),
        ("{{ '2026-03-01' | time }}", "RFC 3339 with a zone"),
        ("{{ 1.5 | datetime }}", "RFC 3339"),
        ("{{ '2026-02-30' | date }}", "date: there is no such date"),
        ("{{ '2026-02-28T25:00:00Z' | date }}", "no such date"),
        ("{{ 99999999999999999999 | date }}", "no such date"),
        ("{{ '0001-01-01T00:00:00+01:00' | datetime }}", "no such date"),
        ("{{ 1 | date('yyyy') }}", "a style is short"),
        ("{{ 1 | plural(one='a') }}", "other is missing"),
        ("{{ 1 | plural(single='a', other='b') }}", "single is none of zero, one"),
        ("{{ 'x' | plural(other='b') }}", "no number"),
    ],
)
def test_what_cannot_be_written_is_named(text: str, told: str) -> None:
    assert told in broken(text, nothing=None)


@pytest.mark.parametrize(
    "zone", ["Mars/Base", "../../../etc/passwd", "/etc/passwd", "", "Europe", "zone.tab"]
)
def test_a_zone_that_is_none_is_refused(zone: str) -> None:
    if zone:
        assert "no such time zone" in broken("{{ 0 | time }}", timezone=zone)
    else:
        assert written("{{ 0 | time }}", "de", zone) == "00:00"


def test_an_error_does_not_say_what_the_variable_holds() -> None:
    for name in ("money('EUR')", "number", "percent", "date", "time", "datetime", "plural(other='')"):
        assert "ada@example.com" not in broken(f"{{{{ who | {name} }}}}", who="ada@example.com")


values = (
    st.integers() | st.floats() | st.text() | st.none() | st.booleans()
    | st.decimals(allow_nan=False).map(str)
    | st.datetimes(timezones=st.just(None)).map(lambda at: at.isoformat() + "Z")
)  # fmt: skip


@given(
    values,
    st.sampled_from(["en", "ar-EG", "pt-BR", "zh-Hant-TW", "cs"]),
    st.sampled_from(["UTC", "Asia/Kolkata"]),
)
def test_anything_is_written_the_same_twice_or_refused(value: Any, locale: str, zone: str) -> None:
    for name in (
        "money('EUR')",
        "number",
        "number(3)",
        "percent",
        "date",
        "time",
        "datetime('full')",
        "plural(other='a')",
    ):
        found = []
        for _ in range(2):
            try:
                found.append(written(f"{{{{ v | {name} }}}}", locale, zone, v=value))
            except TemplateBroken as error:
                found.append(str(error))
                assert "Error" not in str(error)
        assert found[0] == found[1]
        assert len(found[0]) < 2_000


def test_a_constant_is_written_in_the_locale_of_each_rendering() -> None:
    rendering = compile_parts(
        Channel.SMS, Parts(text="{{ 1.5 | number }} {{ '2026-03-01' | date('short') }}"), locale="pt"
    )
    found = [render(rendering, Contexts({}, locale)).text for locale in ("pt-BR", "pt-PT", None)]
    assert found == ["1,5 01/03/2026", "1,5 01/03/26", "1,5 01/03/2026"]


def test_words_of_two_languages_in_one_notification_have_each_their_formats() -> None:
    parts = Parts(text="{{ 1234.5 | number }}")
    contexts = Contexts({}, "de-CH")
    german = compile_parts(Channel.SMS, parts, locale="de")
    english = compile_parts(Channel.WEB, parts, locale="en")
    assert [render(one, contexts).text for one in (german, english, german)] == [
        "1’234.5",
        "1,234.5",
        "1’234.5",
    ]
