"""Jinja for what customers write: no way out, nothing random, no more work or memory than its budget."""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, wraps
from types import BuiltinMethodType, MethodType
from typing import Any

from babel import Locale
from jinja2 import DictLoader, StrictUndefined, Undefined, nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame, optimizeconst
from jinja2.environment import Environment
from jinja2.exceptions import SecurityError
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing
from markupsafe import Markup

from agents import bundle, formats
from agents.budget import (
    CALL,
    COMPARING,
    LONG,
    MAX_OUTPUT,
    STEP,
    before_format,
    before_join,
    before_replace,
    check_printable,
    compared,
    comparing,
    concat,
    made,
    metered,
    printed,
    printed_to_escape,
    running,
    spend,
    walked,
    weigh,
)
from agents.locales import written_in

MAX_BITS = 4_096
"""Of a number: more cannot be multiplied or added."""


def _localised(writing: Callable[..., str]) -> Callable[..., str]:
    """A filter of the rendering's locale: passing the context keeps Jinja from computing it beforehand."""

    @pass_context
    @wraps(writing)
    def localised(_: Context, value: Any, *given: Any, **named: Any) -> str:
        for one in (value, *given, *named.values()):
            if isinstance(one, Undefined):
                str(one)  # raises what is missing
        return writing(value, *given, **named)

    return localised


def _locale() -> Locale:
    return formats.known_locale(written_in(running.now.words, running.now.locale))


def _money(amount: Any, currency: Any = None) -> str:
    return formats.money(amount, currency, _locale())


def _number(value: Any, digits: Any = None) -> str:
    return formats.number(value, digits, _locale())


def _percent(value: Any, digits: Any = 0) -> str:
    return formats.percent(value, digits, _locale())


def _date(value: Any, style: Any = "medium") -> str:
    return formats.day(value, style, _locale(), running.now.timezone)


def _time(value: Any, style: Any = "short") -> str:
    return formats.clock(value, style, _locale(), running.now.timezone)


def _datetime(value: Any, style: Any = "medium") -> str:
    return formats.day_and_clock(value, style, _locale(), running.now.timezone)


def _plural(count: Any, **forms: Any) -> str:
    return formats.plural(count, forms, _locale())


LOCALISED: Mapping[str, Callable[..., str]] = {
    "date": _date,
    "datetime": _datetime,
    "money": _money,
    "number": _number,
    "percent": _percent,
    "plural": _plural,
    "time": _time,
}

_WALK = "(loop)"
"""The filter that every loop's items go through; no template can write its name."""

# -- the environment

_OF_TEXT = frozenset({
    "capitalize", "casefold", "count", "endswith", "find", "format", "format_map", "index", "isalnum",
    "isalpha", "isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper",
    "join", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex",
    "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase",
    "title", "upper",
})  # fmt: skip
_METHODS: Mapping[type, frozenset[str]] = {
    str: _OF_TEXT,
    Markup: _OF_TEXT | {"striptags", "unescape"},
    bytes: frozenset(),
    bool: frozenset(),
    int: frozenset(),
    float: frozenset({"is_integer"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
    dict: frozenset({"get", "items", "keys", "values"}),
}
"""What can be called on plain values. What pads, encodes or translates is left out: it can make any size."""


class _Code(CodeGenerator):
    """Jinja's code, which pays for what it keeps and compares."""

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        if frame.buffer is not None:  # of a macro, or of a block that is set: it is all kept
            self.write("environment.made(")
        super()._output_child_pre(node, frame, finalize)

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        super()._output_child_post(node, frame, finalize)
        if frame.buffer is not None:
            self.write(")")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self._around("weighed", super().visit_List, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx == "load":
            self._around("weighed", super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self._around("weighed", super().visit_Dict, node, frame)

    @optimizeconst
    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if isinstance(node.arg, nodes.Slice):
            self.write("environment.made(")
            self.visit(node.node, frame)
            self.write("[")
            self.visit(node.arg, frame)
            self.write("])")
        else:
            super().visit_Getitem(node, frame)

    @optimizeconst
    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        joins = "(markup_join if context.eval_ctx.autoescape else str_join)"
        self.write(f"{joins}(environment.joined((")
        for arg in node.nodes:
            self.visit(arg, frame)
            self.write(", ")
        self.write(")))")

    @optimizeconst
    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        self.write("(")
        self._comparing_node(node.expr, frame)
        for op in node.ops:
            self.visit(op, frame)
        self.write(")")

    def visit_Operand(self, node: nodes.Operand, frame: Frame) -> None:
        sign = {"eq": "==", "ne": "!=", "gt": ">", "gteq": ">=", "lt": "<", "lteq": "<=",
                "in": "in", "notin": "not in"}[node.op]  # fmt: skip
        self.write(f" {sign} ")
        self._comparing_node(node.expr, frame)

    def _comparing_node(self, node: nodes.Expr, frame: Frame) -> None:
        if isinstance(node, nodes.Const):
            self.visit(node, frame)
        else:
            self._around("compared", self.visit, node, frame)

    def _around(self, name: str, visit: Callable[..., Any], node: nodes.Node, frame: Frame) -> None:
        self.write(f"environment.{name}(")
        visit(node, frame)
        self.write(")")


class Variables(Context):
    """A context of variables alone: making one of Jinja's own is half of what its `render` costs.

    Parts of a template that extend nothing can share it: they define no blocks, and nothing in the
    sandbox can change the variables.
    """

    def __init__(
        self,
        environment: Environment,
        variables: dict[str, Any],
        name: str | None = None,
        blocks: Mapping[str, Any] | None = None,
        globals: object = None,
    ) -> None:
        self.environment, self.parent, self.name = environment, variables, name
        self.vars, self.exported_vars, self.globals_keys = {}, set(), set()
        self.blocks = {key: [block] for key, block in blocks.items()} if blocks else {}
        self.eval_ctx = EvalContext(environment, None)

    def resolve_or_missing(self, key: str) -> Any:
        if self.vars:
            return super().resolve_or_missing(key)
        return self.parent.get(key, missing)


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja for JSON: `order.items` is the order's field, not a method; nothing random, nothing huge."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})
    code_generator_class = _Code
    context_class = Variables
    # the compiled templates call these
    concat = staticmethod(concat)
    spend = staticmethod(spend)
    made = staticmethod(made)
    compared = staticmethod(compared)

    def __init__(self, *, autoescape: bool, parts: Mapping[str, str] | None = None) -> None:
        self.parts: Mapping[str, str] = dict(parts or {})
        super().__init__(
            autoescape=autoescape,
            undefined=StrictUndefined,
            finalize=printed_to_escape if autoescape else printed,
            loader=DictLoader(self.parts),
            auto_reload=False,
        )
        del self.filters["random"]
        for name, writing in LOCALISED.items():
            self.filters[name] = _localised(writing)
        self.filters = {name: metered(name, filtering) for name, filtering in self.filters.items()}
        self.filters[_WALK] = walked
        tests: dict[str, Any] = dict(self.tests)
        self.tests |= {name: comparing(tests[name]) for name in COMPARING}

    @staticmethod
    def weighed(value: Any) -> Any:
        """Pays for a list, a tuple or a mapping that has just been made."""
        weigh(value)
        return value

    @staticmethod
    def joined(values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Pays for values that become one text."""
        weigh(values)
        check_printable(values)
        return values

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        extends = bundle.check_source(tree, self.parts, name)
        repeated: tuple[type[nodes.For | nodes.Macro | nodes.CallBlock], ...] = (
            nodes.For, nodes.Macro, nodes.CallBlock,
        )  # fmt: skip
        counted = set(_counted_loops(tree.body)) if name is None and not extends else set()
        for node in tree.find_all(repeated):
            if node in counted:
                continue
            if isinstance(node, nodes.For) and not node.recursive:
                node.iter = nodes.Filter(node.iter, _WALK, [], [], None, None, lineno=node.lineno)
            else:
                node.body.insert(0, _payment(STEP if isinstance(node, nodes.For) else CALL))
        if name is not None:
            tree.body.insert(0, _payment(CALL))
        tree.set_environment(self)
        return tree

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is dict:
            try:
                return obj[attribute]
            except KeyError:
                pass
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        methods = _METHODS.get(type(obj))
        if methods is not None and attr not in methods:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str) and isinstance(__obj, (BuiltinMethodType, MethodType)):
            if __obj.__name__ == "join" and args:
                args = before_join((None, args[0], owner), {})[1:2]
            elif __obj.__name__ == "replace":
                before_replace(owner, *args)
            elif len(owner) > LONG:
                spend(len(owner) // STEP)
        return made(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int) and isinstance(right, int)
        if operator == "%":
            before_format(left, right if isinstance(right, tuple) else (right,))
        elif operator == "**":
            if abs(left) > 1_000_000 or abs(right) > 10:
                raise SecurityError("a power that is too large")
        elif numbers and left.bit_length() + right.bit_length() > MAX_BITS:
            raise SecurityError("a number that is too large")
        elif operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, int) and hasattr(other, "__len__"):
                    if one * len(other) > MAX_OUTPUT:
                        raise SecurityError(f"more than {MAX_OUTPUT} characters")
                    spend(max(0, one * len(other)))
        elif hasattr(left, "__len__") and hasattr(right, "__len__"):
            spend(len(left) + len(right))
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        found = super().wrap_str_format(value)
        if found is None:
            return None
        filling, pattern = found, value.__self__

        @wraps(filling)
        def paid(*given: Any, **named: Any) -> str:
            before_format(pattern, (*given, *named.values()))
            return filling(*given, **named)

        return paid


def _counted_loops(body: list[nodes.Node]) -> Iterator[nodes.For]:
    """Loops that need no payment: each turn yields something straight into the output, which is counted."""
    for node in body:
        if isinstance(node, nodes.For):
            if (
                not node.recursive
                and node.test is None
                and any(isinstance(x, nodes.Output) for x in node.body)
            ):
                yield node
            if not node.recursive:
                yield from _counted_loops(node.body)
        elif isinstance(node, nodes.If):
            for branch in (node.body, node.else_, *(other.body for other in node.elif_)):
                yield from _counted_loops(branch)


def _payment(cost: int) -> nodes.ExprStmt:
    return nodes.ExprStmt(nodes.EnvironmentAttribute(f"spend({cost})"), lineno=1)


plain = Sandbox(autoescape=False)
html = Sandbox(autoescape=True)


def sandbox(parts: Mapping[str, str], *, autoescape: bool) -> Sandbox:
    """The environment for sources that may extend and include these parts. Raises TemplateBroken."""
    if not parts:
        return html if autoescape else plain
    return _sandbox(tuple(sorted(parts.items())), autoescape)


@lru_cache(maxsize=500)
def _sandbox(parts: tuple[tuple[str, str], ...], autoescape: bool) -> Sandbox:
    bundle.check(dict(parts))
    return Sandbox(autoescape=autoescape, parts=dict(parts))
