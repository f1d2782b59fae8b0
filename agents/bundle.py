"""What a template's sources take from others: layouts that they extend, partials that they include.

Names are constants, so all of it is known before anything is rendered: what is bundled, that nothing
contains itself, and how deep it goes.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from jinja2 import Environment, TemplateSyntaxError, nodes

from agents.broken import TemplateBroken
from schemas.template import MAX_PARTS

MAX_DEPTH = 8
_syntax = Environment(autoescape=True)


class Reference(NamedTuple):
    """A source that is extended or included, and the line that says so."""

    name: str
    line: int
    extended: bool


def parse(source: str, part: str | None = None) -> nodes.Template:
    """The syntax tree of a source. Raises TemplateBroken."""
    try:
        return _syntax.parse(source)
    except TemplateSyntaxError as error:
        raise TemplateBroken(f"line {error.lineno}: {error.message}", error.lineno, part) from None
    except (RecursionError, ValueError) as error:
        raise TemplateBroken(f"{type(error).__name__}: {error}", None, part) from None


def references(tree: nodes.Template, part: str | None = None) -> list[Reference]:
    """What a source extends and includes. Raises TemplateBroken where that is not plain."""
    found = []
    wanted: tuple[type[nodes.Extends | nodes.Include | nodes.Import | nodes.FromImport], ...] = (
        nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport,
    )  # fmt: skip
    for node in tree.find_all(wanted):
        if isinstance(node, (nodes.Import, nodes.FromImport)):
            raise _broken("import is not supported: include it, or write the macro here", node, part)
        name = node.template.value if isinstance(node.template, nodes.Const) else None
        if not isinstance(name, str):
            raise _broken("only one name, as it stands, can be extended or included", node, part)
        if isinstance(node, nodes.Include) and (node.ignore_missing or not node.with_context):
            raise _broken("include takes the name alone", node, part)
        found.append(Reference(name, node.lineno, isinstance(node, nodes.Extends)))
    return found


def bundled(sources: Iterable[str], partials: Mapping[str, str]) -> dict[str, str]:
    """Those partials that the sources need, by name, directly or through others.

    Raises TemplateBroken where one is not there, contains itself, or too many are needed.
    """
    found: dict[str, str] = {}
    waiting: list[tuple[str | None, Reference]] = [
        (None, reference) for source in sources for reference in references(parse(source))
    ]
    while waiting:
        part, reference = waiting.pop()
        if reference.name in found:
            continue
        if reference.name not in partials:
            raise _missing(reference, partials, part)
        if len(found) == MAX_PARTS:
            raise TemplateBroken(f"more than {MAX_PARTS} layouts and partials", reference.line, part)
        source = found[reference.name] = partials[reference.name]
        inner = references(parse(source, reference.name), reference.name)
        waiting += [(reference.name, one) for one in inner]
    check(found)
    return dict(sorted(found.items()))


def check(parts: Mapping[str, str]) -> None:
    """Raises TemplateBroken where a part lacks another, contains itself, or goes too deep."""
    needs = {name: references(parse(source, name), name) for name, source in parts.items()}
    depths: dict[str, int] = {}

    def depth(name: str, above: tuple[str, ...]) -> int:
        if name not in depths:
            deepest = 0
            for reference in needs[name]:
                if reference.name not in needs:
                    raise _missing(reference, parts, name)
                way = (*above, name, reference.name)
                if reference.name in way[:-1]:
                    told = " > ".join(way[way.index(reference.name) :])
                    raise TemplateBroken(f"it contains itself: {told}", reference.line, name)
                if len(way) > MAX_DEPTH:
                    raise TemplateBroken(f"deeper than {MAX_DEPTH}: {' > '.join(way)}", reference.line, name)
                deepest = max(deepest, depth(reference.name, way[:-1]))
            depths[name] = deepest + 1
        if depths[name] + len(above) > MAX_DEPTH:
            raise TemplateBroken(f"{name} goes deeper than {MAX_DEPTH}", None, name)
        return depths[name]

    for name in parts:
        depth(name, ())


def check_source(tree: nodes.Template, parts: Mapping[str, str], part: str | None = None) -> bool:
    """Whether a source extends a layout.

    Raises TemplateBroken where it needs what is not there, or has words that would silently be lost.
    """
    found = references(tree, part)
    for reference in found:
        if reference.name not in parts:
            raise _missing(reference, parts, part)
    layouts = [reference for reference in found if reference.extended]
    if not layouts:
        block = tree.find(nodes.Block) if part is None else None
        if block is not None:
            raise _broken("a block is for a layout, or for a template that extends one", block, part)
        return False
    if len(layouts) > 1 or not any(isinstance(node, nodes.Extends) for node in tree.body):
        raise TemplateBroken(f"line {layouts[-1].line}: one layout, at the top", layouts[-1].line, part)
    above = _layouts(layouts[0].name, parts)
    known = {block.name for name in above for block in parse(parts[name]).find_all(nodes.Block)}
    for node in tree.body:
        if isinstance(node, nodes.Block) and node.name not in known:
            raise _broken(f"the layout has no block {node.name}{_near(node.name, known)}", node, part)
        if not isinstance(node, _BESIDE_BLOCKS) and not _blank(node):
            raise _broken("what stands outside of blocks is lost, for a layout is extended", node, part)
    return True


_BESIDE_BLOCKS = (nodes.Extends, nodes.Block, nodes.Macro, nodes.Assign, nodes.AssignBlock)


def _blank(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Output) and all(
        isinstance(child, nodes.TemplateData) and not child.data.strip() for child in node.nodes
    )


def _layouts(name: str, parts: Mapping[str, str]) -> Iterator[str]:
    for _ in range(MAX_DEPTH):
        yield name
        above = [one.name for one in references(parse(parts[name], name), name) if one.extended]
        if not above or above[0] not in parts:
            return
        name = above[0]


def _broken(what: str, node: nodes.Node, part: str | None) -> TemplateBroken:
    return TemplateBroken(f"line {node.lineno}: {what}", node.lineno, part)


def _missing(reference: Reference, parts: Mapping[str, str], part: str | None) -> TemplateBroken:
    told = f"line {reference.line}: there is no {reference.name!r} among the partials"
    return TemplateBroken(told + _near(reference.name, parts), reference.line, part)


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""
