"""Which kinds of provider there are: a line each. The settings, the contract suite and the docs read it."""

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field

from pipeline.providers import (
    apns,
    fcm,
    inbox,
    mailgun,
    outbox,
    resend,
    sendgrid,
    ses,
    slack,
    smtp,
    sns,
    twilio,
    vonage,
    webhook,
    webpush,
)
from pipeline.providers.provider import Place, Provider, ProviderSettings

KINDS: Mapping[str, ModuleType] = {
    "apns": apns,
    "fcm": fcm,
    "inbox": inbox,
    "mailgun": mailgun,
    "outbox": outbox,
    "resend": resend,
    "sendgrid": sendgrid,
    "ses": ses,
    "slack": slack,
    "smtp": smtp,
    "sns": sns,
    "twilio": twilio,
    "vonage": vonage,
    "webhook": webhook,
    "webpush": webpush,
}
"""Each has `Settings` (a ProviderSettings whose `kind` defaults to its name), `CODES` (the vendor's codes and
what they mean to us) and `make(name, settings, place)`, which raises SettingsError."""

MODELS: tuple[type[ProviderSettings], ...] = tuple(kind.Settings for kind in KINDS.values())

if TYPE_CHECKING:
    AnyProvider = ProviderSettings
else:
    AnyProvider = Annotated[Union[MODELS], Field(discriminator="kind")]  # noqa: UP007


def settings(kind: str, **fields: Any) -> ProviderSettings:
    """The settings of a kind. Raises ValidationError."""
    found: ProviderSettings = KINDS[kind].Settings(kind=kind, **fields)
    return found


def make(name: str, settings: ProviderSettings, place: Place) -> Provider:
    """The provider that an operator called `name`. Raises SettingsError."""
    found: Provider = KINDS[settings.kind].make(name, settings, place)
    return found
