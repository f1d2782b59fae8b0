"""What every section of the settings is made of."""

from pydantic import BaseModel, ConfigDict


class SettingsError(Exception):
    """A setting that cannot be used; the message names it and what to do."""


class Section(BaseModel):
    """A section: unknown names are refused, and what was read stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
