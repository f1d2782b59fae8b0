"""Our own in-app inbox: the content travels on `contents` to the status role, so nothing is left to send."""

from collections.abc import Mapping
from typing import Literal

from pipeline.providers.provider import Place, ProviderSettings
from schemas.message import Message
from schemas.outcome import Meaning, Outcome, delivered

CODES: Mapping[str, Meaning] = {}
"""It never fails."""


class Settings(ProviderSettings):
    """The inbox: nothing of its own."""

    kind: Literal["inbox"] = "inbox"


class Inbox:
    """Says that a message is where its user finds it."""

    kind = "inbox"
    honours_keys = True
    parallel = 1_000
    platforms = None

    def __init__(self, name: str) -> None:
        self.name = name

    async def send(self, message: Message, key: str) -> Outcome:
        """Delivered, always."""
        return delivered()

    async def close(self) -> None:
        """Holds nothing."""


def make(name: str, settings: Settings, place: Place) -> Inbox:
    """The inbox; it has no settings."""
    return Inbox(name)
