"""A host that hangs takes its share of a channel's calls, and no more: the others are called all the same."""

import json
from pathlib import Path

import pytest

from pipeline.providers.http import CONNECTIONS, CONNECTIONS_PER_HOST
from pipeline.settings import given
from pipeline.simulator import Simulator
from pipeline.topics import create
from schemas.kinds import Channel, State
from tests.kafka.test_dead_letters import Desk, becomes
from tests.kafka.test_retries import is_through, statuses

pytestmark = pytest.mark.kafka
SLOW, QUICK = CONNECTIONS + 100, 40
HANGS_SECONDS = 60
"""Longer than all that is done meanwhile."""


async def tell(desk: Desk, to: Simulator, whom: str, count: int) -> None:
    """A webhook to each of so many users, all at one host."""
    for first in range(0, count, 50):
        users = [f"{whom}{n}" for n in range(first, min(first + 50, count))]
        await desk.send(
            json.dumps({
                "event_type": "told.directly", "content": {"body": "Hello"}, "channels": ["webhook"],
                "idempotency_key": f"{whom}{first}",
                "recipients": [{"user_id": u, "webhook_url": f"{to.base_url}/{u}"} for u in users],
            }).encode()
        )  # fmt: skip


async def test_a_webhook_host_that_hangs_leaves_room_for_the_others(kafka: str, tmp_path: Path) -> None:
    desk = Desk(kafka, tmp_path)
    hooks = {"kind": "webhook", "allow_internal": True, "timeout": HANGS_SECONDS}
    webhook = given(channels={"webhook": {"providers": {"hooks": hooks}}}).channels
    desk.settings = desk.settings.model_copy(update={"channels": {**desk.settings.channels, **webhook}})
    await create(desk.settings)

    async def all_quick() -> bool:
        return quick.effects.total() == QUICK

    async def is_full() -> bool:
        return slow.requests.total() == CONNECTIONS_PER_HOST

    async def all_through() -> bool:
        return await is_through(desk, "core") and await is_through(desk, "webhook")

    async with Simulator("webhook", faults=["hang"]) as slow, Simulator("webhook") as quick:
        async with desk.running("core", "webhook", "status"):
            await tell(desk, slow, "slow", SLOW)
            await becomes(is_full, "the host's share is taken", 60)
            await tell(desk, quick, "quick", QUICK)
            await becomes(all_quick, "those of the other host are told", 60)
            assert slow.requests.total() == CONNECTIONS_PER_HOST
            await slow.set_faults(["down"])  # which drops what hangs
            await slow.set_faults([])
            await becomes(all_through, "all through", 120)
        assert slow.effects.total() == SLOW
        assert max((slow.effects + quick.effects).values()) == 1
    told = [one for one in await statuses(desk) if one.channel is Channel.WEBHOOK]
    assert sum(one.state is State.SENT for one in told) == SLOW + QUICK
    assert await desk.held("dlq-webhook") == 0
