"""Sends receipts, as vendors call back: to one address that the operator of the simulator gave."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from urllib.parse import urlsplit

import aiohttp

from pipeline.simulator.vendor import Callback

log = logging.getLogger(__name__)

WAITING = 10_000
SENDERS = 4
TRIES = 3
SECONDS = 10.0


class Callbacks:
    """Posts callbacks in their order, nearly. Where too many wait the newest are dropped, and counted.

    `url` may hold `{kind}`. Where a request named an address of its own only path and query of that are
    used: nobody who sends to a simulator chooses the host that it calls.
    """

    def __init__(self, url: str) -> None:
        """Raises ValueError for what is no http or https URL."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url}: no http or https URL")
        self.url, self._origin = url, f"{parts.scheme}://{parts.netloc}"
        self.sent = self.failed = self.dropped = 0
        self._queue: asyncio.Queue[tuple[str, Callback]] = asyncio.Queue(WAITING)
        self._senders: Sequence[asyncio.Task[None]] = ()
        self._session: aiohttp.ClientSession | None = None

    def put(self, kind: str, callback: Callback) -> None:
        """Sends it soon."""
        try:
            self._queue.put_nowait((self._target(kind, callback), callback))
        except asyncio.QueueFull:
            self.dropped += 1

    def _target(self, kind: str, callback: Callback) -> str:
        if not callback.url:
            return self.url.replace("{kind}", kind)
        parts = urlsplit(callback.url)
        return self._origin + (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    async def start(self) -> None:
        """Begins to send."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS))
        self._senders = [asyncio.create_task(self._send(self._session)) for _ in range(SENDERS)]

    async def stop(self) -> None:
        """Sends no more; what waits is lost."""
        for sender in self._senders:
            sender.cancel()
        for sender in self._senders:
            with contextlib.suppress(asyncio.CancelledError):
                await sender
        if self._session is not None:
            await self._session.close()

    async def _send(self, session: aiohttp.ClientSession) -> None:
        while True:
            url, callback = await self._queue.get()
            for n in range(TRIES):
                if n:
                    await asyncio.sleep(n)
                if await self._taken(session, url, callback):
                    self.sent += 1
                    break
            else:
                self.failed += 1

    async def _taken(self, session: aiohttp.ClientSession, url: str, callback: Callback) -> bool:
        try:
            async with session.request(
                callback.method, url, data=callback.body, headers=callback.headers, allow_redirects=False
            ) as answer:
                return answer.status < 300
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            log.debug("a callback was not taken: %s", type(error).__name__)
            return False
