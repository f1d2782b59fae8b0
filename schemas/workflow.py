"""Rules that turn an event type into notifications: who, what, where."""

from typing import Annotated, Self

import jmespath
from pydantic import Field, StringConstraints, field_validator, model_validator

from schemas.base import Frozen
from schemas.event import PriorityText, Text
from schemas.kinds import Channel, Doubt, Priority

Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[a-z0-9][a-z0-9._-]*$")]


class Workflow(Frozen):
    """One rule.

    `on` is an event type, or the beginning of one with `*` behind it. `recipients` are JMESPath
    expressions (https://jmespath.org) over the event's data that give user ids. `id` never changes:
    it is part of every notification's identity; by default it is the first name.
    """

    name: Name
    id: Name = ""
    on: Text
    recipients: tuple[Text, ...] = ()
    template: Name
    channels: tuple[Channel, ...] = Field(min_length=1)
    category: Text = "general"
    priority: PriorityText = Priority.NORMAL
    doubt: Doubt = Doubt.AT_LEAST_ONCE
    mandatory: bool = False
    expires_after: int | None = Field(default=None, ge=1, description="seconds")

    @field_validator("recipients")
    @classmethod
    def _compiles(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        for path in paths:
            try:
                jmespath.compile(path)
            except jmespath.exceptions.JMESPathError as error:
                raise ValueError(f"{path!r} is no JMESPath expression: {error}") from None
        return paths

    @field_validator("channels")
    @classmethod
    def _each_once(cls, channels: tuple[Channel, ...]) -> tuple[Channel, ...]:
        if len(set(channels)) < len(channels):
            raise ValueError("a channel stands there twice")
        return channels

    @model_validator(mode="before")
    @classmethod
    def _default_id(cls, given: object) -> object:
        if isinstance(given, dict) and not given.get("id"):
            return {**given, "id": given.get("name", "")}
        return given

    @model_validator(mode="after")
    def _one_star(self) -> Self:
        if "*" in self.on[:-1]:
            raise ValueError("on: a * may stand at the end only")
        return self
