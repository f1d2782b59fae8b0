"""What every provider is to the rest of us."""

from typing import Protocol

from schemas.message import Message
from schemas.outcome import Outcome


class Provider(Protocol):
    """Sends one message to one target.

    `name` is the operator's, `kind` the vendor's; `honours_keys` says that a second call with the same
    key has no second effect; `parallel` is how many calls it makes at once.
    """

    name: str
    kind: str
    honours_keys: bool
    parallel: int

    async def send(self, message: Message, key: str) -> Outcome:
        """Makes the call, within the provider's own total deadline. Never raises: doubt is an outcome."""

    async def close(self) -> None:
        """Lets connections go."""
