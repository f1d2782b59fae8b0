"""Rendering: a template's parts and variables become the words for one channel, the same ones every time."""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.environment import Environment
from jinja2.runtime import Context

from agents.broken import TemplateBroken as TemplateBroken
from agents.budget import MAX_WORK, Run, bounded, running
from agents.bundle import parse, references
from agents.locales import chain
from agents.sandbox import Sandbox, Variables, sandbox
from schemas.kinds import Channel
from schemas.message import ChannelContent
from schemas.template import Parts, Version, Words

MAX_SUBJECT = 998
"""RFC 5322, 2.1.1: a line has at most 998 characters."""


class Part:
    """A compiled source: `root` yields its pieces for a context of `environment`.

    `blocks` are its own where it extends a layout, else None; `locale` is that of its words.
    """

    __slots__ = ("blocks", "environment", "locale", "root")

    def __init__(
        self,
        environment: Environment,
        root: Callable[[Context], Iterator[str]],
        blocks: Mapping[str, Any] | None,
        locale: str,
    ) -> None:
        self.environment, self.root, self.blocks, self.locale = environment, root, blocks, locale


class Rendering(NamedTuple):
    """What renders one channel of a template version, and in which locale its words are."""

    subject: Part | None
    text: Part
    html: Part | None
    locale: str = "en"


def compile_parts(
    channel: Channel, parts: Parts, bundled: Mapping[str, str] | None = None, locale: str = "en"
) -> Rendering:
    """Compiles the parts of one channel, with what is bundled for them. Raises TemplateBroken."""
    bundled = bundled or {}
    plain = sandbox(bundled, autoescape=False)
    return Rendering(
        _compile(plain, parts.subject, locale) if parts.subject is not None else None,
        _compile(plain, parts.text, locale),
        _compile(sandbox(bundled, autoescape=True), parts.html, locale) if parts.html is not None else None,
        locale,
    )


def compile_version(
    version: Version, locale: str | None = None, variant: str | None = None
) -> dict[Channel, Rendering] | None:
    """What renders a version for a locale and a variant, or None where it has no such variant.

    A locale's own words come first, then those of the locales that stand in for it, then the default's:
    channel by channel, and at each step the variant's before the version's. Raises TemplateBroken.
    """
    changed = version.variant(variant) if variant is not None else None
    if variant is not None and changed is None:
        return None
    own: list[tuple[str, Words]] = []
    for tag in chain(locale) if locale else ():
        if tag == version.default_locale:
            break
        if changed is not None and tag in changed.locales:
            own.append((tag, changed.locales[tag]))
        if tag in version.locales:
            own.append((tag, version.locales[tag]))
    if changed is not None:
        own.append((version.default_locale, changed.channels))
    own.append((version.default_locale, version.channels))
    found = {}
    for channel in version.channels:
        tag, words = next((tag, words) for tag, words in own if channel in words)
        found[channel] = compile_parts(channel, words[channel], version.parts, tag)
    return found


@lru_cache(maxsize=10_000)
def _compile(environment: Sandbox, source: str, locale: str) -> Part:
    running.now = Run()  # constants are computed while compiling
    try:
        template = environment.from_string(source)
        for name in environment.parts:
            environment.get_template(name)
    except TemplateSyntaxError as error:
        raise TemplateBroken(f"line {error.lineno}: {error.message}", error.lineno, error.name) from None
    except TemplateBroken:
        raise
    except (TemplateError, ValueError, TypeError, ArithmeticError, RecursionError, SyntaxError) as error:
        raise TemplateBroken(f"{type(error).__name__}: {error}") from None
    extends = bool(environment.parts) and any(one.extended for one in references(parse(source)))
    blocks = template.blocks if extends else None
    return Part(environment, template.root_render_func, blocks, locale)


class Contexts:
    """The variables of one notification, ready for every part of every channel.

    Numbers, money and dates are written as in `locale`, as far as the words are in its language, and in
    the zone `timezone`.
    """

    __slots__ = ("_contexts", "_filled", "locale", "timezone", "variables")

    def __init__(
        self, variables: dict[str, Any], locale: str | None = None, timezone: str | None = None
    ) -> None:
        self.variables, self.locale, self.timezone = variables, locale, timezone or "UTC"
        self._filled: dict[Part, str] = {}
        self._contexts: dict[Environment, Variables] = {}

    def fill(self, part: Part) -> str:
        """A part, filled; channels that share one (a subject, often) have it filled once."""
        found = self._filled.get(part)
        if found is None:
            environment, blocks = part.environment, part.blocks
            if blocks is not None:  # a layout fills its blocks in: it needs a context of its own
                context = Variables(environment, self.variables, None, blocks)
            elif (shared := self._contexts.get(environment)) is None:
                context = self._contexts[environment] = Variables(environment, self.variables)
            else:
                context = shared
                if context.vars:  # what the part before this one has set is not this one's
                    context.vars.clear()
                    context.exported_vars.clear()
            # noted is what runs, and not this: it would keep the variables until the next one
            run = running.now
            run.left, run.words, run.locale, run.timezone = MAX_WORK, part.locale, self.locale, self.timezone
            found = self._filled[part] = bounded(part.root(context))
        return found


def render(rendering: Rendering, contexts: Contexts) -> ChannelContent:
    """The words for one channel: subject and html where the template has them, and text.

    Raises TemplateBroken, which says what is missing or wrong.
    """
    subject = html = None
    try:
        if rendering.subject is not None:
            subject = one_line(contexts.fill(rendering.subject))
        text = contexts.fill(rendering.text)
        if rendering.html is not None:
            html = contexts.fill(rendering.html)
    except TemplateBroken:
        raise
    except Exception as error:  # a template runs its author's expressions: anything may come out
        raise TemplateBroken(f"{type(error).__name__}: {error}") from None
    return ChannelContent(subject=subject, text=text, html=html)


_JOINERS = "\u200c\u200d"
"""Not printable by themselves, but Persian words and emoji of several parts are made with them."""


def one_line(subject: str) -> str:
    """A subject without line breaks and control characters: it becomes a header (RFC 5322, 2.2)."""
    if not subject.isprintable():
        clean = "".join(c if c.isprintable() or c in _JOINERS else " " for c in subject)
        subject = " ".join(clean.split())
    return subject[:MAX_SUBJECT]
