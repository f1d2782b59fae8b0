"""What operators see of broadcasts, and how they cancel one."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from schemas.broadcast import Stage
from schemas.ids import broadcast_id
from tests.browser.desk import NOON, SOURCE, TOKEN, XSS, Office
from tests.unit.test_web_repair_pages import hidden


@pytest.fixture
def office() -> Office:
    return Office()


async def ask(office: Office, path: str, method: str = "GET", **more: Any) -> httpx.Response:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(office.app), base_url="http://127.0.0.1",
        headers={"authorization": f"Bearer {TOKEN}"},
    ) as client:  # fmt: skip
        return await client.request(method, path, **more)


@contextlib.asynccontextmanager
async def signed_in(office: Office) -> AsyncIterator[httpx.AsyncClient]:
    """A browser with a session."""
    transport = httpx.ASGITransport(office.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as browser:
        await browser.get("/console/tables", params={"token": TOKEN})
        yield browser


async def form_token(browser: httpx.AsyncClient) -> str:
    return hidden((await browser.get("/console/replay")).text, "/console/replay")["form_token"]


async def test_a_broadcast_is_the_sum_of_what_its_partitions_say(office: Office) -> None:
    found = office.broadcast(partition=0, undecided=2).broadcast
    told = (await ask(office, f"/api/v1/broadcasts/{found}")).json()
    assert (told["stage"], told["told"], told["partitions"], len(told["parts"])) == ("running", 1_200, 2, 1)
    office.broadcast(partition=1, stage=Stage.DONE, told=5, looked_at=7)
    office.broadcast(partition=0, turn=1, stage=Stage.DONE, told=1_300, looked_at=3_100, undecided=2)
    office.broadcast(partition=0, turn=0, told=9)
    told = (await ask(office, f"/api/v1/broadcasts/{found}")).json()
    assert (told["stage"], told["told"], told["looked_at"], told["undecided"]) == ("done", 1_305, 3_107, 2)
    assert told["event"] == {"source": SOURCE, "id": "news", "type": "order.placed"}
    assert [part["partition"] for part in told["parts"]] == [0, 1]


@pytest.mark.parametrize(
    ("stages", "whole"),
    [
        (["scheduled"], "scheduled"),
        (["scheduled", "scheduled"], "scheduled"),
        (["scheduled", "done"], "running"),
        (["done"], "running"),
        (["done", "running"], "running"),
        (["done", "done"], "done"),
        (["done", "cancelled"], "cancelled"),
        (["cancelled"], "running"),
        (["cancelled", "cancelled"], "cancelled"),
        (["failed"], "failed"),
        (["failed", "done"], "failed"),
        (["failed", "running"], "running"),
    ],
)
async def test_it_has_ended_when_every_partition_has(office: Office, stages: list[str], whole: str) -> None:
    for number, stage in enumerate(stages):
        found = office.broadcast(partition=number, stage=Stage(stage)).broadcast
    assert (await ask(office, f"/api/v1/broadcasts/{found}")).json()["stage"] == whole


async def test_what_is_not_there_is_told_apart_from_what_is_held_elsewhere(office: Office) -> None:
    found = office.broadcast().broadcast
    unknown = broadcast_id(SOURCE, "another", "orders")
    assert (await ask(office, f"/api/v1/broadcasts/{unknown}")).status_code == 404
    assert (await ask(office, "/api/v1/broadcasts/nonsense")).status_code == 422
    assert (await ask(office, "/console/broadcasts/nonsense")).status_code == 404
    office.lose(found)
    assert (await ask(office, f"/api/v1/broadcasts/{found}")).status_code == 503
    assert (await ask(office, f"/console/broadcasts/{found}")).status_code == 503
    assert "3 of 4 partitions" in (await ask(office, "/console/broadcasts")).text


async def test_a_cancel_is_accepted_when_the_broker_has_it(office: Office) -> None:
    unknown = broadcast_id(SOURCE, "not yet", "orders")
    answer = await ask(office, f"/api/v1/broadcasts/{unknown}", "DELETE")
    assert (answer.status_code, answer.json()) == (202, {"broadcast_id": unknown})
    assert (await ask(office, "/api/v1/broadcasts/nonsense", "DELETE")).status_code == 422
    assert office.cancelled == [unknown]
    office.broker_is_away = True
    answer = await ask(office, f"/api/v1/broadcasts/{unknown}", "DELETE")
    assert answer.status_code == 503 and "broker" in answer.json()["detail"]
    async with signed_in(office) as browser:
        token = await form_token(browser)
        cancel = f"/console/broadcasts/{unknown}/cancel"
        assert (await browser.post(cancel)).status_code == 403, "not of this session"
        assert (await browser.post(cancel, data={"form_token": token})).status_code == 503


async def test_the_page_lists_the_newest_first_and_cancels_what_is_under_way(office: Office) -> None:
    assert "Nothing was told to a segment" in (await ask(office, "/console/broadcasts")).text
    older = office.broadcast("first").broadcast
    newer = office.broadcast("second", event_at=NOON + 1).broadcast
    listed = (await ask(office, "/console/broadcasts")).text
    assert listed.index(newer) < listed.index(older)
    page = (await ask(office, f"/console/broadcasts/{newer}")).text
    assert "1\u2009200 of 3\u2009000 users" in page and "1 of 2 partitions have begun" in page
    cancel = f"/console/broadcasts/{newer}/cancel"
    assert f'action="{cancel}"' in page
    async with signed_in(office) as browser:
        answer = await browser.post(cancel, data={"form_token": await form_token(browser)})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/console/broadcasts/{newer}")
    assert office.cancelled == [newer]
    for number in (0, 1):
        office.broadcast("second", partition=number, turn=1, stage=Stage.CANCELLED)
    assert "/cancel" not in (await ask(office, f"/console/broadcasts/{newer}")).text


@pytest.mark.parametrize("name", XSS)
async def test_whatever_somebody_calls_a_segment_or_an_event_is_text(office: Office, name: str) -> None:
    found = office.broadcast(name, segment=name, workflow=name).broadcast
    for path in ("/console/broadcasts", f"/console/broadcasts/{found}"):
        page = (await ask(office, path)).text
        assert name not in page or not set(name) & set("<>\"'")


async def test_nobody_sees_or_cancels_without_signing_in(office: Office) -> None:
    found = office.broadcast().broadcast
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(office.app), base_url="http://127.0.0.1"
    ) as client:
        assert (await client.get(f"/api/v1/broadcasts/{found}")).status_code == 401
        assert (await client.delete(f"/api/v1/broadcasts/{found}")).status_code == 401
        assert (await client.post(f"/console/broadcasts/{found}/cancel")).status_code == 401
    assert office.cancelled == []
