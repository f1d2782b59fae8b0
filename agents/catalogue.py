"""The rules and words that every process knows whole: workflows, templates, segments, as of a moment."""

from collections.abc import Iterable

from agents.render import Rendering, compile_parts
from schemas.kinds import Channel
from schemas.segment import Segment
from schemas.template import Template
from schemas.workflow import Workflow

MOST_TYPES = 10_000


class Catalogue:
    """Workflows by event type, templates by version, segments; changed only by `set_…` and `drop_…`."""

    def __init__(self, workflows: Iterable[Workflow] = (), templates: Iterable[Template] = ()) -> None:
        self.workflows: dict[str, Workflow] = {}
        self.templates: dict[str, Template] = {}
        self.segments: dict[str, Segment] = {}
        self._by_type: dict[str, tuple[Workflow, ...]] = {}
        self._compiled: dict[tuple[str, int], dict[Channel, Rendering]] = {}
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

        Raises TemplateBroken where the current one does not compile; the earlier ones are compiled when
        they are asked for, for reading twenty versions of each at every start takes seconds.
        """
        compiled = _compile(template, template.current)
        self.drop_template(template.name)
        self._compiled[template.name, template.current] = compiled
        self.templates[template.name] = template

    def drop_template(self, name: str) -> None:
        """Removes a template."""
        if (old := self.templates.pop(name, None)) is not None:
            for version in old.versions:
                self._compiled.pop((name, version), None)

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

    def renderings(self, template: str, version: int) -> dict[Channel, Rendering] | None:
        """What renders a version, by channel, None where there is none. Raises TemplateBroken."""
        found = self._compiled.get((template, version))
        if found is None:
            known = self.templates.get(template)
            if known is None or version not in known.versions:
                return None
            found = self._compiled[template, version] = _compile(known, version)
        return found


def _compile(template: Template, version: int) -> dict[Channel, Rendering]:
    return {channel: compile_parts(channel, parts) for channel, parts in template.versions[version].items()}
