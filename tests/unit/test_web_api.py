"""What programs of operators get."""

from typing import Any

import httpx
import pytest

from schemas.ids import notification_id
from schemas.kinds import Channel, State
from schemas.message import ChannelContent
from schemas.status import Verdict
from tests.browser.desk import NOON, SOURCE, TOKEN, Office


@pytest.fixture
def office() -> Office:
    return Office()


async def ask(office: Office, path: str, **params: Any) -> httpx.Response:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(office.app),
        base_url="http://127.0.0.1",
        headers={"authorization": f"Bearer {TOKEN}"},
    ) as client:
        return await client.get(f"/api/v1/{path}", params=params)


def is_problem(found: httpx.Response, status: int, *fields: str) -> None:
    assert found.status_code == status
    assert found.headers["content-type"] == "application/problem+json"
    told = found.json()
    assert told["status"] == status and told["title"] and told["detail"]
    assert [error["field"] for error in told.get("errors", [])] == list(fields)


async def test_a_notification_tells_state_timeline_and_why(office: Office) -> None:
    why = (
        Verdict(rule="workflow", saw="order.placed", verdict="orders"),
        Verdict(rule="email", verdict="queued"),
    )
    found = office.tell(State.QUEUED, took=5, why=why)
    office.tell(State.SENT, took=45, attempt=1, provider="main", provider_message_id="m-1")
    office.tell(State.SUPPRESSED, channel=Channel.SMS, address="+15550000001", reason="channel_opted_out")
    office.tell(State.DUPLICATE, channel=None, took=900, reason="already_planned")
    office.write(found, "ada", email=ChannelContent(subject="Hello", text="Hello Ada"))
    told = (await ask(office, f"notifications/{found}")).json()
    assert (told["notification_id"], told["user_id"], told["state"]) == (found, "ada", "sent")
    assert told["channels"] == {"email": "sent", "sms": "suppressed"}
    assert told["event"] == {"source": SOURCE, "id": "order-1", "type": "order.placed"}
    assert [step["state"] for step in told["timeline"]] == ["queued", "suppressed", "sent", "duplicate"]
    assert told["timeline"][2]["provider"] == "main" and told["timeline"][2]["attempt"] == 1
    assert [verdict["rule"] for verdict in told["why"]] == ["workflow", "email"]
    assert told["targets"][0]["target"] == "a••@example.com"
    assert told["content"]["email"]["subject"] == "Hello"
    assert told["duplicates"] == 1


async def test_content_that_comes_before_any_status_is_shown_as_such(office: Office) -> None:
    found = notification_id("ada", SOURCE, "early", "orders")
    office.write(found, "ada", email=ChannelContent(text="early"))
    told = (await ask(office, f"notifications/{found}")).json()
    assert told["state"] is None and told["event"] is None and told["content"]["email"]["text"] == "early"


async def test_a_users_notifications_come_newest_first_and_page_by_page(office: Office) -> None:
    for n in range(7):
        office.tell(State.SENT, event=f"order-{n}", at=NOON + n)
    office.tell(State.SENT, user="adam", event="another")
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await ask(office, "notifications", user_id="ada", limit=3, **cursor)).json()
        seen += [one["event"]["id"] for one in page["notifications"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == [f"order-{n}" for n in reversed(range(7))]


async def test_what_came_of_an_event_is_found_in_every_partition(office: Office) -> None:
    users = [f"user-{n}" for n in range(20)]
    for user in users:
        office.tell(State.SENT, user=user, event="launch")
    page = (await ask(office, "notifications", source=SOURCE, event_id="launch")).json()
    assert {one["user_id"] for one in page["notifications"]} == set(users)
    assert page["partitions"] == {"open": 4, "of": 4}
    few = (await ask(office, "notifications", source=SOURCE, event_id="launch", limit=3)).json()
    assert len(few["notifications"]) == 3


async def test_the_overview_sums_what_the_partitions_hold(office: Office) -> None:
    for n in range(30):
        office.tell(State.QUEUED, user=f"user-{n}", event=f"order-{n}", took=1)
        office.tell(State.SENT, user=f"user-{n}", event=f"order-{n}", took=20 if n else 800)
    office.tell(State.SUPPRESSED, channel=Channel.SMS, user="user-1", event="order-1", reason="daily_cap")
    office.tell(State.IGNORED, channel=None, user="", event="odd")
    told = (await ask(office, "overview")).json()
    assert told["counts"] == {"": {"ignored": 1}, "email": {"sent": 30}, "sms": {"suppressed": 1}}
    assert told["totals"] == {
        "reached": 30, "under_way": 0, "held_back": 1, "failed": 0, "in_doubt": 0, "duplicates": 0,
        "ignored": 1,
    }  # fmt: skip
    assert told["latencies"] == {"email": {"count": 30, "p50_ms": 25, "p99_ms": 1000}}
    assert told["minutes"][-1] | {"at": ""} == {
        "at": "", "delivered": 0, "sent": 30, "held_back": 1, "failed": 0, "in_doubt": 0
    }  # fmt: skip
    assert len(told["minutes"]) == 60
    assert told["ready"] == {"core": True, "email": True, "status": True}


@pytest.mark.parametrize(
    ("params", "fields"),
    [
        ({}, ["user_id", "source", "event_id"]),
        ({"user_id": "ada", "source": "s", "event_id": "e"}, ["user_id", "source", "event_id"]),
        ({"source": "s"}, ["event_id"]),
        ({"event_id": "e"}, ["source"]),
        ({"user_id": ""}, ["user_id"]),
        ({"user_id": "ada", "limit": 0}, ["limit"]),
        ({"user_id": "ada", "limit": 501}, ["limit"]),
        ({"user_id": "ada", "limit": "many"}, ["limit"]),
        ({"user_id": "ada", "cursor": "x"}, ["cursor"]),
        ({"user_id": "ada", "cursor": "0f3a9c21-7d10-8c44-9a1b-5e0c77d1f2a3"}, ["cursor"]),
    ],
)
async def test_what_cannot_be_asked_names_the_field(
    office: Office, params: dict[str, Any], fields: list[str]
) -> None:
    is_problem(await ask(office, "notifications", **params), 422, *fields)


async def test_a_cursor_is_good_for_its_own_user_alone(office: Office) -> None:
    another = office.tell(State.SENT, user="brian")
    is_problem(await ask(office, "notifications", user_id="ada", cursor=another), 422, "cursor")


@pytest.mark.parametrize("bad", ["x", "0f3a9c21-7d10-4c44-9a1b-5e0c77d1f2a3", " " * 36, "g" * 36, "%00"])
async def test_what_is_no_id_is_said_to_be_none(office: Office, bad: str) -> None:
    is_problem(await ask(office, f"notifications/{bad}"), 422, "notification_id")


async def test_what_is_not_there_is_not_found(office: Office) -> None:
    is_problem(await ask(office, "notifications/0f3a9c21-7d10-8c44-9a1b-5e0c77d1f2a3"), 404)
    is_problem(await ask(office, "nowhere"), 404)


async def test_what_another_process_holds_is_not_said_to_be_missing(office: Office) -> None:
    found = office.tell(State.SENT)
    office.lose(found)
    answers = [await ask(office, f"notifications/{found}"), await ask(office, "notifications", user_id="ada")]
    for answer in answers:
        is_problem(answer, 503)
        assert "not held by this process (it holds 3 of 4)" in answer.json()["detail"]
    page = (await ask(office, "notifications", source=SOURCE, event_id="order-1")).json()
    assert page["partitions"] == {"open": 3, "of": 4}


async def test_where_status_does_not_run_that_is_said() -> None:
    office = Office(rows={}, of=0)
    is_problem(await ask(office, "notifications", user_id="ada"), 503)
    is_problem(await ask(office, "notifications", source="s", event_id="e"), 503)
    assert (await ask(office, "overview")).json()["partitions"] == {"open": 0, "of": 0}


async def test_without_sign_in_there_is_a_problem_too(office: Office) -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(office.app), base_url="http://127.0.0.1"
    ) as client:
        found = await client.get("/api/v1/overview")
    is_problem(found, 401)
    assert found.headers["www-authenticate"] == "Bearer"


async def test_the_interface_describes_itself(office: Office) -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(office.app), base_url="http://127.0.0.1"
    ) as client:
        told = (await client.get("/openapi.json")).json()
    assert set(told["paths"]) == {
        "/api/v1/notifications/{notification_id}", "/api/v1/notifications", "/api/v1/overview",
        "/api/v1/broadcasts/{broadcast_id}",
        "/api/v1/dlq", "/api/v1/dlq/{letter}", "/api/v1/dlq/redrive", "/api/v1/replay",
        "/api/v1/explain", "/api/v1/templates", "/api/v1/templates/{name}",
        "/api/v1/templates/{name}/preview", "/api/v1/templates/{name}/rollback", "/api/v1/workflows",
        "/api/v1/workflows/{name}", "/api/v1/lag", "/api/v1/tables", "/api/v1/tables/{table}",
        "/api/v1/tables/{table}/{key}", "/api/v1/breakers", "/healthz", "/readyz", "/metrics",
    }  # fmt: skip
    answers = told["paths"]["/api/v1/notifications"]["get"]["responses"]
    assert {"200", "401", "422", "503"} <= set(answers)
    assert list(answers["422"]["content"]) == ["application/problem+json"]
