"""Words with holes: the value of `templates`, versions and all."""

from typing import Self

from pydantic import Field, model_validator

from schemas.base import Frozen
from schemas.kinds import Channel
from schemas.workflow import Name

KEPT_VERSIONS = 20


class Parts(Frozen):
    """The Jinja sources for one channel; a subject is a title where the channel has titles."""

    subject: str | None = Field(default=None, max_length=2_000)
    text: str = Field(max_length=256_000)
    html: str | None = Field(default=None, max_length=256_000)


class Template(Frozen):
    """A template with its versions; a claim pins the version that it was rendered with."""

    name: Name
    current: int = Field(default=1, ge=1)
    versions: dict[int, dict[Channel, Parts]] = Field(min_length=1)

    @model_validator(mode="after")
    def _current_is_there(self) -> Self:
        if self.current not in self.versions:
            raise ValueError(f"current: there is no version {self.current}")
        return self
