"""Tasks and lag, as programs and people get them."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from faust.types import TP

from pipeline.engine.task import Task
from pipeline.web import tasks
from pipeline.web.tasks import Ends, TaskState, Topic
from tests.browser.desk import Office
from tests.browser.roles import FakeApp, FakeTask, at_work
from tests.unit.test_web_api import ask
from tests.unit.test_web_pages import is_harmless, look

HERE = ("events", 0)


@pytest.fixture
def office() -> Office:
    return Office()


async def test_a_task_tells_state_epoch_queues_positions_and_lag(office: Office) -> None:
    app = at_work(office)
    task = app.consumer.tasks[0]
    task.began = time.monotonic() - 5
    task.by_topic["events"].records.extend([b"1", b"2"])
    task.by_topic["events"].bytes = 77
    app.consumer.full.add(TP("events", 0))
    told = (await ask(office, "lag")).json()["roles"]
    assert [(role["role"], role["partitions"]) for role in told] == [("core", {"open": 1, "of": 4})]
    (found,) = told[0]["tasks"]
    assert (found["partition"], found["state"], found["epoch"]) == (0, "running", 3)
    assert found["busy_since"].startswith("2026-09-21T14:13:1")
    assert found["positions"][1] == {
        "topic": "events", "queued": 2, "queued_bytes": 77, "paused": True, "done": 11, "committed": 10,
        "end": 12, "lag": 2,
    }  # fmt: skip


async def test_what_is_not_known_is_said_to_be_unknown(office: Office) -> None:
    at_work(office)
    told = (await ask(office, "lag")).json()["roles"][0]
    assert told["tasks"][0]["positions"][0]["lag"] is None
    assert told["lag"] is None and told["tasks"][0]["busy_since"] is None
    page = await look(office, "/console/tasks")
    is_harmless(page)
    assert 'data-lag="events-express-0"><span class="faint">unknown' in page
    assert 'data-lag="events-0">2<' in page
    office.ends["events-express", 0] = 0
    office.apps["core"].consumer.kept[TP("events-express", 0)] = 0
    office.tasks.ends = Ends(office.fetch_ends)
    assert (await ask(office, "lag")).json()["roles"][0]["lag"] == 2


@pytest.mark.parametrize(
    ("task", "draining", "state"),
    [
        (FakeTask(runner=None), False, TaskState.OPENING),
        (FakeTask(), False, TaskState.RUNNING),
        (FakeTask(), True, TaskState.DRAINING),
        (FakeTask(abandoned=True), True, TaskState.ABANDONED),
        (FakeTask(abandoned=True, closed=True), True, TaskState.CLOSED),
    ],
)
def test_a_task_is_in_one_state(task: FakeTask, draining: bool, state: TaskState) -> None:
    assert tasks.state_of(task, draining) is state


async def test_a_role_that_is_being_restored_shows_what_it_was_assigned(office: Office) -> None:
    app = at_work(office)
    app.consumer.tasks.clear()
    app.consumer.numbers = {2, 3}
    told = (await ask(office, "lag")).json()["roles"][0]["tasks"]
    assert [(one["partition"], one["state"], one["epoch"]) for one in told] == [
        (2, "opening", None), (3, "opening", None)
    ]  # fmt: skip


async def test_a_role_that_has_not_started_is_left_alone(office: Office) -> None:
    class Untouched(FakeApp):
        def __getattribute__(self, name: str) -> Any:
            assert name != "consumer", "asking for it would make one"
            return super().__getattribute__(name)

    office.apps = {"core": Untouched(started=False), "status": FakeApp()}
    assert [role["tasks"] for role in (await ask(office, "lag")).json()["roles"]] == [[], []]
    assert "has no partition of core" in await look(office, "/console/tasks")


def test_the_fakes_are_like_the_engines() -> None:
    app: Any = FakeApp()
    app.observer, app.consumer.app = None, app
    real = Task(app.consumer, 0, 1)
    assert set(FakeTask.__dataclass_fields__) <= set(vars(real))
    assert set(real.by_topic) == set(app.reads)


class Broker:
    def __init__(self) -> None:
        self.asked = 0
        self.away = self.slow = False

    async def __call__(self, wanted: set[Topic]) -> Mapping[Topic, int]:
        self.asked += 1
        if self.slow:
            await asyncio.sleep(60)
        if self.away:
            raise KafkaConnectionError
        return dict.fromkeys(wanted, self.asked)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_ends_are_asked_for_once_a_second_whoever_looks() -> None:
    broker, clock = Broker(), Clock()
    ends = Ends(broker, clock)
    assert await asyncio.gather(*[ends.look({HERE}) for _ in range(9)]) == [{HERE: 1}] * 9
    assert await ends.look({HERE}) == {HERE: 1}
    clock.now += 1
    assert await ends.look({HERE}) == {HERE: 2}
    assert broker.asked == 2


async def test_ends_are_unknown_when_the_broker_is_long_away() -> None:
    broker, clock = Broker(), Clock()
    ends = Ends(broker, clock)
    await ends.look({HERE})
    broker.away = True
    clock.now += 5
    assert await ends.look({HERE}) == {HERE: 1}
    clock.now += 6
    assert await ends.look({HERE}) == {}


async def test_nobody_waits_long_for_a_broker_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "PATIENCE_SECONDS", 0.01)
    broker = Broker()
    broker.slow = True
    ends = Ends(broker)
    async with asyncio.timeout(5):
        assert await asyncio.gather(*[ends.look({HERE}) for _ in range(9)]) == [{}] * 9
        assert broker.asked == 1
        await ends.close()
