"""The store that is set, and what a process makes of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from pipeline.attachments.attached import Attached
from pipeline.attachments.local import LocalStore
from pipeline.attachments.store import Store, Terms
from pipeline.attachments.sweeping import keep_swept
from pipeline.settings import Settings


def of(settings: Settings) -> Store:
    """The store that is set. Touches neither disk nor network. Raises SettingsError."""
    given = settings.attachments
    terms = Terms(given.max_bytes, given.keep_days, settings.retention.attempts)
    if given.store == "s3":
        from pipeline.attachments import s3  # botocore takes a while to import, and few need it

        return s3.make(given, terms)
    return LocalStore(given.directory or Path(settings.state_dir) / "attachments", terms)


@contextlib.asynccontextmanager
async def kept(settings: Settings) -> AsyncIterator[Store]:
    """The store that is set, swept for as long as the block lasts."""
    store = of(settings)
    sweeping = asyncio.create_task(keep_swept(store), name="attachments")
    try:
        yield store
    finally:
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)
        await store.close()


def attached(settings: Settings) -> Attached:
    """What the providers of a process share to fetch from the store that is set. Raises SettingsError."""
    return Attached(of(settings), max_bytes=settings.attachments.max_message_bytes)
