"""Times as programs give them: RFC 3339, and nothing that could be guessed at."""

import re
from typing import Annotated, Any

from pydantic import AwareDatetime, BeforeValidator
from pydantic_core import PydanticCustomError

_is_rfc3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
).fullmatch


def _written_out(given: Any) -> Any:
    if not isinstance(given, str) or _is_rfc3339(given) is None:
        raise PydanticCustomError(
            "rfc3339", "not a time as RFC 3339 has it, such as 2026-09-21T14:13:20Z (in an address, + is %2B)"
        )
    return given


Time = Annotated[AwareDatetime, BeforeValidator(_written_out)]
"""A time with its zone. Numbers, also as text, are none: whether they count s or ms would be a guess."""
