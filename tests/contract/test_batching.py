"""Calls that come together share a request, and each still has its own outcome."""

import asyncio
from collections.abc import Sequence

import pytest

from pipeline.providers.batching import Batches
from schemas.outcome import Outcome, sent


class Sender:
    """Notes what was sent together, and answers when it is let."""

    def __init__(self) -> None:
        self.requests: list[list[str]] = []
        self.most_at_once = self.now = 0
        self.go = asyncio.Event()
        self.go.set()

    async def send(self, items: Sequence[str]) -> Sequence[Outcome]:
        self.requests.append(list(items))
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        try:
            await self.go.wait()
        finally:
            self.now -= 1
        return [sent(item) for item in items]


async def turns(count: int = 5) -> None:
    """Lets everything that is ready go on."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_comes_together_shares_a_request_and_has_outcomes_of_its_own() -> None:
    sender = Sender()
    batches = Batches(sender.send, most=10, at_once=4)
    found = await asyncio.gather(*[batches.join(name, "words", name) for name in "abc"])
    assert sender.requests == [["a", "b", "c"]]
    assert [one.provider_message_id for one in found] == ["a", "b", "c"]


async def test_what_comes_a_turn_later_does_not_wait_for_others_to_come() -> None:
    sender = Sender()
    batches = Batches(sender.send, most=10, at_once=4)
    assert (await batches.join("a", "words", "a")).provider_message_id == "a"
    assert (await batches.join("b", "words", "b")).provider_message_id == "b"
    assert sender.requests == [["a"], ["b"]]


async def test_what_is_not_alike_goes_alone() -> None:
    sender = Sender()
    batches = Batches(sender.send, most=10, at_once=4)
    await asyncio.gather(*[batches.join(name, name in "ac", name) for name in "abc"])
    assert sorted(sender.requests) == [["a", "c"], ["b"]]


async def test_no_two_of_one_name_share_a_request() -> None:
    sender = Sender()
    batches = Batches(sender.send, most=10, at_once=4)
    async with asyncio.timeout(5):
        await asyncio.gather(*[batches.join(item, "words", "kim") for item in "abc"])
    assert sender.requests == [["a"], ["b"], ["c"]]


async def test_a_request_holds_no_more_than_it_may() -> None:
    sender = Sender()
    batches = Batches(sender.send, most=3, at_once=4)
    await asyncio.gather(*[batches.join(name, "words", name) for name in "abcdefgh"])
    assert sender.requests == [["a", "b", "c"], ["d", "e", "f"], ["g", "h"]]


async def test_while_enough_requests_are_under_way_the_others_gather() -> None:
    sender = Sender()
    sender.go.clear()
    batches = Batches(sender.send, most=10, at_once=2)
    calls = []
    for name in "abcdef":
        calls.append(asyncio.create_task(batches.join(name, "words", name)))
        await turns()
    assert sender.requests == [["a"], ["b"]]
    sender.go.set()
    assert [one.provider_message_id for one in await asyncio.gather(*calls)] == list("abcdef")
    assert sender.requests == [["a"], ["b"], ["c", "d", "e", "f"]]
    assert sender.most_at_once == 2


async def test_one_who_goes_away_leaves_the_others_theirs() -> None:
    sender = Sender()
    sender.go.clear()
    batches = Batches(sender.send, most=10, at_once=1)
    first, second = (asyncio.create_task(batches.join(name, "words", name)) for name in "ab")
    await turns()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    sender.go.set()
    assert (await second).provider_message_id == "b"


async def test_one_who_goes_away_before_the_request_is_left_out_of_it() -> None:
    sender = Sender()
    batches = Batches(sender.send, most=10, at_once=1)
    sender.go.clear()
    blocking = asyncio.create_task(batches.join("x", "others", "x"))
    await turns()
    first, second = (asyncio.create_task(batches.join(name, "words", name)) for name in "ab")
    await turns()
    first.cancel()
    await turns()
    sender.go.set()
    await asyncio.gather(blocking, second)
    assert sender.requests == [["x"], ["b"]]


async def test_a_request_that_nobody_waits_for_is_given_up() -> None:
    sender = Sender()
    sender.go.clear()
    batches = Batches(sender.send, most=10, at_once=1)
    calls = [asyncio.create_task(batches.join(name, "words", name)) for name in "ab"]
    await turns()
    assert sender.now == 1
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await turns()
    assert sender.now == 0
    sender.go.set()
    assert (await batches.join("c", "words", "c")).provider_message_id == "c"


async def test_at_the_end_what_is_under_way_is_in_doubt_and_what_waits_was_not_sent() -> None:
    sender = Sender()
    sender.go.clear()
    batches = Batches(sender.send, most=10, at_once=1)
    under_way, waiting = (asyncio.create_task(batches.join(name, name, name)) for name in "ab")
    await turns()
    await batches.close()
    assert ((await under_way).kind, (await waiting).kind) == ("doubtful", "deferred")
    await batches.close()
    assert sender.requests == [["a"]]


async def test_at_the_end_what_was_not_begun_has_an_outcome_as_well() -> None:
    sender = Sender()
    batches = Batches(sender.send, most=10, at_once=1)
    call = asyncio.create_task(batches.join("a", "words", "a"))
    while not batches._running:
        await asyncio.sleep(0)
    await batches.close()  # before the request's task had its first step
    async with asyncio.timeout(5):
        assert (await call).kind == "deferred"
    assert sender.requests == []
