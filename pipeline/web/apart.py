"""Long work that a page asked for, done in a thread and a loop of its own, bounded in time and in number."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from aiokafka.errors import KafkaConnectionError, KafkaError

from pipeline.settings import SettingsError

T = TypeVar("T")
TOGETHER = 2
TURN_SECONDS = 5.0
"""How long one waits for a turn."""


class Away(Exception):
    """What was asked for cannot be told now; the message says why, and a later try may be in luck."""


class Late(Away):
    """It took too long."""


class Apart:
    """Runs work for pages so that reading a million records holds up no role of this process."""

    def __init__(self, together: int = TOGETHER) -> None:
        self._turns = asyncio.Semaphore(together)

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]], seconds: float) -> T:
        """What the work returns. Raises Late where it takes too long, Away where no turn comes or no broker
        answers. Whoever is cancelled here cancels it there.
        """
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise Away("others are being answered; try again in a moment") from None
        try:
            return await _run(work, seconds)
        except TimeoutError as error:
            raise Late(str(error) or f"there was no answer within {seconds:.0f} s") from None
        except KafkaConnectionError:
            raise Away("kafka.bootstrap_servers: no broker answers") from None
        except KafkaError as error:
            raise Away(f"kafka: {error}") from None
        except SettingsError as error:
            raise Away(str(error)) from None
        finally:
            self._turns.release()


async def _run(work: Callable[[], Coroutine[Any, Any, T]], seconds: float) -> T:
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()  # so that only the thread ends it
    there: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = []

    async def bounded() -> T:
        there.append((asyncio.get_running_loop(), asyncio.current_task()))
        async with asyncio.timeout(seconds):
            return await work()

    def run() -> None:
        try:
            outcome.set_result(asyncio.run(bounded()))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="apart", daemon=True).start()
    try:
        return await asyncio.wrap_future(outcome)
    except asyncio.CancelledError:
        for loop, task in there:
            if task is not None and not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)
        raise
