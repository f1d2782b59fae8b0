"""Groups of users by what is known of them: the value of `segments`, and the language of their rules."""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any

from cel_expr_python import cel
from pydantic import Field, field_validator

from schemas.base import Frozen
from schemas.workflow import Name

MAX_RULE = 2_000
"""Characters of a rule."""

_LANGUAGE = """
name: segment
stdlib:
  exclude_macros: [map, filter]
  exclude_functions:
    - name: _+_
"""
"""What could build a value larger than the user's own is left out; a rule only asks."""
_environment = cel.NewEnv(config=cel.NewEnvConfigFromYaml(_LANGUAGE), variables={"user": cel.Type.DYN})
_ERROR = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")


Program = Callable[[dict[str, Any]], bool | None]


class RuleBroken(ValueError):
    """A rule that is no CEL expression over `user`; the message names line and column."""


class Segment(Frozen):
    """Everybody of whom `rule` is true: a CEL expression (https://cel.dev) over `user`.

    `user` is the value of `users`: user_id, timezone, locale, attributes, and, where they are known, email,
    phone, slack and webhook_url.
    """

    name: Name
    rule: Annotated[str, Field(min_length=1, max_length=MAX_RULE)]

    @field_validator("rule")
    @classmethod
    def _compiles(cls, rule: str) -> str:
        program(rule)
        return rule


@lru_cache(maxsize=256)
def program(rule: str) -> Program:
    """A rule, compiled once: tells of a user whether it is true; None where it fails or answers otherwise.

    An evaluation ends: the language has no loops but over what a user holds, and a budget for those.
    Raises RuleBroken.
    """
    try:
        expression = _environment.compile(rule)
    except RuntimeError as error:
        raise RuleBroken(_problem(str(error))) from None
    kind = expression.return_type()
    if kind not in (cel.Type.BOOL, cel.Type.DYN):
        raise RuleBroken(f"gives {kind.name().lower()}; a rule is true or false")
    evaluate = expression.eval

    def holds(user: dict[str, Any]) -> bool | None:
        try:
            found = evaluate(data={"user": user}).value()
        except Exception:  # a rule runs over whatever upstream says of a user
            return None
        return found if found is True or found is False else None

    return holds


def _problem(told: str) -> str:
    found = _ERROR.search(told)
    if found is None:
        return told.partition("\n")[0].partition(" [")[0]
    line, column, what = found.groups()
    for rest in (" [", " (in container", " expecting "):
        what = what.partition(rest)[0]
    return f"line {line}, column {column}: {what}"
