"""Our own in-app inbox: the content travels on `contents` to the status role, so nothing is left to send."""

from pathlib import Path

from pipeline.settings import ProviderSettings
from schemas.message import Message
from schemas.outcome import Outcome, delivered


class Inbox:
    """Says that a message is where its user finds it."""

    kind = "inbox"
    honours_keys = True
    parallel = 1_000

    def __init__(self, name: str) -> None:
        self.name = name

    async def send(self, message: Message, key: str) -> Outcome:
        """Delivered, always."""
        return delivered()

    async def close(self) -> None:
        """Holds nothing."""


def make(name: str, settings: ProviderSettings, *, state_dir: Path) -> Inbox:
    """The inbox; it has no settings."""
    return Inbox(name)
