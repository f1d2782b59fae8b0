"""The catalogue: which rules want an event, and which words a version has."""

from typing import Any

import pytest
from pydantic import ValidationError

from agents import catalogue as module
from agents.catalogue import Catalogue
from agents.render import Contexts, TemplateBroken, render
from schemas.kinds import Channel
from schemas.template import Template
from schemas.workflow import Workflow
from tests.journeys.samples import a_template, a_workflow


def names(catalogue: Catalogue, event_type: str) -> list[str]:
    return [workflow.name for workflow in catalogue.wanting(event_type)]


def rule(name: str, on: str) -> Workflow:
    return a_workflow(name=name, on=on)


def said(catalogue: Catalogue, version: int) -> str:
    found = catalogue.renderings("order", version)
    assert found is not None
    return render(found[Channel.EMAIL], Contexts({})).text


def versions(*texts: str, current: int | None = None) -> Template:
    by_number = {n: {"email": {"subject": "s", "text": text}} for n, text in enumerate(texts, 1)}
    return Template.model_validate({"name": "order", "current": current or len(texts), "versions": by_number})


@pytest.mark.parametrize(
    ("event_type", "wanted"),
    [
        ("shop.order.confirmed", ["all", "exact", "orders"]),
        ("shop.order.", ["all", "orders"]),
        ("shop.order", ["all"]),
        ("shop.order.confirmed.again", ["all", "orders"]),
        ("SHOP.order.confirmed", ["all"]),
        ("", ["all"]),
    ],
)
def test_a_rule_wants_its_type_or_what_begins_like_it(event_type: str, wanted: list[str]) -> None:
    catalogue = Catalogue(
        [rule("orders", "shop.order.*"), rule("exact", "shop.order.confirmed"), rule("all", "*")]
    )
    assert names(catalogue, event_type) == wanted


def test_what_changes_is_wanted_at_once() -> None:
    catalogue = Catalogue([rule("a", "x")])
    assert names(catalogue, "x") == ["a"]
    catalogue.set_workflow(rule("b", "x"))
    assert names(catalogue, "x") == ["a", "b"]
    catalogue.set_workflow(rule("a", "y"))
    assert (names(catalogue, "x"), names(catalogue, "y")) == (["b"], ["a"])
    catalogue.drop_workflow("b")
    catalogue.drop_workflow("never there")
    assert names(catalogue, "x") == []


def test_a_flood_of_types_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_TYPES", 10)
    catalogue = Catalogue([rule("all", "*")])
    for n in range(100):
        assert names(catalogue, f"type-{n}") == ["all"]
    assert len(catalogue._by_type) <= 10


def test_every_version_can_be_rendered_and_the_current_one_is_known() -> None:
    catalogue = Catalogue(templates=[versions("one", "two", "three", current=2)])
    assert catalogue.current("order") == 2
    assert [said(catalogue, n) for n in (1, 2, 3)] == ["one", "two", "three"]
    assert catalogue.renderings("order", 4) is None
    assert catalogue.renderings("other", 1) is None
    assert catalogue.current("other") is None


def test_a_new_template_replaces_all_of_the_old_one() -> None:
    catalogue = Catalogue(templates=[versions("one", "two")])
    said(catalogue, 1)
    catalogue.set_template(versions("ONE"))
    assert said(catalogue, 1) == "ONE"
    assert catalogue.renderings("order", 2) is None
    catalogue.drop_template("order")
    catalogue.drop_template("order")
    assert catalogue.current("order") is None
    assert catalogue.renderings("order", 1) is None


def test_a_broken_template_leaves_the_old_one() -> None:
    catalogue = Catalogue(templates=[versions("one")])
    with pytest.raises(TemplateBroken):
        catalogue.set_template(versions("fine", "{{ broken"))
    assert said(catalogue, 1) == "one"
    assert catalogue.renderings("order", 2) is None


def test_an_old_version_that_is_broken_harms_only_itself() -> None:
    catalogue = Catalogue(templates=[versions("{{ broken", "two")])
    assert said(catalogue, 2) == "two"
    with pytest.raises(TemplateBroken):
        catalogue.renderings("order", 1)


def a_shop(**fields: Any) -> Template:
    version = {
        "default_locale": "en",
        "channels": {"email": {"subject": "s", "text": "hello"}, "web": {"text": "hi"}},
        "locales": {"pt": {"web": {"text": "olá"}}, "pt-BR": {"email": {"subject": "s", "text": "oi"}}},
        "variants": [
            {"name": "a", "weight": 1},
            {"name": "b", "weight": 1, "channels": {"web": {"text": "hey"}}},
        ],
    }  # fmt: skip
    return Template.model_validate({"name": "order", "versions": {1: version | fields}})


@pytest.mark.parametrize(
    ("locale", "variant", "email", "web"),
    [
        (None, None, ("hello", "en"), ("hi", "en")),
        ("pt-BR", None, ("oi", "pt-BR"), ("olá", "pt")),
        ("pt_br", None, ("oi", "pt-BR"), ("olá", "pt")),
        ("pt-PT", None, ("hello", "en"), ("olá", "pt")),
        ("de", None, ("hello", "en"), ("hi", "en")),
        ("??", None, ("hello", "en"), ("hi", "en")),
        (None, "a", ("hello", "en"), ("hi", "en")),
        (None, "b", ("hello", "en"), ("hey", "en")),
        ("pt-BR", "b", ("oi", "pt-BR"), ("olá", "pt")),
    ],
)
def test_each_channel_has_the_words_of_its_own_place_in_the_chain(
    locale: str | None, variant: str | None, email: tuple[str, str], web: tuple[str, str]
) -> None:
    catalogue = Catalogue(templates=[a_shop()])
    found = catalogue.renderings("order", 1, locale, variant)
    assert found is not None
    for channel, (text, tag) in ((Channel.EMAIL, email), (Channel.WEB, web)):
        assert render(found[channel], Contexts({})).text == text
        assert found[channel].locale == tag


def test_what_is_not_there_is_none() -> None:
    catalogue = Catalogue(templates=[a_shop()])
    assert catalogue.renderings("order", 1, "pt", "zzz") is None
    assert catalogue.renderings("order", 2, "pt") is None
    assert Channel.SMS not in (catalogue.renderings("order", 1, "pt") or {Channel.SMS})
    assert catalogue.variant_of("order", 2, "u-1") is None
    assert catalogue.check("order", 2, {}) == []


def test_a_user_has_a_variant_where_the_version_has_some() -> None:
    assert Catalogue(templates=[a_shop()]).variant_of("order", 1, "u-1") in ("a", "b")
    assert Catalogue(templates=[a_shop(variants=[])]).variant_of("order", 1, "u-1") is None


def test_variables_are_checked_by_the_schema_of_their_version() -> None:
    catalogue = Catalogue(templates=[a_shop(schema={"required": ["order"]})])
    assert [problem.message for problem in catalogue.check("order", 1, {})] == [
        '"order" is a required property'
    ]
    assert catalogue.check("order", 1, {"order": 1}) == []
    catalogue.set_template(a_shop())
    assert catalogue.check("order", 1, {}) == []


def test_a_broken_schema_leaves_the_old_template() -> None:
    catalogue = Catalogue(templates=[a_shop()])
    with pytest.raises(TemplateBroken, match="schema: "):
        catalogue.set_template(
            a_shop(schema={"type": "nonsense"}, channels={"web": {"text": "new"}}, locales={}, variants=[])
        )
    found = catalogue.renderings("order", 1)
    assert found is not None
    assert render(found[Channel.WEB], Contexts({})).text == "hi"


def test_what_is_asked_for_lately_is_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_COMPILED", 10)
    catalogue = Catalogue(templates=[a_shop()])
    first = catalogue.renderings("order", 1)
    for n in range(100):
        assert catalogue.renderings("order", 1, f"de-{n:03}") is not None
        assert catalogue.renderings("order", 1) is first
    assert len(catalogue._compiled) + len(catalogue._compiled_before) <= 20


def test_a_locale_that_is_broken_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = Catalogue(templates=[a_shop(locales={"pt": {"web": {"text": "{{ broken"}}})])
    for _ in range(2):
        with pytest.raises(TemplateBroken):
            catalogue.renderings("order", 1, "pt")
        monkeypatch.setattr(module, "compile_version", None)
    assert catalogue.renderings("order", 1) is not None


def test_a_template_has_the_version_that_it_calls_current() -> None:
    with pytest.raises(ValidationError, match="no version 7"):
        versions("one", current=7)
    assert Template.model_validate_json(a_template().to_json()) == a_template()


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"on": "a*b"}, "end only"),
        ({"recipients": ["customer."]}, "no JMESPath"),
        ({"channels": []}, "channels"),
        ({"channels": ["email", "email"]}, "twice"),
        ({"name": "Order Confirmed"}, "name"),
        ({"expires_after": 0}, "expires_after"),
        ({"priority": "urgent"}, "priority"),
        ({"doubt": "maybe"}, "doubt"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        a_workflow(**fields)


def test_the_id_of_a_rule_is_its_first_name() -> None:
    assert a_workflow(name="new-name").id == "new-name"
    assert a_workflow(name="new-name", id="order-confirmed").id == "order-confirmed"
    assert a_workflow(priority="medium").priority == "normal"
    assert Workflow.model_validate_json(a_workflow().to_json()) == a_workflow()
