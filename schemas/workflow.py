"""Rules that turn an event type into notifications: who, what, where."""

from typing import Annotated, Self

import jmespath
from pydantic import Field, StringConstraints, field_validator, model_validator

from schemas.base import Frozen
from schemas.event import MAX_RECIPIENTS, PriorityText, Text, UserText
from schemas.kinds import Channel, Doubt, Priority

Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[a-z0-9][a-z0-9._-]*$")]


MAX_WAIT = 366 * 86_400
"""Seconds that anything may be put off."""


class DigestRule(Frozen):
    """Gathers what comes within `window` seconds of the first into one, `flush_at` at the most.

    `by` is a JMESPath expression over the event's data: a digest for each value; without it, one a user.
    The template finds `items`, the data of each event, `count`, and `key`.
    """

    window: int = Field(ge=1, le=MAX_WAIT)
    by: Text | None = None
    flush_at: int = Field(default=100, ge=2, le=500)
    template: Name | None = None


class EscalationRule(Frozen):
    """Tells on other channels what was not seen within `after` seconds."""

    after: int = Field(ge=1, le=MAX_WAIT)
    channels: tuple[Channel, ...] = Field(min_length=1)


class ThrottleRule(Frozen):
    """At most `limit` to a user in each span of `per` seconds (spans that follow each other)."""

    limit: int = Field(ge=1, le=1_000_000)
    per: int = Field(ge=1, le=31 * 86_400)


class Workflow(Frozen):
    """One rule.

    `on` is an event type, or the beginning of one with `*` behind it. `recipients` are JMESPath
    expressions (https://jmespath.org) over the event's data that give user ids, `users` are told as well,
    `segment` tells everybody in it. `channels` are all told; `fallback` are tried one after the other where
    none of them could be, or all have failed. `id` never changes: it is part of every notification's
    identity; by default it is the first name.
    """

    name: Name
    id: Name = ""
    on: Text
    recipients: tuple[Text, ...] = ()
    users: tuple[UserText, ...] = Field(default=(), max_length=MAX_RECIPIENTS)
    segment: Name | None = None
    template: Name
    channels: tuple[Channel, ...] = Field(min_length=1)
    category: Text = "general"
    priority: PriorityText = Priority.NORMAL
    doubt: Doubt = Doubt.AT_LEAST_ONCE
    mandatory: bool = False
    expires_after: int | None = Field(default=None, ge=1, description="seconds")
    digest: DigestRule | None = None
    fallback: tuple[Channel, ...] = ()
    escalate: tuple[EscalationRule, ...] = Field(default=(), max_length=5)
    throttle: ThrottleRule | None = None

    @field_validator("recipients")
    @classmethod
    def _compiles(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        for path in paths:
            try:
                jmespath.compile(path)
            except jmespath.exceptions.JMESPathError as error:
                raise ValueError(f"{path!r} is no JMESPath expression: {error}") from None
        return paths

    @field_validator("digest")
    @classmethod
    def _by_compiles(cls, rule: DigestRule | None) -> DigestRule | None:
        if rule is not None and rule.by is not None:
            cls._compiles((rule.by,))
        return rule

    @field_validator("channels", "fallback")
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
        if both := set(self.channels) & set(self.fallback):
            raise ValueError(f"fallback: {min(both)} is among the channels already")
        return self
