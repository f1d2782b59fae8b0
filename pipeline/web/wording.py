"""Wording: what a template would say with given variables, and what is in the way of it."""

import asyncio
from typing import Any, NamedTuple

from agents import preview as previews
from agents import versions
from agents.catalogue import Catalogue
from schemas.kinds import Channel
from schemas.message import ChannelContent
from schemas.template import Template, Version


class NoSuchTemplate(LookupError):
    """There is no template of that name; the message says so."""


class Wanted(NamedTuple):
    """Which of a template's words are to be filled (no version: the current one), and with what."""

    version: int | None
    variables: dict[str, Any]
    locale: str | None = None
    variant: str | None = None


class Preview(NamedTuple):
    """What each channel of a version would say, or the problem with it."""

    version: int
    content: dict[Channel, ChannelContent]
    problems: dict[Channel, str]


def template_of(catalogue: Catalogue, name: str) -> Template:
    """A template. Raises NoSuchTemplate."""
    found = catalogue.templates.get(name)
    if found is None:
        raise NoSuchTemplate(f"there is no template {name}")
    return found


def version_of(template: Template, version: int | None) -> int:
    """That version's number, or the current one's. Raises VersionGone."""
    return template.current if version is None else versions.rolled_back(template, version).current


async def preview(template: Template, wanted: Wanted) -> Preview:
    """Fills every channel. Raises VersionGone."""
    number = version_of(template, wanted.version)
    return await asyncio.to_thread(_preview, number, template.versions[number], wanted)


def _preview(number: int, version: Version, wanted: Wanted) -> Preview:
    content, problems = dict[Channel, ChannelContent](), dict[Channel, str]()
    for channel in version.channels:
        found = previews.preview(version, channel, wanted.variables, wanted.locale, wanted.variant)
        if found.content is not None:
            content[channel] = found.content
        else:
            problems[channel] = "; ".join(f"{one.field}: {one.message}" for one in found.problems)
    return Preview(number, content, problems)


def rolled_back(template: Template, version: int) -> Template:
    """The template with that version as its current one.

    Raises VersionGone; TemplateBroken for one that every process would refuse.
    """
    following = versions.rolled_back(template, version)
    Catalogue((), [following])
    return following
