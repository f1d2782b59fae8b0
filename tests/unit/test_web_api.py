"""What programs of operators get."""

from typing import Any

import httpx
import pytest

from pipeline.web import api, listing
from schemas.event import read_event
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


def mixed(office: Office, events: int = 24) -> None:
    """Notifications of ada, a second apart, whose channels and states differ; and others' beside them."""
    states = (State.SENT, State.FAILED, State.DELIVERED)
    for n in range(events):
        at = NOON + n * 1_000
        for user in ("ada", "brian"):
            office.tell(states[n % 3], user=user, event=f"order-{n}", at=at)
            if n % 2:
                office.tell(
                    State.SUPPRESSED, user=user, event=f"order-{n}", at=at, channel=Channel.SMS,
                    address="+15550000001",
                )  # fmt: skip


async def pages(office: Office, **params: Any) -> list[list[str]]:
    """The events of the notifications that are found, page by page."""
    found: list[list[str]] = []
    while len(found) < 100:
        page = (await ask(office, "notifications", **params)).json()
        found.append([f"{one['event']['id']} {one['user_id']}" for one in page["notifications"]])
        if page["next_cursor"] is None:
            return found
        params["cursor"] = page["next_cursor"]
    raise AssertionError("there is no end to it")


@pytest.mark.parametrize("looked_at", [2, 1_000])
@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize(
    ("narrowed", "which"),
    [
        ({"status": "failed"}, range(1, 24, 3)),
        ({"status": "suppressed"}, []),
        ({"channel": "sms"}, range(1, 24, 2)),
        ({"channel": "sms", "status": "suppressed"}, range(1, 24, 2)),
        ({"channel": "sms", "status": "failed"}, []),
        ({"channel": "email", "status": "delivered"}, range(2, 24, 3)),
        ({"since": "2026-09-21T14:13:25Z"}, range(5, 24)),
        ({"until": "2026-09-21T16:13:25.000+02:00"}, range(5)),
        ({"since": "2026-09-21T14:13:22Z", "until": "2026-09-21T14:13:32Z", "status": "sent"}, [3, 6, 9]),
        ({"until": "2000-01-01T00:00:00Z"}, []),
        ({"since": "2100-01-01T00:00:00Z"}, []),
    ],
)
async def test_a_users_notifications_are_narrowed_without_gap_or_repeat(
    office: Office, monkeypatch: pytest.MonkeyPatch, narrowed: dict[str, str], which: Any, limit: int,
    looked_at: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(listing, "MOST_LOOKED_AT", looked_at)
    mixed(office)
    found = await pages(office, user_id="ada", limit=limit, **narrowed)
    assert [one for page in found for one in page] == [f"order-{n} ada" for n in reversed(which)]
    assert all(len(page) <= limit for page in found)


async def test_what_one_page_looks_at_is_bounded(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MOST_LOOKED_AT", 5)
    mixed(office)
    found = await pages(office, user_id="ada", status="queued")
    assert found == [[]] * 5
    outside_the_span = await pages(office, user_id="ada", until="2026-09-21T14:13:22Z", status="sent")
    assert outside_the_span == [["order-0 ada"]]
    assert await pages(office, user_id="ada", since="2026-09-21T14:13:43Z", status="queued") == [[]]


@pytest.mark.parametrize("limit", [1, 3, 500])
async def test_a_request_is_found_by_its_idempotency_key(office: Office, limit: int) -> None:
    users = sorted(f"user-{n}" for n in range(12))
    for user in users:
        office.tell(State.SENT, user=user, source="carillon", event="key-1")
        office.tell(State.SENT, user=user, source="carillon", event="key-10")
        office.tell(State.FAILED, user=user, source="till", event="key-1")

    async def found(**params: Any) -> list[str]:
        return sorted(one for page in await pages(office, limit=limit, **params) for one in page)

    assert await found(idempotency_key="key-1") == [f"key-1 {user}" for user in users]
    assert await found(idempotency_key="key-1", user_id="user-7") == ["key-1 user-7"]
    assert await found(idempotency_key="key-1", user_id="nobody") == []
    assert await found(idempotency_key="key-1", status="failed") == []
    assert await found(idempotency_key="key-1", source="till", status="failed") == [
        f"key-1 {user}" for user in users
    ]
    assert await found(source="till", event_id="key-1") == [f"key-1 {user}" for user in users]
    assert await found(idempotency_key="key-1", since="2100-01-01T00:00:00Z") == []


async def test_a_request_without_a_source_has_the_one_that_is_looked_for() -> None:
    event = read_event(b'{"event_type":"x","user_id":"ada","idempotency_key":"k"}', (), "events-0-1", NOON)
    assert (event.source, event.id) == (api.OURS, "k")


async def test_a_cursor_is_good_for_its_own_event_alone(office: Office) -> None:
    another = office.tell(State.SENT, event="other")
    is_problem(
        await ask(office, "notifications", source=SOURCE, event_id="order-1", cursor=another), 422, "cursor"
    )


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


NEEDED = ["user_id", "source", "event_id", "idempotency_key"]
NO_TIMES = (
    "garbage",
    "1700000000",
    "4000000000000",
    "2026-09-21",
    "2026-09-21T14:00:00",
    "2026-13-21T14:00:00Z",
    "",
)


@pytest.mark.parametrize(
    ("params", "fields"),
    [
        ({}, NEEDED),
        ({"channel": "sms", "status": "sent", "since": "2026-01-01T00:00:00Z", "limit": 1}, NEEDED),
        ({"source": "s", "event_id": "e", "idempotency_key": "k"}, ["event_id", "idempotency_key"]),
        ({"user_id": "ada", "source": "s"}, ["user_id", "source", "event_id"]),
        ({"idempotency_key": ""}, ["idempotency_key"]),
        ({"user_id": "ada", "bogus": "1"}, ["bogus"]),
        ({"user_id": "ada", "channel": "fax"}, ["channel"]),
        ({"user_id": "ada", "status": "gone"}, ["status"]),
        *[({"user_id": "ada", "since": at, "until": at}, ["since", "until"]) for at in NO_TIMES],
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
    asked = {one["name"]: one for one in told["paths"]["/api/v1/notifications"]["get"]["parameters"]}
    assert {"channel", "status", "since", "until", "idempotency_key"} <= set(asked)
    assert all(one["description"] for name, one in asked.items() if name != "limit")
    answers = told["paths"]["/api/v1/notifications"]["get"]["responses"]
    assert {"200", "401", "422", "503"} <= set(answers)
    assert list(answers["422"]["content"]) == ["application/problem+json"]
