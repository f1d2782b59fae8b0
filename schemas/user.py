"""Who there is to be told, and what they want: the values of `users`, `preferences` and `devices`."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from schemas.base import Frozen
from schemas.event import Text, UserText
from schemas.kinds import Channel

DEFAULT_FREQUENCY_LIMIT = 50


class User(Frozen):
    """A person and their addresses."""

    user_id: UserText
    email: Text | None = None
    phone: Text | None = None
    timezone: Text = "UTC"
    locale: Text = "en"
    slack: Text | None = None
    webhook_url: Text | None = None
    attributes: dict[str, Any] = Field(default_factory=dict)


class QuietHours(Frozen):
    """From when to when not to disturb, in the user's zone."""

    start: Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
    end: Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]


class Preferences(Frozen):
    """What a user wants: what is not mentioned is wanted."""

    user_id: UserText = ""
    channels: dict[Channel, bool] = Field(default_factory=dict)
    categories: dict[str, dict[Channel, bool]] = Field(default_factory=dict)
    frequency_limit: int = Field(default=DEFAULT_FREQUENCY_LIMIT, ge=0)
    quiet_hours: QuietHours | None = None


class Device(Frozen):
    """A device that takes push messages."""

    user_id: UserText
    token: Text
    platform: Literal["ios", "android", "web"]
    keys: dict[str, str] = Field(default_factory=dict)
