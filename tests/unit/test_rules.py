"""Rules from files: what is broken is named by file, line and field; what changed becomes a new version."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents import versions
from pipeline.rules import (
    MAX_FILE_BYTES,
    RulesBroken,
    load_segments,
    load_templates,
    load_workflows,
    next_template,
)
from schemas.kinds import Channel, Doubt, Priority
from schemas.template import KEPT_VERSIONS, Template, TemplateSource
from schemas.workflow import Workflow

ROOT = Path(__file__).parents[2]
RULE = """\
name: order-confirmed
on: shop.order.confirmed
recipients: [customer.id]
template: order
channels: [email, web]
"""
WORDS = """\
name: order
channels:
  email:
    subject: Thank you
    text: |
      Hello {{ name }}
"""


def broken(directory: Path, text: str | bytes, *, templates: bool = False) -> str:
    file = directory / "a.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RulesBroken) as found:
        (load_templates if templates else load_workflows)(directory)
    return str(found.value).replace(f"{file}", "a.yaml")


# -- segments


def test_segments_are_read_and_a_broken_rule_is_named_by_file_line_and_field(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text('- name: pro\n  rule: user.attributes.plan == "pro"\n- name: all\n  rule: "true"\n')
    assert [segment.name for segment in load_segments(tmp_path)] == ["pro", "all"]
    for text, told in (
        ("name: pro\n\nrule: user.plan ==\n", "a.yaml:3: rule: line 1, column 13: Syntax error"),
        ("name: pro\nrules: x\n", "a.yaml:2: rules: no such field; did you mean rule?"),
        ("- name: pro\n  rule: 'true'\n- name: pro\n  rule: 'true'\n", "a.yaml:3: name: 'pro' is taken"),
        ("name: Pro\nrule: 'true'\n", "a.yaml:1: name: "),
    ):
        file.write_text(text)
        with pytest.raises(RulesBroken) as found:
            load_segments(tmp_path)
        assert str(found.value).replace(f"{file}", "a.yaml").startswith(told)


# -- workflows


def test_a_file_holds_one_rule_or_a_list_of_them(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(RULE)
    many = RULE.replace("order-confirmed", "one").replace("\n", "\n  ")
    (tmp_path / "a.yml").write_text(f"- {many}\n- {many.replace('one', 'two')}")
    (tmp_path / ".hidden.yaml").write_text("broken: [")
    (tmp_path / "notes.txt").write_text("broken: [")
    found = load_workflows(tmp_path)
    assert [workflow.name for workflow in found] == ["one", "two", "order-confirmed"]
    assert found[2] == Workflow.model_validate_json(found[2].to_json())


def test_every_field_is_read(tmp_path: Path) -> None:
    more = "id: first-name\ncategory: 'no'\npriority: medium\ndoubt: at_most_once\n"
    more += "mandatory: true\nexpires_after: 60\n"
    (tmp_path / "a.yaml").write_text(RULE + more)
    (found,) = load_workflows(tmp_path)
    assert (found.id, found.on, found.category) == ("first-name", "shop.order.confirmed", "no")
    assert (found.priority, found.doubt) == (Priority.NORMAL, Doubt.AT_MOST_ONCE)
    assert (found.mandatory, found.expires_after, found.channels) == (True, 60, (Channel.EMAIL, Channel.WEB))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (RULE.replace("template: order", "template: Order!"), "a.yaml:4: template: "),
        (RULE.replace("[email, web]", "[email, fax]"), "a.yaml:5: channels.1: "),
        (RULE.replace("[email, web]", "\n  - email\n  - fax"), "a.yaml:7: channels.1: "),
        (RULE.replace("[email, web]", "[]"), "a.yaml:5: channels: "),
        (RULE.replace("[email, web]", "[web, web]"), "a.yaml:5: channels: a channel stands there twice"),
        (RULE.replace("[customer.id]", "[customer.]"), "a.yaml:3: recipients: 'customer.' is no JMESPath"),
        (RULE.replace("[customer.id]", "customer.id"), "a.yaml:3: recipients: "),
        (RULE.replace("shop.order.confirmed", "shop.*.confirmed"), "a.yaml:1: (whole): on: a * may"),
        (RULE.replace("template: order\n", ""), "a.yaml:1: template: Field required"),
        (RULE.replace("template: order", "template: 5"), "a.yaml:4: template: "),
        (RULE.replace("template: order", "template: null"), "a.yaml:4: template: "),
        (RULE.replace("template: order", "template: no"), "a.yaml:4: template: "),
        (RULE + "prioritty: high\n", "a.yaml:6: prioritty: no such field; did you mean priority?"),
        (RULE + "zzz: high\n", "a.yaml:6: zzz: no such field; there are name, id, on, "),
        (RULE + "expires_after: 0\n", "a.yaml:6: expires_after: "),
        (RULE + "expires_after: 1.5\n", "a.yaml:6: expires_after: "),
        (RULE + "priority: urgent\n", "a.yaml:6: priority: "),
        (RULE + "on: again\n", "a.yaml:6: on: stands there twice"),
        (RULE + "id: !!python/object/apply:os.system [echo]\n", "a.yaml:6: id: the tag"),
        (RULE + "id: !!int abc\n", "a.yaml:6: id: "),
        (RULE + "id: !!binary aGk=\n", "a.yaml:6: id: the tag binary"),
        (
            RULE.replace("name: order-confirmed", "name: &n order-confirmed") + "id: *n\n",
            "a.yaml:1: id: anchors",
        ),
        (RULE + "? [a, b]\n: c\n", "a.yaml:6: (whole): a name must be text"),
        (RULE + "---\n" + RULE, "a.yaml:6: (whole): "),
        ("- " + RULE.replace("\n", "\n  ") + "\n- 5\n", "a.yaml:7: (whole): "),
        ("- " + RULE.replace("\n", "\n  ").replace("email", "fax"), "a.yaml:5: channels.0: "),
        ("", "a.yaml:1: (whole): there is nothing in it"),
        ("# nothing\n", "a.yaml:1: (whole): there is nothing in it"),
        ("text", "a.yaml:1: (whole): "),
        ("a: [", "a.yaml:1: (whole): "),
        ("a: b: c", "a.yaml:1: (whole): "),
        ("\ta: b", "a.yaml:1: (whole): "),
        (b"a: \xff", "a.yaml:1: (whole): "),
        ("a: \x00", "a.yaml:1: (whole): "),
        ("[" * 50_000, "a.yaml:1: (whole): too many"),
        ("{a: " * 5_000, "a.yaml:1: (whole): too many"),
        ("#" * (MAX_FILE_BYTES + 1), f"a.yaml:1: (whole): {MAX_FILE_BYTES + 1} bytes"),
    ],
)
def test_a_broken_rule_is_named_by_file_line_and_field(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert broken(tmp_path, text).startswith(said)


def test_a_name_or_an_id_belongs_to_one_rule(tmp_path: Path) -> None:
    (tmp_path / "z.yaml").write_text(RULE)
    said = broken(tmp_path, "- " + RULE.replace("\n", "\n  "))  # a.yaml is read first: z.yaml is the second
    assert said == f"{tmp_path}/z.yaml:1: name: 'order-confirmed' is taken: a.yaml:1"
    (tmp_path / "z.yaml").write_text(
        RULE.replace("name: order-confirmed", "name: other\nid: order-confirmed")
    )
    assert broken(tmp_path, RULE) == f"{tmp_path}/z.yaml:2: id: 'order-confirmed' is taken: a.yaml:1"


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    for load in (load_workflows, load_templates):
        with pytest.raises(RulesBroken, match="nowhere: no such directory"):
            load(tmp_path / "nowhere")
    assert load_workflows(tmp_path) == []


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").mkdir()
    with pytest.raises(RulesBroken, match=r"a\.yaml"):
        load_workflows(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.text().map(lambda text: (RULE + text).encode("utf-8", "surrogatepass")))
def test_any_file_is_read_or_refused(tmp_path: Path, value: bytes) -> None:
    (tmp_path / "a.yaml").write_bytes(value)
    for load in (load_workflows, load_templates):
        try:
            load(tmp_path)
        except RulesBroken as error:
            assert str(error).startswith(f"{tmp_path}/a.yaml:")


# -- templates


def test_a_template_is_read_with_the_parts_of_its_channels(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(WORDS + "    html: <p>Hi</p>\n  sms:\n    text: Hi\n")
    (found,) = load_templates(tmp_path)
    assert found.name == "order"
    assert found.channels[Channel.EMAIL].text == "Hello {{ name }}\n"
    assert found.channels[Channel.EMAIL].html == "<p>Hi</p>"
    assert found.channels[Channel.SMS].subject is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WORDS.replace("{{ name }}", "{{ name }"), "a.yaml:6: channels.email.text: line 1: "),
        (WORDS + "      b\n      {% if %}\n", "a.yaml:8: channels.email.text: line 3: "),
        (
            WORDS.replace("Thank you", "'{{ a | nonsense }}'"),
            "a.yaml:4: channels.email.subject: line 1: No filter",
        ),
        (WORDS.replace("|\n      Hello {{ name }}", "Hello {% x %}"), "a.yaml:5: channels.email.text: "),
        (
            WORDS.replace("subject: Thank you", "title: Hi"),
            "a.yaml:4: channels.email.title: no such field; there are ",
        ),
        (
            WORDS.replace("    subject: Thank you\n", ""),
            "a.yaml:1: (whole): channels.email: a mail needs a subject",
        ),
        (WORDS.replace("email", "fax"), "a.yaml:3: channels.fax"),
        ("name: order\nchannels: {}\n", "a.yaml:2: channels: "),
        ("name: order\n", "a.yaml:1: channels: Field required"),
        (WORDS.replace("order", "Order"), "a.yaml:1: name: "),
        (WORDS + "versions: {}\n", "a.yaml:7: versions: no such field"),
        (WORDS.replace("text: |\n      Hello {{ name }}", "text: 5"), "a.yaml:5: channels.email.text: "),
        ("- " + WORDS.replace("\n", "\n  "), "a.yaml:1: (whole): "),
    ],
)
def test_a_broken_template_is_named_by_file_line_and_field(tmp_path: Path, text: str, said: str) -> None:
    assert broken(tmp_path, text, templates=True).startswith(said)


FULL = """\
name: order
schema:
  type: object
  properties:
    name: {type: string}
default_locale: pt-BR
channels:
  sms:
    text: |
      Olá
      {% include "foot.txt" %}
locales:
  no:
    sms: {text: Hei}
variants:
  - name: a
    weight: 50
  - name: b
    weight: 50
    channels:
      sms:
        text: Oi
    locales:
      en:
        sms:
          text: |
            {%- extends "base.txt" -%}
            {% block body %}Hi{% endblock %}
"""
PARTIALS = {
    "foot.txt": "-- {% include 'name.txt' %}", "name.txt": "The shop", "unused.txt": "x",
    "base.txt": "{% block body %}{% endblock %}",
}  # fmt: skip


def partials(directory: Path, files: dict[str, str]) -> None:
    (directory / "partials").mkdir()
    for name, text in files.items():
        (directory / "partials" / name).write_text(text)


def test_a_template_takes_in_what_it_needs_and_no_more(tmp_path: Path) -> None:
    partials(tmp_path, PARTIALS)
    (tmp_path / "a.yaml").write_text(FULL)
    (found,) = load_templates(tmp_path)
    assert found.parts == {name: PARTIALS[name] for name in ("base.txt", "foot.txt", "name.txt")}
    assert found.json_schema == {"type": "object", "properties": {"name": {"type": "string"}}}
    assert (found.default_locale, set(found.locales)) == ("pt-BR", {"no"})
    assert [(variant.name, variant.weight) for variant in found.variants] == [("a", 50), ("b", 50)]
    first = next_template(None, found)
    assert first is not None
    assert next_template(Template.model_validate_json(first.to_json()), found) is None
    (tmp_path / "partials" / "name.txt").write_text("The new shop")
    following = next_template(first, *load_templates(tmp_path))
    assert following is not None
    assert [version.parts["name.txt"] for version in following.versions.values()] == [
        "The shop",
        "The new shop",
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "foot.txt",
            "fot.txt",
            "a.yaml:11: channels.sms.text: line 2: there is no 'fot.txt' among the partials; did",
        ),
        ("base.txt", "bas.txt", "a.yaml:27: variants.1.locales.en.sms.text: line 1: there is no 'bas.txt'"),
        (
            "block body",
            "block boby",
            "a.yaml:28: variants.1.locales.en.sms.text: line 2: the layout has no block",
        ),
        ("text: Hei", "txt: Hei", "a.yaml:14: locales.no.sms.txt: no such field; did you mean text?"),
        ("Hei", "'{{ a'", "a.yaml:14: locales.no.sms.text: line 1: "),
        (
            "weight: 50\n    channels",
            "wait: 50\n    channels",
            "a.yaml:19: variants.1.wait: no such field; did you",
        ),
        ("text: Oi", "body: Oi", "a.yaml:22: variants.1.channels.sms.body: no such field"),
        ("schema:", "shema:", "a.yaml:2: shema: no such field; did you mean schema?"),
        (
            "default_locale: pt-BR",
            "json_schema: {}",
            "a.yaml:6: json_schema: no such field; did you mean schema?",
        ),
        ("default_locale: pt-BR", "parts: {}", "a.yaml:6: parts: no such field"),
        ("pt-BR", "pt_BR", "a.yaml:6: default_locale: "),
        ("pt-BR", "'no'", "a.yaml:1: (whole): locales.no: that is the default locale"),
        ("type: string", "type: sting", "a.yaml:5: schema.properties.name.type: "),
        ("{type: string}", "{$ref: 'https://example.com/a'}", "a.yaml:2: schema: "),
        ("- name: b", "- name: a", "a.yaml:1: (whole): variants: a name stands there twice"),
        ("sms: {text: Hei}", "web: {text: Hei}", "a.yaml:1: (whole): locales.no.web: channels has no web"),
    ],
)
def test_a_broken_field_of_a_template_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    partials(tmp_path, PARTIALS)
    assert broken(tmp_path, FULL.replace(old, new, 1), templates=True).startswith(said)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "foot.txt",
            "a\n{% include 'foot.txt' %}",
            "foot.txt:2: (whole): it contains itself: foot.txt > foot.txt",
        ),
        ("name.txt", "\n\n{% include 'foot.txt' %}", "name.txt:3: (whole): it contains itself: "),
        ("name.txt", "\n{{ a", "name.txt:2: (whole): line 2: "),
        ("name.txt", "{{ a | nonsense }}", "name.txt:1: (whole): line 1: No filter named"),
        ("Name.txt", "", "Name.txt:1: (whole): a name has small letters"),
        ("big.txt", "x" * 256_001, "big.txt:1: (whole): more than 256000 bytes"),
    ],
)
def test_a_broken_partial_is_named_by_file_line_and_who_needs_it(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    partials(tmp_path, PARTIALS | {name: text})
    told = broken(tmp_path, FULL, templates=True)
    assert told.startswith(f"{tmp_path}/partials/{said}")
    if "whole): it" in told or "whole): line" in told:
        assert told.endswith("(needed by a.yaml:9: channels.sms.text)")


def test_a_partial_that_is_no_text_is_named(tmp_path: Path) -> None:
    partials(tmp_path, {})
    (tmp_path / "partials" / "a.txt").write_bytes(b"\xff")
    with pytest.raises(RulesBroken, match=r"a\.txt:1: \(whole\): that is not UTF-8"):
        load_templates(tmp_path)


def test_a_name_belongs_to_one_template(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(WORDS)
    assert broken(tmp_path, WORDS, templates=True) == f"{tmp_path}/b.yaml:1: name: 'order' is taken: a.yaml:1"


# -- versions


def source(text: str) -> TemplateSource:
    return TemplateSource.model_validate({"name": "order", "channels": {"sms": {"text": text}}})


def published(*texts: str) -> Template:
    known: Template | None = None
    for text in texts:
        known = next_template(known, source(text)) or known
    assert known is not None
    return known


def said(template: Template) -> dict[int, str]:
    return {number: version.channels[Channel.SMS].text for number, version in template.versions.items()}


def test_the_first_version_is_1_and_a_change_is_the_next() -> None:
    assert (published("one").current, said(published("one"))) == (1, {1: "one"})
    assert (published("one", "two").current, said(published("one", "two"))) == (2, {1: "one", 2: "two"})


def test_what_is_unchanged_is_not_published() -> None:
    assert next_template(published("one"), source("one")) is None
    read_back = Template.model_validate_json(published("one").to_json())
    assert next_template(read_back, source("one")) is None


def test_an_old_text_that_comes_back_is_a_new_version() -> None:
    assert said(published("one", "two", "one")) == {1: "one", 2: "two", 3: "one"}


def test_a_rollback_outlives_a_restart_and_ends_with_the_next_change() -> None:
    rolled_back = published("one", "two").model_copy(update={"current": 1})
    assert next_template(rolled_back, source("two")) is None
    following = next_template(rolled_back, source("three"))
    assert following is not None
    assert (following.current, said(following)) == (3, {1: "one", 2: "two", 3: "three"})


def test_no_number_is_used_twice_and_the_last_are_kept() -> None:
    texts = [f"text {n}" for n in range(1, 31)]
    found = published(*texts)
    assert found.current == 30
    assert said(found) == {n: f"text {n}" for n in range(31 - KEPT_VERSIONS, 31)}


def test_a_template_stays_small_enough_for_its_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "MAX_TEMPLATE_BYTES", 1_000)
    found = published(*[f"{n}" * 200 for n in range(1, 10)])
    assert len(found.to_json()) <= 1_000
    assert max(found.versions) == found.current == 9
    alone = published("a", "b" * 5_000)
    assert said(alone) == {2: "b" * 5_000}


# -- the samples


def test_the_samples_fit_together() -> None:
    """Every rule's template is there, and has words for each of its channels."""
    templates = {template.name: template for template in load_templates(ROOT / "templates")}
    workflows = load_workflows(ROOT / "workflows")
    used: dict[str, set[Any]] = {}
    for workflow in workflows:
        later = [channel for step in workflow.escalate for channel in step.channels]
        used.setdefault(workflow.template, set()).update(workflow.channels, workflow.fallback, later)
    assert used == {name: set(template.channels) for name, template in templates.items()}
