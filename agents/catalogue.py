"""The rules and words that every process knows whole: workflows, templates, segments, as of a moment."""

from collections.abc import Iterable
from typing import Any

from agents import versions
from agents.render import Rendering, TemplateBroken, compile_version
from agents.variables import Expected, Problem, SchemaBroken
from schemas.kinds import Channel
from schemas.segment import Segment
from schemas.template import Template, Version
from schemas.workflow import Workflow

MOST_TYPES = 10_000
MOST_COMPILED = 2_000
"""(template, version, locale, variant) that were asked for lately; twice as many are kept."""

Key = tuple[str, int] | tuple[str, int, str | None, str | None]
Renderings = dict[Channel, Rendering]


class Catalogue:
    """Workflows by event type, templates by version, segments; changed only by `set_…` and `drop_…`."""

    def __init__(self, workflows: Iterable[Workflow] = (), templates: Iterable[Template] = ()) -> None:
        self.workflows: dict[str, Workflow] = {}
        self.templates: dict[str, Template] = {}
        self.segments: dict[str, Segment] = {}
        self._by_type: dict[str, tuple[Workflow, ...]] = {}
        #: in two generations: the older one goes when the younger one is full
        self._compiled: dict[Key, Renderings] = {}
        self._compiled_before: dict[Key, Renderings] = {}
        #: a failure is kept too, so that it costs no compiling with every event
        self._broken: dict[Key, TemplateBroken] = {}
        self._expected: dict[tuple[str, int], Expected | None] = {}
        for workflow in workflows:
            self.set_workflow(workflow)
        for template in templates:
            self.set_template(template)

    def set_workflow(self, workflow: Workflow) -> None:
        """Adds or replaces a workflow."""
        self.workflows[workflow.name] = workflow
        self._by_type.clear()

    def drop_workflow(self, name: str) -> None:
        """Removes a workflow."""
        self.workflows.pop(name, None)
        self._by_type.clear()

    def set_template(self, template: Template) -> None:
        """Adds or replaces a template with its versions.

        Raises TemplateBroken where the current one's words for the default locale do not compile, or its
        schema does not. All else is compiled when it is asked for, for reading twenty versions in ten
        locales at every start would take seconds.
        """
        version = template.versions[template.current]
        compiled, expected = _renderings(version), _expected(version)
        self.drop_template(template.name)
        self._keep((template.name, template.current), compiled)
        self._expected[template.name, template.current] = expected
        self.templates[template.name] = template

    def drop_template(self, name: str) -> None:
        """Removes a template."""
        if (old := self.templates.pop(name, None)) is not None:
            kept: dict[Key, Any]
            for kept in (self._compiled, self._compiled_before, self._broken):
                for key in [key for key in kept if key[0] == name]:
                    del kept[key]
            for version in old.versions:
                self._expected.pop((name, version), None)

    def set_segment(self, segment: Segment) -> None:
        """Adds or replaces a segment."""
        self.segments[segment.name] = segment

    def drop_segment(self, name: str) -> None:
        """Removes a segment."""
        self.segments.pop(name, None)

    def wanting(self, event_type: str) -> tuple[Workflow, ...]:
        """The workflows that want an event of that type, by name."""
        found = self._by_type.get(event_type)
        if found is None:
            found = tuple(
                workflow
                for _, workflow in sorted(self.workflows.items())
                if workflow.on == event_type
                or (workflow.on.endswith("*") and event_type.startswith(workflow.on[:-1]))
            )
            if len(self._by_type) >= MOST_TYPES:
                self._by_type.clear()
            self._by_type[event_type] = found
        return found

    def current(self, template: str) -> int | None:
        """The current version of a template, or None where there is no such template."""
        found = self.templates.get(template)
        return found.current if found else None

    def renderings(
        self, template: str, version: int, locale: str | None = None, variant: str | None = None
    ) -> Renderings | None:
        """What renders a version, by channel, None where there is no such version or variant.

        Each channel's words are those of the first of the locale's chain that has any: pt-BR, pt, the
        default. Raises TemplateBroken.
        """
        plain = locale is None and variant is None
        key: Key = (template, version) if plain else (template, version, locale, variant)
        found = self._compiled.get(key)
        return found if found is not None else self._compile(key, template, version, locale, variant)

    def _compile(
        self, key: Key, template: str, version: int, locale: str | None, variant: str | None
    ) -> Renderings | None:
        broken = self._broken.get(key)
        if broken is not None:
            raise broken.with_traceback(None)
        found = self._compiled_before.get(key)
        if found is None:
            known = self._version(template, version)
            if known is None or (variant is not None and known.variant(variant) is None):
                return None
            try:
                found = _renderings(known, locale, variant)
            except TemplateBroken as error:
                if len(self._broken) >= MOST_COMPILED:
                    self._broken.clear()
                self._broken[key] = error
                raise
        self._keep(key, found)
        return found

    def variant_of(self, template: str, version: int, user_id: str) -> str | None:
        """The variant that a user has, the same one every time; None where the version has none."""
        known = self._version(template, version)
        return versions.variant_of(template, known, user_id) if known is not None and known.variants else None

    def check(self, template: str, version: int, variables: dict[str, object]) -> list[Problem]:
        """What the version's schema has against variables, the first few.

        Empty where they are as they should be, or where nothing is expected. Raises TemplateBroken.
        """
        try:
            expected = self._expected[template, version]
        except KeyError:
            if (known := self._version(template, version)) is None:
                return []
            expected = self._expected[template, version] = _expected(known)
        return expected.problems(variables) if expected is not None else []

    def _version(self, template: str, version: int) -> Version | None:
        known = self.templates.get(template)
        return known.versions.get(version) if known is not None else None

    def _keep(self, key: Key, found: Renderings) -> None:
        if len(self._compiled) >= MOST_COMPILED:
            self._compiled_before, self._compiled = self._compiled, {}
        self._compiled[key] = found


def _renderings(version: Version, locale: str | None = None, variant: str | None = None) -> Renderings:
    found = compile_version(version, locale, variant)
    assert found is not None, "the variant is there"
    return found


def _expected(version: Version) -> Expected | None:
    try:
        return Expected(version.json_schema) if version.json_schema is not None else None
    except SchemaBroken as error:
        raise TemplateBroken(f"schema: {error}") from None
