"""The rows of every table, as programs and people get them."""

import asyncio
import contextlib
import html
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from rocksdict import DbClosedError, Rdict

from pipeline.engine.store import options
from pipeline.web import rows
from pipeline.web.rows import BadCursor, Place, Tables, read_cursor, write_cursor
from pipeline.web.views import Held, NotHeld, StoredRows
from schemas.kinds import Channel, State
from tables.layout import LAYOUTS
from tests.browser.desk import NOON, XSS, DictRows, Office
from tests.browser.roles import a_claim, found_id, stock
from tests.unit.test_web_api import ask, is_problem
from tests.unit.test_web_pages import is_harmless, look


@pytest.fixture
def office() -> Office:
    office = Office()
    stock(office)
    office.tell(State.SENT, variant="b")
    office.tell(State.SENT, user="brian")
    office.tell(State.SENT, channel=Channel.SMS, user="carol")
    return office


async def keys(office: Office, table: str, **params: Any) -> list[str]:
    """All keys that are found, page by page."""
    seen: list[str] = []
    while True:
        told = (await ask(office, f"tables/{table}", **params)).json()
        seen += [row["key"] for row in told["rows"]]
        if told["next_cursor"] is None:
            return seen
        params["cursor"] = told["next_cursor"]


async def test_every_table_of_every_role_is_named(office: Office) -> None:
    told = (await ask(office, "tables")).json()["tables"]
    assert {(one["role"], one["name"]) for one in told} >= {
        ("core", "claims"), ("core", "engine"), ("email", "attempts"), ("email", "waits"),
        ("status", "histories"), ("status", "engine"),
    }  # fmt: skip
    assert ("status", "claims") not in {(one["role"], one["name"]) for one in told}
    claims = next(one for one in told if one["name"] == "claims")
    assert claims["prefix"] == "c|" and claims["key"] == ["notification", "step"] and claims["holds"]
    assert claims["partitions"] == {"open": 2, "of": 4}
    assert next(one["prefix"] for one in told if one["name"] == "engine") == "%00"


async def test_rows_come_in_key_order_over_the_partitions_and_page_by_page(office: Office) -> None:
    stock(office, 25)
    assert await keys(office, "users", limit=4) == [f"user-{n:03d}" for n in range(25)]
    first = (await ask(office, "tables/users", limit=1)).json()
    assert first["rows"][0] | {"value": 0} == {
        "key": "user-000", "role": "core", "partition": 0, "value": 0, "also_in": [],
    }  # fmt: skip
    assert first["rows"][0]["value"]["value"]["slack"] == "https://hooks.example/…"
    assert first["partitions"] == {"open": 2, "of": 4}


@pytest.mark.parametrize("limit", [1, 2, 3, 500])
async def test_a_key_that_stands_in_several_places_is_neither_left_out_nor_repeated(
    office: Office, limit: int
) -> None:
    found = await keys(office, "engine", limit=limit)
    assert found == ["epoch"] * 4
    one = (await ask(office, "tables/engine/epoch")).json()
    assert (one["role"], one["partition"], one["also_in"]) == ("core", 0, ["core-1", "email-0", "email-1"])
    other = (await ask(office, "tables/engine/epoch", role="email", partition=1)).json()
    assert (other["role"], other["partition"]) == ("email", 1)


@pytest.mark.parametrize(
    ("table", "prefix", "found"),
    [
        ("users", "user-00", ["user-000", "user-001", "user-002"]),
        ("users", "user-001", ["user-001"]),
        ("users", "user-003", []),
        ("users", "a|b", []),
        ("devices", "user-001|", ["user-001|t-1"]),
        ("caps", "2026-09-21|user-002", ["2026-09-21|user-002"]),
        ("waits", "2026-09-21T14:14", ["2026-09-21T14:14:20.000Z"]),
        ("waits", "2027", []),
        ("waits", "yesterday", []),
        ("minutes", "2026-09-21T14:13:00.000Z|sms", ["2026-09-21T14:13:00.000Z|sms|sent"]),
        ("histories-by-user", "ada|2026-", ["ada|2026-09-21"]),
        ("counts", "email|", ["email|sent"]),
        ("claims", found_id(1, "user-001")[:7], [found_id(1, "user-001")]),
    ],
)
async def test_rows_are_found_by_what_their_keys_begin_with(
    office: Office, table: str, prefix: str, found: list[str]
) -> None:
    told = list(dict.fromkeys(await keys(office, table, prefix=prefix)))
    assert len(told) == len(found), told
    assert all(one.startswith(begin) for one, begin in zip(told, found, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
async def test_every_row_that_is_listed_is_found_by_its_key(office: Office, layout: Any) -> None:
    found = (await ask(office, f"tables/{layout.name}")).json()["rows"]
    assert found
    for row in found:
        one = await ask(
            office,
            f"tables/{layout.name}/{quote(row['key'], safe='')}",
            role=row["role"],
            partition=row["partition"],
        )
        assert one.status_code == 200
        assert one.json()["value"] == row["value"]
        assert "SECRET" not in one.text


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_row_is_said_in_plain_values_all_the_way_down(office: Office, layout: Any) -> None:
    def is_plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(name, str) and is_plain(one) for name, one in value.items())
        if isinstance(value, list):
            return all(map(is_plain, value))
        return value is None or isinstance(value, str | int | float | bool)

    found = [
        layout.value(value)
        for held in office.held().values()
        for rows in held.rows.values()
        for _, value in rows.scan(layout.prefix)
    ]
    assert found and all(map(is_plain, found))


def test_the_claims_that_are_read_here_fill_every_field() -> None:
    def is_filled(value: Any) -> bool:
        if isinstance(value, msgspec.Struct):
            return all(is_filled(getattr(value, name)) for name in value.__struct_fields__)
        return bool(value) and value is not None

    claim = a_claim("ada", 1)
    assert is_filled(msgspec.structs.replace(claim, pinned=claim.pinned[1:]))


async def test_a_claim_tells_what_was_decided_and_how(office: Office) -> None:
    for row in (await ask(office, "tables/claims")).json()["rows"]:
        found = row["value"]
        assert found["origin"]["at"] == "2026-09-21T14:13:20.000Z"
        assert found["pinned"][0]["target"] == "https://hooks.example/…"
        assert found["pinned"][1]["device"] == {"platform": "web", "keys": {"auth": "•••"}}
        assert found["instead"]["state"] == "digested"
        assert found["instead"]["due"] == "2026-09-21T14:14:20.000Z"
        assert found["notes"] == [["category", "transactional", "allowed"]]
        assert found["manner"] == {"locale": "de", "zone": "Europe/Berlin", "variant": "b"}


async def test_a_wait_shows_what_comes_up(office: Office) -> None:
    wait = (await ask(office, "tables/waits", limit=1)).json()["rows"][0]
    assert wait["key"].startswith("2026-09-21T14:13:20.000Z|")
    assert wait["value"]["topic"] == "email-notifications" and wait["value"]["record"]["text"] == "Hello"


async def test_the_moment_of_an_event_is_said_as_one(office: Office) -> None:
    told = (await ask(office, "tables/histories", limit=1)).json()["rows"][0]["value"]
    assert told["event_at"] == "2026-09-21T14:13:20.000Z"


async def test_what_is_not_there_is_a_problem(office: Office) -> None:
    is_problem(await ask(office, "tables/nothing"), 404)
    is_problem(await ask(office, "tables/nothing/x"), 404)
    is_problem(await ask(office, "tables/histories/x"), 404)
    for cursor in ("x", "é", "a" * 999, write_cursor(Place(b"c|x", "core", 0))):
        is_problem(await ask(office, "tables/users", cursor=cursor), 422, "cursor")
    is_problem(await ask(office, "tables/users", limit=501), 422, "limit")


@pytest.mark.parametrize(
    ("table", "role"),
    [
        ("users", "nope"),
        ("users", "email"),
        ("users", ""),
        ("waits", "nope"),
        ("waits", "status"),
        ("engine", "x"),
    ],
)
async def test_a_role_that_keeps_no_such_table_is_refused(office: Office, table: str, role: str) -> None:
    for path in (f"tables/{table}", f"tables/{table}/x"):
        found = await ask(office, path, role=role)
        is_problem(found, 422, "role")
        assert "; there are core" in found.json()["detail"]
    if role:
        page = await look(office, f"/console/tables/{table}?role={role}", 422)
        assert "That cannot be asked" in page
    is_problem(await ask(office, "tables/waits", role="sms"), 503)


async def test_what_others_may_hold_is_not_said_to_be_missing(office: Office) -> None:
    is_problem(await ask(office, "tables/users/nobody"), 503)
    office.others["core"] |= {2: DictRows(), 3: DictRows()}
    is_problem(await ask(office, "tables/users/nobody"), 404)
    del office.others["core"]
    is_problem(await ask(office, "tables/users"), 503)


async def test_a_page_is_bounded_in_what_it_looks_at_and_in_bytes(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock(office, 60)
    monkeypatch.setattr(rows, "MOST_BYTES", 10)
    assert len((await ask(office, "tables/users")).json()["rows"]) == 1
    assert len(await keys(office, "users")) == 60
    monkeypatch.setattr(rows, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(rows, "MOST_LOOKED_AT", 3)
    for n in range(10):
        office.tell(State.SENT, event=f"more-{n}", at=NOON + 1 + n)
    looked = (await ask(office, "tables/histories-by-user", prefix="ada|2026-09-21T14:13:20.000Z")).json()
    assert looked["rows"] == [] and looked["next_cursor"]
    assert len(await keys(office, "histories-by-user", prefix="ada|2026-09-21T14:13:20.000Z")) == 1


def test_a_cursor_leads_back_to_its_place() -> None:
    place = Place(b"u|a:b\0\xff", "core", 11)
    assert read_cursor(write_cursor(place)) == place
    for bad in ("", "Og", "a", "é"):
        with pytest.raises(BadCursor):
            read_cursor(bad)


# -- pages


async def test_the_pages_lead_from_the_tables_to_a_row(office: Office) -> None:
    page = await look(office, "/console/tables")
    is_harmless(page)
    assert 'href="/console/tables/claims?role=core"' in page and "2 of 4 partitions open" in page
    page = await look(office, "/console/tables/users?role=core&prefix=user-00")
    is_harmless(page)
    assert 'value="user-00"' in page and "This process holds 2 of 4 partitions" in page
    assert 'href="/console/tables/users/row?key=user-001&amp;role=core&amp;partition=1"' in page
    page = await look(office, "/console/tables/users/row?key=user-001&role=core&partition=1")
    is_harmless(page)
    assert "user-001@example.com" in page and "SECRET" not in page


async def test_a_long_table_leads_further_on_and_back(office: Office) -> None:
    stock(office, 120)
    page, seen = await look(office, "/console/tables/users?prefix=user"), 0
    while True:
        seen += page.count('class="id"><a href')
        if 'rel="next"' not in page:
            break
        onward = html.unescape(page.split('rel="next" href="')[1].split('"')[0])
        page = await look(office, onward)
        assert "From the first" in page and 'value="user"' in page
    assert seen == 120


async def test_pages_say_why_there_is_nothing(office: Office) -> None:
    assert "No key begins with “nobody”" in html.unescape(
        await look(office, "/console/tables/users?prefix=nobody")
    )
    assert "No such table" in await look(office, "/console/tables/nothing", 404)
    assert "No such row" in await look(office, "/console/tables/histories/row?key=x", 404)
    assert "That cannot be asked" in await look(office, "/console/tables/users?cursor=x", 422)
    assert "held by this process" in await look(office, "/console/tables/users/row?key=nobody", 503)
    office.others["email"] = {n: DictRows() for n in range(4)}
    assert "The table is empty" in await look(office, "/console/tables/attempts")


@pytest.mark.parametrize("name", XSS)
async def test_what_stands_in_a_row_is_text(office: Office, name: str) -> None:
    office.tell(State.FAILED, user=name, event=name, source=name, reason=name)
    for table in ("histories", "histories-by-user", "histories-by-event"):
        is_harmless(await look(office, f"/console/tables/{table}?prefix={quote(name)}"))
        is_harmless(await look(office, f"/console/tables/{table}"))
    by_user = await keys(office, "histories-by-user")
    assert any(key.startswith(name.replace("%", "%25").replace("|", "%7C")) for key in by_user)


# -- over databases


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Any]:
    found = Rdict(str(tmp_path / "0"), options())
    for n in range(1_000):
        found.put(b"u|user-%04d" % n, bytes(8))
    yield found
    with contextlib.suppress(DbClosedError):
        found.close()


async def test_databases_are_read_in_a_thread_and_let_go(db: Any, tmp_path: Path) -> None:
    threads = set()

    class Watched(StoredRows):
        def get(self, key: bytes) -> bytes | None:
            threads.add(threading.current_thread())
            return super().get(key)

    tables = Tables(lambda: {"core": Held({0: Watched(db)}, 1)})
    pages = await asyncio.gather(*[tables.page("users", "user-05", 500) for _ in range(5)])
    assert [row.key for row in pages[0].rows] == [f"user-{n:04d}" for n in range(500, 600)]
    assert threads and threading.main_thread() not in threads
    db.close()
    Rdict(str(tmp_path / "0"), options()).close()  # raises where anything holds its lock


async def test_a_database_that_is_given_up_meanwhile_is_said_to_be_so(db: Any) -> None:
    tables = Tables(lambda: {"core": Held({0: StoredRows(db)}, 1)})
    db.close()
    with pytest.raises(NotHeld, match="given up"):
        await tables.page("users")
    with pytest.raises(NotHeld, match="given up"):
        await tables.row("users", "user-0001")
