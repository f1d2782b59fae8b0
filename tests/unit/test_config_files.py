"""Config as code: what is written is read back as it is, and what is read changes only what differs."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.catalogue import Catalogue
from pipeline import config_files
from pipeline.config_files import KINDS, Change, Kind, as_yaml, compare, load, write
from pipeline.rules import RulesBroken
from schemas.kinds import Channel, Doubt, Priority
from schemas.segment import Segment
from schemas.template import Parts, Template, Variant, Version
from schemas.workflow import Workflow
from tests.journeys.samples import a_template, a_workflow

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
printable = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
ODD = (
    "", "yes", "on", "null", "~", "12", "1e3", "2026-01-01", "=", "<<", " a", "a ", "a\n", "\na", "a\nb",
    "a\n\n b",
    "a \nb", "\ta\nb", "# a\nb", "a: b", "\x85\n", "\u2028", "a\r\nb", "é\nü", "- a", "---\n", "...\nb",
)  # fmt: skip
"""Texts that YAML takes for something else where they are not written with care."""
words = st.sampled_from(ODD) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="{}#%"), max_size=60
)
channels = st.lists(st.sampled_from(Channel), min_size=1, max_size=3, unique=True)
workflows = st.builds(
    Workflow, name=names, on=printable.map(lambda text: text.replace("*", "")).filter(bool),
    users=st.lists(printable, max_size=3), template=names, channels=channels, category=printable,
    priority=st.sampled_from(Priority), doubt=st.sampled_from(Doubt), mandatory=st.booleans(),
    expires_after=st.none() | st.integers(1, 10**6), recipients=st.lists(st.sampled_from(["a.b", "c[].d"])),
    digest=st.none() | st.builds(dict, window=st.integers(1, 9), by=st.none() | st.just("a.b")),
)  # fmt: skip
parts = st.builds(Parts, subject=words, text=words, html=st.none() | words)
contents = st.dictionaries(st.sampled_from(Channel), parts, min_size=1, max_size=3)


@st.composite
def versions(draw: st.DrawFn) -> Version:
    by_channel = draw(contents)
    some = st.dictionaries(st.sampled_from(sorted(by_channel)), parts)
    variant = st.builds(Variant, name=names, weight=st.integers(1, 9), channels=some)
    return Version(
        channels=by_channel, locales=draw(st.dictionaries(st.sampled_from(["pt", "pt-BR", "de"]), some)),
        default_locale=draw(st.sampled_from(["en", "fr"])),
        variants=draw(st.lists(variant, max_size=2, unique_by=lambda one: one.name)),
        json_schema=draw(st.sampled_from([None, {"type": "object", "required": ["on", "12"]}])),
    )  # fmt: skip


@st.composite
def templates(draw: st.DrawFn) -> Template:
    found = {n: draw(versions()) for n in range(1, draw(st.integers(1, 3)) + 1)}
    return Template(name=draw(names), current=draw(st.sampled_from(sorted(found))), versions=found)


Rule = Workflow | Template | Segment
segments = st.builds(
    Segment, name=names, rule=st.sampled_from(["true", "user.attributes.plan == 'pro'", "has(user.email)\n"])
)


def catalogue_of(found: list[Rule]) -> Catalogue:
    catalogue = Catalogue()
    for one in found:
        if isinstance(one, Workflow):
            catalogue.set_workflow(one)
        elif isinstance(one, Segment):
            catalogue.set_segment(one)
        else:
            catalogue.set_template(one)
    return catalogue


rulebooks = st.lists(
    workflows | templates() | segments, min_size=1, max_size=4, unique_by=lambda one: one.name
)


@settings(max_examples=40)
@given(rulebooks)
def test_what_is_exported_is_read_back_and_changes_nothing(found: list[Rule]) -> None:
    catalogue = catalogue_of(found)
    with tempfile.TemporaryDirectory() as place:
        told = write(catalogue, Path(place), prune=False)
        assert len(told.written) == len(found)
        assert write(catalogue, Path(place), prune=False).same == told.written
        read = load(Path(place))
        assert compare(read, catalogue, prune=True) == []
        rebuilt = Catalogue()
        for change in compare(read, rebuilt, prune=False):
            take(rebuilt, change)
        assert compare(read, rebuilt, prune=True) == []
        assert (rebuilt.workflows, rebuilt.segments) == (catalogue.workflows, catalogue.segments)
        assert current(rebuilt) == current(catalogue)


def take(catalogue: Catalogue, change: Change) -> None:
    if change.topic == "workflows":
        catalogue.set_workflow(Workflow.model_validate_json(change.value or b""))
    elif change.topic == "segments":
        catalogue.set_segment(Segment.model_validate_json(change.value or b""))
    else:
        catalogue.set_template(Template.model_validate_json(change.value or b""))


def current(catalogue: Catalogue) -> dict[str, Any]:
    return {name: one.versions[one.current] for name, one in catalogue.templates.items()}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.folder)
def test_every_kind_has_its_own_folder_and_topic(kind: Kind[Any, Any]) -> None:
    assert [one.folder for one in KINDS].count(kind.folder) == 1
    assert [one.topic for one in KINDS].count(kind.topic) == 1


def put(directory: Path, **texts: str) -> None:
    for name, text in texts.items():
        folder, _, file = name.partition("__")
        (directory / folder).mkdir(exist_ok=True)
        (directory / folder / f"{file}.yaml").write_text(text)


def test_only_what_differs_is_changed_and_only_pruning_removes(tmp_path: Path) -> None:
    catalogue = Catalogue([a_workflow(), a_workflow(name="old")], [a_template(), a_template(name="gone")])
    put(
        tmp_path, workflows__a=as_yaml(a_workflow()), workflows__b=as_yaml(a_workflow(name="new")),
        templates__order=as_yaml(config_files._template_source(a_template("Changed"))),
    )  # fmt: skip
    found = compare(load(tmp_path), catalogue, prune=False)
    assert [(one.verb, one.kind, one.name) for one in found] == [
        ("change", "template", "order"), ("add", "workflow", "new"),
    ]  # fmt: skip
    pruned = compare(load(tmp_path), catalogue, prune=True)
    assert pruned[:2] == found
    assert [(one.verb, one.kind, one.name, one.value) for one in pruned[2:]] == [
        ("remove", "workflow", "old", None), ("remove", "template", "gone", None),
    ]  # fmt: skip


def test_a_changed_template_is_a_new_version_and_one_that_is_kept_is_that_one(tmp_path: Path) -> None:
    known = Template.model_validate(
        {"name": "t", "current": 2, "versions": {n: {"sms": {"text": f"text {n}"}} for n in (1, 2, 3)}}
    )
    for text, versions, number in (("text 1", 3, 1), ("text 3", 3, 3), ("other", 4, 4)):
        put(tmp_path, templates__t=f"name: t\nchannels: {{sms: {{text: {text}}}}}\n")
        (change,) = compare(load(tmp_path), Catalogue((), [known]), prune=False)
        following = Template.model_validate_json(change.value or b"")
        assert (following.current, len(following.versions)) == (number, versions)


def test_a_kind_without_a_folder_is_left_alone(tmp_path: Path) -> None:
    put(tmp_path, workflows__a=as_yaml(a_workflow()))
    found = compare(load(tmp_path), Catalogue([], [a_template()]), prune=True)
    assert [one.kind for one in found] == ["workflow"]


MISSPELT = "name: a\non: x\ntemplate: t\nchanels: [sms]\n"
UNFINISHED = "name: a\nchannels:\n  sms:\n    text: |\n      a\n      {{ b\n"


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("workflows__a", MISSPELT, "a.yaml:4: chanels: no such field"),
        ("templates__a", UNFINISHED, "a.yaml:6: channels.sms.text"),
    ],
)
def test_a_broken_file_is_refused_with_file_line_and_field(
    tmp_path: Path, file: str, text: str, says: str
) -> None:
    put(tmp_path, workflows__ok=as_yaml(a_workflow()), **{file: text})
    with pytest.raises(RulesBroken, match=says):
        load(tmp_path)


def test_a_directory_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RulesBroken, match="holds no templates and no segments and no workflows"):
        load(tmp_path)
    with pytest.raises(RulesBroken, match="no such directory"):
        load(tmp_path / "none")


def test_an_export_leaves_strange_files_unless_it_prunes(tmp_path: Path) -> None:
    put(tmp_path, workflows__strange="name: x\n")
    catalogue = Catalogue([a_workflow()], [a_template()])
    with pytest.raises(RulesBroken, match=r"strange\.yaml: is not of what is in force; --prune"):
        write(catalogue, tmp_path, prune=False)
    assert sorted(path.name for path in tmp_path.rglob("*.yaml")) == ["strange.yaml"]
    told = write(catalogue, tmp_path, prune=True)
    assert told.removed == ("workflows/strange.yaml",)
    assert set(told.written) == {"workflows/order-confirmed.yaml", "templates/order.yaml"}


def test_what_would_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    untitled = a_template("x", email={"text": "a mail without a subject"})
    with pytest.raises(RulesBroken, match=r"templates/order\.yaml:.*a mail needs a subject"):
        write(Catalogue([], [untitled]), tmp_path, prune=False)
    assert not list(tmp_path.iterdir())


def with_partial(name: str, text: str) -> Template:
    words = {"channels": {"sms": {"text": "{% include 'foot.txt' %}"}}, "parts": {"foot.txt": text}}
    return Template.model_validate({"name": name, "versions": {1: words}})


def test_what_templates_include_stands_beside_them_once(tmp_path: Path) -> None:
    catalogue = Catalogue([], [with_partial("a", "Bye\n"), with_partial("b", "Bye\n")])
    told = write(catalogue, tmp_path, prune=False)
    assert told.written == ("templates/a.yaml", "templates/partials/foot.txt", "templates/b.yaml")
    assert (tmp_path / "templates/partials/foot.txt").read_text() == "Bye\n"
    assert "parts" not in (tmp_path / "templates/a.yaml").read_text()
    assert compare(load(tmp_path), catalogue, prune=True) == []
    (tmp_path / "templates/partials/foot.txt").write_text("Good bye\n")
    assert [one.name for one in compare(load(tmp_path), catalogue, prune=True)] == ["a", "b"]


def test_templates_of_different_partials_of_one_name_are_refused(tmp_path: Path) -> None:
    catalogue = Catalogue([], [with_partial("a", "Bye\n"), with_partial("b", "Good bye\n")])
    with pytest.raises(RulesBroken, match=r"templates/partials/foot\.txt: b was published with another one"):
        write(catalogue, tmp_path, prune=False)
    assert not list(tmp_path.iterdir())


def test_text_of_several_lines_stands_as_it_is() -> None:
    template = a_template("x", sms={"text": "Hello {{ name }},\n\nit is on its way.\n"})
    assert as_yaml(config_files._template_source(template)) == (
        "name: order\nchannels:\n  sms:\n    text: |\n      Hello {{ name }},\n\n      it is on its way.\n"
    )
