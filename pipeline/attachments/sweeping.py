"""Sweeping: what a store need not keep any longer goes, a page at a time, for as long as the process runs."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from pipeline.attachments.store import Store, Unreachable

log = logging.getLogger(__name__)
PAUSE_SECONDS = 30.0
"""Between two pages."""
REST_SECONDS = 3_600.0
"""Between two rounds, and after one that failed."""


async def keep_swept(
    store: Store,
    *,
    clock: Callable[[], float] = time.time,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Sweeps round after round until it is cancelled. Several processes may do it beside each other."""
    after, deleted = "", 0
    while True:
        try:
            swept = await store.sweep(clock(), after)
        except Unreachable as error:
            log.warning("attachments were not swept: %s", error)
            after = ""
        except Exception:
            log.exception("attachments were not swept")
            after = ""
        else:
            after, deleted = swept.after, deleted + swept.deleted
        if not after:
            if deleted:
                log.info("swept %d attachments", deleted)
            deleted = 0
        await pause(PAUSE_SECONDS if after else REST_SECONDS)
