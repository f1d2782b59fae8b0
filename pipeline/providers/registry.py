"""Which kinds of provider there are, and how each is made."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from pipeline.providers import inbox, outbox, smtp, webhook
from pipeline.providers.provider import Provider
from pipeline.settings import ProviderSettings


class Factory(Protocol):
    """Makes a provider. Raises SettingsError where its settings cannot be used."""

    def __call__(self, name: str, settings: ProviderSettings, *, state_dir: Path) -> Provider: ...


FACTORIES: Mapping[str, Factory] = {
    "inbox": inbox.make,
    "outbox": outbox.make,
    "smtp": smtp.make,
    "webhook": webhook.make,
}


def make(name: str, settings: ProviderSettings, *, state_dir: Path) -> Provider:
    """The provider that an operator called `name`. Raises SettingsError."""
    return FACTORIES[settings.kind](name, settings, state_dir=state_dir)
