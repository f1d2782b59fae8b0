"""Locales: a chain from the nearest to the default, and formats in the language of the words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.locales import chain, written_in
from agents.render import compile_version
from schemas.kinds import Channel
from schemas.template import Version
from tests.unit.test_versions import a_version, said


@pytest.mark.parametrize(
    ("locale", "tags"),
    [
        ("pt-BR", ("pt-BR", "pt")),
        ("PT_br", ("pt-BR", "pt")),
        ("pt", ("pt",)),
        ("zh-Hant-TW", ("zh-Hant-TW", "zh-Hant", "zh")),
        ("es-419", ("es-419", "es")),
        ("de_DE.UTF-8", ("de-DE", "de")),
        ("de-DE-u-co-phonebk", ("de-DE", "de")),
        ("", ()),
        ("not a locale", ()),
        ("../../etc", ()),
        ("p" * 100, ()),
    ],
)
def test_a_chain_goes_from_the_nearest_to_the_widest(locale: str, tags: tuple[str, ...]) -> None:
    assert chain(locale) == tags


@pytest.mark.parametrize(
    ("words", "asked", "formats"),
    [
        ("pt", "pt-BR", "pt-BR"),
        ("pt-BR", "pt-BR", "pt-BR"),
        ("en", "pt-BR", "en"),
        ("pt-BR", "pt", "pt-BR"),
        ("en", "en-GB", "en-GB"),
        ("en", None, "en"),
        ("en", "?", "en"),
        ("de", "den", "de"),
    ],
)
def test_formats_are_in_the_language_of_the_words(words: str, asked: str | None, formats: str) -> None:
    assert written_in(words, asked) == formats


TAGS = ["en", "en-GB", "pt", "pt-BR", "pt-PT", "de", "zh-Hant", "zh-Hant-TW", "zh"]
tags = st.sampled_from(TAGS)
of_locales = st.dictionaries(tags, st.sets(st.sampled_from(["sms", "web"]), min_size=1), max_size=5)


@given(of_locales, of_locales, tags, st.none() | tags | st.text(max_size=20), st.booleans())
def test_a_chain_ends_at_words_for_every_channel(
    locales: dict[str, set[str]], own: dict[str, set[str]], default: str, asked: str | None, varied: bool
) -> None:
    def words(of: dict[str, set[str]], who: str) -> dict[str, dict[str, dict[str, str]]]:
        return {
            tag: {channel: {"text": f"{who} {tag} {channel}"} for channel in channels}
            for tag, channels in of.items()
            if tag != default
        }

    version = Version.model_validate({
        "default_locale": default, "locales": words(locales, "all"),
        "channels": {channel: {"text": f"all {default} {channel}"} for channel in ("sms", "web")},
        "variants": [{"name": "b", "weight": 1, "locales": words(own, "b")}],
    })  # fmt: skip
    found = compile_version(version, asked, "b" if varied else None)
    assert found is not None
    assert set(found) == {Channel.SMS, Channel.WEB}
    for channel, rendering in found.items():
        way = [*(chain(asked) if asked else ()), default]
        way = way[: way.index(default) + 1]
        expected = next(
            f"{who} {tag} {channel}"
            for tag in way
            for who, of in (("b", own if varied else {}), ("all", {**locales, default: {"sms", "web"}}))
            if channel in of.get(tag, ()) and not (who == "b" and tag == default)
        )
        assert said(rendering) == expected
        assert expected.split()[1] == rendering.locale


def test_a_language_comes_before_a_variant() -> None:
    version = a_version(
        locales={"pt": {"sms": {"text": "olá"}}},
        variants=[{"name": "b", "weight": 1, "channels": {"sms": {"text": "hey"}}}],
    )
    for asked, expected in (("pt-BR", "olá"), ("en", "hey"), (None, "hey")):
        found = compile_version(version, asked, "b")
        assert found is not None
        assert said(found[Channel.SMS]) == expected
