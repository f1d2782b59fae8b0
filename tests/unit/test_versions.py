"""Versions: the next one, an earlier one again, and shares of users that stay as they are."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agents.render import Contexts, Rendering, render
from agents.versions import VersionGone, published, rolled_back, variant_of
from schemas.template import Template, TemplateSource, Version


def a_version(text: str = "hello", **fields: Any) -> Version:
    return Version.model_validate({"channels": {"sms": {"text": text}}} | fields)


def said(rendering: Rendering) -> str:
    return render(rendering, Contexts({})).text


def shares(*weights: int) -> Version:
    return a_version(variants=[{"name": f"v{n}", "weight": weight} for n, weight in enumerate(weights)])


# -- variants


@given(st.lists(st.integers(0, 100), min_size=1, max_size=5).filter(any), st.integers(0, 10**6))
def test_shares_are_true_to_their_weights(weights: list[int], seed: int) -> None:
    version, users = shares(*weights), 2_000
    found = Counter(variant_of(f"t{seed}", version, f"user-{seed}-{n}") for n in range(users))
    assert set(found) <= {f"v{n}" for n, weight in enumerate(weights) if weight}
    for n, weight in enumerate(weights):
        share = weight / sum(weights)
        # six standard deviations of the binomial: once in 500 million
        assert abs(found[f"v{n}"] - users * share) <= 6 * (users * share * (1 - share)) ** 0.5 + 1


@given(st.text(max_size=50), st.lists(st.integers(1, 100), min_size=1, max_size=5))
def test_a_user_has_the_same_variant_every_time(user: str, weights: list[int]) -> None:
    version = shares(*weights)
    first = variant_of("order", version, user)
    assert first in {variant.name for variant in version.variants}
    assert variant_of("order", shares(*weights), user) == first


def test_a_known_user_has_a_known_variant() -> None:
    """Whoever changes the hash changes what everybody sees: this must stay."""
    found = "".join(str(variant_of("order", shares(1, 1, 2), f"u-{n}"))[1:] for n in range(20))
    assert found == "12222011222002002222"


def test_new_weights_move_as_few_as_they_must() -> None:
    users = [f"u-{n}" for n in range(5_000)]
    moved = [u for u in users if variant_of("a", shares(50, 50), u) != variant_of("a", shares(60, 40), u)]
    assert abs(len(moved) - 500) < 6 * (5_000 * 0.1 * 0.9) ** 0.5
    assert all(variant_of("a", shares(60, 40), user) == "v0" for user in moved)


def test_two_templates_do_not_share_their_users_out_alike() -> None:
    alike = sum(
        variant_of("a", shares(1, 1), f"{n}") == variant_of("b", shares(1, 1), f"{n}") for n in range(2_000)
    )
    assert abs(alike - 1_000) < 6 * (2_000 * 0.25) ** 0.5


def test_a_version_without_variants_has_none() -> None:
    assert variant_of("order", a_version(), "u-1") is None


# -- rollback and publishing


def test_a_rollback_changes_the_current_version_and_nothing_else() -> None:
    template = Template(name="order", current=2, versions={1: a_version("one"), 2: a_version("two")})
    back = rolled_back(template, 1)
    assert (back.current, back.versions) == (1, template.versions)
    assert rolled_back(back, 2) == template
    with pytest.raises(VersionGone, match="version 3 of order is not there; kept are 1, 2"):
        rolled_back(template, 3)


def test_a_partial_that_changes_makes_a_new_version() -> None:
    first = published(None, "order", a_version(parts={"a.txt": "old"}))
    assert first is not None
    assert published(first, "order", a_version(parts={"a.txt": "old"})) is None
    second = published(first, "order", a_version(parts={"a.txt": "new"}))
    assert second is not None
    assert (second.current, second.versions[1].parts, second.versions[2].parts) == (
        2,
        {"a.txt": "old"},
        {"a.txt": "new"},
    )


# -- what travels


def test_the_older_form_is_still_read() -> None:
    old = b"""{"name": "order", "current": 2, "versions":
        {"1": {"sms": {"text": "a"}}, "2": {"email": {"subject": "s", "text": "b"}}}}"""
    new = Template.model_validate_json(old)
    assert new.versions[1] == a_version("a")
    assert Template.model_validate_json(new.to_json()) == new
    assert published(new, "order", new.versions[2]) is None


def test_a_version_comes_back_as_it_was() -> None:
    version = a_version(
        schema={"properties": {"a": {"enum": [None, 1], "default": None}}, "required": ["a"]},
        default_locale="pt-BR", parts={"base.txt": "{% block a %}{% endblock %}"},
        locales={"de": {"sms": {"text": "hallo"}}},
        variants=[{"name": "a", "weight": 1, "locales": {"de": {"sms": {"text": "na"}}}}],
    )  # fmt: skip
    template = Template(name="order", versions={1: version})
    back = Template.model_validate_json(template.to_json())
    assert back == template
    assert back.to_json() == template.to_json()
    assert back.versions[1].json_schema == {
        "properties": {"a": {"enum": [None, 1], "default": None}},
        "required": ["a"],
    }


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"locales": {"pt": {"web": {"text": "a"}}}}, "locales.pt.web: channels has no web"),
        ({"locales": {"en": {"sms": {"text": "a"}}}}, "locales.en: that is the default locale"),
        ({"locales": {"pt_BR": {"sms": {"text": "a"}}}}, "pattern"),
        ({"variants": [{"name": "a", "weight": 1, "channels": {"web": {"text": "a"}}}]},
         "variants.0.channels.web: channels has no web"),
        ({"variants": [{"name": "a", "weight": 1}, {"name": "a", "weight": 1}]}, "twice"),
        ({"variants": [{"name": "a", "weight": 0}]}, "above 0"),
        ({"variants": [{"name": "a", "weight": -1}]}, "weight"),
        ({"parts": {"../a": "x"}}, "pattern"),
        ({"parts": {f"p{n}": "" for n in range(51)}}, "at most 50"),
    ],
)  # fmt: skip
def test_a_version_that_cannot_work_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        a_version(**fields)


def test_what_is_published_of_a_source_is_all_but_its_name() -> None:
    source = TemplateSource.model_validate(
        {"name": "order", "schema": {"type": "object"}, "channels": {"sms": {"text": "hello"}}}
    )
    assert source.version() == a_version(schema={"type": "object"})
