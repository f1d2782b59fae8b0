"""The two ways in which what travels is typed, and how it becomes bytes.

What others write (events, users, rules) is a pydantic model, for its rules and its errors. What our own
roles write to each other is a msgspec struct: reading one costs a fourth, writing one a fifth.
"""

from collections.abc import Callable, Mapping
from typing import Any, Self

import msgspec
import orjson
from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A frozen value from outside; unknown fields are ignored, known ones validated."""

    model_config = ConfigDict(frozen=True, extra="ignore", str_strip_whitespace=False)

    def to_json(self) -> bytes:
        """The compact JSON that travels; what is None is left out."""
        found: bytes = self.__pydantic_serializer__.to_json(self, exclude_none=True)
        return found


class Record(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A frozen value of our own. Fields are validated where one is read, not where it is made.

    No default but None: what is left out is found by identity, so that any other default would at
    times be written and at times not, and a record sent again must have the same bytes.
    """

    @classmethod
    def from_json(cls, value: bytes | None) -> Self:
        """Reads one. Raises RecordUnreadable, which names the field."""
        try:
            found: Self = _READERS[cls](value or b"")
        except KeyError:
            _READERS[cls] = msgspec.json.Decoder(cls).decode
            return cls.from_json(value)
        except (ValueError, RecursionError) as error:
            raise RecordUnreadable(problem(error)) from None
        return found

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Builds one from plain values, validated. Raises RecordUnreadable, which names the field."""
        try:
            return msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise RecordUnreadable(problem(error)) from None

    def to_json(self) -> bytes:
        """The compact JSON that travels; what is None is left out."""
        return encode(self)


class RecordUnreadable(ValueError):
    """A record that does not have the form of its kind; the message names the field."""


_READERS: dict[type[Record], Callable[[bytes], Any]] = {}
encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
"""Compact JSON of records and plain values."""


_MISSING = "Object missing required field "


def problem(error: Exception) -> str:
    """An error of msgspec's as `field: what`."""
    what, _, field = str(error).partition(" - at `$")
    field = field.removesuffix("`").lstrip(".")
    if what.startswith(_MISSING):
        field = ".".join(filter(None, (field, what.removeprefix(_MISSING).strip("`"))))
        what = "is missing"
    return f"{field or '(whole)'}: {what}"


def dumps(value: Any) -> bytes:
    """Compact JSON of plain values."""
    return orjson.dumps(value)
