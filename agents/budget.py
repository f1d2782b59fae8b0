"""What a template may cost: each turn of a loop, each call, each text or list that it makes is paid for.

When nothing is left it ends with TemplateBroken, at the same point on every machine: a budget is no clock.
"""

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from itertools import islice
from typing import Any

from jinja2 import Undefined
from jinja2.exceptions import SecurityError

from agents.broken import TemplateBroken

MAX_OUTPUT = 256_000
MAX_PIECES = 100_000
"""What a template yields at the most; loops end there."""
PIECES = 100
"""How many are joined before their size is looked at."""
MAX_WIDTH = 1_000
"""For whatever pads, indents or repeats: the sandbox itself limits no memory."""
MAX_WORK = 2_000_000
"""What one part may cost: a character that is made costs 1, and so does a value that is looked at."""
STEP = 10
"""What a turn of a loop costs, and an item that a filter goes through."""
CALL = 50
"""What a call of a macro costs, and an inclusion."""
LONG = 1_000
"""Characters; what is shorter costs nothing where it is only passed on."""


class Run:
    """Something being rendered: what it may still cost, whose words it has, and for whom it is."""

    __slots__ = ("left", "locale", "timezone", "words")

    def __init__(self, locale: str | None = None, timezone: str | None = None) -> None:
        self.left, self.words = MAX_WORK, "en"
        self.locale, self.timezone = locale, timezone or "UTC"


class _Running(threading.local):
    now = Run()


running = _Running()
"""What is being rendered in this thread."""


def spend(cost: int) -> None:
    """Pays for something. Raises TemplateBroken when nothing is left."""
    run = running.now
    run.left -= cost
    if run.left < 0:
        raise TemplateBroken(f"more than {MAX_WORK} steps of work")


def walked(items: Any) -> Any:
    """Pays for a loop over items: before it where their number is known, else turn by turn."""
    if type(items) is not list and not hasattr(items, "__len__"):
        return _paid_by_turn(items)
    run = running.now
    run.left -= STEP * len(items)
    if run.left < 0:
        spend(0)
    return items


def _paid_by_turn(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        spend(STEP)
        yield item


def weigh(value: Any) -> None:
    """Pays for a value with all that is in it."""
    kind = type(value)
    if kind is list or kind is tuple:
        spend(len(value) + 1)
        for inner in value:
            weigh(inner)
    elif kind is dict:
        spend(len(value) + 1)
        for name, inner in value.items():
            weigh(name)
            weigh(inner)
    elif isinstance(value, (str, bytes)):
        spend(len(value))


def made(value: Any) -> Any:
    """Pays for what has just been made."""
    if isinstance(value, (str, bytes)):
        spend(len(value))
    elif isinstance(value, (list, tuple, dict)):
        spend(STEP * len(value))
    return value


_PRINTED = (str, int, float, Undefined)


def printed(value: Any) -> Any:
    """What an expression prints: null is nothing; what has an address in its name would differ every time."""
    if isinstance(value, _PRINTED):
        return value
    if value is None:
        return ""
    weigh(value)
    check_printable(value)
    return value


def printed_to_escape(value: Any) -> Any:
    """What an expression prints where it is escaped: a long text is copied then, so it is paid for."""
    if isinstance(value, str) and len(value) > LONG:
        spend(len(value))
    return printed(value)


def check_printable(value: Any) -> None:
    if isinstance(value, (list, tuple)):
        for inner in value:
            check_printable(inner)
    elif isinstance(value, dict):
        for inner in value.values():
            check_printable(inner)
    elif isinstance(value, Undefined):
        str(value)  # raises what is missing
    elif value is not None and not isinstance(value, _PRINTED):
        raise TypeError(f"a {type(value).__name__} cannot be printed")


def bounded(pieces: Iterator[str]) -> str:
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


def concat(pieces: Iterable[str]) -> str:
    """Joins what a macro, a block or a `set` holds."""
    found = bounded(iter(pieces))
    spend(len(found))
    return found


# -- filters and tests

_CHEAP = frozenset({"attr", "count", "d", "default", "first", "last", "length"})
"""Filters that look at no more than one item."""
_WALKING = frozenset({"batch", "items", "list", "map", "reject", "rejectattr", "reverse", "select",
                      "selectattr", "slice"})  # fmt: skip
"""Filters that go through the items, and not into them."""
COMPARING = frozenset({"!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in",
                        "le", "lessthan", "lt", "ne"})  # fmt: skip
_NARROW = frozenset({"batch", "center", "indent", "round", "slice", "tojson", "wordwrap"})
"""Filters with a number beside their value that decides how much they make."""
_SHORT = frozenset({"indent", "truncate", "urlize", "wordwrap"})
"""Filters that put a text into their value more than once."""
_TEXTUAL = frozenset({"capitalize", "center", "e", "escape", "forceescape", "format", "indent", "lower",
                      "pprint", "replace", "safe", "string", "striptags", "title", "trim", "truncate",
                      "upper", "urlencode", "urlize", "wordcount", "wordwrap", "xmlattr"})  # fmt: skip
"""Filters that make text of whatever they are given."""


def metered(name: str, filtering: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is paid for, before and after."""
    first = 1 if hasattr(filtering, "jinja_pass_arg") else 0
    cheap, walking, textual = name in _CHEAP, name in _WALKING, name in _TEXTUAL
    narrow, short = name in _NARROW, name in _SHORT

    @wraps(filtering)
    def metered(*given: Any, **named: Any) -> Any:
        if not cheap:
            for one in (*given[first:], *named.values()):
                if isinstance(one, (list, tuple, dict)):
                    spend(STEP * len(one)) if walking else weigh(one)
        if textual:
            for one in (*given[first:], *named.values()):
                check_printable(one)
        for one in (*given[first + 1 :], *named.values()):
            if narrow and isinstance(one, int) and one > MAX_WIDTH:
                raise SecurityError(f"a number above {MAX_WIDTH} beside {name}")
            if short and isinstance(one, str) and len(one) > MAX_WIDTH:
                raise SecurityError(f"a text of more than {MAX_WIDTH} characters beside {name}")
        if name == "join":
            given = before_join(given, named)
        elif name == "replace":
            before_replace(*given[1:], **named)
        elif name == "format":
            before_format(given[0], (*given[1:], *named.values()))
        return made(filtering(*given, **named))

    return metered


def before_join(given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    """Pays for a join; what it joins may come but once, so it is kept."""
    context, items, *more = given
    items = list(items)
    between = more[0] if more else named.get("d", "")
    spend(len(items) * (STEP + (len(between) if isinstance(between, str) else 0)))
    for item in items:
        weigh(item)
        check_printable(item)
    return (context, items, *more)


def before_replace(text: Any, old: Any = "", new: Any = "", count: Any = None, **_: Any) -> None:
    text, old, new = str(text), str(old), str(new)
    often = text.count(old)
    if isinstance(count, int) and count >= 0:
        often = min(often, count)
    spend(len(text) + often * len(new))


_WIDE = re.compile(r"%[-+ #0]*(\d*\.)?(\d{4}|\*)|\{[^{}]*:[^{}]*(\d{4}|\{)").search


def _refuse_wide(pattern: Any) -> None:
    if isinstance(pattern, str) and _WIDE(pattern):
        raise SecurityError(f"a width above {MAX_WIDTH - 1}, or one that is a variable")


def before_format(pattern: Any, values: Any) -> None:
    """Pays for a pattern being filled: each place may take the longest value."""
    if not isinstance(pattern, str):
        return
    _refuse_wide(pattern)
    before = running.now.left
    for value in values:
        weigh(value)
        check_printable(value)
    weight, places = before - running.now.left, max(pattern.count("%"), pattern.count("{"))
    spend(len(pattern) + places * (weight + 40))


def compared(value: Any) -> Any:
    """Pays for a value that is compared, and hands it on."""
    if isinstance(value, (list, tuple, dict)):
        weigh(value)
    elif isinstance(value, str) and len(value) > LONG:
        spend(len(value) // STEP)
    return value


def comparing(test: Callable[..., bool]) -> Callable[..., bool]:
    @wraps(test)
    def weighing(*given: Any) -> bool:
        return test(*map(compared, given))

    return weighing
