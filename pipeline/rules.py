"""Reads workflows, segments and templates from YAML files; says in which file, line and field one is broken.

Everything is text, number, true, false, null, list or mapping: no tags, no anchors, and `on` is a name
like any other (in YAML 1.1 it would be true).
"""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from agents.bundle import bundled
from agents.render import TemplateBroken, compile_parts
from agents.variables import Expected, SchemaBroken
from agents.versions import published
from schemas.segment import Segment
from schemas.template import MAX_PARTS, Parts, Place, Template, TemplateSource, Variant
from schemas.workflow import Workflow

MAX_FILE_BYTES = 512_000
MAX_PARTIAL_BYTES = 256_000
MAX_PARTIALS = 200
PARTIALS = "partials"
"""The folder beside the templates that holds what they extend and include."""

_SUFFIXES = (".yaml", ".yml")
_TAG = "tag:yaml.org,2002:"
_NUMBERS = {_TAG + name for name in ("int", "float", "bool", "null")}
_TEXTS = {_TAG + name for name in ("str", "timestamp", "value", "merge")}

M = TypeVar("M", bound=BaseModel)


class RulesBroken(ValueError):
    """A rule that cannot be used; the message names file, line and field."""


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
    """The templates of a directory, one a file, by file name, with the partials that they need.

    Each compiles, in all its locales and variants. Raises RulesBroken.
    """
    found: list[TemplateSource] = []
    names: dict[str, str] = {}
    folder = directory / PARTIALS
    partials = load_partials(folder)
    for source in _sources(directory):
        template = source.model(TemplateSource, source.value, ())
        source.only_once(names, template.name, ("name",))
        found.append(source.complete(template, folder, partials))
    return found


def load_partials(folder: Path) -> dict[str, str]:
    """Layouts and partials by file name; none where there is no such folder. Raises RulesBroken."""
    found: dict[str, str] = {}
    if not folder.is_dir():
        return found
    for file in sorted(folder.iterdir()):
        if file.name.startswith("."):
            continue
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,99}", file.name):
            raise RulesBroken(f"{file}:1: (whole): a name has small letters, digits, . _ and -")
        if len(found) == MAX_PARTIALS:
            raise RulesBroken(f"{folder}: more than {MAX_PARTIALS} files")
        try:
            if file.stat().st_size > MAX_PARTIAL_BYTES:
                raise RulesBroken(f"{file}:1: (whole): more than {MAX_PARTIAL_BYTES} bytes")
            found[file.name] = file.read_text(encoding="utf-8")
        except OSError as error:
            raise RulesBroken(f"{file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise RulesBroken(f"{file}:1: (whole): that is not UTF-8") from None
    return found


def next_template(known: Template | None, source: TemplateSource) -> Template | None:
    """The template with the source as its current version, or None where there is nothing to publish."""
    return published(known, source.name, source.version())


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

    def complete(self, template: TemplateSource, folder: Path, partials: dict[str, str]) -> TemplateSource:
        """The template with the partials that it needs; all of it compiles."""
        needed: dict[str, str] = {}
        for place, channel, parts in template.places():
            for name in ("subject", "text", "html"):
                if (text := getattr(parts, name)) is None:
                    continue
                try:
                    needed |= (of_text := bundled([text], partials))
                    words = Parts(text="", html=text) if name == "html" else Parts(text=text)
                    compile_parts(channel, words, of_text)
                except TemplateBroken as error:
                    self._template_broken((*place, name), error, folder)
        if template.json_schema is not None:
            try:
                Expected(template.json_schema)
            except SchemaBroken as error:
                self.broken(("schema", *error.place), str(error))
        if len(needed) > MAX_PARTS:
            self.broken((), f"more than {MAX_PARTS} layouts and partials")
        return template.model_copy(update={"parts": dict(sorted(needed.items()))})

    def _template_broken(self, place: Place, error: TemplateBroken, folder: Path) -> NoReturn:
        begins = self._blocks.get(place)
        line = begins + error.line if begins is not None and error.line is not None else None
        if error.part is None:
            self.broken(place, str(error), line=line)
        told = ".".join(map(str, place))
        where = f"{folder / error.part}:{error.line or 1}"
        raise RulesBroken(f"{where}: (whole): {error} (needed by {self.file}:{self._line(place)}: {told})")

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
        known = [field.alias or name for name, field in model.model_fields.items() if name != "parts"]
        for name in value:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
                self.broken((*at, name), f"no such field{hint}", skip=skip)
        if model in (TemplateSource, Variant):
            self._refuse_unknown_words(value.get("channels"), (*at, "channels"), skip=skip)
            locales = value.get("locales")
            for locale, words in locales.items() if isinstance(locales, dict) else ():
                self._refuse_unknown_words(words, (*at, "locales", locale), skip=skip)
            variants = value.get("variants") if model is TemplateSource else None
            for index, variant in enumerate(variants if isinstance(variants, list) else ()):
                self._refuse_unknown(Variant, variant, (*at, "variants", index), skip=skip)

    def _refuse_unknown_words(self, words: Any, at: Place, *, skip: int) -> None:
        for channel, parts in words.items() if isinstance(words, dict) else ():
            self._refuse_unknown(Parts, parts, (*at, channel), skip=skip)

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
    for file in files(directory):
        yield _Source(file)


def files(directory: Path) -> list[Path]:
    """The files of rules in a directory, by name; none where there is no such directory."""
    found = sorted(directory.iterdir()) if directory.is_dir() else []
    return [file for file in found if file.suffix in _SUFFIXES and not file.name.startswith(".")]
