"""Rendering: a template's parts and variables become the words for one channel, the same ones every time."""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache, wraps
from itertools import islice
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined, TemplateError, TemplateSyntaxError, Undefined
from jinja2.exceptions import SecurityError
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing

from schemas.kinds import Channel
from schemas.message import ChannelContent
from schemas.template import Parts

MAX_OUTPUT = 256_000
MAX_PIECES = 100_000
"""What a template yields at the most; loops end there."""
PIECES = 100
"""How many are joined before their size is looked at."""
MAX_SUBJECT = 998
"""RFC 5322, 2.1.1: a line has at most 998 characters."""
MAX_WIDTH = 1_000
"""For whatever pads, indents or repeats: the sandbox itself limits no memory."""


class TemplateBroken(ValueError):
    """A template that does not compile, or that its variables do not fill; `line` counts in its source."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class Part:
    """A compiled source: `root` yields its pieces for a context of `environment`."""

    __slots__ = ("environment", "root")

    def __init__(self, environment: Environment, root: Callable[[Context], Iterator[str]]) -> None:
        self.environment, self.root = environment, root


class Rendering(NamedTuple):
    """What renders one channel of a template version."""

    subject: Part | None
    text: Part
    html: Part | None


_WIDE = re.compile(r"%[-+ #0]*(\d*\.)?(\d{4}|\*)|\{[^{}]*:[^{}]*(\d{4}|\{)").search
_PADDING = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill"})
_PRINTED = (str, int, float, Undefined)


def _printed(value: Any) -> Any:
    """What an expression prints: null is nothing; what has an address in its name would differ every time."""
    if isinstance(value, _PRINTED):
        return value
    if value is None:
        return ""
    _check_printable(value)
    return value


def _check_printable(value: Any) -> None:
    if isinstance(value, (list, tuple)):
        for inner in value:
            _check_printable(inner)
    elif isinstance(value, dict):
        for inner in value.values():
            _check_printable(inner)
    elif isinstance(value, Undefined):
        str(value)  # raises what is missing
    elif value is not None and not isinstance(value, _PRINTED):
        raise TypeError(f"a {type(value).__name__} cannot be printed")


def _narrow(filtering: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that takes no number above MAX_WIDTH beside its value."""

    @wraps(filtering)
    def narrow(*given: Any, **named: Any) -> Any:
        skip = 2 if hasattr(filtering, "jinja_pass_arg") else 1
        if any(isinstance(one, int) and one > MAX_WIDTH for one in (*given[skip:], *named.values())):
            raise SecurityError(f"a number above {MAX_WIDTH} beside {filtering.__name__}")
        return filtering(*given, **named)

    return narrow


class _Words(ImmutableSandboxedEnvironment):
    """Jinja for JSON: `order.items` is the order's field, not a method; nothing random, nothing huge."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self, *, autoescape: bool) -> None:
        super().__init__(autoescape=autoescape, undefined=StrictUndefined, finalize=_printed)
        del self.filters["random"]
        for name in ("batch", "center", "indent", "round", "slice", "tojson", "wordwrap"):
            self.filters[name] = _narrow(self.filters[name])
        formatting = self.filters["format"]

        @wraps(formatting)
        def narrow_format(value: Any, *given: Any, **named: Any) -> Any:
            _refuse_wide(value)
            return formatting(value, *given, **named)

        self.filters["format"] = narrow_format

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is dict:
            try:
                return obj[attribute]
            except KeyError:
                pass
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return super().is_safe_attribute(obj, attr, value) and not (isinstance(obj, str) and attr in _PADDING)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%":
            _refuse_wide(left)
        elif operator == "**" and (abs(left) > 1_000_000 or abs(right) > 10):
            raise SecurityError("a power that is too large")
        elif operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, int) and hasattr(other, "__len__") and one * len(other) > MAX_OUTPUT:
                    raise SecurityError(f"more than {MAX_OUTPUT} characters")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        found = super().wrap_str_format(value)
        if found is not None:
            _refuse_wide(value.__self__)
        return found


def _refuse_wide(pattern: Any) -> None:
    if isinstance(pattern, str) and _WIDE(pattern):
        raise SecurityError(f"a width above {MAX_WIDTH - 1}, or one that is a variable")


_plain = _Words(autoescape=False)
_html = _Words(autoescape=True)


def compile_parts(channel: Channel, parts: Parts) -> Rendering:
    """Compiles the parts of one channel. Raises TemplateBroken."""
    return Rendering(
        _compile(_plain, parts.subject) if parts.subject is not None else None,
        _compile(_plain, parts.text),
        _compile(_html, parts.html) if parts.html is not None else None,
    )


@lru_cache(maxsize=10_000)
def _compile(environment: _Words, source: str) -> Part:
    try:
        template = environment.from_string(source)
    except TemplateSyntaxError as error:
        raise TemplateBroken(f"line {error.lineno}: {error.message}", error.lineno) from None
    except (TemplateError, ValueError, TypeError, ArithmeticError, RecursionError, SyntaxError) as error:
        raise TemplateBroken(f"{type(error).__name__}: {error}") from None
    if template.blocks:
        raise TemplateBroken("blocks are for templates that extend each other; these do not")
    return Part(environment, template.root_render_func)


def _bounded(pieces: Iterator[str]) -> str:
    """Joins what a template yields, and stops where it is too much."""
    found, count = "", 0
    while True:
        some = list(islice(pieces, PIECES))
        found = found + "".join(some) if count else "".join(some)
        count += len(some)
        if len(found) > MAX_OUTPUT:
            raise TemplateBroken(f"more than {MAX_OUTPUT} characters")
        if len(some) < PIECES:
            return found
        if count >= MAX_PIECES:
            raise TemplateBroken(f"more than {MAX_PIECES} pieces")


class _Variables(Context):
    """A context of variables alone: making one of Jinja's own is half of what its `render` costs.

    The parts of a template can share it: they define no blocks and import nothing, and nothing in the
    sandbox can change the variables.
    """

    def __init__(self, environment: Environment, variables: dict[str, Any]) -> None:
        self.environment, self.parent, self.name = environment, variables, None
        self.vars, self.exported_vars, self.globals_keys, self.blocks = {}, set(), set(), {}
        self.eval_ctx = EvalContext(environment, None)

    def resolve_or_missing(self, key: str) -> Any:
        if self.vars:
            return super().resolve_or_missing(key)
        return self.parent.get(key, missing)


class Contexts:
    """The variables of one notification, ready for every part of every channel."""

    __slots__ = ("_contexts", "_filled", "variables")

    def __init__(self, variables: dict[str, Any]) -> None:
        self.variables = variables
        self._filled: dict[Part, str] = {}
        self._contexts: dict[Environment, _Variables] = {}

    def fill(self, part: Part) -> str:
        """A part, filled; channels that share one (a subject, often) have it filled once."""
        found = self._filled.get(part)
        if found is None:
            context = self._contexts.get(part.environment)
            if context is None:
                context = self._contexts[part.environment] = _Variables(part.environment, self.variables)
            elif context.vars:  # what the part before this one has set is not this one's
                context.vars.clear()
                context.exported_vars.clear()
            found = self._filled[part] = _bounded(part.root(context))
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
