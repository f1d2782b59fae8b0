"""Rules of segments: true or false of a user, never an error, and always an end."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.segment import MAX_RULE, Segment, program

ADA = {
    "user_id": "ada", "email": "ada@example.com", "timezone": "Europe/Berlin", "locale": "de",
    "attributes": {"plan": "pro", "age": 41, "score": 2.5, "tags": ["a", "b"],
                   "since": "2026-01-02T00:00:00Z"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ('user.attributes.plan == "pro"', True),
        ('user.attributes.plan != "pro"', False),
        ('user.attributes.age > 40 && user.locale.startsWith("de")', True),
        ("user.attributes.age > 40.5", True),
        ('"b" in user.attributes.tags', True),
        ('user.attributes.tags.exists(tag, tag == "c")', False),
        ("has(user.email) && !has(user.phone)", True),
        ('user.email.endsWith("@example.com")', True),
        ('user.timezone.matches("^Europe/")', True),
        ('timestamp(user.attributes.since) < timestamp("2026-02-01T00:00:00Z")', True),
        ("has(user.attributes.nothing) && user.attributes.nothing", False),
        ("true", True),
        # what cannot be said of a user
        ('user.attributes.nothing == "x"', None),
        ("user.attributes.plan > 3", None),
        ("user.attributes.age / 0 == 1", None),
        ("user.attributes.plan", None),
        ("user.attributes.age", None),
    ],
)
def test_a_rule_is_true_or_false_of_a_user_or_cannot_be_said(rule: str, holds: bool | None) -> None:
    assert program(Segment(name="s", rule=rule).rule)(ADA) is holds


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ("", "at least 1"),
        ("user.locale ==", "line 1, column 15: Syntax error"),
        ("user.locale ==\n  nope", "line 2, column 3: undeclared reference to 'nope'"),
        ("1", "gives int; a rule is true or false"),
        ('"yes"', "gives string"),
        ("user.delete()", "undeclared reference to 'delete'"),
        ("(" * 200 + "true" + ")" * 200, "recursion limit"),
        ("true" + " && true" * MAX_RULE, "at most"),
        # what could grow beyond the user that it is asked of
        ('user.locale + "x" == "dex"', "undeclared reference to '_+_'"),
        ("[1].map(x, x) == [1]", "undeclared reference"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_by_its_place(rule: str, what: str) -> None:
    with pytest.raises(ValidationError, match="rule") as found:
        Segment(name="s", rule=rule)
    assert what in str(found.value)


def test_a_rule_that_goes_on_and_on_comes_to_an_end() -> None:
    rule = "user.attributes.l.all(x, user.attributes.l.all(y, user.attributes.l.all(z, x + 0 < 1)))"
    holds = program(rule.replace("x + 0 < 1", "x * y * z >= 0"))
    started = time.perf_counter()
    assert holds({"attributes": {"l": list(range(3_000))}}) is None
    assert time.perf_counter() - started < 5


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(["plan", "age", "tags"]), anything), st.sampled_from([
    'user.attributes.plan == "pro"', "user.attributes.age > 40", '"b" in user.attributes.tags',
    "user.attributes.tags.all(t, t == t)", "user.attributes.plan", "user.attributes == user.attributes",
]))  # fmt: skip
def test_whatever_a_user_is_a_rule_has_an_answer(attributes: dict[str, Any], rule: str) -> None:
    assert program(rule)({"attributes": attributes}) in (True, False, None)
