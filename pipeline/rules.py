"""Reads workflows, segments and templates from YAML files; says in which file, line and field one is broken.

Everything is text, number, true, false, null, list or mapping: no tags, no anchors, and `on` is a name
like any other (in YAML 1.1 it would be true).
"""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from agents.render import TemplateBroken, compile_parts
from schemas.base import Frozen
from schemas.kinds import Channel
from schemas.segment import Segment
from schemas.template import KEPT_VERSIONS, Parts, Template
from schemas.workflow import Name, Workflow

MAX_FILE_BYTES = 512_000
MAX_TEMPLATE_BYTES = 3_500_000
"""A template with all the versions that it keeps; its topic takes a little more."""

_SUFFIXES = (".yaml", ".yml")
_TAG = "tag:yaml.org,2002:"
_NUMBERS = {_TAG + name for name in ("int", "float", "bool", "null")}
_TEXTS = {_TAG + name for name in ("str", "timestamp", "value", "merge")}

Place = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


class RulesBroken(ValueError):
    """A rule that cannot be used; the message names file, line and field."""


class TemplateSource(Frozen):
    """A template as its file has it: without a version, which it gets when it is published."""

    name: Name
    channels: dict[Channel, Parts] = Field(min_length=1)

    @model_validator(mode="after")
    def _mail_has_a_subject(self) -> Self:
        email = self.channels.get(Channel.EMAIL)
        if email is not None and email.subject is None:
            raise ValueError("channels.email: a mail needs a subject")
        return self


def load_workflows(directory: Path) -> list[Workflow]:
    """The workflows of a directory, by file name; a file holds one or a list. Raises RulesBroken."""
    found: list[Workflow] = []
    names: dict[str, str] = {}
    ids: dict[str, str] = {}
    for source in _sources(directory):
        many = source.value if isinstance(source.value, list) else [source.value]
        for index, value in enumerate(many):
            at: Place = (index,) if isinstance(source.value, list) else ()
            workflow = source.model(Workflow, value, at)
            source.only_once(names, workflow.name, (*at, "name"))
            source.only_once(ids, workflow.id, (*at, "id"))
            found.append(workflow)
    return found


def load_segments(directory: Path) -> list[Segment]:
    """The segments of a directory, by file name; a file holds one or a list. Raises RulesBroken."""
    found: list[Segment] = []
    names: dict[str, str] = {}
    for source in _sources(directory):
        many = source.value if isinstance(source.value, list) else [source.value]
        for index, value in enumerate(many):
            at: Place = (index,) if isinstance(source.value, list) else ()
            segment = source.model(Segment, value, at)
            source.only_once(names, segment.name, (*at, "name"))
            found.append(segment)
    return found


def load_templates(directory: Path) -> list[TemplateSource]:
    """The templates of a directory, one a file, by file name; each compiles. Raises RulesBroken."""
    found: list[TemplateSource] = []
    names: dict[str, str] = {}
    for source in _sources(directory):
        template = source.model(TemplateSource, source.value, ())
        source.only_once(names, template.name, ("name",))
        for channel, parts in template.channels.items():
            source.compile(channel, parts)
        found.append(template)
    return found


def next_template(known: Template | None, source: TemplateSource) -> Template | None:
    """The template with the source as its current version, or None where there is nothing to publish.

    There is nothing where the current version says the same, or the newest does: then an operator has
    rolled back, and a restart must not undo it. At most KEPT_VERSIONS are kept, the newest ones.
    """
    if known is None:
        return Template(name=source.name, current=1, versions={1: source.channels})
    newest = max(known.versions)
    if source.channels in (known.versions[known.current], known.versions[newest]):
        return None
    versions = {**known.versions, newest + 1: source.channels}
    while True:
        versions = dict(sorted(versions.items())[-KEPT_VERSIONS:])
        following = Template(name=known.name, current=newest + 1, versions=versions)
        if len(versions) == 1 or len(following.to_json()) <= MAX_TEMPLATE_BYTES:
            return following
        del versions[min(versions)]


class _Source:
    """One file: what it holds, and on which line each of its fields stands."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lines: dict[Place, int] = {}
        #: where a text begins that stands as it is, line by line
        self._blocks: dict[Place, int] = {}
        self._seen: set[int] = set()
        self.value = self._read()

    def model(self, model: type[M], value: Any, at: Place) -> M:
        """The value at a place as a model; unknown fields are refused, for they are misspelt ones."""
        self._refuse_unknown(model, value, at, skip=len(at))
        try:
            return model.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            self.broken((*at, *first["loc"]), first["msg"].removeprefix("Value error, "), skip=len(at))

    def only_once(self, known: dict[str, str], name: str, place: Place) -> None:
        """Notes a name; refuses one that is known."""
        here = f"{self.file}:{self._line(place)}"
        if name in known:
            self.broken(place, f"{name!r} is taken: {known[name]}", skip=len(place) - 1)
        known[name] = here

    def compile(self, channel: Channel, parts: Parts) -> None:
        """Compiles the words of a channel."""
        for name in ("subject", "text", "html"):
            text = getattr(parts, name)
            if text is None:
                continue
            try:
                compile_parts(channel, Parts(text=text))
            except TemplateBroken as error:
                place: Place = ("channels", str(channel), name)
                begins = self._blocks.get(place)
                line = begins + error.line if begins is not None and error.line is not None else None
                self.broken(place, str(error), line=line)

    def broken(self, place: Place, what: str, *, skip: int = 0, line: int | None = None) -> NoReturn:
        """Raises RulesBroken; `skip` leaves out the beginning of the place, which the line tells."""
        field = ".".join(str(part) for part in place[skip:]) or "(whole)"
        raise RulesBroken(f"{self.file}:{line or self._line(place)}: {field}: {what}")

    def _line(self, place: Place) -> int:
        """The line of a place, or of the nearest one around it."""
        while place and place not in self._lines:
            place = place[:-1]
        return self._lines.get(place, 1)

    def _refuse_unknown(self, model: type[BaseModel], value: Any, at: Place, *, skip: int) -> None:
        if not isinstance(value, dict):
            return
        for name in value:
            if name not in model.model_fields:
                near = difflib.get_close_matches(name, model.model_fields, 1)
                hint = (
                    f"; did you mean {near[0]}?" if near else f"; there are {', '.join(model.model_fields)}"
                )
                self.broken((*at, name), f"no such field{hint}", skip=skip)
        if model is TemplateSource and isinstance(value.get("channels"), dict):
            for channel, parts in value["channels"].items():
                self._refuse_unknown(Parts, parts, (*at, "channels", channel), skip=skip)

    def _read(self) -> Any:
        try:
            size = self.file.stat().st_size
            if size > MAX_FILE_BYTES:
                self.broken((), f"{size} bytes; a file has at most {MAX_FILE_BYTES}")
            loader = yaml.SafeLoader(self.file.read_bytes())
            node = loader.get_single_node()
        except OSError as error:
            raise RulesBroken(f"{self.file}: {error.strerror}") from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.broken((), error.problem or str(error), line=mark.line + 1 if mark else None)
        except yaml.YAMLError as error:
            self.broken((), str(error).splitlines()[0])
        except RecursionError:
            self.broken((), "too many lists and mappings within each other")
        if node is None:
            self.broken((), "there is nothing in it")
        return self._plain(loader, node, ())

    def _plain(self, loader: yaml.SafeLoader, node: yaml.Node, place: Place) -> Any:
        """A node as plain values; notes its lines."""
        line = node.start_mark.line + 1
        self._lines.setdefault(place, line)
        if id(node) in self._seen:
            self.broken(place, "anchors are not supported; write it out", line=line)
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            found: dict[str, Any] = {}
            for key, inner in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode):
                    self.broken(place, "a name must be text", line=line)
                if key.value in found:
                    self.broken((*place, key.value), "stands there twice", line=line)
                self._lines[*place, key.value] = line
                found[key.value] = self._plain(loader, inner, (*place, key.value))
            return found
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self._plain(loader, inner, (*place, n)) for n, inner in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag in _TEXTS:
            if node.style == "|":
                self._blocks[place] = line
            return node.value
        if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS:
            try:
                return loader.construct_object(node)
            except (ValueError, KeyError) as error:
                self.broken(place, str(error), line=line)
        return self.broken(place, f"the tag {node.tag.removeprefix(_TAG)} is not supported", line=line)


def _sources(directory: Path) -> Iterator[_Source]:
    if not directory.is_dir():
        raise RulesBroken(f"{directory}: no such directory")
    for file in sorted(directory.iterdir()):
        if file.suffix in _SUFFIXES and not file.name.startswith("."):
            yield _Source(file)
