"""Rendering: the same words every time, nothing missing, nothing huge, and no way out of the sandbox."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.budget import MAX_OUTPUT, MAX_WIDTH
from agents.render import (
    MAX_SUBJECT,
    Contexts,
    TemplateBroken,
    compile_parts,
    one_line,
    render,
)
from schemas.kinds import Channel
from schemas.message import ChannelContent
from schemas.template import Parts

DATA = {
    "name": "Ada", "nothing": None, "number": 3, "markup": "<b>\"&'",
    "order": {"id": "C-1", "items": [{"name": "Bell", "price": 19.5}], "keys": "two", "empty": []},
}  # fmt: skip


def words(text: str, *, subject: str | None = None, html: str | None = None, **data: Any) -> dict[str, str]:
    rendering = compile_parts(Channel.EMAIL, Parts(subject=subject, text=text, html=html))
    found: dict[str, str] = msgspec.to_builtins(render(rendering, Contexts(DATA | data)))
    return found


def broken(text: str, **data: Any) -> str:
    with pytest.raises(TemplateBroken) as found:
        words(text, **data)
    return str(found.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello {{ name }}", "Hello Ada"),
        ("{{ order.id }} {{ order['id'] }}", "C-1 C-1"),
        ("{{ nothing }}|{{ order.items[0].name }}", "|Bell"),
        ("{{ nothing | default('there', true) }} {{ missing | default('there') }}", "there there"),
        (
            "{% for item in order.items %}{{ item.name }} {{ '%.2f' | format(item.price) }}{% endfor %}",
            "Bell 19.50",
        ),
        ("{{ order.keys }}", "two"),
        ("{{ '{:.1f} of 20000'.format(2.25) }} {{ '%5.1f' % 2.5 }}", "2.2 of 20000   2.5"),
        ("{{ 2 ** 8 }} {{ 'ab' * 3 }} {{ 6 * 7 }} {{ 7 % 4 }}", "256 ababab 42 3"),
        ("{% macro shout(x) %}{{ x | upper }}!{% endmacro %}{{ shout(name) }}", "ADA!"),
        ("{{ order.items | map(attribute='name') | join(', ') }}", "Bell"),
        ("{{ markup }}", "<b>\"&'"),
        ("{{ order | tojson }}"[:0] + "{{ {'b': none, 'a': name} | tojson }}", '{"a": "Ada", "b": null}'),
        ("{{ 'x' | center(9) }}|{{ 'a\nb' | indent(2) }}", "    x    |a\n  b"),
    ],
)
def test_a_template_says_what_its_author_meant(text: str, expected: str) -> None:
    assert words(text)["text"] == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{{ surname }}", "'surname' is undefined"),
        ("{{ order.total }}", "'total'"),
        ("{{ order.items[5].name }}", "5"),
        ("{{ nothing.name }}", "'name'"),
        ("{% if surname %}x{% endif %}", "'surname' is undefined"),
        ("{% for x in surname %}x{% endfor %}", "'surname' is undefined"),
    ],
)
def test_what_is_missing_is_named(text: str, named: str) -> None:
    assert named in broken(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{{ name", 1),
        ("a\n{% if %}", 2),
        ("a\nb\n{% endfor %}", 3),
        ("{{ name | nonsense }}", 1),
        ("{{ 1 | random }}", 1),
    ],
)
def test_what_does_not_compile_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(TemplateBroken) as found:
        compile_parts(Channel.SMS, Parts(text=text))
    assert found.value.line == line


def test_only_html_is_escaped() -> None:
    found = words("{{ markup }}", subject="{{ markup }}", html="<p>{{ markup }}</p>")
    assert found == {
        "text": DATA["markup"],
        "subject": DATA["markup"],
        "html": "<p>&lt;b&gt;&#34;&amp;&#39;</p>",
    }


@pytest.mark.parametrize("channel", [Channel.WEBHOOK, Channel.SMS, Channel.WEB])
def test_a_channel_has_the_parts_that_its_template_has(channel: Channel) -> None:
    assert render(compile_parts(channel, Parts(text="a")), Contexts({})) == ChannelContent(text="a")


def test_a_part_does_not_see_what_another_has_set() -> None:
    with pytest.raises(TemplateBroken, match="'secret' is undefined"):
        words("{{ secret }}", subject="{% set secret = 1 %}{% macro m() %}{% endmacro %}a")
    contexts = Contexts(DATA)
    first = compile_parts(Channel.EMAIL, Parts(subject="{% set name = 'Eve' %}{{ name }}", text="{{ name }}"))
    assert render(first, contexts) == ChannelContent(subject="Eve", text="Ada")


def test_the_variables_are_left_as_they_were() -> None:
    words("{% set name = 'Eve' %}{% set order = 1 %}{{ name }}")
    assert DATA["name"] == "Ada"
    assert "unsafe" in broken("{{ order.items.append(1) }}")
    assert "unsafe" in broken("{{ order.update(a=1) }}")


ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ name['__class__'] }}",
    "{{ name | attr('__class__') }}",
    "{{ order.items.__init__.__globals__ }}",
    "{{ order.__class__ }}",
    "{{ (1).__class__.__base__ }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{{ self.__init__ }}",
    "{{ ().__class__.__bases__[0] }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ lipsum.__globals__ }}",
    "{{ [].append.__self__ }}",
    "{% for x in [].__class__.mro() %}{{ x }}{% endfor %}",
    "{% set x = namespace() %}{{ x }}",
    "{{ order.items | map(attribute='__class__') | list }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
]


@pytest.mark.parametrize("text", ESCAPES)
def test_there_is_no_way_out_of_the_sandbox(text: str) -> None:
    assert "root:" not in broken(text)


@pytest.mark.parametrize("text", ["{% extends 'a' %}", "{% block a %}b{% endblock %}"])
def test_templates_do_not_extend_each_other(text: str) -> None:
    broken(text)


BOMBS = {
    "SecurityError": [  # what Python would build in one piece, before anybody could count it
        "{{ 'a' * 200000000 }}",
        "{{ 200000000 * 'a' }}",
        "{{ [1] * 200000000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ '%200000000d' | format(1) }}",
        "{{ '%0200000000d' % 1 }}",
        "{{ '%.200000000f' % 1 }}",
        "{{ '%*d' % (200000000, 1) }}",
        "{{ '{:200000000}'.format(1) }}",
        "{{ '{0:>200000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 200000000) }}",
        "{{ '{x:200000000}'.format_map({'x': 1}) }}",
        "{{ 'x'.ljust(200000000) }}",
        "{{ 'x'.zfill(200000000) }}",
        "{{ 'x' | center(200000000) }}",
        "{{ 'x' | center(width=200000000) }}",
        "{{ 'a\nb' | indent(200000000) }}",
        "{{ [1] | batch(200000000, 'x') | list }}",
        "{{ 1 | tojson(indent=200000000) }}",
    ],
    "more than": [
        "{% for a in many %}{{ big }}{% endfor %}",
        "{% for a in many %}{% for b in many %}x{% endfor %}{% endfor %}",
        "{% for a in many %}{% for b in many %}{{ '' }}{% endfor %}{% endfor %}",
    ],
    "undefined": ["{{ range(200000000) }}"],
}


@pytest.mark.parametrize(("why", "text"), [(why, text) for why, texts in BOMBS.items() for text in texts])
def test_a_template_that_would_be_huge_is_refused(why: str, text: str) -> None:
    assert why in broken(text, many=[0] * 10_000, big="x" * 100_000)


def test_an_output_has_a_bound() -> None:
    assert len(words("{{ big }}", big="x" * MAX_OUTPUT)["text"]) == MAX_OUTPUT
    assert str(MAX_OUTPUT) in broken("{{ big }}y", big="x" * MAX_OUTPUT)
    assert len(words("{% for x in many %}{{ x }}{% endfor %}", many=["ab"] * 50_000)["text"]) == 100_000


def test_a_width_has_a_bound() -> None:
    assert len(words("{{ 'x' | center(w) }}", w=MAX_WIDTH)["text"]) == MAX_WIDTH
    assert "above" in broken("{{ 'x' | center(w) }}", w=MAX_WIDTH + 1)


@pytest.mark.parametrize(
    "text",
    [
        "{{ order.items | map('upper') }}",
        "{{ order.values }}",
        "{{ name.upper }}",
        "{{ [name.upper] }}",
        "{{ {1: (name.lower,)} }}",
    ],
)
def test_what_would_differ_every_time_is_not_printed(text: str) -> None:
    assert "cannot be printed" in broken(text)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(st.dictionaries(st.text(), json, max_size=5), st.text())
def test_any_variables_are_rendered_the_same_twice_or_refused(data: dict[str, Any], name: str) -> None:
    rendering = compile_parts(
        Channel.EMAIL,
        Parts(
            subject="{{ a }}{{ b.items }}",
            text="{% for x in a %}{{ x }}{% endfor %}",
            html="{{ a | tojson }}",
        ),
    )
    data = {"a": data, "b": {"items": name}}
    first, second = render(rendering, Contexts(data)), render(rendering, Contexts(data))
    assert first == second
    assert all(0x20 <= ord(c) != 0x7F for c in first.subject or "")


@given(st.text())
def test_a_subject_is_one_line_without_control_characters(text: str) -> None:
    found = one_line(text)
    assert len(found) <= MAX_SUBJECT
    assert all(c.isprintable() or c in "\u200c\u200d" for c in found)
    assert len(found.splitlines()) <= 1
    assert one_line(found) == found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello\r\nBcc: eve@example.com", "Hello Bcc: eve@example.com"),
        ("a\x00b\u2028c\u202ed", "a b c d"),
        ("👨‍👩‍👧 می‌خواهم", "👨‍👩‍👧 می‌خواهم"),
        ("x" * 2_000, "x" * MAX_SUBJECT),
        ("a  b", "a  b"),
    ],
)
def test_a_subject_keeps_what_is_meant(text: str, expected: str) -> None:
    assert one_line(text) == expected
