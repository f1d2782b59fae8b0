"""A scene for what SES answers to several at once: the provider gets a companion to send with."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from pipeline.providers.provider import Provider
from schemas.message import Message
from schemas.outcome import Outcome
from tests.contract.peers import Peer

Case = dict[str, Any]
Scene = tuple[Provider, Message, Peer | None]


class Accompanied:
    """A provider that sends the same words to somebody else at the same time, and tells of the first."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider

    def __getattr__(self, name: str) -> Any:
        return getattr(self.provider, name)

    async def send(self, message: Message, key: str) -> Outcome:
        companion = replace(message, target="lee@example.com")
        first, _ = await asyncio.gather(
            self.provider.send(message, key), self.provider.send(companion, f"{key}.2")
        )
        return first


@contextlib.asynccontextmanager
async def ses_scene(
    vendor_scene: Callable[..., AbstractAsyncContextManager[Scene]], case: Case, state_dir: Path
) -> AsyncIterator[Scene]:
    """As any vendor's; in company where the case is one of several."""
    async with vendor_scene("ses", case, state_dir) as (provider, message, peer):
        yield Accompanied(provider) if case.get("bulk") else provider, message, peer
