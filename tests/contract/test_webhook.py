"""Webhooks: signed, deduped by their receiver, and never sent to an address of our own network."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp.abc
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from pipeline.pool import Offer, Pool
from pipeline.providers import http, registry, retry_after, webhook
from pipeline.providers.addresses import is_public
from pipeline.providers.http import CONNECTIONS, CONNECTIONS_PER_HOST
from pipeline.providers.provider import Place
from pipeline.providers.webhook import WebhookProvider
from pipeline.settings import SettingsError
from pipeline.simulator import Simulator
from schemas.kinds import Channel
from schemas.message import Message
from tests.contract.peers import HOST, KEY, http_script, listening, message, refusing

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OK = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


def hook(port: int, host: str = HOST, **fields: Any) -> Message:
    given: dict[str, Any] = {"text": '{"order": "ü"}', "html": None, "subject": None}
    return message(f"http://{host}:{port}/hook?a=b", Channel.WEBHOOK, **(given | fields))


def headers_of(head: bytes) -> dict[str, str]:
    lines = head.decode().split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}


@pytest.fixture
async def inside() -> AsyncIterator[WebhookProvider]:
    provider = WebhookProvider("main", timeout=10, secret=SECRET, allow_internal=True)
    yield provider
    await provider.close()


async def test_a_receiver_can_verify_who_sent_it(inside: WebhookProvider) -> None:
    async with listening(http_script([OK])) as peer:
        assert (await inside.send(hook(peer.port), KEY)).kind == "sent"
    head, body = peer.heard[0], peer.bodies[0]
    assert head.startswith(b"POST /hook?a=b HTTP/1.1\r\n")
    found = headers_of(head)
    assert found["webhook-id"] == KEY
    assert found["content-type"] == "application/json"
    Webhook(SECRET).verify(body, found)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + b" ", found)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_b3RoZXI=").verify(body, found)


async def test_a_retry_has_the_same_id_and_body_and_a_new_time() -> None:
    now = 1_760_000_000.9
    provider = WebhookProvider("main", timeout=10, secret=SECRET, allow_internal=True, clock=lambda: now)
    async with listening(http_script([OK])) as peer:
        await provider.send(hook(peer.port), KEY)
        now += 60
        await provider.send(hook(peer.port), KEY)
        await provider.close()
    first, second = headers_of(peer.heard[0]), headers_of(peer.heard[1])
    assert (first["webhook-timestamp"], second["webhook-timestamp"]) == ("1760000000", "1760000060")
    assert first["webhook-id"] == second["webhook-id"]
    assert first["webhook-signature"] != second["webhook-signature"]
    assert peer.bodies[0] == peer.bodies[1]


async def test_a_connection_is_used_again(inside: WebhookProvider) -> None:
    async with listening(http_script([OK, "HTTP/1.1 503 No\r\ncontent-length: 3\r\n\r\nabc", OK])) as peer:
        kinds = [(await inside.send(hook(peer.port), KEY)).kind for _ in range(3)]
    assert kinds == ["sent", "deferred", "sent"]
    assert peer.connections == 1


async def test_a_cookie_is_not_kept(inside: WebhookProvider) -> None:
    cookie = "HTTP/1.1 200 OK\r\nset-cookie: who=me; Path=/\r\ncontent-length: 0\r\n\r\n"
    async with listening(http_script([cookie])) as peer:
        for _ in range(2):
            await inside.send(hook(peer.port, host="localhost"), KEY)
    assert not any("cookie" in headers_of(head) for head in peer.heard)


async def test_a_redirect_inwards_is_not_followed(inside: WebhookProvider) -> None:
    async with listening(http_script([OK])) as secret_service:
        location = f"http://127.0.0.1:{secret_service.port}/admin"
        away = f"HTTP/1.1 307 Away\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
        async with listening(http_script([away])) as peer:
            outcome = await inside.send(hook(peer.port), KEY)
    assert (outcome.kind, outcome.reason) == ("refused", "HTTP 307: the receiver wants it not")
    assert secret_service.connections == 0


def test_text_that_is_json_travels_as_it_is() -> None:
    text = '{"order":  1,\n "ü": null}'
    assert webhook.payload(message(text=text)) == text


@pytest.mark.parametrize("text", ["Hello", "", "[1]", "12", '"x"', "{broken", "null"])
def test_other_text_travels_in_the_envelope_of_standard_webhooks(text: str) -> None:
    found = orjson.loads(webhook.payload(message(text=text, subject="Hi")))
    assert found["type"] == "order.shipped"
    assert found["timestamp"] == "2025-10-09T08:53:20.123Z"
    assert found["data"]["text"] == text
    assert found["data"]["subject"] == "Hi"


INWARD = [
    "127.0.0.1", "127.1", "127.8.8.8", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "0", "0.0.0.0",
    "localhost", "LOCALHOST", "①②⑦.⓪.⓪.①", "kim@127.0.0.1", "127.0.0.1.",
    "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "169.254.169.254", "2852039166",
    "192.0.0.8", "192.0.2.1", "198.18.0.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:a9fe:a9fe]",
    "[::ffff:0:127.0.0.1]", "[::127.0.0.1]", "[fe80::1]", "[fec0::1]", "[fc00::1]", "[fd12:3456:789a::1]",
    "[64:ff9b::127.0.0.1]", "[64:ff9b::10.0.0.1]", "[64:ff9b:1::1]", "[2002:7f00:1::]", "[2002:a9fe:a9fe::1]",
    "[2001:0:0:0:0:0:80ff:fffe]", "[ff02::1]", "[100::1]", "[2001:db8::1]",
]  # fmt: skip


@pytest.mark.parametrize("host", INWARD)
async def test_an_address_inside_is_never_dialled(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: list[Any] = []

    async def dial(loop: asyncio.AbstractEventLoop, sock: socket.socket, address: Any) -> None:
        dialled.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", dial)
    provider = WebhookProvider("main", timeout=10)
    outcome = await provider.send(hook(80, host=host), KEY)
    await provider.close()
    assert dialled == []
    # a form that no resolver takes for an address is as good
    unresolved = outcome.kind == "deferred" and outcome.reason == "not connected: gaierror"
    unusable = outcome.kind == "refused" and (outcome.reason or "").startswith("no usable URL")
    assert outcome.reason == "blocked address" or unresolved or unusable, outcome


@pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]", "localhost"])
async def test_who_listens_inside_hears_nothing(host: str) -> None:
    async with listening(http_script([OK])) as peer:
        provider = WebhookProvider("main", timeout=10)
        outcome = await provider.send(hook(peer.port, host=host), KEY)
        await provider.close()
    assert (outcome.kind, outcome.reason) == ("refused", "blocked address")
    assert peer.connections == 0


class Names(aiohttp.abc.AbstractResolver):
    """Says what it is told to, and then something else."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked = list(answers), 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[aiohttp.abc.ResolveResult]:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        kind = socket.AF_INET6 if ":" in answer else socket.AF_INET
        return [
            aiohttp.abc.ResolveResult(
                hostname=host, host=answer, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST
            )
        ]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("answer", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fd00::1"])
async def test_a_name_that_leads_inside_is_blocked(answer: str) -> None:
    async with listening(http_script([OK])) as peer:
        provider = WebhookProvider("main", timeout=10, resolver=Names(answer))
        outcome = await provider.send(hook(peer.port, host="hooks.example"), KEY)
        await provider.close()
    assert (outcome.kind, outcome.reason) == ("refused", "blocked address")
    assert peer.connections == 0


async def test_the_address_that_is_checked_is_the_one_that_is_dialled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialled: list[Any] = []

    async def dial(loop: asyncio.AbstractEventLoop, sock: socket.socket, address: Any) -> None:
        dialled.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", dial)
    # DNS rebinding: an answer of the public internet first, then one inside
    names = Names("8.8.8.8", "127.0.0.1")
    provider = WebhookProvider("main", timeout=10, resolver=names)
    assert (await provider.send(hook(80, host="a.example"), KEY)).kind == "deferred"
    assert (await provider.send(hook(80, host="b.example"), KEY)).reason == "blocked address"
    await provider.close()
    assert names.asked == 2
    assert set(dialled) == {"8.8.8.8"}


@pytest.mark.parametrize(
    "host",
    ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"],
)
def test_the_public_internet_is_open(host: str) -> None:
    assert is_public(host)


@pytest.mark.parametrize(
    "url", ["", "kim", "ftp://example.com/", "http://", "file:///etc/passwd", "http://[::1", "http://a\x00b/"]
)
async def test_what_is_no_url_is_refused(url: str, inside: WebhookProvider) -> None:
    outcome = await inside.send(message(url, Channel.WEBHOOK), KEY)
    assert outcome.kind == "refused"
    assert (outcome.reason or "").startswith("no usable URL")


def test_settings_that_cannot_be_used_stop_the_process() -> None:
    for fields in (
        {"base_url": "http://127.0.0.1"},
        {"signing_secret": "whsec_!"},
        {"signing_secret": "whsec_"},
    ):
        settings = registry.settings("webhook", **fields)
        with pytest.raises(SettingsError) as told:
            registry.make("main", settings, Place(Path()))
        assert "whsec_!" not in str(told.value)


@given(st.text(max_size=120) | st.integers().map(str) | st.datetimes().map(str))
def test_a_wait_is_nothing_or_between_now_and_a_day(value: str) -> None:
    found = retry_after.seconds(value, 1_760_000_000)
    assert found is None or 0 <= found <= retry_after.MOST_SECONDS


def test_a_wait_is_seconds_or_a_date() -> None:
    now = 1_445_412_450  # Wed, 21 Oct 2015 07:27:30 GMT
    assert retry_after.seconds("Wed, 21 Oct 2015 07:28:00 GMT", now) == 30
    assert retry_after.seconds("Wednesday, 21-Oct-15 07:28:00 GMT", now) == 30
    assert retry_after.seconds("Wed Oct 21 07:28:00 2015", now) == 30
    assert retry_after.seconds(" 17 ", now) == 17
    assert retry_after.seconds(None, now) is None


async def test_a_host_that_hangs_leaves_the_others_alone() -> None:
    provider = WebhookProvider("main", timeout=0.5, allow_internal=True)
    async with listening(http_script(["silent"])) as hung, listening(http_script([OK])) as well:
        calls = [
            asyncio.create_task(provider.send(hook(hung.port), KEY))
            for _ in range(http.CONNECTIONS_PER_HOST + 5)
        ]
        await hung.silent.wait()
        assert (await provider.send(hook(well.port), KEY)).kind == "sent"
        outcomes = [outcome.kind for outcome in await asyncio.gather(*calls)]
        await provider.close()
    assert set(outcomes) <= {"doubtful", "deferred"}
    assert outcomes.count("doubtful") >= http.CONNECTIONS_PER_HOST


async def test_the_simulated_receiver_verifies_and_dedupes(inside: WebhookProvider) -> None:
    sink = Simulator("webhook", secrets={"secret": SECRET})
    await sink.start()
    assert (await inside.send(hook(sink.port), KEY)).kind == "sent"
    assert (await inside.send(hook(sink.port), KEY)).kind == "sent"
    stranger = WebhookProvider("other", timeout=10, allow_internal=True)
    assert (await stranger.send(hook(sink.port), "other")).kind == "refused"
    await stranger.close()
    await sink.stop()
    assert (sink.requests, sink.effects, sink.counts.wrong.total()) == ({KEY: 2}, {KEY: 1}, 1)
    assert len(sink.body_hashes[KEY]) == 1


async def test_nobody_there_is_deferred_for_a_name_that_no_one_knows() -> None:
    class Unknown(Names):
        async def resolve(self, *args: Any, **kwargs: Any) -> Any:
            raise socket.gaierror(-2, "Name or service not known")

    provider = WebhookProvider("main", timeout=10, resolver=Unknown("-"))
    outcome = await provider.send(hook(80, host="nobody.example"), KEY)
    await provider.close()
    assert (outcome.kind, outcome.reason) == ("deferred", "not connected: gaierror")
    with refusing() as port:
        provider = WebhookProvider("main", timeout=10, allow_internal=True)
        assert (await provider.send(hook(port), KEY)).kind == "deferred"
        await provider.close()


async def test_a_host_that_hangs_takes_an_eighth_of_the_calls_and_the_others_go_on(
    inside: WebhookProvider,
) -> None:
    async def call(offer: Offer) -> str:
        outcome = await inside.send(offer.message, KEY)
        offer.end(outcome)
        return outcome.kind

    async with listening(http_script(["silent"])) as hanging, listening(http_script([OK])) as quick:
        pool = Pool([inside])
        offers = [Offer(pool, hook(hanging.port)) for _ in range(200)]
        began = [offer for offer in offers if offer.choose() == "main"]
        assert len(began) == CONNECTIONS_PER_HOST == CONNECTIONS // 8
        hung = [asyncio.create_task(call(offer)) for offer in began]
        for _ in range(10):
            others = [Offer(pool, hook(quick.port)) for _ in range(20)]
            assert {offer.choose() for offer in others} == {"main"}
            async with asyncio.timeout(5):
                assert set(await asyncio.gather(*map(call, others))) == {"sent"}
        assert not any(task.done() for task in hung)
    assert set(await asyncio.gather(*hung)) == {"doubtful"}
    assert offers[-1].choose() == "main"


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("https://Hooks.example/a", "hooks.example:443"),
        ("http://hooks.example/b?c", "hooks.example:80"),
        ("http://[::1]:8080/", "::1:8080"),
        ("ftp://hooks.example/", None),
        ("http://hooks.example:x/", None),
        ("http://\ud800.example/", None),
    ],
)
def test_a_host_is_its_name_and_port(inside: WebhookProvider, target: str, host: str | None) -> None:
    assert inside.host(message(target, Channel.WEBHOOK)) == host
