"""What a message has attached: fetched once, within bounds, and told as an outcome where it cannot be had."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.attachments import (
    Attached,
    Attachment,
    Damaged,
    Missing,
    NotFetched,
    Swept,
    Unreachable,
)
from pipeline.attachments.attached import AGAIN_SECONDS, _Room
from pipeline.attachments.sweeping import PAUSE_SECONDS, REST_SECONDS, keep_swept
from schemas import attachment
from schemas.attachment import MAX_ATTACHMENTS
from tests.contract.peers import message


def named(n: int, size: int = 10) -> str:
    return attachment.compose(n.to_bytes(16), size, 20_000)


class Shelf:
    """A store that makes up what it is asked for; `gate` holds answers back, `error` is raised instead."""

    max_bytes = 1_000

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: BaseException | None = None
        self.sweeps: list[tuple[float, str]] = []
        self.pages: list[Swept | Exception] = []
        self.closed = False

    async def put(self, name: str, content_type: str, data: bytes) -> str:
        raise NotImplementedError

    async def get(self, id: str) -> Attachment:
        self.asked.append(id)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        found = attachment.read(id)
        assert found is not None
        return Attachment(id[:32].lstrip("0"), "text/plain", b"x" * found.size)

    async def sweep(self, now: float, after: str = "") -> Swept:
        self.sweeps.append((now, after))
        page = self.pages.pop(0)
        if isinstance(page, Exception):
            raise page
        return page

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def attached(shelf: Shelf, **bounds: Any) -> Attached:
    return Attached(shelf, **({"max_bytes": 1_000} | bounds))


def letter(*ids: str) -> Any:
    return message(attachments=ids)


async def refused(fetching: Awaitable[Any]) -> tuple[str, str | None, float | None]:
    with pytest.raises(NotFetched) as told:
        await fetching
    outcome = told.value.outcome
    return outcome.kind, outcome.reason, outcome.retry_after


async def settled() -> None:
    """Lets everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_attachments_come_in_the_order_of_the_message(shelf: Shelf) -> None:
    found = await attached(shelf).fetch(letter(named(3), named(1), named(3), named(2, 7)))
    assert [(one.name, len(one.data)) for one in found] == [("3", 10), ("1", 10), ("3", 10), ("2", 7)]


async def test_a_message_without_attachments_asks_nobody(shelf: Shelf) -> None:
    assert await attached(shelf).fetch(message()) == []
    assert shelf.asked == []


async def test_what_many_have_is_fetched_once(shelf: Shelf) -> None:
    mine = attached(shelf)
    shelf.gate.clear()
    asking = [asyncio.create_task(mine.fetch(letter(named(1)))) for _ in range(50)]
    await settled()
    shelf.gate.set()
    assert all([len(await one) == 1 for one in asking])
    await mine.fetch(letter(named(1)))
    assert shelf.asked == [named(1)]


async def test_what_was_used_longest_ago_makes_room_in_the_cache(shelf: Shelf) -> None:
    mine = attached(shelf, cache_bytes=30)
    for n in (1, 2, 3, 1, 4):
        await mine.fetch(letter(named(n)))
    shelf.asked.clear()
    for n in (1, 3, 4, 2):
        await mine.fetch(letter(named(n)))
    assert shelf.asked == [named(2)]
    await mine.fetch(letter(named(9, 31)))
    shelf.asked.clear()
    await mine.fetch(letter(named(9, 31), named(4)))
    assert shelf.asked == [named(9, 31)]


@pytest.mark.parametrize(
    ("error", "kind", "reason", "again"),
    [
        (Missing(), "refused", f"attachment is missing: {named(1)}", None),
        (Damaged(), "refused", f"attachment is damaged: {named(1)}", None),
        (Unreachable("attachments: SlowDown"), "deferred", "attachments: SlowDown", AGAIN_SECONDS),
        (RuntimeError("with /a/path"), "deferred", "attachments: RuntimeError", AGAIN_SECONDS),
    ],
)
async def test_what_cannot_be_had_is_told_as_an_outcome_and_not_remembered(
    shelf: Shelf, error: Exception, kind: str, reason: str, again: float | None
) -> None:
    mine = attached(shelf)
    shelf.error = error
    assert await refused(mine.fetch(letter(named(1)))) == (kind, reason, again)
    shelf.error = None
    assert len(await mine.fetch(letter(named(1)))) == 1


async def test_a_store_that_hangs_is_given_up(shelf: Shelf) -> None:
    shelf.gate.clear()
    found = await refused(attached(shelf, seconds=0.01).fetch(letter(named(1))))
    assert found == ("deferred", "attachments: TimeoutError", AGAIN_SECONDS)


@pytest.mark.parametrize("id", ["", "../x", "\0", "x" * 300, "a\r\nb"])
async def test_what_is_no_id_is_refused_unrepeated_and_unasked(shelf: Shelf, id: str) -> None:
    found = await refused(attached(shelf).fetch(letter(named(1), id)))
    assert found == ("refused", "attachments.1: not the id of an attachment", None)
    assert shelf.asked == []


async def test_too_much_is_refused_before_anything_is_fetched(shelf: Shelf) -> None:
    mine = attached(shelf)
    assert len(await mine.fetch(letter(named(1, 600), named(2, 400)))) == 2
    shelf.asked.clear()
    kind, reason, _ = await refused(mine.fetch(letter(named(3, 600), named(4, 401))))
    assert (kind, reason) == ("refused", "attachments are too large: 1001 bytes; a message may have 1000")
    kind, reason, _ = await refused(mine.fetch(letter(*[named(n, 1) for n in range(1, MAX_ATTACHMENTS + 2)])))
    assert (kind, reason) == ("refused", "11 attachments; a message may have 10")
    assert shelf.asked == []


async def test_who_gives_up_leaves_it_to_those_who_wait(shelf: Shelf) -> None:
    mine = attached(shelf)
    shelf.gate.clear()
    first, second = [asyncio.create_task(mine.fetch(letter(named(1)))) for _ in range(2)]
    await settled()
    first.cancel()
    await settled()
    shelf.gate.set()
    assert len(await second) == 1
    assert first.cancelled()


async def test_messages_are_held_only_as_long_as_there_is_room(shelf: Shelf) -> None:
    mine = attached(shelf, held_bytes=100)
    most = inside = 0
    go_on = asyncio.Event()

    async def send(n: int, size: int) -> None:
        nonlocal inside, most
        async with mine.held(letter(named(n, size))) as found:
            inside += len(found[0].data)
            most = max(most, inside)
            await go_on.wait()
            inside -= len(found[0].data)

    sending = [asyncio.create_task(send(n, 40)) for n in range(1, 11)]
    await settled()
    assert inside == 80
    assert len(shelf.asked) == 2
    go_on.set()
    await asyncio.gather(*sending)
    assert (most, inside) == (80, 0)
    await asyncio.gather(send(20, 500))  # more than all the room: it has it for itself


async def test_who_gives_up_waiting_takes_no_room_and_gives_none() -> None:
    room, go_on = _Room(100), asyncio.Event()
    inside: list[int] = []

    async def take(n: int) -> None:
        async with room.taken(100):
            inside.append(n)
            await go_on.wait()

    first, second, third = [asyncio.create_task(take(n)) for n in range(3)]
    await settled()
    second.cancel()
    await settled()
    assert inside == [0]
    go_on.set()
    await asyncio.gather(first, third)
    assert inside == [0, 2]


@given(st.lists(st.tuples(st.integers(1, 150), st.sampled_from("tgc")), max_size=30))
def test_room_is_never_given_twice_and_never_lost(turns: list[tuple[int, str]]) -> None:
    async def run() -> None:
        room, done, held = _Room(100), asyncio.Event(), 0
        tasks: list[asyncio.Task[None]] = []

        async def take(size: int) -> None:
            nonlocal held
            async with room.taken(size):
                held += min(size, 100)
                assert held <= 100
                try:
                    await done.wait()
                finally:
                    held -= min(size, 100)

        for size, what in turns:
            if what == "t" or not tasks:
                tasks.append(asyncio.create_task(take(size)))
            elif what == "g":
                await settled()
            else:
                tasks[size % len(tasks)].cancel()
        await settled()
        done.set()
        for found in await asyncio.gather(*tasks, return_exceptions=True):
            assert found is None or isinstance(found, asyncio.CancelledError)
        async with asyncio.timeout(5), room.taken(100):
            pass

    asyncio.run(run())


async def test_closing_ends_what_is_on_the_way(shelf: Shelf) -> None:
    mine = attached(shelf)
    shelf.gate.clear()
    asking = asyncio.create_task(mine.fetch(letter(named(1))))
    await settled()
    await mine.close()
    assert shelf.closed
    with pytest.raises(asyncio.CancelledError):
        await asking


# -- sweeping


class Stopped(Exception):
    """Enough was seen."""


def pauses(seen: list[float], most: int) -> Callable[[float], Awaitable[None]]:
    async def pause(seconds: float) -> None:
        seen.append(seconds)
        if len(seen) == most:
            raise Stopped

    return pause


async def test_sweeping_goes_through_all_pages_and_then_rests(shelf: Shelf) -> None:
    seen: list[float] = []
    shelf.pages = [Swept(2, "b"), Swept(0, "d"), Swept(1, ""), Swept(0, "")]
    clock = iter([1.0, 2.0, 3.0, 4.0])
    with pytest.raises(Stopped):
        await keep_swept(shelf, clock=lambda: next(clock), pause=pauses(seen, 4))
    assert shelf.sweeps == [(1.0, ""), (2.0, "b"), (3.0, "d"), (4.0, "")]
    assert seen == [PAUSE_SECONDS, PAUSE_SECONDS, REST_SECONDS, REST_SECONDS]


async def test_a_store_that_does_not_answer_is_swept_later(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[float] = []
    shelf.pages = [Swept(0, "b"), Unreachable("attachments: SlowDown"), ValueError("x"), Swept(0, "")]
    with pytest.raises(Stopped):
        await keep_swept(shelf, pause=pauses(seen, 4))
    assert [after for _, after in shelf.sweeps] == ["", "b", "", ""]
    assert seen == [PAUSE_SECONDS, REST_SECONDS, REST_SECONDS, REST_SECONDS]
    assert "attachments were not swept: attachments: SlowDown" in caplog.text
