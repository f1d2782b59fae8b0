"""What a message has attached, fetched when it is sent: bounded in bytes, the same file fetched once."""

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Sequence

from pipeline.attachments.store import Attachment, Damaged, Missing, Store, Unreachable
from schemas import attachment
from schemas.attachment import MAX_ATTACHMENTS
from schemas.message import Message
from schemas.outcome import Outcome, deferred, refused

CACHE_BYTES = 32 << 20
"""A campaign attaches one file to many."""
HELD_BYTES = 32 << 20
"""Of all messages that are being sent; encoded they take some four times that."""
FETCH_SECONDS = 10.0
AGAIN_SECONDS = 30.0
"""A store that does not answer is asked again after that: soon all tries of a message would be used up."""


class NotFetched(Exception):
    """What is attached cannot be had, so that nothing was sent; `outcome` says it in a provider's words."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


class Attached:
    """Fetches from a store for the providers of a process."""

    def __init__(
        self,
        store: Store,
        *,
        max_bytes: int,
        cache_bytes: int = CACHE_BYTES,
        held_bytes: int = HELD_BYTES,
        seconds: float = FETCH_SECONDS,
    ) -> None:
        """`max_bytes`: of all attachments of a message."""
        self._store, self._max_bytes, self._seconds = store, max_bytes, seconds
        self._room = _Room(held_bytes)
        self._cache_bytes, self._cached_bytes = cache_bytes, 0
        self._cached: OrderedDict[str, Attachment] = OrderedDict()
        self._on_the_way: dict[str, asyncio.Task[Attachment]] = {}

    async def fetch(self, message: Message) -> list[Attachment]:
        """The attachments of a message, in its order. Raises NotFetched."""
        async with self.held(message) as found:
            return found

    @contextlib.asynccontextmanager
    async def held(self, message: Message) -> AsyncIterator[list[Attachment]]:
        """The attachments of a message for as long as it is sent: others wait while there is no room.

        Raises NotFetched.
        """
        ids = message.attachments
        if not ids:
            yield []
            return
        async with self._room.taken(self._weigh(ids)):
            yield list(await asyncio.gather(*[self._one(id) for id in ids]))

    async def close(self) -> None:
        """Ends what is on the way, and lets the store go."""
        tasks = tuple(self._on_the_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._store.close()

    def _weigh(self, ids: Sequence[str]) -> int:
        """The bytes of all of them, as their ids tell. Raises NotFetched for no id, and for too much."""
        if len(ids) > MAX_ATTACHMENTS:
            raise NotFetched(refused(f"{len(ids)} attachments; a message may have {MAX_ATTACHMENTS}"))
        total = 0
        for n, text in enumerate(ids):
            id = attachment.read(text)
            if id is None:
                raise NotFetched(refused(f"attachments.{n}: not the id of an attachment"))
            total += id.size
        if total > self._max_bytes:
            raise NotFetched(
                refused(f"attachments are too large: {total} bytes; a message may have {self._max_bytes}")
            )
        return total

    async def _one(self, id: str) -> Attachment:
        found = self._cached.get(id)
        if found is not None:
            self._cached.move_to_end(id)
            return found
        task = self._on_the_way.get(id)
        if task is None:
            task = self._on_the_way[id] = asyncio.create_task(self._get(id), name="attachment")
            task.add_done_callback(lambda done: self._arrived(id, done))
        return await asyncio.shield(task)  # who gives up does not take it from those who wait with them

    async def _get(self, id: str) -> Attachment:
        try:
            async with asyncio.timeout(self._seconds):
                return await self._store.get(id)
        except Missing:
            raise NotFetched(refused(f"attachment is missing: {id}")) from None
        except Damaged:
            raise NotFetched(refused(f"attachment is damaged: {id}")) from None
        except Unreachable as error:
            raise NotFetched(deferred(str(error), AGAIN_SECONDS)) from None
        except Exception as error:
            raise NotFetched(deferred(f"attachments: {type(error).__name__}", AGAIN_SECONDS)) from None

    def _arrived(self, id: str, task: asyncio.Task[Attachment]) -> None:
        del self._on_the_way[id]
        if task.cancelled() or task.exception() is not None:
            return
        found = task.result()
        if len(found.data) > self._cache_bytes:
            return
        self._cached[id] = found
        self._cached_bytes += len(found.data)
        while self._cached_bytes > self._cache_bytes:
            _, oldest = self._cached.popitem(last=False)
            self._cached_bytes -= len(oldest.data)


class _Room:
    """So many bytes, given out in the order in which they were asked for."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def taken(self, size: int) -> AsyncIterator[None]:
        """Takes room for a while; what is larger than all of it takes all of it."""
        size = min(size, self._size)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        self._let_in()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._free += size
            else:
                turn.cancel()
            self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.done():
                if size > self._free:
                    return
                self._free -= size
                turn.set_result(None)
            self._waiting.popleft()
