"""Wording: what a template would say with given variables, and what is in the way of it."""

import asyncio
from typing import Any, NamedTuple

from agents.catalogue import Catalogue
from agents.render import Contexts, Rendering, TemplateBroken, render
from schemas.kinds import Channel
from schemas.message import ChannelContent
from schemas.template import Template


class NoSuchVersion(LookupError):
    """There is no template of that name, or no such version of it; the message says which."""


class Preview(NamedTuple):
    """What each channel of a version would say, or the problem with it."""

    name: str
    version: int
    content: dict[Channel, ChannelContent]
    problems: dict[Channel, str]


def template_of(catalogue: Catalogue, name: str, version: int | None = None) -> Template:
    """A template that has that version. Raises NoSuchVersion."""
    found = catalogue.templates.get(name)
    if found is None:
        raise NoSuchVersion(f"there is no template {name}")
    if version is not None and version not in found.versions:
        kept = ", ".join(str(one) for one in sorted(found.versions))
        raise NoSuchVersion(f"{name} has no version {version}; it has {kept}")
    return found


def renderings(catalogue: Catalogue, name: str, version: int | None) -> dict[Channel, Rendering]:
    """What renders a version, the current one unless another is asked for.

    Raises NoSuchVersion, TemplateBroken.
    """
    found = template_of(catalogue, name, version)
    return catalogue.renderings(name, version or found.current) or {}


async def preview(catalogue: Catalogue, name: str, version: int | None, variables: dict[str, Any]) -> Preview:
    """Renders a version, or the current one. Raises NoSuchVersion, TemplateBroken."""
    by_channel = renderings(catalogue, name, version)
    number = version or catalogue.templates[name].current
    return await asyncio.to_thread(_preview, name, number, by_channel, variables)


def _preview(
    name: str, version: int, by_channel: dict[Channel, Rendering], variables: dict[str, Any]
) -> Preview:
    contexts, content, problems = Contexts(variables), dict[Channel, ChannelContent](), dict[Channel, str]()
    for channel, rendering in by_channel.items():
        try:
            content[channel] = render(rendering, contexts)
        except TemplateBroken as error:
            problems[channel] = str(error)
    return Preview(name, version, content, problems)


def rolled_back(catalogue: Catalogue, name: str, version: int) -> Template:
    """The template with that version as its current one. Raises NoSuchVersion; TemplateBroken for one that
    does not compile, which every process would refuse."""
    renderings(catalogue, name, version)
    return template_of(catalogue, name).model_copy(update={"current": version})
