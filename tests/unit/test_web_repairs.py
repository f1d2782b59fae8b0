"""Dead letters and replays for programs: found, bounded, put back, foreseen, asked for."""

import asyncio
import json
from datetime import UTC, datetime
from itertools import islice, product
from string import ascii_letters
from typing import Any

import httpx
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError
from hypothesis import given as given_these
from hypothesis import strategies as st

from agents.narrow import Narrowing
from pipeline.dead_letters import Span
from pipeline.narrowed import MOST_NAMED
from pipeline.replay import READS, Misused, Plan
from pipeline.replay import Span as Place
from pipeline.replays import Resolved
from pipeline.settings import SettingsError
from pipeline.web import apart, letters, replays
from pipeline.web.apart import Apart, Away, Late
from pipeline.web.letters import SAYS, Filter, newest, says
from pipeline.web.repair_api import CHOOSING
from schemas.ids import notification_id
from schemas.kinds import Reason
from tests.browser.desk import NOON, SOURCE, TOKEN, Office
from tests.browser.repairs import GENERATION, Groups, Shelf, repairs
from tests.unit.test_web_api import ask, is_problem


@pytest.fixture
def office() -> Office:
    return Office()


async def send(office: Office, path: str, body: Any) -> httpx.Response:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(office.app),
        base_url="http://127.0.0.1",
        headers={"authorization": f"Bearer {TOKEN}"},
    ) as client:
        return await client.post(f"/api/v1/{path}", json=body)


def when(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).isoformat()


async def names(office: Office, **params: Any) -> list[str]:
    """The letters of every page, in the order in which they come."""
    found: list[str] = []
    while True:
        page = (await ask(office, "dlq", **params)).json()
        found += [one["letter"] for one in page["letters"]]
        if page["next_cursor"] is None:
            return found
        params["cursor"] = page["next_cursor"]


# -- a list


async def test_letters_come_newest_first_without_their_bytes_and_without_addresses(office: Office) -> None:
    office.shelf.put(value=b'{"email": "ada@example.com"}', error="no user ada@example.com")
    office.shelf.put("dlq-email", 1, at=NOON + 5, reason="refused", source="email-notifications")
    told = await ask(office, "dlq")
    page = told.json()
    assert [one["letter"] for one in page["letters"]] == ["dlq-email-1-0", "dlq-events-0-0"]
    assert page["held"] == {"dlq-email": 1, "dlq-events": 1}
    assert page["next_cursor"] is None
    assert page["letters"][0]["at"] == "2026-09-21T14:13:20.005Z"
    assert page["letters"][0]["source"] == "email-notifications-1-0"
    assert "ada@example.com" not in told.text and "value" not in page["letters"][0]


@pytest.mark.parametrize("limit", [1, 3, 50])
@pytest.mark.parametrize("params", [{}, {"reason": "refused"}, {"topic": "dlq-email"}])
async def test_every_letter_is_on_one_page(office: Office, limit: int, params: dict[str, str]) -> None:
    for n in range(40):
        topic = "dlq-email" if n % 3 else "dlq-events"
        office.shelf.put(topic, n % 2, at=NOON + n, reason="raised" if n % 5 else "refused")
    whole = [
        letter.name
        for rows in office.shelf.parts.values()
        for letter in rows
        if params.get("topic") in (None, letter.topic)
        and params.get("reason") in (None, letter.told("reason"))
    ]
    found = await names(office, limit=limit, **params)
    assert sorted(found) == sorted(whole)
    ats = {letter.name: letter.at for rows in office.shelf.parts.values() for letter in rows}
    assert [ats[name] for name in found] == sorted((ats[name] for name in whole), reverse=True)


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({"provider": "main"}, {0, 3, 6, 9}),
        ({"provider": "main", "code": "550"}, {0, 6}),
        ({"code": ["550", "HTTP 503"]}, {0, 2, 4, 5, 6, 8, 10, 11}),
        ({"code": "HTTP*", "provider": "backup"}, {5, 11}),
        ({"code": "HTTP"}, set()),
        ({"provider": "main", "reason": "raised"}, set()),
    ],
)
async def test_letters_are_found_by_provider_and_by_the_vendors_codes(
    office: Office, params: dict[str, Any], found: set[int]
) -> None:
    codes = {n: "550" if n % 2 == 0 else "HTTP 503" if n % 3 == 2 else None for n in range(12)}
    providers = {n: "backup" if n % 3 else "main" for n in range(12)}
    for n in range(12):
        office.shelf.put(
            "dlq-email", at=NOON + n, source="email-notifications", reason="refused",
            provider=providers[n], code=codes[n],
        )  # fmt: skip
    office.shelf.put(at=NOON)
    page = (await ask(office, "dlq", **params)).json()
    assert {one["offset"] for one in page["letters"]} == found
    for one in page["letters"]:
        assert (one["provider"], one["code"]) == (providers[one["offset"]], codes[one["offset"]])
    assert set(await names(office, limit=2, **params)) == {f"dlq-email-0-{n}" for n in found}
    told = (await send(office, "dlq/redrive", {**params, "dry_run": True})).json()
    assert told["redriven"] == len(found)


async def test_letters_go_back_for_a_provider_that_their_channel_has(office: Office) -> None:
    name = office.shelf.put("dlq-email", source="email-notifications", reason="refused", provider="main")
    other = office.shelf.put(reason="refused")
    told = (await send(office, "dlq/redrive", {"letters": [name, other], "to_provider": "outbox"})).json()
    assert (told["redriven"], told["failures"]) == (1, 1)
    assert told["failed"] == [
        {"letter": other, "why": "what dlq-events holds is not sent by a provider 'outbox'"}
    ]
    assert [dict(one.headers)["provider"] for one in office.shelf.back] == [b"outbox"]
    body = {"reason": "refused", "to_provider": "outbox"}
    assert (await send(office, "dlq/redrive", body)).json()["redriven"] == 1
    assert len(office.shelf.back) == 2
    refused = await send(office, "dlq/redrive", {"topic": "dlq-email", "to_provider": "nobody"})
    is_problem(refused, 422, "to_provider")
    assert "dlq-email outbox" in refused.json()["detail"]
    lost = await send(office, "dlq/redrive", {"topic": "dlq-events", "to_provider": "outbox"})
    is_problem(lost, 422, "to_provider")
    assert len(office.shelf.back) == 2


async def test_a_rare_reason_is_looked_for_in_bounded_steps(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters, "SCANNED", 100)
    for n in range(1_000):
        office.shelf.put(partition=n % 4, at=NOON + n, reason="refused" if n in (3, 500) else "raised")
    page = (await ask(office, "dlq", reason="refused", limit=5)).json()
    assert (page["letters"], office.shelf.reads <= 200) == ([], True)
    assert page["next_cursor"]
    assert await names(office, reason="refused", limit=5) == ["dlq-events-0-125", "dlq-events-3-0"]


@given_these(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.booleans()), max_size=60),
    st.integers(1, 7), st.integers(1, 40), st.booleans(),
)  # fmt: skip
def test_pages_leave_out_nothing_and_repeat_nothing_whatever_the_times(
    rows: list[tuple[int, int, bool]], limit: int, scanned: int, by_reason: bool
) -> None:
    shelf, plain = Shelf(), letters.SCANNED
    for partition, at, refused in rows:
        shelf.put(partition=partition, at=NOON + at, reason="refused" if refused else "raised")
    reason = "refused" if by_reason else None
    whole = {
        one.name for part in shelf.parts.values() for one in part if reason in (None, one.told("reason"))
    }

    async def walk() -> list[str]:
        found, cursor = repairs(shelf, Groups(), lambda: 0.0).letters, None
        seen: list[str] = []
        for _ in range(200):
            page = await found._page(Filter(None, reason), found._topics(None), limit, cursor)
            assert len(page.letters) <= limit
            seen += [one["letter"] for one in page.letters]
            if page.cursor is None:
                return seen
            cursor = found._decoded(page.cursor)
        raise AssertionError("it never ends")

    letters.SCANNED = scanned
    try:
        seen = asyncio.run(walk())
    finally:
        letters.SCANNED = plain
    assert len(seen) == len(set(seen)) and set(seen) == whole


async def test_letters_that_come_between_pages_are_not_on_later_ones(office: Office) -> None:
    for n in range(4):
        office.shelf.put(at=NOON + n)
    page = (await ask(office, "dlq", limit=2)).json()
    office.shelf.put(at=NOON + 9)
    office.shelf.put("dlq-sms", at=NOON + 9)
    rest = (await ask(office, "dlq", limit=9, cursor=page["next_cursor"])).json()
    assert [one["offset"] for one in rest["letters"]] == [1, 0]


async def test_a_span_of_time_bounds_the_list(office: Office) -> None:
    for n in range(5):
        office.shelf.put(at=NOON + n * 1_000)
    found = await names(office, since=when(NOON + 1_000), until=when(NOON + 3_000))
    assert found == ["dlq-events-0-2", "dlq-events-0-1"]
    assert await names(office, since="0001-01-01T00:00:00Z", until="9999-12-31T00:00:00Z", limit=1)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"topic": "events"}, "topic"),
        ({"topic": "dlq-nothing"}, "topic"),
        ({"reason": ""}, "reason"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-01-01T00:00:00"}, "since"),
        ({"until": "1790000000"}, "until"),
        ({"until": "x"}, "until"),
        ({"limit": 0}, "limit"),
        ({"limit": 501}, "limit"),
        ({"cursor": "x"}, "cursor"),
        ({"cursor": "events:0.1-2~"}, "cursor"),
        ({"cursor": "events:0.1-" + "9" * 30}, "cursor"),
        ({"cursor": "a" * 20_000}, "cursor"),
    ],
)
async def test_what_cannot_be_asked_of_the_list_names_the_field(
    office: Office, params: dict[str, Any], field: str
) -> None:
    found = await ask(office, "dlq", **params)
    if len(str(params)) > 16_000:
        assert found.status_code == 414
    else:
        is_problem(found, 422, field)


async def test_a_cursor_beyond_what_is_held_finds_nothing(office: Office) -> None:
    office.shelf.put()
    for cursor in ("events:0.5-999999,7.0-3", "sms:0.0-9"):
        page = (await ask(office, "dlq", cursor=cursor)).json()
        assert (page["letters"], page["next_cursor"]) == ([], None)


# -- one letter


async def test_one_letter_is_shown_with_its_headers_and_bytes(office: Office) -> None:
    name = office.shelf.put(value=b"\xff{", original=[("ce_type", b"order.placed")])
    told = (await ask(office, f"dlq/{name}")).json()
    assert ["original-ce_type", "order.placed"] in told["headers"]
    assert (told["letter"], told["value"], told["value_base64"]) == (name, "\\xff{", "/3s=")
    assert told["key"] == "key"


@pytest.mark.parametrize(
    "name", ["x", "dlq-events-0", "events-0-1", "dlq-events-0-99", "dlq-sms-0-0", "dlq-events-0-" + "9" * 30,
             "dlq-events-٣-٤", "a" * 400],
)  # fmt: skip
async def test_a_letter_that_is_not_there_is_not_found(office: Office, name: str) -> None:
    office.shelf.put()
    is_problem(await ask(office, f"dlq/{name}"), 404)


# -- putting back


async def test_letters_go_back_by_their_names(office: Office) -> None:
    first = office.shelf.put()
    lost = office.shelf.put(told=[("reason", b"raised")])
    told = (await send(office, "dlq/redrive", {"letters": [first, first, lost, "dlq-sms-0-4"]})).json()
    assert (told["dry_run"], told["redriven"], told["failures"], told["next_cursor"]) == (False, 1, 2, None)
    assert {one["letter"] for one in told["failed"]} == {lost, "dlq-sms-0-4"}
    assert [(one.topic, one.value) for one in office.shelf.back] == [("events", b"not JSON")]


async def test_a_dry_run_puts_nothing_back(office: Office) -> None:
    name = office.shelf.put()
    for body in ({"letters": [name]}, {"topic": "dlq-events"}, {"reason": "unreadable"}):
        told = (await send(office, "dlq/redrive", {**body, "dry_run": True})).json()
        assert (told["dry_run"], told["redriven"]) == (True, 1)
    assert office.shelf.back == []


async def test_letters_go_back_by_filter_the_oldest_first(office: Office) -> None:
    for n in range(6):
        office.shelf.put(at=NOON + n, reason="raised" if n % 2 else "unreadable", value=b"%d" % n)
    office.shelf.put("dlq-sms", reason="raised")
    body = {"topic": "dlq-events", "reason": "raised", "since": when(NOON + 2)}
    assert (await send(office, "dlq/redrive", body)).json()["redriven"] == 2
    assert [one.value for one in office.shelf.back] == [b"3", b"5"]


async def test_what_a_redrive_leaves_is_gone_on_with_and_nothing_goes_twice(office: Office) -> None:
    for n in range(7):
        office.shelf.put(partition=n % 2, value=b"%d" % n)
    body: dict[str, Any] = {"reason": "unreadable", "limit": 3}
    counts = []
    while True:
        told = (await send(office, "dlq/redrive", body)).json()
        counts.append(told["redriven"])
        if told["next_cursor"] is None:
            break
        office.shelf.put(value=b"a new letter, of one that failed again")
        body["cursor"] = told["next_cursor"]
    assert counts == [3, 3, 1]
    assert sorted(one.value or b"" for one in office.shelf.back) == [b"%d" % n for n in range(7)]


async def test_a_redrive_stops_when_it_has_taken_long_enough(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters, "REDRIVE_SECONDS", -1.0)
    office.shelf.put()
    told = (await send(office, "dlq/redrive", {"topic": "dlq-events"})).json()
    assert (told["redriven"], told["next_cursor"]) == (0, "events:0.0-1")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["letters", *CHOOSING]),
        ({"since": when(NOON)}, ["letters", *CHOOSING]),
        ({"topic": "dlq-events", "since": NOON}, ["since"]),
        ({"topic": "dlq-events", "until": str(NOON)}, ["until"]),
        ({"letters": []}, ["letters"]),
        ({"letters": ["dlq-events-0-0"] * 101}, ["letters"]),
        ({"letters": ["dlq-events-0-0", "no"]}, ["letters.1"]),
        ({"letters": ["a" * 301]}, ["letters.0"]),
        ({"letters": ["dlq-events-0-0"], "reason": "x", "topic": "y"}, ["reason", "topic"]),
        ({"letters": ["dlq-events-0-0"], "provider": "x", "code": "y"}, ["code", "provider"]),
        ({"letters": ["dlq-events-0-0"], "to_provider": "outbox"}, ["to_provider"]),
        ({"letters": ["dlq-sms-0-0"], "to_provider": "nobody"}, ["to_provider"]),
        ({"topic": "dlq-sms", "to_provider": "nobody"}, ["to_provider"]),
        ({"topic": "dlq-sms", "to_provider": ""}, ["to_provider"]),
        ({"code": []}, ["code"]),
        ({"code": ["x"] * 21}, ["code"]),
        ({"code": ["x", ""]}, ["code.1"]),
        ({"provider": "p" * 101}, ["provider"]),
        ({"topic": "events"}, ["topic"]),
        ({"topic": "dlq-sms", "cursor": "x"}, ["cursor"]),
        ({"topic": "dlq-sms", "limit": 0}, ["limit"]),
        ({"topic": "dlq-sms", "limit": 10_001}, ["limit"]),
        ({"topic": "dlq-sms", "dry_run": "no"}, ["dry_run"]),
        ({"topic": "dlq-sms", "dryrun": True}, ["dryrun"]),
    ],
)
async def test_what_cannot_be_redriven_names_the_field(
    office: Office, body: dict[str, Any], fields: list[str]
) -> None:
    office.shelf.put()
    is_problem(await send(office, "dlq/redrive", body), 422, *fields)
    assert office.shelf.back == []


# -- replay


async def test_a_replay_is_a_dry_run_unless_it_is_said_not_to_be(office: Office) -> None:
    for body in ({}, {"dry_run": True}):
        found = await send(office, "replay", {"group": "core", "to": "earliest", **body})
        told = found.json()
        assert (found.status_code, told["dry_run"], told["again"]) == (200, True, 4_800)
        assert (told["nothing"], told["afresh"], told["new"]) == (12, 6, 1)
        assert told["afresh_because"] == {"template_failed: no.thing": 6}
    assert office.groups.asked == []
    found = await send(office, "replay", {"group": "core", "to": "earliest", "dry_run": False})
    assert (found.status_code, found.json()["request_id"]) == (202, "request-3")
    assert len(found.json()["partitions"]) == 48
    (asked,) = office.groups.asked
    assert {span.to for span in asked.plan.spans} == {0}
    assert office.groups.foreseen == 2


async def test_one_partition_is_asked_for_by_its_topic(office: Office) -> None:
    body = {"topic": "users", "partition": 3, "to": "40", "dry_run": False}
    told = (await send(office, "replay", body)).json()
    assert told["partitions"] == [{"topic": "users", "partition": 3, "committed": 100, "to": 40, "end": 100}]


@pytest.mark.parametrize("group", READS)
async def test_every_group_can_be_asked(office: Office, group: str) -> None:
    assert (await send(office, "replay", {"group": group, "to": "latest"})).status_code == 200


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"to": "earliest"}, ["group", "topic"]),
        ({"group": "core", "topic": "users", "partition": 1, "to": "earliest"}, ["group", "topic"]),
        ({"group": "core"}, ["to"]),
        ({"group": "cores", "to": "earliest"}, ["group"]),
        ({"group": "core", "to": "7"}, ["to"]),
        ({"group": "core", "to": "soon"}, ["to"]),
        ({"group": "core", "to": "²"}, ["to"]),
        ({"group": "core", "to": "9" * 65}, ["to"]),
        ({"group": "core", "to": "2026-01-01T00:00:00"}, ["to"]),
        ({"topic": "users", "to": "earliest"}, ["topic", "partition"]),
        ({"group": "core", "partition": 1, "to": "earliest"}, ["topic", "partition"]),
        ({"topic": "nothing", "partition": 1, "to": "earliest"}, ["topic"]),
        ({"topic": "users", "partition": 12, "to": "earliest"}, ["partition"]),
        ({"topic": "users", "partition": -1, "to": "earliest"}, ["partition"]),
        ({"group": "core", "to": "earliest", "dry_run": "false"}, ["dry_run"]),
        ({"group": "core", "to": "earliest", "user": "ada"}, ["user"]),
    ],
)
async def test_what_cannot_be_replayed_names_the_field(
    office: Office, body: dict[str, Any], fields: list[str]
) -> None:
    found = await send(office, "replay", {**body})
    is_problem(found, 422, *fields)
    assert "--" not in found.json()["detail"]
    assert office.groups.asked == [] and office.groups.foreseen == 0


EVENT = {"source": SOURCE, "id": "order-1"}
ID = notification_id("ada", SOURCE, "order-1", "orders")
MANY = ["".join(word) for word in islice(product(ascii_letters, repeat=3), MOST_NAMED // 2 + 1)]
FRESH = {"nothing": 12, "afresh": 6, "new": 1, "doubtful": 0, "too_old": 0}


async def test_what_is_narrowed_is_foreseen_and_then_copied(office: Office) -> None:
    body = {"group": "core", "event": EVENT, "ids": [ID], "users": ["ada", 7], "reasons": ["expired"]}
    foreseen = await send(office, "replay", body)
    told = foreseen.json()
    assert (foreseen.status_code, told["dry_run"], told["request_id"]) == (200, True, None)
    assert {name: told[name] for name in FRESH} == FRESH
    assert (told["chosen"], told["again"], told["copies"], told["generation"]) == (19, 7, 2, None)
    assert {place["topic"] for place in told["partitions"]} == {"events", "events-express"}
    assert told["partitions"][0].keys() == {"topic", "partition", "from", "to"}
    assert office.groups.asked == []
    done = await send(office, "replay", {**body, "dry_run": False})
    assert (done.status_code, done.json()["dry_run"], done.json()["request_id"]) == (202, False, "request-2")
    assert (done.json()["again"], done.json()["copies"]) == (7, 2)
    (asked,) = office.groups.asked
    expected = Narrowing(
        frozenset([(SOURCE, "order-1")]), frozenset([ID]), frozenset(["ada", "7"]), frozenset(["expired"])
    )
    assert (asked.narrowing, asked.generation) == (expected, 0)


@pytest.mark.parametrize("field", ["event", "ids", "users", "reasons"])
async def test_as_many_as_the_interface_says_may_be_named(office: Office, field: str) -> None:
    told = office.app.openapi()["components"]["schemas"]["ReplayRequest"]
    (most,) = {kind["maxItems"] for kind in told["properties"][field]["anyOf"] if "maxItems" in kind}
    assert f"{most:,}" in told["description"] and "2 MiB" in told["description"]
    source = "https://" + "s" * 100
    names: dict[str, list[Any]] = {
        "event": [{"source": source, "id": f"order-{n:030d}"} for n in range(most)],
        "ids": [notification_id("ada", SOURCE, f"order-{n}", "orders") for n in range(most)],
        "users": [f"user-{n:0150d}" for n in range(most)],
        "reasons": ["expired"] * most,
    }
    found = await send(office, "replay", {"group": "core", field: names[field]})
    assert found.status_code == 200, found.text[:300]
    one_more = {"group": "core", field: [*names[field], names[field][0]]}
    is_problem(await send(office, "replay", one_more), 422, field)
    is_problem(await send(office, "replay", {"group": "x" * (2 << 20)}), 413, "body")


async def test_several_events_may_be_named_and_a_place_to_begin(office: Office) -> None:
    events = [EVENT, {"source": "s", "id": "2"}]
    body = {"topic": "events", "partition": 3, "to": "40", "event": events, "dry_run": False}
    told = (await send(office, "replay", body)).json()
    assert told["partitions"] == [{"topic": "events", "partition": 3, "from": 40, "to": 100}]
    assert office.groups.asked[0].narrowing.events == {(SOURCE, "order-1"), ("s", "2")}


async def test_a_resend_answers_with_its_generation_and_with_the_same_one_sends_nothing_twice(
    office: Office,
) -> None:
    body = {"group": "core", "event": EVENT, "resend": True}
    foreseen = (await send(office, "replay", body)).json()
    assert (foreseen["generation"], foreseen["anew"]) == (GENERATION + 1, 19)
    same = {**body, "generation": foreseen["generation"], "dry_run": False}
    told = [(await send(office, "replay", same)).json() for _ in range(2)]
    assert [(one["generation"], one["anew"]) for one in told] == [(GENERATION + 1, 19), (GENERATION + 1, 0)]
    another = (await send(office, "replay", {**body, "dry_run": False})).json()
    assert another["generation"] > GENERATION + 1 and another["anew"] == 19


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"resend": True, "to": "earliest"}, ["resend"]),
        ({"users": ["a"], "generation": 5}, ["generation"]),
        ({"users": ["a"], "resend": True, "generation": 0}, ["generation"]),
        ({"users": ["a"], "resend": True, "generation": 10**16}, ["generation"]),
        ({"users": ["a"], "resend": "yes"}, ["resend"]),
        ({"users": ["a"], "resend": True, "group": "email"}, ["resend"]),
        ({"users": ["a"], "group": "status"}, ["group"]),
        ({"users": ["a"], "group": None, "topic": "users", "partition": 0}, ["topic"]),
        ({"ids": [ID, "none"]}, ["ids.1"]),
        ({"reasons": ["expired", "refused"]}, ["reasons.1"]),
        ({"users": []}, ["users"]),
        ({"ids": []}, ["ids"]),
        ({"reasons": []}, ["reasons"]),
        ({"event": []}, ["event"]),
        ({"event": {"source": "s"}}, ["event.0.id"]),
        ({"event": {"source": "s", "id": ""}}, ["event.0.id"]),
        ({"event": {"source": "s", "id": "i", "type": "t"}}, ["event.0.type"]),
        ({"event": "order-1"}, ["event"]),
        ({"users": [1.5]}, ["users.0"]),
        ({"users": ["a" * 513]}, ["users.0"]),
        ({"users": "ada"}, ["users"]),
        ({"users": ["²"], "to": "²"}, ["to"]),
        ({"users": MANY, "ids": MANY},
         ["event", "ids", "users", "reasons"]),
    ],
)  # fmt: skip
async def test_what_cannot_be_narrowed_names_the_field(
    office: Office, body: dict[str, Any], fields: list[str]
) -> None:
    for dry_run in (True, False):
        found = await send(office, "replay", {"group": "core", **body, "dry_run": dry_run})
        is_problem(found, 422, *fields)
        assert "--" not in found.json()["detail"]
    assert office.groups.resolved == 0


@pytest.mark.parametrize(
    ("message", "fields", "detail"),
    [
        ("--to: an offset; with --topic", ("to",), "an offset; with topic"),
        ("--id x: y: none", ("ids",), "y: none"),
        ("--resend: only what --event, --id, --user or --reason choose", ("resend",),
         "only what event, ids, users or reasons choose"),
        ("more than 5; choose a later --to", ("to",), "more than 5; choose a later to"),
        ("give --group, or --topic", ("group", "topic"), "give group, or topic"),
        ("no", ("to",), "no"),
    ],
)  # fmt: skip
def test_whom_a_message_blames_is_a_field_of_ours(message: str, fields: tuple[str], detail: str) -> None:
    found = replays.blamed(Misused(message))
    assert (found.fields, found.detail) == (fields, detail)


async def test_a_narrowed_replay_that_is_cut_off_says_how_to_go_on(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"group": "core", "users": ["ada"], "resend": True, "generation": 77, "dry_run": False}
    office.groups.breaks = KafkaConnectionError("x")
    found = await send(office, "replay", body)
    is_problem(found, 503)
    assert "no broker answers" in found.json()["detail"] and "generation 77" in found.json()["detail"]
    office.groups.breaks = Misused("more than 5 would be chosen; choose a later --to, or narrow it further")
    is_problem(await send(office, "replay", body), 422, "to")
    monkeypatch.setattr(replays, "COPY_SECONDS", 0.05)
    office.groups.stuck = True
    found = await send(office, "replay", body)
    is_problem(found, 503)
    assert "reading: 5 of 10 offsets" in found.json()["detail"]
    assert "generation 77" in found.json()["detail"]
    found = await send(office, "replay", {"group": "core", "users": ["ada"], "dry_run": False})
    assert "ask for the same again to go on" in found.json()["detail"]


async def test_a_dry_run_over_too_much_says_so_in_time(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "FORESEE_SECONDS", 0.05)
    office.groups.stuck = True
    found = await send(office, "replay", {"group": "core", "to": "earliest"})
    is_problem(found, 503)
    assert "reading: 5 of 10 offsets" in found.json()["detail"]
    assert "nothing was asked for" in found.json()["detail"]


# -- when nothing can be told


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (KafkaConnectionError("10.0.0.1:9092"), "no broker answers"),
        (SettingsError("there is no topic users; `carillon topics` creates it"), "there is no topic users"),
        (TimeoutError("the broker did not send the rest of dlq-sms"), "the rest of dlq-sms"),
    ],
)
async def test_a_broker_that_is_away_is_said_to_be(office: Office, error: Exception, says: str) -> None:
    office.shelf.broken = office.groups.broken = error
    for found in (
        await ask(office, "dlq"), await ask(office, "dlq/dlq-sms-0-1"),
        await send(office, "dlq/redrive", {"topic": "dlq-sms"}),
        await send(office, "replay", {"group": "core", "to": "latest"}),
    ):  # fmt: skip
        is_problem(found, 503)
        assert says in found.json()["detail"]


async def test_a_list_that_takes_too_long_is_given_up(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters, "READ_SECONDS", 0.05)
    office.shelf.stuck = True
    is_problem(await ask(office, "dlq"), 503)


async def test_so_many_at_a_time_and_the_others_are_told_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "TURN_SECONDS", 0.05)
    turns, begun = Apart(1), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def work() -> None:
        loop.call_soon_threadsafe(begun.set)
        await asyncio.Event().wait()

    first = asyncio.create_task(turns.run(work, 60))
    await begun.wait()
    with pytest.raises(Away, match="others"):
        await turns.run(work, 60)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    with pytest.raises(Late):  # the turn is free again
        await turns.run(work, 0.01)


async def test_whoever_is_cancelled_cancels_the_work() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def work() -> None:
        loop.call_soon_threadsafe(begun.set)
        try:
            await asyncio.Event().wait()
        finally:
            loop.call_soon_threadsafe(ended.set)

    task = asyncio.create_task(Apart().run(work, 60))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(5):
        await ended.wait()


async def test_pages_hold_up_nobody_in_this_loop(office: Office) -> None:
    """The work runs in another thread: the loop that serves stays free."""
    import threading

    seen: list[int] = []

    async def work() -> None:
        seen.append(threading.get_ident())

    await Apart().run(work, 5)
    assert seen != [threading.get_ident()]


# -- counts


async def test_counts_are_by_topic_and_reason_and_are_shared(office: Office) -> None:
    for n in range(10):
        office.shelf.put("dlq-sms", reason="refused" if n % 2 else "x" * 500)
    office.shelf.put(reason="unreadable")
    found = repairs(office.shelf, office.groups, office.clock).letters
    counts = await found.counts()
    assert (counts.held, counts.total, counts.counted) == ({"dlq-events": 1, "dlq-sms": 10}, 11, 11)
    assert counts.reasons["dlq-sms"] == {"refused": 5, "x" * letters.MOST_WORD: 5}
    reads = office.shelf.reads
    assert await found.counts() is counts and office.shelf.reads == reads
    office.now += letters.FRESH_SECONDS + 1
    assert await found.counts() is not counts


async def test_counted_words_are_bounded(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "COUNTED", 80)
    for n in range(200):
        office.shelf.put(reason=f"word {n}")
    counts = await repairs(office.shelf, office.groups, office.clock).letters.counts()
    told = counts.reasons["dlq-events"]
    assert (len(told), told[letters.OTHER], counts.counted, counts.total) == (51, 30, 80, 200)


@given_these(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50)), max_size=8), st.integers(0, 100))
def test_the_newest_of_spans_are_as_many_as_may_be(sizes: list[tuple[int, int]], most: int) -> None:
    spans = {
        TopicPartition("t", n): Span(begin, begin + size) for n, (begin, size) in enumerate(sizes)
    }  # fmt: skip
    found = newest(spans, most)
    assert sum(end - begin for begin, end in found.values()) == min(most, sum(size for _, size in sizes))
    for part, (begin, end) in found.items():
        assert spans[part].begin <= begin < end == spans[part].end


# -- words


STATUS_ALONE = {
    Reason.NO_WORKFLOW, Reason.NO_RECIPIENT, Reason.ALREADY_PLANNED, Reason.UNKNOWN_USER, Reason.NO_ADDRESS,
    Reason.CHANNEL_OPTED_OUT, Reason.CATEGORY_OPTED_OUT, Reason.DAILY_CAP, Reason.EXPIRED,
    Reason.UNKNOWN_TEMPLATE, Reason.TEMPLATE_FAILED, Reason.NO_TEMPLATE_FOR_CHANNEL, Reason.UNDELIVERED,
    Reason.CALL_CUT_OFF, Reason.ADDRESS_SUPPRESSED, Reason.CATEGORY_CAP, Reason.THROTTLED, Reason.SCHEDULED,
    Reason.QUIET_HOURS, Reason.IN_DIGEST, Reason.CANCELLED, Reason.CANCELLED_TOO_LATE, Reason.FALLBACK,
    Reason.ESCALATED, Reason.TOO_OLD, Reason.INVALID_VARIABLES, Reason.CANCEL_ASKED, Reason.USER_ERASED,
    Reason.UNKNOWN_SEGMENT,
}  # fmt: skip
"""What a status may say, and no dead letter does."""


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason not in STATUS_ALONE])
def test_every_reason_of_a_letter_has_words(reason: Reason) -> None:
    assert all(sentence.endswith(".") for sentence in SAYS[reason])


def test_an_unknown_reason_has_words_too() -> None:
    assert says("made up") == says("")


def test_a_resolved_request_comes_back_from_a_form_as_it_was() -> None:
    plan = Plan("carillon-core", "core", [Place(TopicPartition("events", 3), 1, None, 2, 9)])
    narrowing = Narrowing(frozenset([("s", "i"), ("s", "\u2603")]), frozenset("ab"), users=frozenset(["7"]))
    for one in (Resolved(plan, Narrowing(), 0, "r"), Resolved(plan, narrowing, 5, "r")):
        assert replays.unpacked(json.loads(json.dumps(replays.packed(one)))) == one
