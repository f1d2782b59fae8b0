"""The model that everything which travels is made of, and how it becomes bytes."""

from typing import Any, ClassVar, Self

import orjson
from pydantic import BaseModel, ConfigDict

_set_dict = BaseModel.__dict__["__dict__"].__set__
_set_fields, _set_extra, _set_private = (
    BaseModel.__dict__[f"__pydantic_{name}__"].__set__ for name in ("fields_set", "extra", "private")
)

#: which fields were given: what we build ourselves is never serialised by that
_NOBODY_ASKS: set[str] = set()


class Frozen(BaseModel):
    """A frozen value; unknown fields are ignored, known ones validated."""

    model_config = ConfigDict(frozen=True, extra="ignore", str_strip_whitespace=False)

    #: every field's default, in the order of the fields and so of the JSON
    _blank: ClassVar[dict[str, Any]] = {}
    #: the fields whose default must be made anew
    _made: ClassVar[dict[str, Any]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        fields = cls.model_fields
        cls._blank = {name: field.default for name, field in fields.items()}
        cls._made = {name: f.default_factory for name, f in fields.items() if f.default_factory is not None}

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """Builds one from values that we made ourselves, unchecked: for the hot path.

        `model_construct` at a third of its cost. A field without a default that was forgotten makes
        `to_json` raise.
        """
        return cls.trusted(fields)

    @classmethod
    def trusted(cls, fields: dict[str, Any]) -> Self:
        """The same from a dict, which is the model's from then on."""
        made = object.__new__(cls)
        for name, make in cls._made.items():
            if name not in fields:
                fields[name] = make()
        _set_dict(made, cls._blank | fields)
        _set_fields(made, _NOBODY_ASKS)
        _set_extra(made, None)
        _set_private(made, None)
        return made

    def to_json(self) -> bytes:
        """The compact JSON that travels; what is None is left out."""
        found: bytes = self.__pydantic_serializer__.to_json(self, exclude_none=True)
        return found


def dumps(value: Any) -> bytes:
    """Compact JSON of plain values."""
    return orjson.dumps(value)
