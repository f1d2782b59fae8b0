"""Rendering: a template's parts and variables become the words for one channel."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from schemas.kinds import Channel
from schemas.message import ChannelContent
from schemas.template import Parts

MAX_OUTPUT = 256_000
MAX_SUBJECT = 998
"""RFC 5322, 2.1.1: a line has at most 998 characters."""


class TemplateBroken(ValueError):
    """A template that does not compile, or that its variables do not fill."""


Render = Callable[[Mapping[str, Any]], str]


class Rendering(NamedTuple):
    """What renders one channel of a template version."""

    subject: Render | None
    text: Render
    html: Render | None


_plain = ImmutableSandboxedEnvironment(autoescape=False, undefined=StrictUndefined, keep_trailing_newline=False)
_html = ImmutableSandboxedEnvironment(autoescape=True, undefined=StrictUndefined)
_json = ImmutableSandboxedEnvironment(autoescape=False, undefined=StrictUndefined)


def compile_parts(channel: Channel, parts: Parts) -> Rendering:
    """Compiles the parts of one channel. Raises TemplateBroken."""
    environment = _json if channel is Channel.WEBHOOK else _plain
    return Rendering(
        _compile(environment, parts.subject) if parts.subject is not None else None,
        _compile(environment, parts.text),
        _compile(_html, parts.html) if parts.html is not None else None,
    )


def _compile(environment: ImmutableSandboxedEnvironment, source: str) -> Render:
    try:
        template = environment.from_string(source)
    except TemplateError as error:
        raise TemplateBroken(f"line {getattr(error, 'lineno', '?')}: {error}") from None
    # half of what `render` costs is its copy of the variables, which nothing here can change
    root, context = template.root_render_func, template.new_context

    def render(variables: Mapping[str, Any]) -> str:
        return _bounded(root(context(variables, shared=True)))

    return render


def _bounded(pieces: Iterator[str]) -> str:
    """Joins what a template yields, and stops where it is too much."""
    found, size = [], 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_OUTPUT:
            raise TemplateBroken(f"more than {MAX_OUTPUT} characters")
        found.append(piece)
    return "".join(found)


def render(rendering: Rendering, variables: Mapping[str, Any]) -> ChannelContent:
    """The words for one channel. Raises TemplateBroken, which says what is missing or wrong."""
    try:
        subject = rendering.subject(variables) if rendering.subject else None
        text = rendering.text(variables)
        html = rendering.html(variables) if rendering.html else None
    except TemplateBroken:
        raise
    except Exception as error:  # a template runs its author's expressions: anything may come out
        raise TemplateBroken(f"{type(error).__name__}: {error}") from None
    if subject is not None:
        subject = one_line(subject)
    return ChannelContent.of(subject=subject, text=text, html=html)


def one_line(subject: str) -> str:
    """A subject without line breaks and control characters, which have no place in a header (RFC 5322, 2.2)."""
    if not subject.isprintable():
        subject = " ".join("".join(c if c.isprintable() else " " for c in subject).split())
    return subject[:MAX_SUBJECT]
