"""What a template expects of its variables: its JSON Schema (draft 2020-12), compiled."""

from itertools import islice
from typing import Any, NamedTuple

import jsonschema_rs

from schemas.base import dumps
from schemas.template import Place

MAX_SCHEMA = 64_000
MAX_PROBLEMS = 5
DRAFT = "https://json-schema.org/draft/2020-12/schema"
#: linear in what they read, whatever the pattern
_PATTERNS = jsonschema_rs.RegexOptions(size_limit=1 << 20, dfa_size_limit=1 << 20)


class SchemaBroken(ValueError):
    """A schema that cannot be used; `place` leads to what is wrong in it."""

    def __init__(self, message: str, place: Place = ()) -> None:
        super().__init__(message)
        self.place = place


class Problem(NamedTuple):
    """What is wrong with a variable: where it stands, and what was expected. Never what it holds."""

    field: str
    message: str


class Expected:
    """A schema, compiled."""

    def __init__(self, schema: dict[str, Any]) -> None:
        """Raises SchemaBroken; nothing is fetched, whatever it refers to."""
        if schema.get("$schema", DRAFT) not in (DRAFT, DRAFT + "#"):
            raise SchemaBroken(f"only {DRAFT} is understood", ("$schema",))
        try:
            if len(dumps(schema)) > MAX_SCHEMA:
                raise SchemaBroken(f"more than {MAX_SCHEMA} bytes")
            jsonschema_rs.meta.validate(schema | {"$schema": DRAFT})
            self._validator = jsonschema_rs.Draft202012Validator(
                schema, offline=True, mask="it", validate_formats=True, pattern_options=_PATTERNS
            )
        except jsonschema_rs.ValidationError as error:
            raise SchemaBroken(error.message, tuple(error.instance_path)) from None
        except (ValueError, TypeError, RecursionError, jsonschema_rs.ReferencingError) as error:
            raise error if isinstance(error, SchemaBroken) else SchemaBroken(str(error)) from None

    def problems(self, variables: dict[str, Any]) -> list[Problem]:
        """What is wrong with variables, the first few; empty where they are as they should be."""
        try:
            if self._validator.is_valid(variables):
                return []
            return [
                Problem(".".join(map(str, error.instance_path)) or "(whole)", error.message)
                for error in islice(self._validator.iter_errors(variables), MAX_PROBLEMS)
            ]
        except ValueError as error:  # too deep, or not JSON
            return [Problem("(whole)", str(error))]
