"""The server around it: in the loop that runs, bounded, and gone when told."""

import asyncio
import signal

import httpx
import pytest

from pipeline.web import server
from tests.browser.desk import TOKEN, Office


async def test_it_serves_on_a_port_of_its_choice_and_stops() -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    serving, port = await server.serve(Office().app, "127.0.0.1", 0)
    try:
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            found = await client.get("/console", params={"token": TOKEN}, follow_redirects=True)
            assert found.status_code == 200 and "Overview" in found.text
            assert "server" not in found.headers
            script = await client.get("/static/console.js")
            assert script.headers["content-type"].startswith("text/javascript")
            assert (await client.get("/static/console.css")).headers["content-type"].startswith("text/css")
            assert (await client.get("/static/bell.svg")).headers["content-type"] == "image/svg+xml"
            assert (await client.get("/", follow_redirects=False)).headers["location"] == "/console"
    finally:
        await serving.stop()
    await serving.stop()
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_taken_port_is_said_to_be_taken() -> None:
    serving, port = await server.serve(Office().app, "127.0.0.1", 0)
    try:
        with pytest.raises(OSError):
            await server.serve(Office().app, "127.0.0.1", port)
    finally:
        await serving.stop()


async def test_a_head_without_end_is_cut_off() -> None:
    serving, port = await server.serve(Office().app, "127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 2 * server.HEAD_BYTES)
        assert (await reader.readline()).startswith(b"HTTP/1.1 4")
        writer.close()
        await writer.wait_closed()
    finally:
        await serving.stop()


async def test_a_raw_target_that_is_no_path_leads_nowhere() -> None:
    serving, port = await server.serve(Office().app, "127.0.0.1", 0)
    try:
        for target in (
            b"//evil.example/console?token=" + TOKEN.replace(" ", "+").encode(),
            b"/%2e%2e/console",
            b"/console/users/%ff%00%0d%0a",
            b"/console/users/%",
            b"http://evil.example/console",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = (await reader.read()).decode()
            assert answer.startswith("HTTP/1.1 4"), (target, answer)
            assert "location:" not in answer.lower()
            writer.close()
            await writer.wait_closed()
    finally:
        await serving.stop()
