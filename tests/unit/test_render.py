"""Rendering: the same words every time, nothing missing, nothing huge, and no way out of the sandbox."""

import tracemalloc
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


def words(
    text: str,
    *,
    subject: str | None = None,
    html: str | None = None,
    parts: dict[str, str] | None = None,
    **data: Any,
) -> dict[str, str]:
    rendering = compile_parts(Channel.EMAIL, Parts(subject=subject, text=text, html=html), parts)
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
    "{% include '../secret' %}",
    "{% import 'os' as os %}{{ os }}",
    "{% from 'os' import environ %}{{ environ }}",
    "{{ self._TemplateReference__context }}",
    "{{ super.__self__ }}",
    "{% macro m() %}{{ caller.__globals__ }}{% endmacro %}{% call m() %}{% endcall %}",
    "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}",
    "{{ (1.5 | money('EUR')).__class__ }}",
    "{{ name | plural(other=name.__class__) }}",
    "{% for x in order.items %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "{{ name.encode() }}",
    "{{ name.translate({}) }}",
    "{{ (1).to_bytes(2, 'big') }}",
    "{{ (1).real }}",
    "{{ order.items.copy() }}",
    "{{ '%s' | format(name.upper) }}",
    "{{ 1 | map('(loop)') }}",
]


@pytest.mark.parametrize("text", ESCAPES)
def test_there_is_no_way_out_of_the_sandbox(text: str) -> None:
    assert "root:" not in broken(text)


@pytest.mark.parametrize("text", ESCAPES)
@pytest.mark.parametrize("layout", ["{% include 'part' %}", "{% extends 'part' %}"])
def test_there_is_none_through_a_part(text: str, layout: str) -> None:
    assert "root:" not in broken(layout, parts={"part": text})


MULTIPLYING = [  # two sizes, each of which is harmless
    "{{ big.replace('x', big) }}",
    "{{ big | replace('x', big) }}",
    "{% filter replace('x', big) %}{{ big }}{% endfilter %}",
    "{{ many | join(big) }}",
    "{{ big.join(many | map('string')) }}",
    "{{ ('{0}' * 50000).format(big) }}",
    "{{ ('%s' * 5) % (big, big, big, big, big) }}",
    "{{ ('%s' * 5) | format(big, big, big, big, big) }}",
    "{{ ([big] * 200000) | map('upper') | list | length }}",
    "{{ [big] * 200000 }}",
    "{% set x %}{% for a in many %}{{ big[1:] }}{% endfor %}{% endset %}",
    "{{ [" + "big[1:]," * 1000 + "] | length }}",
    "{{ " + " ~ ".join(["big"] * 1000) + " }}",
]
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
    "unsafe": [
        "{{ 'x'.encode().center(200000000) }}",
        "{{ (1).to_bytes(200000000, 'big') }}",
        "{{ 'aaaa'.translate({97: big}) }}",
    ],
    "recursion": [
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for a in many recursive %}{{ loop(many) }}{% endfor %}",
    ],
    "large": [
        "{% set a = 7 %}" + "{% set a = a * a %}" * 40,
        "{% set a = 7 ** 9 %}" + "{% set a = a * a %}" * 40,
    ],
    "beside": [
        "{{ big | indent(big) }}",
        "{{ big | wordwrap(1, true, big) }}",
        "{{ big | urlize(target=big) }}",
    ],
    "more than": [
        # what is kept and yields nothing
        "{% set x %}{% for a in many %}{% for b in many %}x{% endfor %}{% endfor %}{% endset %}",
        "{% for a in many %}{% for b in many %}{% endfor %}{% endfor %}",
        "{% for a in many %}{% for b in many if false %}{% endfor %}{% endfor %}",
        "{% for a in many %}{% for b in many | select('none') %}{% endfor %}{% endfor %}",
        "{% for a in many %}{{ loop.length }}{% for b in many %}{{ loop.index }}{% endfor %}{% endfor %}",
        "{% for a in many %}{{ (many | sort)[0] }}{% endfor %}",
        "{% for a in many %}{% if many == many | list %}{% endif %}{% endfor %}",
        "{% for a in many %}{% if many is eq(many | list) %}{% endif %}{% endfor %}",
        "{% for a in many %}{% if 'y' in big %}{% endif %}{% endfor %}" * 10,
        # what calls itself, or others, twice
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
        "{% macro w() %}{{ caller() }}{{ caller() }}{% endmacro %}"
        + "{% call w() %}" * 20
        + "x"
        + "{% endcall %}" * 20,
        "{% macro m() %}{% for a in many %}{{ big }}{% endfor %}{% endmacro %}{{ m() }}",
        # what doubles
        "{% set a = 'a' * 200 %}" + "{% set a = a ~ a %}" * 40,
        "{% set a = 'a' * 200 %}" + "{% set a = a + a %}" * 40,
        "{% set a = [1] %}" + "{% set a = [a, a] %}" * 40 + "{{ a }}",
        "{% set a = [1] %}" + "{% set a = {'a': a, 'b': a} %}" * 40 + "{{ a | tojson }}",
        "{% set a = 'aa' %}" + "{% set a %}{{ a }}{{ a }}{% endset %}" * 40,
        *MULTIPLYING,
        "{% for a in many %}{{ big }}{% endfor %}",
        "{% for a in many %}{% for b in many %}x{% endfor %}{% endfor %}",
        "{% for a in many %}{% for b in many %}{{ '' }}{% endfor %}{% endfor %}",
    ],
    "undefined": ["{{ range(200000000) }}"],
}


@pytest.mark.parametrize(("why", "text"), [(why, text) for why, texts in BOMBS.items() for text in texts])
def test_a_template_that_would_be_huge_is_refused(why: str, text: str) -> None:
    assert why in broken(text, many=[0] * 10_000, big="x" * 100_000)


IN_PARTS = [
    ("{% include 'a' %}", {"a": "{% for a in many %}{% for b in many %}{% endfor %}{% endfor %}"}),
    ("{% for a in many %}{% for b in many %}{% include 'a' %}{% endfor %}{% endfor %}", {"a": ""}),
    ("{% include 'p0' %}", {f"p{n}": f"{{% include 'p{n + 1}' %}}" * 1_000 for n in range(6)} | {"p6": ""}),
    ("{% extends 'a' %}{% block b %}{{ super() }}{{ super() }}{% endblock %}",
     {"a": "{% block b %}{% for a in many %}{{ big }}{% endfor %}{% endblock %}"}),
    ("{% extends 'a' %}{% block b %}{% for a in many %}{% for b in many %}{{ self.c() }}"
     "{% endfor %}{% endfor %}{% endblock %}",
     {"a": "{% block b %}{% endblock %}{% block c %}{% endblock %}"}),
    ("{% extends 'a' %}{% block b %}{{ self.b() }}{% endblock %}", {"a": "{% block b %}{% endblock %}"}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "parts"), IN_PARTS)
def test_parts_and_blocks_are_bounded_too(text: str, parts: dict[str, str]) -> None:
    said = broken(text, parts=parts, many=[0] * 10_000, big="x" * 100_000)
    assert "more than" in said or "recursion" in said


def test_what_a_template_may_make_is_bounded_in_memory() -> None:
    """Each bomb is refused before it is built: the peak stays near what was there before."""
    tracemalloc.start()
    try:
        for text in (*MULTIPLYING, *BOMBS["SecurityError"], *BOMBS["unsafe"], *BOMBS["beside"]):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            broken(text, many=[0] * 10_000, big="x" * 100_000)
            assert tracemalloc.get_traced_memory()[1] - before < 40_000_000, text
    finally:
        tracemalloc.stop()


def test_the_budget_is_spent_alike_every_time() -> None:
    """No clock decides: what just fits, fits on a slow machine too."""
    text = "{% for a in many %}{% for b in many %}{% endfor %}{% endfor %}x"
    fits = [n for n in (400, 440, 446, 447, 460) if "x" in text and _renders(text, many=[0] * n)]
    assert fits == [400, 440, 446]


def _renders(text: str, **data: Any) -> bool:
    try:
        words(text, **data)
    except TemplateBroken:
        return False
    return True


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
        "{{ name.upper ~ '' }}",
        "{{ name.upper | string }}",
        "{{ order.items | map('upper') | string }}",
        "{{ [name.upper] | join }}",
        "{{ '%s' % name.upper }}",
        "{{ '{}'.format(name.upper) }}",
    ],
)
def test_what_would_differ_every_time_is_not_printed(text: str) -> None:
    assert "cannot be printed" in broken(text)


# -- layouts and partials

SHOP = {
    "base.html": "<title>{% block title %}Shop{% endblock %}</title>{% block body %}{% endblock %}"
    "{% include 'foot.html' %}",
    "mid.html": "{% extends 'base.html' %}{% block body %}[{% block inner %}{% endblock %}]{% endblock %}",
    "foot.html": "<p>{{ name }}{{ sign }}</p>",
}


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("{% include 'foot.html' %}", "<p>&lt;b&gt;!</p>"),
        ("{% extends 'base.html' %}", "<title>Shop</title><p>&lt;b&gt;!</p>"),
        (
            "{% extends 'base.html' %}{% block title %}{{ super() }}: {{ name }}{% endblock %}",
            "<title>Shop: &lt;b&gt;</title><p>&lt;b&gt;!</p>",
        ),
        ("{% extends 'base.html' %}{% set sign = '?' %}", "<title>Shop</title><p>&lt;b&gt;?</p>"),
        (
            "{% extends 'mid.html' %}{% block inner %}{{ self.title() }}{% endblock %}",
            "<title>Shop</title>[Shop]<p>&lt;b&gt;!</p>",
        ),
        (
            "{% for sign in ['1', '2'] %}{% include 'foot.html' %}{% endfor %}",
            "<p>&lt;b&gt;1</p><p>&lt;b&gt;2</p>",
        ),
        (
            "{% extends 'base.html' %}{% macro b(x) %}<b>{{ x }}</b>{% endmacro %}"
            "{% block body %}{{ b(name) }}{% endblock %}",
            "<title>Shop</title><b>&lt;b&gt;</b><p>&lt;b&gt;!</p>",
        ),
    ],
)  # fmt: skip
def test_layouts_and_partials_are_filled_in(html: str, expected: str) -> None:
    assert words("", html=html, parts=SHOP, name="<b>", sign="!")["html"] == expected
    # alone, so that what is shared with other parts makes no difference
    assert words("{{ name }}", html=html, parts=SHOP, name="<b>", sign="!")["html"] == expected


def test_a_partial_escapes_as_the_part_does_that_includes_it() -> None:
    found = words("{% include 'a' %}", html="{% include 'a' %}", parts={"a": "{{ markup }}"})
    assert found == {"text": DATA["markup"], "html": "&lt;b&gt;&#34;&amp;&#39;"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{% include 'bas.html' %}", "there is no 'bas.html' among the partials; did you mean base.html?"),
        ("{% extends 'nothing' %}", "there is no 'nothing' among the partials"),
        ("{% extends 'base.html' %}{% block boddy %}{% endblock %}", "no block boddy; did you mean body?"),
        ("{% extends 'base.html' %}lost", "what stands outside of blocks is lost"),
        ("{% extends 'base.html' %}{{ name }}", "what stands outside of blocks is lost"),
        ("{% extends 'base.html' %}{% include 'foot.html' %}", "what stands outside of blocks is lost"),
        ("{% extends name %}", "only one name, as it stands"),
        ("{% include name %}", "only one name, as it stands"),
        ("{% include ['a', 'foot.html'] %}", "only one name, as it stands"),
        ("{% include 'foot.html' ignore missing %}", "include takes the name alone"),
        ("{% include 'foot.html' without context %}", "include takes the name alone"),
        ("{% import 'foot.html' as foot %}", "import is not supported"),
        ("{% from 'foot.html' import x %}", "import is not supported"),
        ("{% if name %}{% extends 'base.html' %}{% endif %}", "one layout, at the top"),
        ("{% extends 'base.html' %}{% extends 'mid.html' %}", "one layout, at the top"),
        ("{% block a %}{% endblock %}", "a block is for a layout"),
    ],
)
def test_what_would_surprise_is_refused(text: str, told: str) -> None:
    said = broken(text, parts=SHOP)
    assert told in said
    assert said.startswith("line 1: ")


@pytest.mark.parametrize(
    ("parts", "told", "where"),
    [
        ({"a": "{% include 'a' %}"}, "it contains itself: a > a", ("a", 1)),
        ({"a": "{% include 'b' %}", "b": "\n{% extends 'a' %}"}, "it contains itself: a > b > a", ("b", 2)),
        ({f"p{n}": f"{{% include 'p{n + 1}' %}}" for n in range(8)} | {"p8": "", "a": "{% include 'p0' %}"},
         "deeper than 8", None),
        ({"a": "x\n{{ broken"}, "line 2: unexpected end of template", ("a", 2)),
        ({"a": "x\n{{ 1 | nonsense }}"}, "line 2: No filter named 'nonsense'", ("a", 2)),
        ({"a": "{% include 'gone' %}"}, "there is no 'gone'", ("a", 1)),
    ],
)  # fmt: skip
def test_a_part_that_is_broken_is_named(
    parts: dict[str, str], told: str, where: tuple[str, int] | None
) -> None:
    with pytest.raises(TemplateBroken, match=told) as found:
        compile_parts(Channel.SMS, Parts(text="{% include 'a' %}"), parts)
    if where is not None:
        assert (found.value.part, found.value.line) == where


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
