"""Variables: what a schema has against them is told by field, and never by value."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.variables import MAX_PROBLEMS, Expected, Problem, SchemaBroken

ORDER = {
    "type": "object", "required": ["order"], "additionalProperties": False,
    "properties": {"order": {"type": "object", "required": ["id"], "properties": {
        "id": {"type": "string", "pattern": "^C-[0-9]+$"},
        "at": {"type": "string", "format": "date-time"},
        "items": {"type": "array", "items": {"type": "object", "properties": {"price": {"type": "number"}}}},
    }}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "problems"),
    [
        ({"order": {"id": "C-1", "at": "2026-03-01T00:00:00Z", "items": [{"price": 1}]}}, []),
        ({}, [("(whole)", '"order" is a required property')]),
        ({"order": {}}, [("order", '"id" is a required property')]),
        ({"order": {"id": 5}}, [("order.id", 'it is not of type "string"')]),
        ({"order": {"id": "C-1", "at": "soon"}}, [("order.at", 'it is not a "date-time"')]),
        ({"order": {"id": "C-1", "items": [{"price": 1}, {"price": "x"}]}},
         [("order.items.1.price", 'it is not of type "number"')]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_field(variables: dict[str, Any], problems: list[tuple[str, str]]) -> None:
    assert Expected(ORDER).problems(variables) == [Problem(*problem) for problem in problems]


def test_no_value_is_told() -> None:
    for told in Expected(ORDER).problems(
        {"order": {"id": "ada@example.com", "at": "+15550100", "items": "x"}}
    ):
        assert "ada" not in told.message
        assert "+1555" not in told.message


def test_only_the_first_few_are_told() -> None:
    expected = Expected({"additionalProperties": {"type": "string"}})
    assert len(expected.problems({f"{n}": n for n in range(1_000)})) == MAX_PROBLEMS


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"properties": {"a": {"type": "strin"}}}, ("properties", "a", "type")),
        ({"properties": {"a": {"pattern": "("}}}, ("properties", "a", "pattern")),
        ({"properties": []}, ("properties",)),
        ({"$ref": "#/$defs/a"}, ()),
        ({"$ref": "https://example.com/schema.json"}, ()),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, ()),
        ({"$ref": "other.json"}, ()),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, ("$schema",)),
        ({"$schema": 7}, ("$schema",)),
        ({"description": "x" * 70_000}, ()),
        ({"properties": {"a": {"pattern": "(a{1000}){1000}"}}}, ("properties", "a", "pattern")),
    ],
)  # fmt: skip
def test_a_schema_that_is_broken_is_refused_by_place(schema: dict[str, Any], place: tuple[str, ...]) -> None:
    with pytest.raises(SchemaBroken) as found:
        Expected(schema)
    assert found.value.place == place


def test_a_schema_that_lies_elsewhere_is_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"type": "object"}')
    with pytest.raises(SchemaBroken, match="cannot fetch"):
        Expected({"$ref": (tmp_path / "other.json").as_uri()})


def test_a_schema_may_refer_to_itself() -> None:
    tree = Expected({"$ref": "#/$defs/node", "$defs": {"node": {
        "type": "object", "required": ["name"],
        "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}}})  # fmt: skip
    assert tree.problems({"name": "a", "children": [{"name": "b", "children": []}]}) == []
    assert tree.problems({"name": "a", "children": [{}]})[0].field == "children.0"
    assert Expected({"$ref": "#"}).problems({}) == []


def test_a_pattern_takes_no_longer_than_its_text() -> None:
    assert Expected({"properties": {"a": {"pattern": "^(a+)+$"}}}).problems({"a": "a" * 100_000 + "b"})


def test_variables_that_are_too_deep_are_a_problem_and_no_crash() -> None:
    deep: dict[str, Any] = {}
    for _ in range(900):
        deep = {"a": deep}
    assert Expected({"properties": {"a": {"$ref": "#"}}, "required": ["b"]}).problems(deep)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.text(), json, max_size=4), st.dictionaries(st.text(), json, max_size=4))
def test_any_schema_is_refused_or_answers(schema: dict[str, Any], variables: dict[str, Any]) -> None:
    try:
        expected = Expected(schema)
    except SchemaBroken:
        return
    assert expected.problems(variables) == expected.problems(variables)
