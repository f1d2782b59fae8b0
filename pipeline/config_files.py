"""Config as code: workflows and templates from their topics to YAML files, and back again."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import yaml
from aiokafka import AIOKafkaProducer
from pydantic import BaseModel

from agents import topics
from agents.catalogue import Catalogue
from agents.versions import rolled_back
from pipeline import rules
from pipeline.foresight import catalogue_of
from pipeline.rules import RulesBroken
from pipeline.settings import Settings
from pipeline.topics import client_options
from schemas.base import Frozen
from schemas.segment import Segment
from schemas.template import Template, TemplateSource
from schemas.workflow import Workflow

M = TypeVar("M", bound=Frozen)
S = TypeVar("S", bound=Frozen)
REQUEST_BYTES = 8 << 20


# -- as YAML


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as it stands, where YAML can."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    lines = value.split("\n")
    style = None
    if not all(line.isprintable() for line in lines):
        style = '"'  # in quotes alone every character stays what it is
    elif len(lines) > 1 and not value.startswith((" ", "\n")) and all(one == one.rstrip() for one in lines):
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def as_yaml(source: BaseModel, *but: str) -> str:
    """A source, without those fields, as the YAML that the loader reads back; defaults are left out."""
    plain = source.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=set(but))
    plain = {"name": None} | plain  # the name stands first
    written: str = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return written


# -- what there is


class Kind(NamedTuple, Generic[M, S]):
    """One kind of rules: `M` is the value of its topic, `S` what files say of it.

    `files` are what a source is written as, by name within the folder. `following` gives what is to be
    published so that the topic says what the files do; None: nothing.
    """

    folder: str
    topic: str
    load: Callable[[Path], Sequence[S]]
    known: Callable[[Catalogue], Mapping[str, M]]
    source: Callable[[M], S]
    files: Callable[[S], Mapping[str, str]]
    following: Callable[[M | None, S], M | None]


def _template_source(template: Template) -> TemplateSource:
    return TemplateSource.model_construct(name=template.name, **dict(template.versions[template.current]))


def _template_files(source: TemplateSource) -> dict[str, str]:
    partials = {f"{rules.PARTIALS}/{name}": text for name, text in source.parts.items()}
    return {f"{source.name}.yaml": as_yaml(source, "parts"), **partials}


def _following_template(known: Template | None, source: TemplateSource) -> Template | None:
    """The template that says what the source does: a version that is kept, where one does; else a new one."""
    wanted = source.version()
    if known is not None:
        if known.versions[known.current] == wanted:
            return None
        for number in sorted(known.versions, reverse=True):
            if known.versions[number] == wanted:
                return rolled_back(known, number)
    return rules.next_template(known, source)


KINDS: tuple[Kind[Any, Any], ...] = (
    Kind[Template, TemplateSource](
        "templates", topics.TEMPLATES, rules.load_templates, lambda catalogue: catalogue.templates,
        _template_source, _template_files, _following_template,
    ),
    Kind[Segment, Segment](
        "segments", topics.SEGMENTS, rules.load_segments, lambda catalogue: catalogue.segments,
        lambda segment: segment, lambda segment: {f"{segment.name}.yaml": as_yaml(segment)},
        lambda known, source: None if known == source else source,
    ),
    Kind[Workflow, Workflow](
        "workflows", topics.WORKFLOWS, rules.load_workflows, lambda catalogue: catalogue.workflows,
        lambda workflow: workflow, lambda workflow: {f"{workflow.name}.yaml": as_yaml(workflow)},
        lambda known, source: None if known == source else source,
    ),
)  # fmt: skip
"""All of them, in the order in which they are published: a workflow after what it names."""


# -- from the topics to files


class Exported(NamedTuple):
    """What an export did to files: names relative to its directory."""

    written: tuple[str, ...]
    same: tuple[str, ...]
    removed: tuple[str, ...]


async def export(settings: Settings, directory: Path, *, prune: bool) -> Exported:
    """Writes what is in force into `directory`, a file each. Raises RulesBroken, before anything is written,
    where another rule's file stands there that `prune` would remove, or something cannot be written so that
    it is read back as it is.
    """
    return write(await catalogue_of(settings), directory, prune=prune)


def write(catalogue: Catalogue, directory: Path, *, prune: bool) -> Exported:
    """The same, of a catalogue."""
    wanted: dict[Path, str] = {}
    others: list[Path] = []
    for kind in KINDS:
        texts = _texts(kind, catalogue)
        _check(kind, texts, catalogue)
        folder = directory / kind.folder
        wanted |= {folder / name: text for name, text in texts.items()}
        others += [file for file in rules.files(folder) if file not in wanted]
    if others and not prune:
        raise RulesBroken(f"{others[0]}: is not of what is in force; --prune removes it")
    written, same = [], []
    for path, text in wanted.items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            same.append(str(path.relative_to(directory)))
            continue
        _write(path, text)
        written.append(str(path.relative_to(directory)))
    for file in others:
        file.unlink()
    return Exported(tuple(written), tuple(same), tuple(str(one.relative_to(directory)) for one in others))


def _texts(kind: Kind[Any, Any], catalogue: Catalogue) -> dict[str, str]:
    """What a folder is to hold. Raises RulesBroken where two rules want the same file to be different."""
    found: dict[str, str] = {}
    for name, model in sorted(kind.known(catalogue).items()):
        for file, text in kind.files(kind.source(model)).items():
            if found.setdefault(file, text) != text:
                raise RulesBroken(
                    f"{kind.folder}/{file}: {name} was published with another one than those before it; "
                    "publish them together once more"
                )
    return found


def _check(kind: Kind[Any, Any], texts: Mapping[str, str], catalogue: Catalogue) -> None:
    """Reads back what is about to be written. Raises RulesBroken."""
    with tempfile.TemporaryDirectory() as place:
        for name, text in texts.items():
            _write(Path(place) / name, text)
        try:
            found = {source.name: source for source in kind.load(Path(place))}
        except RulesBroken as error:
            raise RulesBroken(str(error).replace(place, kind.folder)) from None
    for name, model in kind.known(catalogue).items():
        if found.get(name) != kind.source(model):
            raise RulesBroken(f"{kind.folder}/{name}.yaml: would not be read back as it is")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")


# -- from files to the topics


class Change(NamedTuple):
    """One record to publish; no value removes."""

    verb: str
    kind: str
    name: str
    topic: str
    value: bytes | None


async def changes(settings: Settings, directory: Path, *, prune: bool) -> list[Change]:
    """What would make the topics say what the files do. Raises RulesBroken, as `load` does."""
    read = load(directory)
    return compare(read, await catalogue_of(settings), prune=prune)


def load(directory: Path) -> dict[str, Sequence[Any]]:
    """The sources of each folder that there is. Raises RulesBroken, which names file, line and field."""
    if not directory.is_dir():
        raise RulesBroken(f"{directory}: no such directory")
    found = {
        kind.folder: kind.load(directory / kind.folder)
        for kind in KINDS
        if (directory / kind.folder).is_dir()
    }
    if not found:
        raise RulesBroken(f"{directory}: holds no {' and no '.join(kind.folder for kind in KINDS)}")
    return found


def compare(read: Mapping[str, Sequence[Any]], catalogue: Catalogue, *, prune: bool) -> list[Change]:
    """What differs. Of a kind without a folder nothing changes; what has no file goes only with `prune`."""
    found: list[Change] = []
    removed: list[Change] = []
    for kind in KINDS:
        if kind.folder not in read:
            continue
        known, word = kind.known(catalogue), kind.folder.removesuffix("s")
        for source in read[kind.folder]:
            following = kind.following(known.get(source.name), source)
            if following is not None:
                verb = "change" if source.name in known else "add"
                found.append(Change(verb, word, source.name, kind.topic, following.to_json()))
        if prune:
            missing = sorted(set(known) - {source.name for source in read[kind.folder]})
            removed = [Change("remove", word, name, kind.topic, None) for name in missing] + removed
    return [*found, *removed]


async def publish(settings: Settings, found: Sequence[Change]) -> None:
    """Publishes changes in their order; each is on the broker before the next."""
    if not found:
        return
    producer = AIOKafkaProducer(**client_options(settings), acks="all", max_request_size=REQUEST_BYTES)
    try:
        await producer.start()
        for one in found:
            topic = settings.kafka.topic_prefix + one.topic
            await producer.send_and_wait(topic, one.value, key=one.name.encode(), partition=0)
    finally:
        await producer.stop()
