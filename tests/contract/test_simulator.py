"""A simulated provider does on the wire what was chosen, after it has written down what it heard."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from pipeline.providers import registry
from pipeline.providers.provider import Place, Provider, ProviderSettings
from pipeline.simulator import Simulator
from pipeline.simulator.faults import BANNERS
from pipeline.simulator.fleet import Fleet
from pipeline.simulator.registry import KINDS, Kind
from pipeline.simulator.server import HttpListener
from pipeline.simulator.transport import GARBAGE
from pipeline.simulator.vendor import Callback, Heard, Request, Rule, Taken
from pipeline.simulator.webhook import WebhookReceiver
from schemas.kinds import Channel
from schemas.message import Message
from schemas.outcome import Outcome
from tests.contract.peers import HOST, KEY, http_script, listening, message

SPAWN_SECONDS = 30.0


def aim(kind: str, port: int, **fields: Any) -> tuple[ProviderSettings, Message]:
    if kind == "smtp":
        return registry.settings("smtp", port=port, **fields), message()
    url = f"http://{HOST}:{port}/hook"
    settings = registry.settings("webhook", allow_internal=True, **fields)
    return settings, message(url, Channel.WEBHOOK, text="{}")


@contextlib.asynccontextmanager
async def sender(provider: Simulator, **fields: Any) -> AsyncIterator[Callable[..., Any]]:
    """Sends over our own provider of the kind; `to` is another address for mail."""
    settings, usual = aim(provider.kind, provider.port, **fields)
    client: Provider = registry.make("main", settings, Place(Path()))

    async def send(to: str = "") -> Outcome:
        return await client.send(message(to) if to else usual, KEY)

    yield send
    await client.close()


async def exchange(port: int, path: str = "/hook", key: str = "k1", wait: float = 10) -> bytes:
    """What a bare client reads until the connection ends. Raises ConnectionResetError, TimeoutError."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(
            f"POST {path} HTTP/1.1\r\nhost: {HOST}\r\nwebhook-id: {key}\r\ncontent-length: 2\r\n"
            "connection: close\r\n\r\n{}".encode()
        )
        async with asyncio.timeout(wait):
            return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


@contextlib.asynccontextmanager
async def stranger(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, str]]]:
    """The command in a process of its own, and the addresses that it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pipeline.cli", "simulate-provider", "--port", "0", "--json", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(SPAWN_SECONDS):
            yield process, orjson.loads(await process.stdout.readline())
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def port_of(url: str) -> int:
    return httpx.URL(url).port or 0


# the ledger


@pytest.mark.parametrize(("kind", "effects"), [("smtp", [True, True]), ("webhook", [True, False])])
async def test_what_was_answered_is_on_the_disk(kind: str, effects: list[bool], tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.ndjson"
    async with stranger(kind, "--ledger", str(ledger)) as (process, urls):
        assert set(urls) == {kind, "page"}
        settings, sent = aim(kind, port_of(urls[kind]))
        provider = registry.make("main", settings, Place(tmp_path))
        for n, _ in enumerate(effects, 1):
            assert (await provider.send(sent, KEY)).kind == "sent"
            assert len(lines(ledger)) == n
        await provider.close()
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0
    found = lines(ledger)
    assert [line["effect"] for line in found] == effects
    assert [(line["seq"], line["request"], line["kind"]) for line in found] == [(1, 1, kind), (2, 2, kind)]
    assert {line["key"] for line in found} == {KEY}
    assert {line["to"] for line in found} == {"kim@example.com" if kind == "smtp" else "/hook"}
    assert len({line["body"] for line in found}) == 1


async def test_the_ledger_survives_a_kill_and_a_key_stays_known(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.ndjson"
    for run in range(2):
        async with stranger("webhook", "--ledger", str(ledger)) as (process, urls):
            port = port_of(urls["webhook"])
            answers = await asyncio.gather(*[exchange(port, key=f"k{n}") for n in range(20)])
            assert all(answer.startswith(b"HTTP/1.1 204 ") for answer in answers)
            process.kill()
            await process.wait()
        found = lines(ledger)
        assert [line["seq"] for line in found] == list(range(1, 20 * (run + 1) + 1))
        assert sum(line["effect"] for line in found) == 20


@pytest.mark.parametrize("fault", ["reset_after_body", "hang", "garbage", "server_error", "close", "410"])
async def test_it_is_written_down_before_the_fault_strikes(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = tmp_path / "ledger"
    async with Simulator("webhook", ledger=ledger, faults=[fault]) as provider:
        written, before = asyncio.Event(), asyncio.Event()
        to_disk = provider.ledger._write

        def slow(data: bytes) -> None:
            loop.call_soon_threadsafe(before.set)
            asyncio.run_coroutine_threadsafe(written.wait(), loop).result(10)
            to_disk(data)

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(provider.ledger, "_write", slow)
        call = asyncio.create_task(exchange(provider.port, wait=1 if fault == "hang" else 10))
        await before.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not call.done(), "nothing happens while it is not on the disk"
        written.set()
        with contextlib.suppress(ConnectionResetError, TimeoutError):
            await call
    (line,) = lines(ledger)
    assert (line["fault"], line["to"], line["key"]) == (fault, "/hook", "k1")
    assert line["effect"] is (fault not in {"server_error", "410"})
    assert bool(line["id"]) is line["effect"]


async def test_two_at_once_with_one_id_are_one_effect(tmp_path: Path) -> None:
    async with Simulator("webhook", ledger=tmp_path / "ledger") as provider, sender(provider) as send:
        await asyncio.gather(*[send() for _ in range(30)])
        assert (provider.requests, provider.effects) == ({KEY: 30}, {KEY: 1})
        assert provider.counts.most_in_a_second() == 30
    assert sum(line["effect"] for line in lines(tmp_path / "ledger")) == 1


async def test_a_request_that_is_refused_as_a_whole_is_no_entry() -> None:
    async with Simulator("webhook", secrets={"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}) as provider:
        assert (await exchange(provider.port)).startswith(b"HTTP/1.1 401 ")
        assert provider.counts.wrong == {"not signed with the secret": 1}
        assert (provider.counts.arrivals, provider.requests) == (0, {})
        async with httpx.AsyncClient(base_url=provider.base_url) as client:
            assert "not signed with the secret <b>1</b>" in (await client.get("/_simulator/")).text


# faults on the wire


async def test_a_reset_is_seen_as_one() -> None:
    async with Simulator("webhook", faults=["reset_after_body"]) as provider:
        with pytest.raises(ConnectionResetError):
            await exchange(provider.port)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("garbage", lambda told: told == GARBAGE),
        ("close", lambda told: told == b""),
        ("throttled", lambda told: told.startswith(b"HTTP/1.1 429 ") and b"\r\nretry-after: 1\r\n" in told),
        ("throttled:retry_after=42", lambda told: b"\r\nretry-after: 42\r\n" in told),
        ("server_error", lambda told: told.startswith(b"HTTP/1.1 500 ")),
        ("unauthorized", lambda told: told.startswith(b"HTTP/1.1 401 ")),
        ("404", lambda told: told.startswith(b"HTTP/1.1 404 ")),
        ("nonsense", lambda told: told.startswith(b"HTTP/1.1 200 ") and b'{"\xff' in told),
        ("oversize", lambda told: told.startswith(b"HTTP/1.1 200 ") and len(told) > 8_000_000),
    ],
)
async def test_a_fault_is_what_the_client_reads(fault: str, check: Callable[[bytes], bool]) -> None:
    async with Simulator("webhook", faults=[fault]) as provider:
        assert check((await exchange(provider.port)).replace(b"Retry-After", b"retry-after"))


async def test_a_hang_says_nothing_and_ends_with_its_client() -> None:
    async with Simulator("webhook", faults=["hang"]) as provider:
        with pytest.raises(TimeoutError):
            await exchange(provider.port, wait=0.3)
        assert provider.effects == {"k1": 1}
        async with asyncio.timeout(5):
            await provider.set_faults([])
            assert (await exchange(provider.port, key="k2")).startswith(b"HTTP/1.1 204 ")


async def test_who_does_not_wait_for_an_answer_is_seen_to_have_gone() -> None:
    async with Simulator("webhook", faults=["latency=60"]) as provider:
        with pytest.raises(TimeoutError):
            await exchange(provider.port, wait=0.3)
        await until(lambda: provider.ledger.newest[-1].answer == "nobody waited")
        assert provider.effects == {"k1": 1}


async def test_latency_is_waited_for() -> None:
    loop = asyncio.get_running_loop()
    async with Simulator("webhook", faults=["latency=0.3"]) as provider:
        began = loop.time()
        assert (await exchange(provider.port)).startswith(b"HTTP/1.1 204 ")
        assert 0.29 <= loop.time() - began < 5


@pytest.mark.parametrize("kind", ["smtp", "webhook"])
async def test_down_is_refused_and_up_is_the_same_port(kind: str) -> None:
    async with Simulator(kind) as provider, sender(provider) as send:
        port = provider.port
        for _ in range(2):
            assert (await send()).kind == "sent"
            await provider.set_faults(["down"])
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(HOST, port)
            assert (await send()).kind == "deferred"
            await provider.set_faults([])
        assert (await send()).kind == "sent"
        assert provider.port == port


async def test_what_hangs_is_dropped_at_once_when_it_goes_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.simulator.server.STOP_SECONDS", 60.0)
    async with Simulator("webhook", faults=["hang"]) as provider:
        call = asyncio.create_task(exchange(provider.port))
        await until(lambda: provider.counts.took_effect == 1)
        async with asyncio.timeout(10):
            await provider.set_faults(["down"])
            with contextlib.suppress(ConnectionResetError):
                assert await call == b""


async def test_a_flap_turns_by_itself() -> None:
    async with Simulator("webhook", faults=["flap=0.2/0.2"]) as provider:
        seen = ""
        async with asyncio.timeout(20):
            while seen not in {"udud", "dudu"}:
                try:
                    found = "u" if (await exchange(provider.port)).startswith(b"HTTP/1.1 204 ") else ""
                except ConnectionRefusedError:
                    found = "d"
                except ConnectionResetError:  # it went down in the middle
                    found = ""
                seen += found if seen[-1:] != found else ""


async def test_it_comes_up_again_once_its_port_is_free() -> None:
    async with Simulator("webhook") as provider:
        await provider.set_faults(["down:for=0.2"])
        other = await asyncio.start_server(lambda *_: None, HOST, provider.port)
        async with asyncio.timeout(20):
            while provider.faults.is_down():
                await asyncio.sleep(0.02)
            other.close()
            await other.wait_closed()
            while not provider.is_open:
                await asyncio.sleep(0.02)
        assert (await exchange(provider.port)).startswith(b"HTTP/1.1 204 ")


async def test_an_address_steers_what_comes_of_it() -> None:
    async with Simulator("webhook") as provider:
        for path, status in {
            "/gone/x": 410,
            "/GONE/x": 410,
            "/busy/x": 429,
            "/broken/x": 500,
            "/ok": 204,
        }.items():
            told = await exchange(provider.port, path, key=path)
            assert told.startswith(f"HTTP/1.1 {status} ".encode())
        with pytest.raises(TimeoutError):
            await exchange(provider.port, "/hang/x", key="/hang/x", wait=0.3)
        assert {key for key, count in provider.effects.items() if count} == {"/ok", "/hang/x"}


@pytest.mark.parametrize(("word", "effects"), [("server_error:taken=1", 1), ("reset_after_body:taken=0", 0)])
async def test_whether_it_took_effect_can_be_chosen(word: str, effects: int) -> None:
    async with Simulator("webhook", faults=[word]) as provider:
        with contextlib.suppress(ConnectionResetError):
            await exchange(provider.port)
        assert provider.counts.took_effect == effects
        await provider.set_faults([])
        assert (await exchange(provider.port)).startswith(b"HTTP/1.1 204 ")
        assert provider.counts.took_effect == 1


# mail


@pytest.mark.parametrize(
    ("fault", "kind", "reason"),
    [
        ("throttled", "deferred", "450 4.7.1"),
        ("server_error", "deferred", "451 4.3.0"),
        ("unauthorized", "deferred", "530 5.7.0"),
        ("550 5.1.1", "refused", "550 5.1.1"),
        ("452 4.2.2", "deferred", "452 4.2.2"),
        ("reset_after_body", "doubtful", "Disconnected"),
        ("close", "doubtful", "Disconnected"),
        ("garbage", "doubtful", "garbage"),
        ("hang", "doubtful", "TimeoutError"),
        ("banner_refused", "deferred", "554 5.3.2"),
        ("banner_busy", "deferred", "421 4.3.2"),
        ("banner_missing", "deferred", "TimeoutError"),
        ("latency=0.2", "sent", ""),
    ],
)
async def test_mail_is_struck_as_chosen(fault: str, kind: str, reason: str) -> None:
    async with Simulator("smtp", faults=[fault]) as provider, sender(provider, timeout=1) as send:
        outcome = await send()
        assert outcome.kind == kind
        assert reason in (outcome.reason or "")
        assert provider.counts.took_effect == (kind in {"sent", "doubtful"})
        assert provider.counts.faults == ({fault: 1} if fault != "latency=0.2" else {})
        await provider.set_faults([])
        assert (await send()).kind == "sent"


@pytest.mark.parametrize(
    ("to", "kind", "reason"),
    [
        ("dead@example.com", "refused", "envelope: 550 5.1.1"),
        ("Quota@example.com", "deferred", "envelope: 452 4.2.2"),
        ("grey@example.com", "deferred", "body: 450 4.7.1"),
        ("lost@example.com", "doubtful", "body: "),
    ],
)
async def test_mail_to_some_addresses_comes_to_what_they_say(to: str, kind: str, reason: str) -> None:
    async with Simulator("smtp") as provider, sender(provider) as send:
        outcome = await send(to)
        assert outcome.kind == kind
        assert (outcome.reason or "").startswith(reason)
        (seen,) = provider.ledger.newest
        assert (seen.entry.to, seen.entry.effect) == (to, kind == "doubtful")


async def test_mail_wants_its_password() -> None:
    async with Simulator("smtp", secrets={"username": "me", "password": "pass-word"}) as provider:
        for password, kind in (("pass-word", "sent"), ("wrong", "deferred")):
            async with sender(provider, username="me", password=password) as send:
                assert (await send()).kind == kind
        async with sender(provider) as send:
            assert "530" in ((await send()).reason or "")
        assert provider.effects == {KEY: 1}
        assert provider.counts.wrong == {"not signed in": 1}


# receipts


class Telling(WebhookReceiver):
    """A receiver that calls back, so that the frame is seen to do so."""

    kind = "telling"
    rules = (
        Rule("/bounce/*", "", ("bounced", "complained"), "bounces later"),
        Rule("/gone/*", "410", says="refused"),
        Rule("/quiet/*", "", (), "tells nothing"),
    )

    def receipts(self, request: Request, heard: Heard, taken: Taken, what: str) -> Sequence[Callback]:
        headers, url = {"x-signed": "yes"}, dict(request.headers).get("call-back", "")
        return [Callback(headers, f"{what} {heard.key} {taken.id}".encode(), url)]


@pytest.fixture
def telling(monkeypatch: pytest.MonkeyPatch) -> None:
    known: Mapping[str, Kind] = {**KINDS, "telling": Kind(Telling)}
    monkeypatch.setattr("pipeline.simulator.simulator.KINDS", known)


async def until(seen: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not seen():
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("telling")
async def test_receipts_follow_what_took_effect_and_nothing_else() -> None:
    ok = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    async with listening(http_script([ok])) as peer:
        async with Fleet(["telling"], callbacks=f"http://{HOST}:{peer.port}/callbacks/{{kind}}") as fleet:
            assert fleet.callbacks is not None
            provider = fleet.simulators["telling"]
            for path in ("/bounce/a", "/gone/b", "/quiet/c", "/plain/d", "/plain/d"):
                await exchange(provider.port, path, key=path[-1])
            async with httpx.AsyncClient() as client:
                named = {"webhook-id": "e", "call-back": "https://elsewhere.example/cb?ref=1"}
                await client.post(provider.base_url + "/plain", headers=named)
            callbacks = fleet.callbacks
            await until(lambda: callbacks.sent == 4)
            assert (callbacks.failed, callbacks.dropped) == (0, 0)
        assert sorted(peer.bodies) == [
            b"bounced a hook-1", b"complained a hook-1", b"delivered d hook-4", b"delivered e hook-6",
        ]  # fmt: skip
        heads = [head.split(b"\r\n")[0] for head in peer.heard]
        assert heads.count(b"POST /callbacks/telling HTTP/1.1") == 3
        assert heads.count(b"POST /cb?ref=1 HTTP/1.1") == 1, "of the request's own address only the path"
        assert all(b"x-signed: yes" in head for head in peer.heard)


@pytest.mark.usefixtures("telling")
async def test_a_receipt_is_told_though_the_answer_was_lost() -> None:
    ok = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    async with (
        listening(http_script([ok])) as peer,
        Fleet(
            ["telling"], callbacks=f"http://{HOST}:{peer.port}/", faults={"telling": ["reset_after_body"]}
        ) as fleet,
    ):
        with pytest.raises(ConnectionResetError):
            await exchange(fleet.simulators["telling"].port)
        await until(lambda: fleet.callbacks is not None and fleet.callbacks.sent == 1)


def test_callbacks_go_to_http_alone() -> None:
    with pytest.raises(ValueError, match="no http or https URL"):
        Fleet(["smtp"], callbacks="file:///etc/passwd")


# the page


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    async with Fleet(["smtp", "webhook"]) as found:
        yield found


@pytest.fixture
async def browser(fleet: Fleet) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=fleet.page_url) as client:
        yield client


async def test_the_page_escapes_what_came(fleet: Fleet, browser: httpx.AsyncClient) -> None:
    evil = "<script>alert(1)</script>"
    webhook, smtp = fleet.simulators["webhook"], fleet.simulators["smtp"]
    await exchange(webhook.port, "/x", key=evil)
    async with sender(smtp) as send:
        assert (await send()).kind == "sent"
    await webhook.play(Request("POST", f"/{evil}", "", {"webhook-id": "k"}, b""))
    page = await browser.get("")
    assert page.status_code == 200
    assert evil not in page.text
    assert page.text.count("&lt;script&gt;alert(1)") == 2
    assert "Your order has shipped" in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


async def test_whatever_the_page_loads_is_its_own(browser: httpx.AsyncClient) -> None:
    page = (await browser.get("")).text
    for name in ("console.css", "page.css", "page.js", "bell.svg"):
        assert f'"/_simulator/{name}"' in page
        found = await browser.get(name)
        assert found.status_code == 200
        assert found.headers["x-content-type-options"] == "nosniff"
    assert "http://" not in page.replace(str(browser.base_url).removesuffix("/_simulator/"), "").replace(
        f"http://{HOST}:", ""
    )


async def test_the_page_is_there_while_its_provider_is_down(fleet: Fleet, browser: httpx.AsyncClient) -> None:
    assert (await browser.put("faults", json={"webhook": ["down"]})).status_code == 200
    assert "down</span>" in (await browser.get("")).text
    assert (await browser.get("counts")).json()["webhook"]["up"] is False
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HOST, fleet.simulators["webhook"].port)
    assert (await browser.put("faults", json={"webhook": []})).status_code == 200
    assert (await exchange(fleet.simulators["webhook"].port)).startswith(b"HTTP/1.1 204 ")


async def test_the_page_is_on_the_providers_own_port_too() -> None:
    async with Simulator("webhook") as provider, httpx.AsyncClient(base_url=provider.base_url) as client:
        assert "Simulated providers" in (await client.get("/_simulator/")).text
        assert (await client.put("/_simulator/faults", json={"webhook": ["410"]})).json() == {
            "webhook": ["410"]
        }
        assert (await exchange(provider.port)).startswith(b"HTTP/1.1 410 ")


async def test_counts_and_ledger_are_told_as_json(fleet: Fleet, browser: httpx.AsyncClient) -> None:
    webhook = fleet.simulators["webhook"]
    await webhook.set_faults(["410:first=1"])
    for key in ("a", "b", "b"):
        await exchange(webhook.port, key=key)
    counts = (await browser.get("counts")).json()
    assert set(counts) == {"smtp", "webhook"}
    expected = {"requests": 3, "targets": 3, "keys": 2, "effects": 1, "keys_with_several_effects": 0,
                "most_in_a_second": 3, "struck": {"410": 1}, "up": True}  # fmt: skip
    assert {name: counts["webhook"][name] for name in expected} == expected
    entries = (await browser.get("ledger", params={"kind": "webhook", "limit": 2})).json()["entries"]
    assert [(one["key"], one["effect"], one["answer"]) for one in entries] == [
        ("b", False, "204"), ("b", True, "204"),
    ]  # fmt: skip
    assert (await browser.get("ledger", params={"kind": "smtp"})).json() == {"entries": []}


@pytest.mark.parametrize(
    ("given", "status", "field"),
    [
        (b"{", 400, ""),
        (b"[]", 422, ""),
        (b'{"twofold": []}', 422, "kind"),
        (b'{"webhook": "hang"}', 422, "webhook"),
        (b'{"webhook": [1]}', 422, "webhook"),
        (b'{"smtp": ["hang"], "webhook": ["nothing"]}', 422, "webhook"),
        (b" " * 70_000, 413, ""),
    ],
)
async def test_faults_that_are_none_are_refused_and_change_nothing(
    fleet: Fleet, browser: httpx.AsyncClient, given: bytes, status: int, field: str
) -> None:
    found = await browser.put("faults", content=given)
    assert (found.status_code, found.json()["field"]) == (status, field)
    assert (await browser.get("faults")).json() == {"smtp": [], "webhook": []}


async def test_the_form_puts_faults_in_force_or_says_what_is_wrong(
    fleet: Fleet, browser: httpx.AsyncClient
) -> None:
    form = {"kind": "smtp", "faults": "throttled:0.5\r\n\r\n latency=0.1 \r\n"}
    found = await browser.post("faults", data=form)
    assert (found.status_code, found.headers["location"]) == (303, "/_simulator/?kind=smtp")
    assert fleet.simulators["smtp"].faults.words == ["throttled:0.5", "latency=0.1"]
    wrong = await browser.post("faults", data={"kind": "smtp", "faults": "<i>x"})
    assert wrong.status_code == 422
    assert "&lt;i&gt;x: no such fault" in wrong.text
    assert fleet.simulators["smtp"].faults.words == ["throttled:0.5", "latency=0.1"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example:4009"}, 421),
        ({"sec-fetch-site": "same-origin", "origin": "null"}, 303),
        ({}, 303),
    ],
)
async def test_pages_of_other_sites_change_nothing(
    browser: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    form = {"kind": "smtp", "faults": "hang"}
    assert (await browser.post("faults", data=form, headers=headers)).status_code == status
    assert (await browser.get("faults")).json()["smtp"] == (["hang"] if status == 303 else [])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("DELETE", "faults", 405), ("GET", "nothing", 404), ("GET", "../registry.py", 404),
        ("GET", "ledger?kind=x", 422), ("GET", "ledger?limit=x", 422), ("GET", "?kind=x", 422),
    ],
)  # fmt: skip
async def test_what_is_not_there_is_told(
    browser: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    assert (await browser.request(method, path)).status_code == status


# the command


async def run(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pipeline.cli", "simulate-provider", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(SPAWN_SECONDS):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["twofold"], "twofold: there are "),
        (["smtp", "smtp"], "named twice"),
        (["--fault", "nothing"], "nothing: no such fault"),
        (["smtp", "--fault", "smtp.nothing"], "nothing: no such fault"),
        (["--secret", "hush-4711"], "not KIND.NAME=VALUE"),
        (["--secret", "webhook.pin=hush-4711"], "webhook has no secret pin; it has secret"),
        (["--port", "70000"], "70000"),
    ],
)
async def test_wrong_use_is_told_in_one_line(arguments: list[str], told: str) -> None:
    status, out, err = await run(*arguments)
    assert (status, out) == (2, "")
    assert told in err
    assert "hush-4711" not in err
    assert "Traceback" not in err


async def test_what_cannot_be_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("milk\n")
    async with Simulator("webhook") as taken:
        for arguments in (
            ["webhook", "--port", str(taken.port), "--page-port", "0"],
            ["webhook", "--port", "0", "--ledger", str(tmp_path / "notes")],
            ["webhook", "--port", "0", "--ledger", str(tmp_path / "nowhere" / "x")],
            ["webhook", "--port", "0", "--callbacks", "nowhere"],
            ["webhook", "--port", "0", "--secret", f"webhook.secret=@{tmp_path}/none"],
            ["webhook", "--port", "0", "--secret", "webhook.secret=whsec_???"],
        ):
            status, out, err = await run(*arguments)
            assert (status, out) == (1, ""), arguments
            assert len(err.splitlines()) == 1, err


async def test_the_command_simulates_all_kinds_with_faults_and_secrets(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    async with stranger(
        "--fault", "throttled:first=1", "--fault", "smtp.550 5.1.1:every=2",
        "--secret", f"webhook.secret=@{tmp_path / 'secret'}",
    ) as (process, urls):  # fmt: skip
        assert set(urls) == {*KINDS, "page"}
        async with httpx.AsyncClient(base_url=urls["page"]) as client:
            faults = (await client.get("faults")).json()
        assert faults["smtp"] == ["throttled:first=1", "550 5.1.1:every=2"]
        assert faults["webhook"] == ["throttled:first=1"]
        assert (await exchange(port_of(urls["webhook"]))).startswith(b"HTTP/1.1 401 ")
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0


async def test_it_stops_while_its_senders_are_connected() -> None:
    for kind in ("smtp", "webhook"):
        provider = Simulator(kind)
        await provider.start()
        async with sender(provider) as send:
            assert (await send()).kind == "sent"
            async with asyncio.timeout(10):
                await provider.stop()
            assert (await send()).kind in {"deferred", "doubtful"}


async def test_a_body_above_the_cap_is_not_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.simulator.server.BODY_BYTES", 1000)
    async with Simulator("webhook") as provider, httpx.AsyncClient() as client:
        assert (await client.post(provider.base_url, content=b"x" * 1001)).status_code == 413
        assert (await client.post(provider.base_url, content=b"x" * 1000)).status_code == 204
        assert provider.counts.arrivals == 1


def test_http_knows_all_faults_of_the_manual() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
    for name in {*HttpListener.faults, "latency", "down", "flap", *BANNERS}:
        assert f"`{name}" in manual
