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
from pipeline import rules
from pipeline.foresight import catalogue_of
from pipeline.rules import RulesBroken, TemplateSource
from pipeline.settings import Settings
from pipeline.topics import client_options
from schemas.base import Frozen
from schemas.template import Template
from schemas.workflow import Workflow

M = TypeVar("M", bound=Frozen)
S = TypeVar("S", bound=Frozen)
REQUEST_BYTES = 8 << 20


class Kind(NamedTuple, Generic[M, S]):
    """One kind of rules: `M` is the value of its topic, `S` what a file says of it.

    `following` gives what is to be published so that the topic says what the file does; None: nothing.
    """

    folder: str
    topic: str
    load: Callable[[Path], Sequence[S]]
    known: Callable[[Catalogue], Mapping[str, M]]
    source: Callable[[M], S]
    following: Callable[[M | None, S], M | None]


def _template(known: Template | None, source: TemplateSource) -> Template | None:
    """The template that says what the source does: a version that is kept, where one does; else a new one."""
    if known is None:
        return rules.next_template(None, source)
    if _template_source(known) == source:
        return None
    for version in sorted(known.versions, reverse=True):
        earlier = known.model_copy(update={"current": version})
        if _template_source(earlier) == source:
            return earlier
    return rules.next_template(known, source)


def _template_source(template: Template) -> TemplateSource:
    return TemplateSource.model_construct(name=template.name, channels=template.versions[template.current])


KINDS: tuple[Kind[Any, Any], ...] = (
    Kind[Template, TemplateSource](
        "templates", topics.TEMPLATES, rules.load_templates, lambda catalogue: catalogue.templates,
        _template_source, _template,
    ),
    Kind[Workflow, Workflow](
        "workflows", topics.WORKFLOWS, rules.load_workflows, lambda catalogue: catalogue.workflows,
        lambda workflow: workflow, lambda known, source: None if known == source else source,
    ),
)  # fmt: skip
"""What there is, in the order in which it is published: a workflow comes after the template that it names."""


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


def as_yaml(source: BaseModel) -> str:
    """A source as the YAML that the loader reads back to an equal one; what is by default is left out."""
    plain = source.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    written: str = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return written


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
        folder = directory / kind.folder
        for name, model in sorted(kind.known(catalogue).items()):
            wanted[folder / f"{name}.yaml"] = as_yaml(kind.source(model))
        _check(kind, {path: text for path, text in wanted.items() if path.parent == folder}, catalogue)
        others += [file for file in rules.files(folder) if file not in wanted]
    if others and not prune:
        raise RulesBroken(f"{others[0]}: is not of what is in force; --prune removes it")
    written, same = [], []
    for path, text in wanted.items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            same.append(str(path.relative_to(directory)))
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(str(path.relative_to(directory)))
    for file in others:
        file.unlink()
    return Exported(tuple(written), tuple(same), tuple(str(one.relative_to(directory)) for one in others))


def _check(kind: Kind[Any, Any], texts: Mapping[Path, str], catalogue: Catalogue) -> None:
    """Reads back what is about to be written."""
    with tempfile.TemporaryDirectory() as place:
        for path, text in texts.items():
            (Path(place) / path.name).write_text(text, encoding="utf-8")
        try:
            found = {source.name: source for source in kind.load(Path(place))}
        except RulesBroken as error:
            raise RulesBroken(str(error).replace(place, kind.folder)) from None
    for name, model in kind.known(catalogue).items():
        if found.get(name) != kind.source(model):
            raise RulesBroken(f"{kind.folder}/{name}.yaml: would not be read back as it is")


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
