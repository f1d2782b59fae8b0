"""Who gets in, by which name, with what headers."""

from collections.abc import AsyncIterator

import httpx
import pytest

from pipeline.metrics import Metrics
from pipeline.web import guard, server
from pipeline.web.session import LASTS_SECONDS, Sessions
from tests.browser.desk import TOKEN, Office
from tests.browser.repairs import repairs
from tests.unit.test_web_api import is_problem
from tests.unit.test_web_repair_pages import hidden

BEARER = {"authorization": f"Bearer {TOKEN}"}
PRIVATE = (
    "/console", "/console/users/ada", "/console/users", "/console/events", "/console/search",
    "/console/outbox", "/console/outbox/html", "/console/notifications/x",
    "/console/notifications/x/html/email", "/console/sign-out", "/console/nowhere", "/api/v1/overview",
    "/api/v1/notifications", "/api/v1/notifications/x", "/nowhere", "/api/v1/dlq", "/api/v1/dlq/dlq-sms-0-1",
    "/console/dlq", "/console/dlq/dlq-sms-0-1", "/console/replay",
)  # fmt: skip


@pytest.fixture
def office() -> Office:
    return Office()


def browser(office: Office, **options: object) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(office.app)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", PRIVATE)
async def test_nothing_private_is_shown_without_signing_in(office: Office, path: str) -> None:
    async with browser(office) as client:
        found = await client.get(path)
        assert found.status_code == 401
        assert ("Operator token" in found.text) == path.startswith("/console")
        for authorization in ("Bearer wrong", f"Basic {TOKEN}", "Bearer", "Bearer ünsinn"):
            refused = await client.get(path, headers={b"authorization": authorization.encode()})
            assert refused.status_code == 401


def test_what_is_public_is_so_on_purpose() -> None:
    on_purpose = {"/", "/openapi.json", "/console/sign-in", "/healthz", "/readyz", "/metrics"}
    assert on_purpose == guard.PUBLIC


async def test_the_address_with_the_token_signs_in_and_forgets_the_token(office: Office) -> None:
    async with browser(office) as client:
        found = await client.get("/console/users/a%2Fb?limit=5&token=" + TOKEN.replace(" ", "+"))
        assert found.status_code == 303
        assert found.headers["location"] == "/console/users/a%2Fb?limit=5"
        cookie = found.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Secure" not in cookie
        assert TOKEN not in cookie
        assert (await client.get("/console")).status_code == 200
        assert (await client.get("/api/v1/overview")).status_code == 200


async def test_a_wrong_token_in_the_address_is_refused_and_not_repeated(office: Office) -> None:
    async with browser(office) as client:
        found = await client.get("/console?token=guess-123")
        assert found.status_code == 401
        assert "That is not the token" in found.text
        assert "guess-123" not in found.text
        assert "set-cookie" not in found.headers


async def test_the_form_signs_in_and_goes_on_to_where_one_wanted_to_go(office: Office) -> None:
    async with browser(office) as client:
        wrong = await client.post("/console/sign-in", data={"token": "wrong", "to": "/console/outbox"})
        assert wrong.status_code == 401 and 'role="alert"' in wrong.text
        assert 'value="/console/outbox"' in wrong.text
        right = await client.post(
            "/console/sign-in", data={"token": f" {TOKEN} ", "to": "/console/outbox?q=a b"}
        )
        assert (right.status_code, right.headers["location"]) == (303, "/console/outbox?q=a%20b")
        assert (await client.get("/console/outbox")).status_code == 200


@pytest.mark.parametrize(
    "to",
    [
        "https://evil.example",
        "//evil.example",
        "/consoles",
        "/console\\@evil",
        "javascript:alert(1)",
        "",
        "/console\r\nx: y",
    ],
)
async def test_signing_in_never_leads_elsewhere(office: Office, to: str) -> None:
    async with browser(office) as client:
        found = await client.post("/console/sign-in", data={"token": TOKEN, "to": to})
        assert found.headers["location"] == "/console"


async def test_signing_out_ends_it(office: Office) -> None:
    async with browser(office) as client:
        await client.get(f"/console?token={TOKEN}")
        another = Sessions(TOKEN, office.clock)
        for token in ("", "x", another.form_token(""), another.form_token(another.issue() + "x")):
            found = await client.post("/console/sign-out", data={"form_token": token})
            assert found.status_code == 403, token
            assert "set-cookie" not in found.headers
        page = (await client.get("/console")).text
        assert (
            await client.post("/console/sign-out", data=hidden(page, "/console/sign-out"))
        ).status_code == 303
        assert (await client.get("/console")).status_code == 401


async def test_a_session_ends_by_itself_and_cannot_be_made_up(office: Office) -> None:
    sessions = Sessions(TOKEN, office.clock)
    good = sessions.issue()
    expires, _, signature = good.partition(".")
    forged = ("", ".", "x", TOKEN, f"{int(expires) + 1}.{signature}", f"{expires}.{signature[:-1]}",
              f".{signature}", f"{expires}.é", "é.é", Sessions("another", office.clock).issue())  # fmt: skip
    async with browser(office) as client:
        for value, status in [(good, 200), *[(value, 401) for value in forged]]:
            cookie = f"{sessions.cookie}={value}".encode()
            assert (await client.get("/console", headers={b"cookie": cookie})).status_code == status, value
        office.now += LASTS_SECONDS
        assert (
            await client.get("/console", headers={"cookie": f"{sessions.cookie}={good}"})
        ).status_code == 401


async def test_a_session_outlives_a_restart_with_the_same_token(office: Office) -> None:
    async with browser(office) as client:
        await client.get(f"/console?token={TOKEN}")
        async with browser(Office(), cookies=client.cookies) as again:
            assert (await again.get("/console")).status_code == 200


async def test_over_https_the_cookie_is_for_https_alone() -> None:
    async with browser(Office(secure=True)) as client:
        assert "Secure" in (await client.get(f"/console?token={TOKEN}")).headers["set-cookie"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "10.0.0.1:8080", "[::2]"])
async def test_a_name_that_is_not_ours_is_refused(office: Office, host: str) -> None:
    async with browser(office) as client:
        for path in ("/console", "/api/v1/overview", "/", "/static/console.js", "/openapi.json"):
            assert (await client.get(path, headers={"host": host, **BEARER})).status_code == 421
        for path in guard.MACHINES:
            assert (await client.get(path, headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8080", "Desk.Example:80"])
async def test_our_own_names_are_served(host: str) -> None:
    async with browser(Office(hosts=("desk.example",))) as client:
        assert (await client.get("/console", headers={"host": host, **BEARER})).status_code == 200


@pytest.mark.parametrize(
    "path", ["/console", "/console/nowhere", "/api/v1/overview", "/api/v1/x", "/static/console.css",
             "/static/none", "/healthz", "/metrics", "/", "/openapi.json", "/nowhere"],
)  # fmt: skip
@pytest.mark.parametrize("headers", [{}, BEARER])
async def test_every_answer_carries_the_headers_that_keep_browsers_in_bounds(
    office: Office, path: str, headers: dict[str, str]
) -> None:
    async with browser(office) as client:
        found = (await client.get(path, headers=headers)).headers
    assert found["content-security-policy"] == guard.PAGE_POLICY
    assert found["x-content-type-options"] == "nosniff"
    assert found["x-frame-options"] == "DENY"
    assert found["referrer-policy"] == "no-referrer"
    assert "no-store" in found["cache-control"] or path.startswith("/static")


def test_the_policy_allows_nothing_inline() -> None:
    assert guard.PAGE_POLICY.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in guard.PAGE_POLICY
    assert "script-src" not in guard.FRAME_POLICY and guard.FRAME_POLICY.startswith(
        "sandbox; default-src 'none'"
    )


async def test_a_failure_is_said_without_its_cause_and_with_the_headers(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("secret of the house")

    monkeypatch.setattr(office.desk, "figures", fail)
    async with browser(office, headers=BEARER) as client:
        found = await client.get("/console")
    assert found.status_code == 500
    assert "secret" not in found.text
    assert found.headers["content-security-policy"] == guard.PAGE_POLICY


async def test_a_form_that_another_site_sent_is_refused(office: Office) -> None:
    async with browser(office, headers=BEARER) as client:
        for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 303), ("none", 303)):
            fields = {"form_token": Sessions(TOKEN, office.clock).form_token("")}
            found = await client.post("/console/sign-out", data=fields, headers={"sec-fetch-site": site})
            assert found.status_code == status


async def test_requests_are_bounded(office: Office) -> None:
    async def drops() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"a" * 4096

    async with browser(office) as client:
        assert (
            await client.post("/console/sign-in", content=b"a" * (guard.BODY_BYTES + 1))
        ).status_code == 413
        assert (await client.get("/console?q=" + "a" * guard.URL_BYTES)).status_code == 414
        unsaid = await client.post("/console/sign-in", content=drops())
        assert unsaid.status_code == 413 and unsaid.headers["content-security-policy"] == guard.PAGE_POLICY


async def test_a_token_may_be_any_text(office: Office) -> None:
    token = "schlüssel ☃"
    app = server.create(
        office.desk,
        office.tables,
        office.tasks,
        repairs(office.shelf, office.groups, office.clock),
        operations=office.outside,
        token=token,
        version="0",
        readiness=dict,
        metrics=Metrics(),
        clock=office.clock,
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        bearer = {b"authorization": f"Bearer {token}".encode()}
        assert (await client.get("/api/v1/overview", headers=bearer)).status_code == 200
        assert (await client.get("/console", params={"token": token})).status_code == 303
        assert (await client.get("/console")).status_code == 200


def test_an_empty_token_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        Sessions("")


@pytest.mark.parametrize("told", [True, False], ids=["with its length", "in pieces"])
@pytest.mark.parametrize("path", ["/api/v1/dlq/redrive", "/api/v1/templates/x/preview"])
async def test_a_body_that_is_too_large_is_a_problem_and_no_failure(
    office: Office, caplog: pytest.LogCaptureFixture, path: str, told: bool
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * (guard.BODY_BYTES // 2)

    whole = b" " * (guard.BODY_BYTES + 1)
    async with browser(office) as client:
        found = await client.post(
            path, content=whole if told else pieces(),
            headers={**BEARER, "content-type": "application/json"},
        )  # fmt: skip
        is_problem(found, 413, "body")
        assert found.json()["detail"] == f"body: at most {guard.BODY_BYTES} bytes are taken here"
        assert found.headers["content-security-policy"] == guard.PAGE_POLICY
        is_problem(await client.post(path, content=whole), 401)
        console = await client.post("/console/sign-in", content=whole)
        assert console.status_code == 413 and console.headers["x-frame-options"] == "DENY"
    assert not [one for one in caplog.records if one.levelname in ("ERROR", "WARNING")]
