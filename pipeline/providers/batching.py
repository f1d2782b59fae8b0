"""Calls that come together share a request, where they are alike."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from itertools import count
from typing import Generic, TypeVar

from msgspec.structs import replace

from schemas.outcome import Outcome, deferred, doubtful

Item = TypeVar("Item")
_Joined = tuple[Item, "asyncio.Future[Outcome]"]


class _Batch(Generic[Item]):
    """What will be one request; its task once it is."""

    __slots__ = ("gone", "joined", "like", "task")

    def __init__(self, like: Hashable) -> None:
        self.like = like
        self.joined: dict[Hashable, _Joined[Item]] = {}
        #: how many nobody waits for any more
        self.gone = 0
        self.task: asyncio.Task[None] | None = None


class Batches(Generic[Item]):
    """Gathers what comes within one turn of the loop, and while `at_once` requests are under way.

    At most `most` items share a request. `send` makes it, and gives one outcome an item, in their order; it
    never raises. What waits is bounded by those who wait for it. A failure that is the provider's fault tells
    which request it was: that counts once, however many shared it.
    """

    def __init__(
        self, send: Callable[[Sequence[Item]], Awaitable[Sequence[Outcome]]], *, most: int, at_once: int
    ) -> None:
        self._send, self._most, self._at_once = send, most, at_once
        #: by what they are alike in, those that can still be joined
        self._open: dict[Hashable, _Batch[Item]] = {}
        self._waiting: deque[_Batch[Item]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._numbers = count(1)

    async def join(self, item: Item, like: Hashable, name: Hashable) -> Outcome:
        """The outcome of an item. It shares with those of the same `like`, never with one of the same `name`.

        When all who wait for a request are cancelled, the request is.
        """
        loop = asyncio.get_running_loop()
        batch = self._open.get(like)
        if batch is None or len(batch.joined) >= self._most or name in batch.joined:
            batch = self._open[like] = _Batch(like)
            self._waiting.append(batch)
            loop.call_soon(self._start)
        future: asyncio.Future[Outcome] = loop.create_future()
        batch.joined[name] = item, future
        try:
            return await future
        except asyncio.CancelledError:
            batch.gone += 1
            if batch.task is not None and batch.gone == len(batch.joined):
                batch.task.cancel()
            raise

    def _start(self) -> None:
        while self._waiting and len(self._running) < self._at_once:
            batch = self._waiting.popleft()
            if self._open.get(batch.like) is batch:
                del self._open[batch.like]
            joined = [one for one in batch.joined.values() if not one[1].done()]
            if joined:
                batch.task = task = asyncio.create_task(self._run(joined), name="batch")
                self._running.add(task)
                task.add_done_callback(partial(self._ended, joined))

    def _ended(self, joined: Sequence[_Joined[Item]], task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        for _, future in joined:
            if not future.done():  # a task that is cancelled before its first step runs nothing of `_run`
                future.set_result(deferred("closed before it was sent"))
        self._start()

    async def _run(self, joined: Sequence[_Joined[Item]]) -> None:
        outcomes: Sequence[Outcome] = [doubtful("given up while it was sent")] * len(joined)
        try:
            outcomes = _numbered(await self._send([item for item, _ in joined]), next(self._numbers))
        finally:
            for (_, future), outcome in zip(joined, outcomes, strict=True):
                if not future.done():
                    future.set_result(outcome)

    async def close(self) -> None:
        """Gives up what is under way, and sends nothing more of what waits. May be repeated."""
        while self._waiting:
            for _, future in self._waiting.popleft().joined.values():
                if not future.done():
                    future.set_result(deferred("closed before it was sent"))
        self._open.clear()
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _numbered(outcomes: Sequence[Outcome], number: int) -> Sequence[Outcome]:
    return [replace(one, request=number) if one.fault == "provider" else one for one in outcomes]
