"""Previews: what a version would say to somebody, or what is in the way of it."""

from typing import Any, NamedTuple

from agents.render import Contexts, TemplateBroken, compile_version, render
from agents.variables import Expected, Problem, SchemaBroken
from schemas.kinds import Channel
from schemas.message import ChannelContent
from schemas.template import Version


class Preview(NamedTuple):
    """The content and the locale of its words; or the problems, and then no content."""

    content: ChannelContent | None
    locale: str | None
    problems: tuple[Problem, ...] = ()


def preview(
    version: Version,
    channel: Channel,
    variables: dict[str, Any],
    locale: str | None = None,
    variant: str | None = None,
    timezone: str | None = None,
) -> Preview:
    """What a version says on a channel for these variables; raises nothing."""
    try:
        found = compile_version(version, locale, variant)
        if found is None:
            return _problem("variant", f"there is no variant {variant}")
        if channel not in found:
            return _problem("channel", f"there are no words for {channel}")
        rendering = found[channel]
        if version.json_schema is not None:
            problems = Expected(version.json_schema).problems(variables)
            if problems:
                return Preview(None, rendering.locale, tuple(problems))
        content = render(rendering, Contexts(variables, locale, timezone))
        return Preview(content, rendering.locale)
    except TemplateBroken as error:
        return _problem(error.part or "template", str(error))
    except SchemaBroken as error:
        return _problem(".".join(map(str, ("schema", *error.place))), str(error))


def _problem(field: str, message: str) -> Preview:
    return Preview(None, None, (Problem(field, message),))
