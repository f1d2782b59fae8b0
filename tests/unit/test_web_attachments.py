"""Uploading a file: what is taken, what is refused by its field, and that no more is read than is allowed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from pipeline.attachments import Attachment, Terms, Unreachable
from pipeline.attachments.local import LocalStore
from pipeline.web import attachments, problem
from pipeline.web.guard import BODY_BYTES
from pipeline.web.problem import Wrong
from tests.browser.desk import TOKEN, Office
from tests.unit.test_web_api import is_problem

MOST = BODY_BYTES * 3
PDF = {"content-type": "application/pdf", "content-disposition": 'attachment; filename="invoice.pdf"'}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "attachments", Terms(MOST, 30, 9))


@pytest.fixture
def office(store: LocalStore) -> Office:
    return Office(store=store)


async def upload(
    office: Office, content: Any = b"%PDF", headers: dict[str, str] = PDF, **more: str
) -> httpx.Response:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(office.app),
        base_url="http://127.0.0.1",
        headers={"authorization": f"Bearer {TOKEN}"},
    ) as client:
        return await client.post("/api/v1/attachments", content=content, headers=headers | more)


def stored(store: LocalStore) -> list[Path]:
    return [path for path in store.directory.rglob("*") if path.is_file()]


async def test_what_was_uploaded_is_stored_under_the_id_that_is_answered(
    office: Office, store: LocalStore
) -> None:
    found = await upload(office, b"\0\r\n" * 60_000)  # more than any other page takes
    assert found.status_code == 201
    told = found.json()
    id = told.pop("attachment_id")
    assert told == {"name": "invoice.pdf", "content_type": "application/pdf", "size": 180_000}
    assert await store.get(id) == Attachment("invoice.pdf", "application/pdf", b"\0\r\n" * 60_000)


async def test_a_name_beyond_ascii_is_stored_as_it_is(office: Office, store: LocalStore) -> None:
    header = {"content-disposition": "attachment; filename*=UTF-8''f%C3%BCr%20K%C3%A4the.csv"}
    found = await upload(office, headers=header | {"content-type": "text/csv; charset=utf-8"})
    assert (found.json()["name"], found.json()["content_type"]) == (
        "für Käthe.csv",
        "text/csv; charset=utf-8",
    )
    assert (await store.get(found.json()["attachment_id"])).name == "für Käthe.csv"


@pytest.mark.parametrize(
    ("headers", "status", "field"),
    [
        ({"content-disposition": ""}, 422, "name"),
        ({"content-disposition": "attachment; filename=../x"}, 422, "name"),
        ({"content-disposition": "attachment; filename*=UTF-8''a%0D%0Ab"}, 422, "name"),
        ({"content-type": "nonsense"}, 415, "content_type"),
        ({"content-type": "multipart/form-data; boundary=x"}, 415, "content_type"),
        ({"content-encoding": "gzip"}, 415, "content_encoding"),
    ],
)
async def test_what_is_wrong_is_told_by_its_field(
    office: Office, store: LocalStore, headers: dict[str, str], status: int, field: str
) -> None:
    is_problem(await upload(office, headers=PDF | headers), status, field)
    assert stored(store) == []


async def test_nothing_is_no_attachment(office: Office, store: LocalStore) -> None:
    is_problem(await upload(office, b""), 422, "body")


async def test_the_largest_one_is_taken_and_one_byte_more_is_not(office: Office, store: LocalStore) -> None:
    assert (await upload(office, b"x" * MOST)).json()["size"] == MOST
    is_problem(await upload(office, b"x" * (MOST + 1)), 413, "body")
    assert len(stored(store)) == 1


async def test_no_more_is_read_than_is_allowed(office: Office, store: LocalStore) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while read < 100 * MOST:
            read += 10_000
            yield b"x" * 10_000

    scope_sent = await asgi(office, endless())
    assert scope_sent == 413
    assert MOST < read <= MOST + 10_000
    assert stored(store) == []


async def asgi(office: Office, pieces: AsyncIterator[bytes], **headers: str) -> int:
    """The status of an upload whose body is asked for piece by piece, without a Content-Length."""
    status = 0

    async def receive() -> dict[str, Any]:
        try:
            return {"type": "http.request", "body": await anext(pieces), "more_body": True}
        except StopAsyncIteration:
            return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    given = {"host": "127.0.0.1", "authorization": f"Bearer {TOKEN}"} | PDF | headers
    scope = {
        "type": "http", "method": "POST", "path": "/api/v1/attachments", "raw_path": b"/api/v1/attachments",
        "query_string": b"", "scheme": "http", "http_version": "1.1", "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1), "root_path": "", "asgi": {"version": "3.0"},
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }  # fmt: skip
    await office.app(scope, receive, send)
    return status


async def test_an_upload_that_is_cut_off_leaves_nothing(office: Office, store: LocalStore) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b"half"

    assert await asgi(office, half()) == 400
    assert stored(store) == []


@pytest.mark.parametrize("length", ["999999999999999999999999", "-5", "²", str(MOST + 1)])
async def test_a_length_that_lies_or_is_too_much_stores_nothing(
    office: Office, store: LocalStore, length: str
) -> None:
    async def little() -> AsyncIterator[bytes]:
        yield b"half"

    assert await asgi(office, little(), **{"content-length": length}) in (400, 413)
    assert stored(store) == []


async def test_who_is_not_signed_in_uploads_nothing(office: Office, store: LocalStore) -> None:
    is_problem(await upload(office, authorization="Bearer wrong"), 401)
    cross = await upload(office, headers=PDF | {"sec-fetch-site": "cross-site"})
    assert cross.status_code == 403
    assert stored(store) == []


async def test_a_store_that_takes_nothing_is_told(
    office: Office, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: Any) -> str:
        raise Unreachable("attachments: No space left on device")

    monkeypatch.setattr(store, "put", full)
    is_problem(await upload(office), 503)


async def test_an_upload_that_takes_too_long_is_ended_and_gives_its_turn_back(
    store: LocalStore,
) -> None:
    app = FastAPI()
    app.include_router(attachments.router(store, seconds=0.05))
    app.add_exception_handler(Wrong, lambda _, error: problem.of_wrong(error))

    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        for _ in range(attachments.UPLOADS + 1):
            found = await client.post("/api/v1/attachments", content=slow(), headers=PDF)
            is_problem(found, 408, "body")
        assert (await client.post("/api/v1/attachments", content=b"x", headers=PDF)).status_code == 201


async def test_the_interface_describes_it(office: Office) -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(office.app), base_url="http://127.0.0.1"
    ) as client:
        told = (await client.get("/openapi.json")).json()["paths"]["/api/v1/attachments"]["post"]
    assert {"201", "401", "408", "413", "415", "422", "503"} <= set(told["responses"])
    assert list(told["responses"]["413"]["content"]) == ["application/problem+json"]
    assert [one["name"] for one in told["parameters"]] == ["Content-Disposition"]
    assert told["requestBody"]["required"]
