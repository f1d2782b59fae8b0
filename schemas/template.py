"""Words with holes: the value of `templates`, versions and all."""

from collections.abc import Iterator
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, StringConstraints, field_validator, model_validator

from schemas.base import Frozen
from schemas.kinds import Channel
from schemas.workflow import Name

KEPT_VERSIONS = 20
MAX_LOCALES = 100
MAX_VARIANTS = 10
MAX_PARTS = 50
"""Layouts and partials that one version takes in."""

Locale = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?$")]
"""A language tag as BCP 47 writes it: `pt`, `pt-BR`, `zh-Hant-TW`."""
PartName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]
Place = tuple[str | int, ...]


class Parts(Frozen):
    """The Jinja sources for one channel; a subject is a title where the channel has titles."""

    subject: str | None = Field(default=None, max_length=2_000)
    text: str = Field(max_length=256_000)
    html: str | None = Field(default=None, max_length=256_000)


Words = dict[Channel, Parts]


class Variant(Frozen):
    """One arm of an experiment: its share of the users, and the words that it has instead."""

    name: Name
    weight: int = Field(ge=0, le=10_000)
    channels: Words = Field(default={})
    locales: dict[Locale, Words] = Field(default={}, max_length=MAX_LOCALES)


class Version(Frozen):
    """All that a version is rendered from. It never changes, and refers to nothing outside itself.

    `channels` are the default locale's words; `locales` and `variants` replace them, a channel at a time.
    `json_schema` (`schema` outside) is what the variables must satisfy. `parts` are the layouts and
    partials that its sources extend or include, as they were when it was published.
    """

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    default_locale: Locale = "en"
    channels: Words
    locales: dict[Locale, Words] = Field(default={}, max_length=MAX_LOCALES)
    variants: tuple[Variant, ...] = Field(default=(), max_length=MAX_VARIANTS)
    parts: dict[PartName, Annotated[str, Field(max_length=256_000)]] = Field(default={}, max_length=MAX_PARTS)

    def variant(self, name: str) -> Variant | None:
        """The variant of that name."""
        return next((variant for variant in self.variants if variant.name == name), None)

    def places(self) -> Iterator[tuple[Place, Channel, Parts]]:
        """All of its words, each with the fields that lead to it."""
        yield from _places(("channels",), self.channels)
        for locale, words in self.locales.items():
            yield from _places(("locales", locale), words)
        for index, variant in enumerate(self.variants):
            yield from _places(("variants", index, "channels"), variant.channels)
            for locale, words in variant.locales.items():
                yield from _places(("variants", index, "locales", locale), words)

    @model_validator(mode="after")
    def _nothing_is_replaced_that_is_not_there(self) -> Self:
        # so that every chain of locales ends, for each channel, at words that are there
        for place, channel, _ in self.places():
            if channel not in self.channels:
                told = ".".join(map(str, place))
                raise ValueError(f"{told}: channels has no {channel} that this could replace")
        for locales in (self.locales, *(variant.locales for variant in self.variants)):
            if self.default_locale in locales:
                told = f"locales.{self.default_locale}"
                raise ValueError(f"{told}: that is the default locale; its words are channels")
        return self

    @model_validator(mode="after")
    def _shares_are_shares(self) -> Self:
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names):
            raise ValueError("variants: a name stands there twice")
        if self.variants and not any(variant.weight for variant in self.variants):
            raise ValueError("variants: one needs a weight above 0")
        return self


def _places(place: Place, words: Words) -> Iterator[tuple[Place, Channel, Parts]]:
    for channel, parts in words.items():
        yield (*place, str(channel)), channel, parts


class TemplateSource(Version):
    """A template as its author writes it: without a number, which it gets when it is published."""

    name: Name
    channels: Words = Field(min_length=1)

    def version(self) -> Version:
        """What is published of it."""
        return Version(**{field: getattr(self, field) for field in Version.model_fields})

    @model_validator(mode="after")
    def _mail_has_a_subject(self) -> Self:
        for place, channel, parts in self.places():
            if channel is Channel.EMAIL and parts.subject is None:
                raise ValueError(f"{'.'.join(map(str, place))}: a mail needs a subject")
        return self


class Template(Frozen):
    """A template with its versions; a claim pins the version that it was rendered with."""

    name: Name
    current: int = Field(default=1, ge=1)
    versions: dict[int, Version] = Field(min_length=1)

    @field_validator("versions", mode="before")
    @classmethod
    def _of_channels_alone(cls, given: object) -> object:
        """A version used to be its channels; such ones are on the topic still."""
        found = dict(given) if isinstance(given, dict) else {}
        for number, version in found.items():
            if isinstance(version, dict) and "channels" not in version:
                found[number] = {"channels": version}
        return found or given

    @model_validator(mode="after")
    def _current_is_there(self) -> Self:
        if self.current not in self.versions:
            raise ValueError(f"current: there is no version {self.current}")
        return self
