"""Times as they come from outside: RFC 3339 alone, with their offset."""

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import GetJsonSchemaHandler, TypeAdapter, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

_FORM = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$"


class _Rfc3339:
    """A text of that form, for pydantic alone takes numbers, and texts of digits, for seconds or
    milliseconds, as it guesses.
    """

    @staticmethod
    def __get_pydantic_core_schema__(_source: Any, _handler: Any) -> CoreSchema:
        text = core_schema.chain_schema(
            [core_schema.str_schema(strict=True, pattern=_FORM), core_schema.datetime_schema()]
        )
        made_here = core_schema.datetime_schema(strict=True, tz_constraint="aware")
        return core_schema.custom_error_schema(
            core_schema.json_or_python_schema(
                text, core_schema.union_schema([text, made_here], mode="left_to_right")
            ),
            custom_error_type="rfc_3339",
            custom_error_message="Input should be a time with its offset, such as 2026-01-31T12:00:00Z",
            serialization=core_schema.plain_serializer_function_ser_schema(
                datetime.isoformat, when_used="json"
            ),
        )

    @staticmethod
    def __get_pydantic_json_schema__(_schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "format": "date-time"}


Time = Annotated[datetime, _Rfc3339]
"""A moment; what has no offset is none."""
_read = TypeAdapter(Time).validate_python


def read_time(text: str) -> datetime:
    """The moment that a text names. Raises ValueError."""
    try:
        return _read(text)
    except ValidationError:
        raise ValueError(f"{text!r} is no time of RFC 3339") from None


_without_seconds = re.compile(r"([Tt ][0-9]{2}:[0-9]{2})([Zz]|[+-][0-9]{2}:[0-9]{2})\Z").sub


def typed_time(text: str) -> datetime:
    """The moment that somebody types: of RFC 3339, but the seconds may be left out. Raises ValueError."""
    return read_time(_without_seconds(r"\1:00\2", text))
