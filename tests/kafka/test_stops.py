"""Stops on a real Kafka: whoever opts out is not called, however much waits for them."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition

from agents import topics
from pipeline.replay import reading
from schemas import outcome
from schemas.kinds import Channel, Reason, State
from schemas.message import Message
from schemas.outcome import Outcome
from schemas.status import Status
from tests.kafka.engine_app import eventually
from tests.kafka.replay_scene import World, at_the_end, rows

pytestmark = pytest.mark.kafka
WAITING = 50
USER = "u2"


class Slow:
    """Takes the first message and does not answer before it may; notes who is called."""

    name = kind = "slow"
    honours_keys = False
    parallel = 8
    platforms = None

    def __init__(self) -> None:
        self.called: list[Message] = []
        self.may_answer = asyncio.Event()

    async def send(self, message: Message, key: str) -> Outcome:
        self.called.append(message)
        await self.may_answer.wait()
        return outcome.sent()

    async def close(self) -> None:
        self.may_answer.set()


async def tell(world: World, begin: int, end: int) -> None:
    """Events that are to tell the user by e-mail and in the inbox."""
    await world.send(topics.EVENTS, [
        (USER, {"specversion": "1.0", "id": f"e-{n}", "source": "test", "type": "t.ordered",
                "data": {"user": USER, "n": n}})
        for n in range(begin, end)
    ])  # fmt: skip


async def prefer(world: World, **wishes: Any) -> None:
    await world.send(topics.PREFERENCES, [(USER, {"user_id": USER, **wishes})])


async def read(world: World, topic: str) -> list[bytes]:
    """The values that stand on a topic."""
    parts = [TopicPartition(world.prefix + topic, number) for number in range(2)]
    found = []
    async with reading(world.settings, parts) as consumer:
        ends = await consumer.end_offsets(parts)
        await consumer.seek_to_beginning(*parts)
        while any([await consumer.position(part) < ends[part] for part in parts]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += [record.value for record in records]
    return found


async def outcomes(world: World) -> Counter[tuple[State, str | None]]:
    """How often a state by e-mail was told, and why."""
    told = [Status.from_json(value) for value in await read(world, topics.DELIVERY_STATUS)]
    return Counter((one.state, one.reason) for one in told if one.channel is Channel.EMAIL)


STOPPED = (State.SUPPRESSED, Reason.CHANNEL_OPTED_OUT)


async def test_who_opts_out_while_messages_wait_behind_a_slow_provider_is_not_called_again(
    kafka: str, tmp_path: Path
) -> None:
    world, slow = World(kafka, tmp_path), Slow()
    async with world.running(email=slow) as runner:
        await world.people(limit=1_000)
        await prefer(world, frequency_limit=1_000)
        await world.settled()
        await tell(world, 0, WAITING)
        await eventually(lambda: len(slow.called) == 1, "the first call")
        await world.settled()
        assert len(await read(world, topics.MESSAGES[Channel.EMAIL])) == WAITING
        await prefer(world, frequency_limit=1_000, channels={"email": False})
        await eventually(lambda: b"z|user|u2" in rows(runner, "email"), "the stop in the channel's store")
        assert len(slow.called) == 1
        slow.may_answer.set()
        await world.settled()
        assert await at_the_end(world, "email")
        assert len(slow.called) == 1
        told = await outcomes(world)
        assert told[STOPPED] == WAITING - 1
        assert told[State.SENT, None] == 1

        await prefer(world, frequency_limit=1_000)
        await world.settled()
        await tell(world, WAITING, WAITING + 1)
        await eventually(lambda: len(slow.called) == 2, "the call for what was decided later")
        assert slow.called[-1].text == f"Order {WAITING}"


async def test_a_role_that_was_down_hears_the_stops_before_it_calls(kafka: str, tmp_path: Path) -> None:
    world, slow = World(kafka, tmp_path), Slow()
    slow.may_answer.set()
    async with world.running("core", "status"):
        await world.people(limit=1_000)
        await prefer(world, frequency_limit=1_000)
        await world.settled()
        await tell(world, 0, WAITING)
        await world.settled()
        await prefer(world, frequency_limit=1_000, channels={"email": False})
        await world.settled()
    async with world.running(email=slow):
        assert await at_the_end(world, "email")
        await world.settled()
        assert slow.called == []
        assert (await outcomes(world))[STOPPED] == WAITING
        assert len(world.sent()) == WAITING  # in the inbox, which they did not switch off
