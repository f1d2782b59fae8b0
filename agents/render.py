"""Rendering: a template's parts and variables become the words for one channel."""

from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

from jinja2 import StrictUndefined, TemplateError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from schemas.kinds import Channel
from schemas.template import Parts

MAX_OUTPUT = 256_000
MAX_PIECES = 100_000
"""What a template yields at the most; loops end there."""
MAX_SUBJECT = 998
"""RFC 5322, 2.1.1: a line has at most 998 characters."""


class TemplateBroken(ValueError):
    """A template that does not compile, or that its variables do not fill."""


Render = Callable[[Context], str]


class Rendering(NamedTuple):
    """What renders one channel of a template version."""

    subject: Render | None
    text: Render
    html: Render | None


_plain = ImmutableSandboxedEnvironment(autoescape=False, undefined=StrictUndefined)
_html = ImmutableSandboxedEnvironment(autoescape=True, undefined=StrictUndefined)


def compile_parts(channel: Channel, parts: Parts) -> Rendering:
    """Compiles the parts of one channel. Raises TemplateBroken."""
    return Rendering(
        _compile(_plain, parts.subject) if parts.subject is not None else None,
        _compile(_plain, parts.text),
        _compile(_html, parts.html) if parts.html is not None else None,
    )


def _compile(environment: ImmutableSandboxedEnvironment, source: str) -> Render:
    try:
        root = environment.from_string(source).root_render_func
    except TemplateError as error:
        raise TemplateBroken(f"line {getattr(error, 'lineno', '?')}: {error}") from None

    def render(context: Context) -> str:
        found = "".join(islice(root(context), MAX_PIECES))
        if len(found) > MAX_OUTPUT:
            raise TemplateBroken(f"more than {MAX_OUTPUT} characters")
        return found

    return render


class Contexts:
    """The variables of one notification, ready for every part of every channel.

    A context is half of what Jinja's `render` costs, and the parts of a template can share one: they
    define no blocks, and nothing in the sandbox can change the variables.
    """

    __slots__ = ("_html", "_plain", "variables")

    def __init__(self, variables: dict[str, Any]) -> None:
        self.variables = variables
        self._plain: Context | None = None
        self._html: Context | None = None

    @property
    def plain(self) -> Context:
        if self._plain is None:
            self._plain = Context(_plain, self.variables, None, {})
        return self._plain

    @property
    def html(self) -> Context:
        if self._html is None:
            self._html = Context(_html, self.variables, None, {})
        return self._html


def render(rendering: Rendering, contexts: Contexts) -> dict[str, str]:
    """The words for one channel: subject and html where the template has them, and text.

    Raises TemplateBroken, which says what is missing or wrong.
    """
    found: dict[str, str] = {}
    try:
        if rendering.subject is not None:
            found["subject"] = one_line(rendering.subject(contexts.plain))
        found["text"] = rendering.text(contexts.plain)
        if rendering.html is not None:
            found["html"] = rendering.html(contexts.html)
    except TemplateBroken:
        raise
    except Exception as error:  # a template runs its author's expressions: anything may come out
        raise TemplateBroken(f"{type(error).__name__}: {error}") from None
    return found


def one_line(subject: str) -> str:
    """A subject without line breaks and control characters, which have no place in a header (RFC 5322, 2.2)."""
    if not subject.isprintable():
        subject = " ".join("".join(c if c.isprintable() else " " for c in subject).split())
    return subject[:MAX_SUBJECT]
