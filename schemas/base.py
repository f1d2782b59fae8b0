"""The model that everything which travels is made of, and how it becomes bytes."""

from typing import Any, Self

import orjson
from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A frozen value; unknown fields are ignored, known ones validated."""

    model_config = ConfigDict(frozen=True, extra="ignore", str_strip_whitespace=False)

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """Builds one from values that we made ourselves, unchecked: for the hot path."""
        return cls.model_construct(**fields)

    def to_json(self) -> bytes:
        """The compact JSON that travels; what is None is left out."""
        found: bytes = self.__pydantic_serializer__.to_json(self, exclude_none=True)
        return found


def dumps(value: Any) -> bytes:
    """Compact JSON of plain values."""
    return orjson.dumps(value)
