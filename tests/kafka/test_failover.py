"""Several providers of a channel over the whole of delivery: one is away, both are, another is asked for."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.pool import Pool
from pipeline.run import Runner
from pipeline.settings import given
from pipeline.simulator import Simulator
from pipeline.simulator.twilio import ACCOUNT_SID, AUTH_TOKEN
from pipeline.simulator.vonage import API_KEY, API_SECRET
from pipeline.topics import create
from schemas.kinds import Channel, State
from schemas.status import Status
from tests.kafka.test_dead_letters import Desk, becomes
from tests.kafka.test_retries import is_through, statuses

pytestmark = pytest.mark.kafka
ROLES = ("core", "sms", "status")


class Carriers:
    """Two providers of SMS, and a pipeline before them."""

    def __init__(self, desk: Desk, main: Simulator, backup: Simulator) -> None:
        self.desk, self.main, self.backup = desk, main, backup

    async def send(self, *numbers: str) -> None:
        """A text of its own to each number."""
        await self.desk.send(*[
            json.dumps({
                "event_type": "told.directly", "content": {"body": f"Hello {number}"}, "channels": ["sms"],
                "idempotency_key": number, "recipients": [{"user_id": f"u{number}", "phone": number}],
            }).encode()
            for number in numbers
        ])  # fmt: skip

    async def is_through(self) -> bool:
        return await is_through(self.desk, "core") and await is_through(self.desk, "sms")

    async def told(self) -> list[Status]:
        """Every status of a call."""
        return [one for one in await statuses(self.desk) if one.channel is Channel.SMS and one.attempt]

    def effects(self) -> tuple[int, int]:
        """Texts that went out, by each of the two."""
        return self.main.effects.total(), self.backup.effects.total()


@pytest.fixture
async def carriers(kafka: str, tmp_path: Path) -> AsyncIterator[Carriers]:
    desk = Desk(kafka, tmp_path)
    async with Simulator("twilio") as main, Simulator("vonage") as backup:
        secrets: dict[str, Any] = {"api_key": API_KEY, "api_secret": API_SECRET}
        providers = {
            "main": {
                "kind": "twilio", "base_url": main.base_url, "account_sid": ACCOUNT_SID,
                "auth_token": AUTH_TOKEN, "from": "+15005550006",
            },
            "backup": {"kind": "vonage", "base_url": backup.base_url, "from": "Carillon", **secrets},
        }  # fmt: skip
        sms = given(channels={"sms": {"order": ["main", "backup"], "providers": providers}}).channels
        channels = {**desk.settings.channels, Channel.SMS: sms[Channel.SMS]}
        # with an address for receipts Twilio is given our reference, by which its effects are counted
        web = desk.settings.web.model_copy(update={"public_url": main.base_url})
        desk.settings = desk.settings.model_copy(update={"channels": channels, "web": web})
        desk.config.write_text(
            desk.config.read_text()
            + '[channels.sms]\norder = ["main", "backup"]\n'
            + '[channels.sms.providers.main]\nkind = "twilio"\n'
            + '[channels.sms.providers.backup]\nkind = "vonage"\n'
        )
        await create(desk.settings)
        yield Carriers(desk, main, backup)


def numbers(count: int) -> list[str]:
    return [f"+4915112345{n:03d}" for n in range(count)]


async def test_who_surely_did_not_send_is_followed_by_the_next(carriers: Carriers) -> None:
    await carriers.main.set_faults(["down"])
    async with carriers.desk.running(*ROLES):
        await carriers.send(*numbers(20))
        await becomes(carriers.is_through, "all through", 60)
        told = await carriers.told()
    assert carriers.effects() == (0, 20)
    assert max(carriers.backup.requests.values()) == 1
    sent = [one for one in told if one.state is State.SENT]
    assert {one.provider for one in sent} == {"backup"}
    assert len(sent) == 20
    assert {one.provider for one in told if one.state is State.RETRYING} == {"main"}
    assert await carriers.desk.held("dlq-sms") == 0


async def test_nobody_else_is_asked_where_the_first_may_have_sent(carriers: Carriers) -> None:
    await carriers.main.set_faults(["reset_after_body:first=1"])
    async with carriers.desk.running(*ROLES):
        await carriers.send(*numbers(1))
        await becomes(carriers.is_through, "all through", 60)
        told = await carriers.told()
    assert carriers.backup.requests.total() == 0
    assert next(one.state for one in told) is State.UNKNOWN
    assert {one.provider for one in told} == {"main"}


async def test_while_all_are_away_work_waits_in_kafka_and_goes_on_by_itself(carriers: Carriers) -> None:
    for one in (carriers.main, carriers.backup):
        await one.set_faults(["down"])
    async with carriers.desk.running(*ROLES) as runner:
        pool = runner.roles.pools[Channel.SMS]
        await carriers.send(*numbers(300))
        await becomes(lambda: _is_open(pool), "both left alone", 60)
        probes = Counter(one.attempt for one in await carriers.told())
        assert probes, "nobody tried"
        await becomes(lambda: _is_kept(runner, 200), "records that wait in Kafka", 60)
        for one in (carriers.main, carriers.backup):
            await one.set_faults([])
        await becomes(carriers.is_through, "all through", 90)
        told = await carriers.told()
    assert sum(carriers.effects()) == 300
    assert max((carriers.main.effects + carriers.backup.effects).values()) == 1
    assert sum(one.state is State.SENT for one in told) == 300
    assert not [one for one in told if one.state in {State.FAILED, State.UNKNOWN}]
    assert await carriers.desk.held("dlq-sms") == 0


async def _is_open(pool: Pool) -> bool:
    return all(member.breaker.is_open for member in pool.members.values())


async def _is_kept(runner: Runner, least: int) -> bool:
    tasks = runner.apps["sms"].consumer.tasks.values()
    return sum(len(queue) for task in tasks for queue in task.queues) >= least


async def test_a_dead_letter_goes_out_by_another_provider_where_the_operator_says_so(
    carriers: Carriers,
) -> None:
    await carriers.main.set_faults(["21612"])
    async with carriers.desk.running(*ROLES):
        await carriers.send(*numbers(3))
        await becomes(lambda: _held(carriers, 3), "three letters", 60)
        letters = await carriers.desk.letters("--provider", "main", "--code", "21612")
        assert len(letters) == 3
        await carriers.desk.told("redrive", "--provider", "main", "--to-provider", "backup")
        await becomes(lambda: _sent(carriers, 3), "sent by the other", 60)
        await becomes(carriers.is_through, "all through", 60)
    assert carriers.effects() == (0, 3)
    assert carriers.main.requests.total() == 3


async def _held(carriers: Carriers, count: int) -> bool:
    return await carriers.desk.held("dlq-sms") == count


async def _sent(carriers: Carriers, count: int) -> bool:
    return carriers.backup.effects.total() == count
