"""FCM: what a request holds, and that one access token serves all calls."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pipeline.providers import fcm, registry
from pipeline.providers.fcm import FcmProvider
from pipeline.providers.http import Ended
from pipeline.providers.provider import Place
from pipeline.settings import SettingsError
from pipeline.simulator import Simulator
from schemas.kinds import Channel, Priority
from schemas.message import Message
from tests.contract.peers import HOST, KEY, Peer, listening, message
from tests.contract.push_scenes import TOKEN_URI, read_request, service_account, settings, token, web_script

NAME = '{"name": "projects/shop-4711/messages/0:15003"}'
OK = f"HTTP/1.1 200 OK\r\ncontent-length: {len(NAME)}\r\n\r\n{NAME}"
UNAUTHENTICATED = '{"error": {"status": "UNAUTHENTICATED"}}'
NO = f"HTTP/1.1 401 Unauthorized\r\ncontent-length: {len(UNAUTHENTICATED)}\r\n\r\n{UNAUTHENTICATED}"
FAILED = "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"
NOW = 1_760_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def push(to: str = "dKx9:APA91bHun4MxP5egoKMwt2KZFBaFUH", **fields: Any) -> Message:
    given: dict[str, Any] = {"platform": "android", "text": "It is on its way — ü", "html": None}
    return message(to, Channel.PUSH, **(given | fields))


@asynccontextmanager
async def provider(port: int, clock: Clock | None = None, seconds: float = 10) -> AsyncIterator[FcmProvider]:
    account = fcm.account("main", service_account())
    found = FcmProvider(
        "main", timeout=seconds, account=account, base_url=f"http://{HOST}:{port}", clock=clock or Clock()
    )
    try:
        yield found
    finally:
        await found.close()


def bearer(peer: Peer) -> list[str]:
    """The access tokens that the requests came with."""
    lines = [line for head in peer.heard for line in head.decode().split("\r\n")]
    return [line.partition("Bearer ")[2] for line in lines if line.lower().startswith("authorization")]


async def test_a_request_says_what_when_and_to_whom() -> None:
    async with listening(web_script([OK])) as peer, provider(peer.port) as main:
        outcome = await main.send(push(expires_at=int(NOW * 1000) + 90_500, priority=Priority.HIGH), KEY)
    assert outcome.provider_message_id == "projects/shop-4711/messages/0:15003"
    assert peer.heard[0].startswith(b"POST /v1/projects/shop-4711/messages:send HTTP/1.1\r\n")
    assert b"content-type: application/json\r\n" in peer.heard[0].lower()
    assert orjson.loads(peer.bodies[0]) == {
        "message": {
            "token": "dKx9:APA91bHun4MxP5egoKMwt2KZFBaFUH",
            "notification": {"title": "Your order has shipped", "body": "It is on its way — ü"},
            "data": {"notification_id": KEY.split(".")[0], "reference": KEY},
            "android": {"priority": "HIGH", "ttl": "90s", "notification": {"tag": KEY}},
        }
    }


async def test_the_access_token_is_asked_for_as_google_wants_it() -> None:
    asked: list[bytes] = []
    async with listening(web_script([OK], asked=asked)) as peer, provider(peer.port) as main:
        await main.send(push(), KEY)
        await main.send(push(), KEY)
    assert bearer(peer) == ["ya29.1", "ya29.1"]
    (form,) = [parse_qs(body.decode()) for body in asked]
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    account = json.loads(service_account())
    public = load_pem_private_key(account["private_key"].encode(), None).public_key()
    claims = jwt.decode(
        form["assertion"][0], public, ["RS256"], audience=TOKEN_URI, options={"verify_exp": False}  # type: ignore[arg-type]
    )  # fmt: skip
    assert claims["iss"] == "push@shop-4711.iam.gserviceaccount.com"
    assert claims["scope"] == "https://www.googleapis.com/auth/firebase.messaging"
    assert (claims["iat"], claims["exp"]) == (int(NOW), int(NOW) + 3600)
    assert jwt.get_unverified_header(form["assertion"][0])["kid"] == account["private_key_id"]


async def test_without_base_url_the_token_comes_from_the_accounts_own_address() -> None:
    main = FcmProvider("main", timeout=10, account=fcm.account("main", service_account()))
    assert main.tokens._url == TOKEN_URI
    await main.close()


async def test_many_calls_share_one_request_for_a_token() -> None:
    asked: list[bytes] = []
    async with listening(web_script([OK], asked=asked)) as peer, provider(peer.port) as main:
        outcomes = await asyncio.gather(*[main.send(push(), f"{KEY}{n}") for n in range(50)])
    assert {outcome.kind for outcome in outcomes} == {"sent"}
    assert len(asked) == 1


async def test_many_calls_whose_token_is_refused_share_one_request_for_another() -> None:
    asked = 0

    async def serve(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while True:
            head, _ = await read_request(reader)
            if head.startswith(b"POST /token "):
                asked += 1
                answer = token(f"ya29.{asked}")
            else:
                peer.heard.append(head)
                answer = NO if b"ya29.1" in head else OK
            await peer.act(answer, reader, writer)

    async with listening(serve) as peer, provider(peer.port) as main:
        outcomes = await asyncio.gather(*[main.send(push(), f"{KEY}{n}") for n in range(20)])
    assert {outcome.kind for outcome in outcomes} == {"sent"}
    assert asked == 2
    assert sorted(bearer(peer)) == ["ya29.1"] * 20 + ["ya29.2"] * 20


async def test_a_token_that_is_no_longer_used_may_be_refused() -> None:
    asked: list[bytes] = []
    async with listening(web_script([OK], asked=asked)) as peer, provider(peer.port) as main:
        await main.send(push(), KEY)
        main.tokens.forget("an older one")
        await main.send(push(), KEY)
    assert len(asked) == 1


async def test_a_token_is_renewed_before_its_end_and_nobody_waits_for_it() -> None:
    clock, asked = Clock(), list[bytes]()
    tokens = [token("first"), "silent"]
    async with (
        listening(web_script([OK], tokens=tokens, asked=asked)) as peer,
        provider(peer.port, clock) as main,
    ):
        await main.send(push(), KEY)
        clock.now += 3_599 - 200
        assert (await main.send(push(), KEY)).kind == "sent"
        async with asyncio.timeout(10):
            await peer.silent.wait()
        assert (await main.send(push(), KEY)).kind == "sent"
    assert len(asked) == 2
    assert bearer(peer) == ["first"] * 3


async def test_a_token_that_was_renewed_is_the_one_that_is_used() -> None:
    clock = Clock()
    script = web_script([OK], tokens=[token("first"), token("second")])
    async with listening(script) as peer, provider(peer.port, clock) as main:
        await main.send(push(), KEY)
        clock.now += 3_599 - 200
        await main.send(push(), KEY)
        renewal = main.tokens._renewal
        if renewal is not None:
            await renewal
        await main.send(push(), KEY)
    assert bearer(peer) == ["first", "first", "second"]


async def test_a_renewal_that_fails_is_tried_again_after_a_pause_while_the_token_holds() -> None:
    clock, asked = Clock(), list[bytes]()
    tokens = [token("first"), FAILED, FAILED, token("last")]
    async with (
        listening(web_script([OK], tokens=tokens, asked=asked)) as peer,
        provider(peer.port, clock) as main,
    ):
        await main.send(push(), KEY)
        clock.now += 3_599 - 200
        for _ in range(5):
            assert (await main.send(push(), KEY)).kind == "sent"
            if (renewal := main.tokens._renewal) is not None:
                await asyncio.wait([renewal])
        assert len(asked) == 2
        clock.now += fcm.PAUSE
        await main.send(push(), KEY)
        if (renewal := main.tokens._renewal) is not None:
            await asyncio.wait([renewal])
        assert len(asked) == 3
        clock.now += 200
        assert (await main.send(push(), KEY)).kind == "sent"
    assert bearer(peer) == ["first"] * 7 + ["last"]


async def test_one_who_goes_away_takes_nobodys_token_along() -> None:
    script = web_script([OK], tokens=["silent", token("second")])
    async with listening(script) as peer, provider(peer.port, seconds=1) as main:
        first = asyncio.create_task(main.send(push(), KEY))
        async with asyncio.timeout(10):
            await peer.silent.wait()
        second = asyncio.create_task(main.send(push(), KEY))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await second).kind == "deferred"
        assert (await main.send(push(), KEY)).kind == "sent"


async def test_token_and_message_share_one_deadline() -> None:
    async def serve(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await asyncio.sleep(0.7)  # a slow endpoint of tokens; the message is never answered
        await peer.act(token(), reader, writer)
        await peer.act("silent", reader, writer)

    loop = asyncio.get_running_loop()
    async with listening(serve) as peer, provider(peer.port, seconds=1) as main:
        began = loop.time()
        assert (await main.send(push(), KEY)).kind == "doubtful"
        assert loop.time() - began < 1.5


def test_what_is_too_large_is_refused_before_any_call() -> None:
    overhead = len(KEY.split(".")[0]) + len(KEY) + len("notification_idreferencetitlebody")
    room = fcm.PAYLOAD_BYTES - overhead - len("Your order has shipped")
    assert fcm.body(push(text="ü" * (room // 2) + "x" * (room % 2)), KEY, NOW)
    with pytest.raises(Ended) as ended:
        fcm.body(push(text="ü" * (room // 2) + "x" * (room % 2 + 1)), KEY, NOW)
    assert ended.value.outcome.reason == "too large: 4097 bytes of 4096"
    assert ended.value.outcome.fault == "message"


@pytest.mark.parametrize(
    ("priority", "android", "ios", "web"),
    [
        (Priority.CRITICAL, "HIGH", "10", "high"),
        (Priority.HIGH, "HIGH", "10", "high"),
        (Priority.NORMAL, "NORMAL", "10", "normal"),
        (Priority.LOW, "NORMAL", "5", "normal"),
    ],
)
def test_each_platform_has_its_own_words_for_urgent(
    priority: Priority, android: str, ios: str, web: str
) -> None:
    def made(platform: str) -> dict[str, Any]:
        found: dict[str, Any] = fcm.body(push(platform=platform, priority=priority), KEY, NOW)["message"]
        assert {"android", "apns", "webpush"} & set(found) == {
            {"ios": "apns", "web": "webpush"}.get(platform, platform)
        }
        return found

    assert made("android")["android"]["priority"] == android
    assert made("ios")["apns"]["headers"]["apns-priority"] == ios
    assert made("web")["webpush"]["headers"]["Urgency"] == web


@pytest.mark.parametrize(
    ("left", "ttl"),
    [
        (None, "2419200s"),
        (0, "0s"),
        (-5_000, "0s"),
        (1_999, "1s"),
        (10**12, "2419200s"),
        (10**18, "2419200s"),
    ],
)
def test_a_message_lives_as_long_as_it_may_and_four_weeks_at_most(left: int | None, ttl: str) -> None:
    expires_at = None if left is None else int(NOW * 1000) + left
    assert fcm.body(push(expires_at=expires_at), KEY, NOW)["message"]["android"]["ttl"] == ttl


def test_android_is_what_it_reaches_unless_more_is_named() -> None:
    for platforms, reached in (((), {"android"}), (("android", "ios"), {"android", "ios"})):
        found = registry.make("main", settings("fcm", platforms=platforms), Place(Path()))
        assert found.platforms == frozenset(reached)


def test_settings_that_cannot_be_used_stop_the_process() -> None:
    account = json.loads(service_account())
    p256 = "-----BEGIN PRIVATE KEY-----\nhush\n-----END PRIVATE KEY-----"
    for fields in (
        {"service_account": None},
        {"service_account": "hush"},
        {"service_account": json.dumps(account | {"private_key": "hush"})},
        {"service_account": json.dumps(account | {"private_key": p256})},
        {"service_account": json.dumps({"client_email": "hush"})},
        {"service_account": json.dumps(account | {"project_id": None})},
        {"platforms": ("windows",)},
    ):
        with pytest.raises(SettingsError) as told:
            registry.make("main", settings("fcm", **fields), Place(Path()))
        assert str(told.value).startswith("providers.main.")
        assert "hush" not in str(told.value)


# against the simulator


@asynccontextmanager
async def simulated(*faults: str, **fields: Any) -> AsyncIterator[tuple[Simulator, FcmProvider]]:
    secrets = {"service_account": service_account()}
    async with AsyncExitStack() as stack:
        vendor = await stack.enter_async_context(Simulator("fcm", faults=faults, secrets=secrets, **fields))
        yield vendor, await stack.enter_async_context(provider(vendor.port, fields.get("clock")))


async def test_the_simulator_takes_what_we_send() -> None:
    clock = Clock()
    async with simulated(clock=clock) as (vendor, main):
        outcome = await main.send(push(), KEY)
        assert (outcome.kind, outcome.provider_message_id) == ("sent", vendor.vendor.id(1))
        clock.now += 3_590.5  # its token is at its end
        assert (await main.send(push(), KEY)).kind == "sent"
        assert (vendor.effects[KEY], vendor.counts.wrong.total()) == (2, 0)
        assert len(vendor.body_hashes[KEY]) == 1


@pytest.mark.parametrize(
    ("to", "kind", "code", "dead"),
    [
        ("dead-1", "refused", "UNREGISTERED", 0),
        ("bad-1", "refused", "INVALID_ARGUMENT message.token", 0),
        ("other-1", "refused", "SENDER_ID_MISMATCH", None),
        ("busy-1", "deferred", "QUOTA_EXCEEDED", None),
        ("broken-1", "deferred", "INTERNAL", None),
    ],
)
async def test_a_token_says_what_becomes_of_it(to: str, kind: str, code: str, dead: int | None) -> None:
    async with simulated(clock=Clock()) as (vendor, main):
        outcome = await main.send(push(to), KEY)
        assert (outcome.kind, outcome.code, outcome.dead_since) == (kind, code, dead)
        assert vendor.effects[KEY] == 0


async def test_each_of_its_faults_is_understood() -> None:
    for fault, kind, effects in (
        ("throttled:first=1", "deferred", 0),
        ("unauthorized:first=1", "sent", 1),
        ("unauthorized", "deferred", 0),
        ("UNAVAILABLE:first=1", "deferred", 0),
        ("nonsense:first=1", "doubtful", 1),
        ("reset_after_body:first=1", "doubtful", 1),
    ):
        async with simulated(fault, clock=Clock()) as (vendor, main):
            assert (await main.send(push(), KEY)).kind == kind, fault
            assert vendor.effects[KEY] == effects, fault


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"token": ""}, 400, "message.token"),
        ({"shout": True}, 400, "message"),
        ({"data": {"from": "x"}}, 400, "message.data"),
        ({"data": {"n": 1}}, 400, "message.data"),
        ({"android": {"ttl": "2419201s"}}, 400, "message.android.ttl"),
        ({"android": {"ttl": "soon"}}, 400, "message.android.ttl"),
        ({"data": {"x": "y" * 4_096}}, 400, "message"),
    ],
)
async def test_the_simulator_refuses_what_fcm_would(change: dict[str, Any], status: int, field: str) -> None:
    async with simulated(clock=Clock()) as (vendor, main):
        headers = {"authorization": f"Bearer {await main.tokens.get()}"}
        content = orjson.dumps({"message": {"token": "t"} | change})
        url = f"{vendor.base_url}/v1/projects/shop-4711/messages:send"
        async with httpx.AsyncClient() as client:
            answer = await client.post(url, content=content, headers=headers)
        (details,) = answer.json()["error"]["details"]
        assert (answer.status_code, details["fieldViolations"][0]["field"]) == (status, field)
        assert (vendor.counts.wrong.total(), vendor.counts.targets) == (1, 0)


@pytest.mark.parametrize("authorization", ["", "Bearer x", "Bearer ya29.9999999999.AAAA", "Basic x"])
async def test_the_simulator_gives_nothing_for_a_token_that_it_did_not_give(authorization: str) -> None:
    async with simulated(clock=Clock()) as (vendor, _), httpx.AsyncClient() as client:
        url = f"{vendor.base_url}/v1/projects/shop-4711/messages:send"
        answer = await client.post(url, content=b"{}", headers={"authorization": authorization})
        assert answer.json()["error"]["status"] == "UNAUTHENTICATED"


async def test_a_simulator_that_was_restarted_knows_no_token_and_one_call_mends_that() -> None:
    clock = Clock()
    async with simulated(clock=clock) as (vendor, main):
        assert (await main.send(push(), KEY)).kind == "sent"
        await vendor.stop()
        secrets = {"service_account": service_account()}
        async with Simulator("fcm", port=vendor.port, secrets=secrets, clock=clock) as again:
            assert (await main.send(push(), KEY)).kind == "sent"
            assert again.counts.wrong.total() == 1


async def test_the_simulator_gives_a_strangers_account_no_token() -> None:
    async with simulated(clock=Clock()) as (vendor, _):
        service_account.cache_clear()
        async with provider(vendor.port) as stranger:
            outcome = await stranger.send(push(), KEY)
        assert (outcome.kind, outcome.code, outcome.fault) == ("deferred", "invalid_grant", "provider")
        assert vendor.effects[KEY] == 0
