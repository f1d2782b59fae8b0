"""Previews: what would be said to somebody, or why nothing can be."""

from typing import Any

import pytest

from agents.preview import preview
from agents.variables import Problem
from schemas.kinds import Channel
from schemas.message import ChannelContent
from schemas.template import Version

SCHEMA = {"properties": {"name": {"type": "string"}}}


def a_version(**fields: Any) -> Version:
    return Version.model_validate({
        "schema": SCHEMA,
        "channels": {"email": {
            "subject": "Hi", "text": "{{ name }} {{ at | time }}", "html": "<p>{{ name }}</p>"}},
        "locales": {"de": {"email": {"subject": "Hallo", "text": "{{ name }} {{ at | time }}"}}},
        "variants": [{"name": "b", "weight": 1, "channels": {"email": {"subject": "Hey", "text": "-"}}}],
    } | fields)  # fmt: skip


def test_a_preview_is_what_would_be_sent() -> None:
    data = {"name": "<A>", "at": "2026-03-01T22:00:00Z"}
    content, locale, problems = preview(a_version(), Channel.EMAIL, data, "en-GB", timezone="Europe/Berlin")
    assert content == ChannelContent(subject="Hi", text="<A> 23:00", html="<p>&lt;A&gt;</p>")
    assert (locale, problems) == ("en", ())
    assert preview(a_version(), Channel.EMAIL, data, "de-AT").content == ChannelContent(
        subject="Hallo", text="<A> 22:00"
    )
    assert preview(a_version(), Channel.EMAIL, data, variant="b").content == ChannelContent(
        subject="Hey", text="-"
    )


@pytest.mark.parametrize(
    ("channel", "data", "variant", "fields", "problem"),
    [
        (Channel.SMS, {}, None, {}, Problem("channel", "there are no words for sms")),
        (Channel.EMAIL, {}, "z", {}, Problem("variant", "there is no variant z")),
        (Channel.EMAIL, {"name": 5}, None, {}, Problem("name", 'it is not of type "string"')),
        (Channel.EMAIL, {}, None, {}, Problem("template", "UndefinedError: 'name' is undefined")),
        (Channel.EMAIL, {"name": "a", "at": 0.5}, None, {},
         Problem("template", "time: wanted is RFC 3339 with a zone, or milliseconds since 1970")),
        (Channel.EMAIL, {}, None, {"schema": {"type": 5}},
         Problem("schema.type", '5 is not valid under any of the schemas listed in the \'anyOf\' keyword')),
        (Channel.EMAIL, {}, None,
         {"channels": {"email": {"text": "{% include 'a' %}"}}, "parts": {"a": "\n{{ 1"}},
         Problem("a", "line 2: unexpected end of template, expected 'end of print statement'.")),
    ],
)  # fmt: skip
def test_a_preview_says_what_is_in_the_way(
    channel: Channel, data: dict[str, Any], variant: str | None, fields: dict[str, Any], problem: Problem
) -> None:
    content, _, problems = preview(a_version(**fields), channel, data, variant=variant)
    assert (content, problems) == (None, (problem,))
