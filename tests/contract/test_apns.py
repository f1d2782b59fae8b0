"""APNs: what a request holds, one provider token for a fleet, one HTTP/2 connection for all calls."""

import asyncio
import itertools
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from pipeline.providers import apns, http2, registry
from pipeline.providers.apns import ApnsProvider, ProviderTokens
from pipeline.providers.http import Answer, NotSent
from pipeline.providers.http2 import Http2Client
from pipeline.providers.provider import Place
from pipeline.settings import SettingsError
from pipeline.simulator import Simulator
from schemas.kinds import Channel, Priority
from schemas.message import Message
from tests.contract.peers import HOST, KEY, Peer, client_tls, listening, message, server_tls
from tests.contract.push_scenes import (
    DEVICE,
    KEY_ID,
    TEAM_ID,
    TOPIC,
    h2_script,
    service_account,
    settings,
    signing_key,
)

NOW = 1_760_000_000.0
OK = "answer 200 | apns-id: eabeae54-14a8-11e5-b60b-1697f925ec7b"


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def signer() -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(signing_key().encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def provider_tokens() -> ProviderTokens:
    return ProviderTokens(signer(), KEY_ID, TEAM_ID)


OLD = b"bearer " + provider_tokens().get(NOW - 7_200).encode()


def push(to: str = DEVICE, **fields: Any) -> Message:
    given: dict[str, Any] = {"platform": "ios", "text": "It is on its way — ü", "html": None}
    return message(to, Channel.PUSH, **(given | fields))


@asynccontextmanager
async def provider(port: int, clock: Clock | None = None, seconds: float = 10) -> AsyncIterator[ApnsProvider]:
    found = ApnsProvider(
        "main", timeout=seconds, tokens=provider_tokens(), topic=TOPIC, base_url=f"http://{HOST}:{port}",
        clock=clock or Clock(),
    )  # fmt: skip
    try:
        yield found
    finally:
        await found.close()


def headers_of(head: bytes) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in head.decode().split("\n"))


async def test_a_request_says_what_when_and_to_whom() -> None:
    async with listening(h2_script([OK])) as peer, provider(peer.port) as main:
        outcome = await main.send(push(expires_at=int(NOW * 1000) + 90_500), KEY)
        await main.send(push(), KEY)
    assert outcome.provider_message_id == "eabeae54-14a8-11e5-b60b-1697f925ec7b"
    found, again = headers_of(peer.heard[0]), headers_of(peer.heard[1])
    assert (found[":method"], found[":scheme"], found[":path"]) == ("POST", "http", f"/3/device/{DEVICE}")
    assert (found["apns-topic"], found["apns-push-type"], found["apns-priority"]) == (TOPIC, "alert", "10")
    assert found["apns-expiration"] == str(int(NOW) + 90)
    assert again["apns-expiration"] == str(int(NOW) + apns.MOST_LIFE)
    assert str(UUID(found["apns-id"])) == found["apns-id"] == found["apns-collapse-id"] == again["apns-id"]
    assert found["content-length"] == str(len(peer.bodies[0]))
    assert orjson.loads(peer.bodies[0]) == {
        "aps": {
            "alert": {"title": "Your order has shipped", "body": "It is on its way — ü"},
            "sound": "default",
        },
        "notification_id": KEY.split(".")[0],
        "reference": KEY,
    }


async def test_the_provider_token_is_one_that_apple_takes() -> None:
    async with listening(h2_script([OK])) as peer, provider(peer.port) as main:
        await main.send(push(), KEY)
    scheme, _, token = headers_of(peer.heard[0])["authorization"].partition(" ")
    assert scheme == "bearer"
    claims = jwt.decode(token, signer().public_key(), ["ES256"])
    assert claims.keys() == {"iss", "iat"}
    assert claims["iss"] == TEAM_ID
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": KEY_ID}


def test_every_worker_of_a_fleet_has_the_same_token() -> None:
    assert provider_tokens().get(NOW) == provider_tokens().get(NOW)
    assert provider_tokens().get(NOW) != provider_tokens().get(NOW + apns.WINDOW)


@given(st.lists(st.floats(0, 50_000), min_size=1, max_size=20), st.floats(0, 4e9))
def test_a_token_is_never_too_old_and_never_changes_too_often(steps: list[float], start: float) -> None:
    tokens, now, issued = provider_tokens(), start, list[int]()
    for step in steps:
        now += step
        claims = jwt.decode(tokens.get(now), options={"verify_signature": False})
        assert 0 <= now - claims["iat"] <= 3600
        issued.append(claims["iat"])
    changes = [later - earlier for earlier, later in itertools.pairwise(issued) if later != earlier]
    assert all(change >= apns.LEAST_SECONDS for change in changes)


def test_a_token_that_was_refused_is_renewed_once_in_twenty_minutes() -> None:
    tokens = provider_tokens()
    late = NOW // apns.WINDOW * apns.WINDOW + 1_300
    first = tokens.get(late)
    tokens.renew(late)
    second = tokens.get(late)
    assert second != first
    tokens.renew(late + 60)
    assert tokens.get(late + 60) == second
    assert tokens.get(late + apns.WINDOW) == provider_tokens().get(late + apns.WINDOW)


async def test_all_calls_share_one_connection() -> None:
    async with listening(h2_script([OK])) as peer, provider(peer.port) as main:
        outcomes = await asyncio.gather(*[main.send(push(), f"{KEY}{n}") for n in range(300)])
    assert {outcome.kind for outcome in outcomes} == {"sent"}
    assert (peer.connections, len(peer.bodies)) == (1, 300)


async def test_no_more_streams_than_the_server_takes() -> None:
    async with listening(h2_script([OK], streams=1)) as peer, provider(peer.port) as main:
        outcomes = await asyncio.gather(*[main.send(push(), f"{KEY}{n}") for n in range(30)])
    assert {outcome.kind for outcome in outcomes} == {"sent"}
    assert peer.connections == 1


async def test_who_goes_away_while_it_waits_for_its_turn_takes_nobodys_turn_along() -> None:
    async with listening(h2_script(["silent", OK], streams=1)) as peer, provider(peer.port) as main:
        calls = [asyncio.create_task(main.send(push(), f"{KEY}{n}")) for n in range(4)]
        async with asyncio.timeout(10):
            await peer.silent.wait()
        for call in calls[:2]:
            call.cancel()
        assert [one.kind for one in await asyncio.gather(*calls[2:])] == ["sent", "sent"]


async def test_a_turn_that_its_owner_cannot_take_goes_to_the_next() -> None:
    head = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"x"), (b":path", b"/3/device/00")]
    async with listening(h2_script(["silent"], streams=1)) as peer:
        client = Http2Client(f"http://{HOST}:{peer.port}", 10)
        connection = await client._connected()
        first = await connection.open(head)
        waiting = [asyncio.create_task(connection.open(head)) for _ in range(2)]
        await asyncio.sleep(0)
        connection.heard_at = first.began  # else it would be doubted
        connection.drop(first)  # the next one's turn, which goes away before it can take it
        waiting[0].cancel()
        async with asyncio.timeout(5):
            await waiting[1]
        await client.close()


async def test_a_body_goes_out_as_the_windows_let_it() -> None:
    async with listening(h2_script([OK], window=100)) as peer, provider(peer.port) as main:
        outcomes = await asyncio.gather(
            *[main.send(push(text="x" * 3_000), f"{KEY}{n}") for n in range(40)]
        )  # 40 × 3 kB: more than the connection's window, too
    assert {outcome.kind for outcome in outcomes} == {"sent"}
    assert {len(body) for body in peer.bodies} == {len(apns.payload(push(text="x" * 3_000), f"{KEY}{0}"))} | {
        len(apns.payload(push(text="x" * 3_000), f"{KEY}{10}"))
    }


async def test_what_a_goaway_leaves_out_goes_over_another_connection() -> None:
    script = h2_script(["silent", "goaway below", OK])
    async with listening(script) as peer, provider(peer.port, seconds=1) as main:
        held = asyncio.create_task(main.send(push(), KEY))
        async with asyncio.timeout(10):
            await peer.silent.wait()
        assert (await main.send(push(), f"{KEY}2")).kind == "sent"
        assert (await held).kind == "doubtful"
    assert peer.connections == 2


async def test_a_connection_that_said_nothing_to_a_call_is_left() -> None:
    async with listening(h2_script(["silent", OK])) as peer, provider(peer.port, seconds=0.3) as main:
        assert (await main.send(push(), KEY)).kind == "doubtful"
        assert (await main.send(push(), KEY)).kind == "sent"
    assert peer.connections == 2


async def test_an_idle_connection_is_asked_whether_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "IDLE_SECONDS", -1.0)
    monkeypatch.setattr(http2, "PING_SECONDS", 0.2)
    async with listening(h2_script([OK])) as peer, provider(peer.port) as main:
        for _ in range(3):
            assert (await main.send(push(), KEY)).kind == "sent"
    assert peer.connections == 1
    deaf = False

    async def serve(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal deaf
        if deaf:
            await h2_script([OK])(peer, reader, writer)
            return
        deaf = True
        frames = b"\0\0\0\x04\0\0\0\0\0"  # SETTINGS, and then an answer to nothing that comes
        writer.write(frames)
        await reader.read()

    async with listening(serve) as peer, provider(peer.port, seconds=5) as main:
        connection = await main._client._connected()
        assert connection.is_usable
        assert (await main.send(push(), KEY)).kind == "sent"
    assert (peer.connections, len(peer.bodies)) == (2, 1)


async def test_a_call_after_a_close_makes_a_new_connection() -> None:
    async with listening(h2_script([OK])) as peer, provider(peer.port) as main:
        await main.send(push(), KEY)
        await main.close()
        assert (await main.send(push(), KEY)).kind == "sent"
    assert peer.connections == 2


async def test_over_tls_the_server_must_speak_http2() -> None:
    tls = server_tls()
    headers = [(b"apns-topic", b"x")]
    async with listening(h2_script([OK]), tls) as peer:
        for offered, spoken in ((["h2"], True), (["http/1.1"], False)):
            tls.set_alpn_protocols(offered)
            client = Http2Client(f"https://localhost:{peer.port}", 10, client_tls())
            try:
                if spoken:
                    answer: Answer = await client.exchange(b"POST", b"/3/device/00", headers, b"{}", 10)
                    assert answer.status == 200
                else:
                    with pytest.raises(NotSent) as failed:
                        await client.exchange(b"POST", b"/3/device/00", headers, b"{}", 10)
                    assert isinstance(failed.value.cause, http2.NoHttp2 | ssl.SSLError)
            finally:
                await client.close()
    assert len(peer.bodies) == 1


async def test_what_is_no_device_token_goes_nowhere() -> None:
    async with listening(h2_script([OK])) as peer, provider(peer.port) as main:
        for target in ("", "kim", "00fc/../../x", "00f", f"{DEVICE}\n", "00 fc", "ａｂ"):
            outcome = await main.send(push(target), KEY)
            assert (outcome.kind, outcome.fault, outcome.dead_since) == ("refused", "target", None)
        assert (await main.send(push(DEVICE * 2), KEY)).kind == "sent"
    assert len(peer.bodies) == 1


async def test_what_is_too_large_is_refused_before_any_call() -> None:
    room = apns.PAYLOAD_BYTES - len(apns.payload(push(text=""), KEY))
    async with listening(h2_script([OK])) as peer, provider(peer.port) as main:
        assert (await main.send(push(text="x" * room), KEY)).kind == "sent"
        outcome = await main.send(push(text="x" * (room + 1)), KEY)
    assert (outcome.kind, outcome.reason) == ("refused", "too large: 4097 bytes of 4096")
    assert [len(body) for body in peer.bodies] == [4096]


@pytest.mark.parametrize(("priority", "told"), [(Priority.CRITICAL, b"10"), (Priority.LOW, b"5")])
@pytest.mark.parametrize("expires_at", [None, 0, -(10**15), 10**18])
def test_priority_and_end_are_what_apns_knows(
    priority: Priority, told: bytes, expires_at: int | None
) -> None:
    made = dict(apns.push(push(priority=priority, expires_at=expires_at), KEY, TOPIC, NOW).headers)
    assert made[b"apns-priority"] == told
    assert 0 <= int(made[b"apns-expiration"]) <= NOW + apns.MOST_LIFE


def test_settings_that_cannot_be_used_stop_the_process() -> None:
    for fields in (
        {"key": None},
        {"key": "hush"},
        {"key": json.loads(service_account())["private_key"]},
        {"key_id": None},
        {"team_id": None},
        {"topic": None},
        {"base_url": "hush"},
        {"base_url": "ftp://hush"},
    ):
        with pytest.raises(SettingsError) as told:
            registry.make("main", settings("apns", **fields), Place(Path()))
        assert str(told.value).startswith("providers.main.")
        assert "hush" not in str(told.value)


# against the simulator


@asynccontextmanager
async def simulated(
    *faults: str, clock: Clock | None = None
) -> AsyncIterator[tuple[Simulator, ApnsProvider]]:
    secrets = {"key": signing_key(), "key_id": KEY_ID, "team_id": TEAM_ID, "topic": TOPIC}
    clock = clock or Clock()
    async with AsyncExitStack() as stack:
        vendor = Simulator("apns", faults=faults, secrets=secrets, clock=clock)
        await stack.enter_async_context(vendor)
        yield vendor, await stack.enter_async_context(provider(vendor.port, clock, 2))


async def test_the_simulator_takes_what_we_send() -> None:
    clock = Clock()
    async with simulated(clock=clock) as (vendor, main):
        for _ in range(200):
            assert (await main.send(push(), KEY)).kind == "sent"
            clock.now += 300
        assert (vendor.effects[KEY], vendor.counts.wrong.total()) == (200, 0)
        assert len(vendor.body_hashes[KEY]) == 1


async def test_a_fleet_shares_a_token_and_a_stranger_to_it_is_too_many() -> None:
    clock = Clock()
    async with simulated(clock=clock) as (vendor, main):
        async with provider(vendor.port, clock) as other:
            for worker in (main, other, main):
                assert (await worker.send(push(), KEY)).kind == "sent"
        claims = jwt.decode(provider_tokens().get(clock.now), options={"verify_signature": False})
        random = jwt.encode(claims, signer(), "ES256", {"kid": KEY_ID})
        client = Http2Client(vendor.base_url, 10)
        headers = [(b"authorization", f"bearer {random}".encode()), (b"apns-topic", TOPIC.encode())]
        answer = await client.exchange(b"POST", f"/3/device/{DEVICE}".encode(), headers, b"{}", 10)
        await client.close()
        assert (answer.status, answer.body) == (429, b'{"reason":"TooManyProviderTokenUpdates"}')


@pytest.mark.parametrize(
    ("to", "kind", "code", "dead"),
    [
        ("dead", "refused", "Unregistered", int((NOW - 86_400) * 1000)),
        ("bad0", "refused", "BadDeviceToken", None),
        ("0ff0", "refused", "DeviceTokenNotForTopic", None),
        ("b0b0", "deferred", "TooManyRequests", None),
        ("b4d0", "deferred", "InternalServerError", None),
    ],
)
async def test_a_token_says_what_becomes_of_it(to: str, kind: str, code: str, dead: int | None) -> None:
    async with simulated() as (vendor, main):
        outcome = await main.send(push(to + DEVICE[4:]), KEY)
        assert (outcome.kind, outcome.code, outcome.dead_since) == (kind, code, dead)
        assert vendor.effects[KEY] == 0


@pytest.mark.parametrize(
    ("fault", "kind", "effects", "requests"),
    [
        ("throttled:first=1", "deferred", 0, 1),
        ("server_error:first=1", "deferred", 0, 1),
        ("unauthorized:first=1", "deferred", 0, 1),
        ("ExpiredProviderToken:first=1", "sent", 1, 2),
        ("REFUSED_STREAM:first=1", "sent", 1, 2),
        ("GOAWAY:first=1", "sent", 1, 2),
        ("REFUSED_STREAM", "deferred", 0, 2),
        ("GOAWAY", "deferred", 0, 2),
        ("reset_after_body:first=1", "doubtful", 1, 1),
        ("close:first=1", "doubtful", 1, 1),
        ("garbage:first=1", "doubtful", 1, 1),
        ("hang:first=1", "doubtful", 1, 1),
        ("hang:first=1,taken=0", "doubtful", 0, 1),
    ],
)
async def test_each_of_its_faults_is_understood(fault: str, kind: str, effects: int, requests: int) -> None:
    async with simulated(fault) as (vendor, main):
        assert (await main.send(push(), KEY)).kind == kind
        assert (vendor.effects[KEY], vendor.requests[KEY]) == (effects, requests)
        await vendor.set_faults([])
        assert (await main.send(push(), KEY)).kind == "sent"


async def test_both_tries_of_a_call_share_one_deadline() -> None:
    async with simulated("ExpiredProviderToken", "latency=0.7") as (vendor, _):
        async with provider(vendor.port, seconds=1) as main:
            assert (await main.send(push(), KEY)).kind == "doubtful"
        assert vendor.requests[KEY] == 2


async def test_many_calls_through_faults_are_each_accounted_for() -> None:
    faults = ("GOAWAY:0.05", "REFUSED_STREAM:0.1", "reset_after_body:0.1", "close:0.02", "latency=0-0.02")
    async with simulated(*faults) as (vendor, main):
        keys = [f"{KEY}{n}" for n in range(400)]
        outcomes = dict(
            zip(keys, await asyncio.gather(*[main.send(push(), key) for key in keys]), strict=True)
        )
        assert {outcome.kind for outcome in outcomes.values()} == {"sent", "deferred", "doubtful"}
        for key, outcome in outcomes.items():
            if outcome.kind != "doubtful":
                assert vendor.effects[key] == (outcome.kind == "sent"), (key, outcome)


async def test_while_it_is_down_nothing_is_sent_and_afterwards_all_is() -> None:
    async with simulated() as (vendor, main):
        assert (await main.send(push(), KEY)).kind == "sent"
        connection = main._client._connection
        assert connection is not None
        await vendor.set_faults(["down"])
        await connection.closed
        outcome = await main.send(push(), KEY)
        assert (outcome.kind, outcome.reason) == ("deferred", "not sent: ConnectionRefusedError")
        await vendor.set_faults([])
        assert (await main.send(push(), KEY)).kind == "sent"
        assert vendor.effects[KEY] == 2


@pytest.mark.parametrize(
    ("path", "change", "body", "status", "reason"),
    [
        ("/3/device/", {}, b"{}", 400, "MissingDeviceToken"),
        ("/3/device/kim", {}, b"{}", 400, "BadDeviceToken"),
        ("/4/device/00", {}, b"{}", 404, "BadPath"),
        ("/3/device/00", {b"authorization": None}, b"{}", 403, "MissingProviderToken"),
        ("/3/device/00", {b"authorization": b"bearer x"}, b"{}", 403, "InvalidProviderToken"),
        ("/3/device/00", {b"authorization": OLD}, b"{}", 403, "ExpiredProviderToken"),
        ("/3/device/00", {b"apns-topic": None}, b"{}", 400, "MissingTopic"),
        ("/3/device/00", {b"apns-topic": b"com.example.other"}, b"{}", 400, "TopicDisallowed"),
        ("/3/device/00", {b"apns-priority": b"7"}, b"{}", 400, "BadPriority"),
        ("/3/device/00", {b"apns-expiration": b"soon"}, b"{}", 400, "BadExpirationDate"),
        ("/3/device/00", {b"apns-id": b"7"}, b"{}", 400, "BadMessageId"),
        ("/3/device/00", {b"apns-collapse-id": b"x" * 65}, b"{}", 400, "BadCollapseId"),
        ("/3/device/00", {b"apns-push-type": b"shout"}, b"{}", 400, "InvalidPushType"),
        ("/3/device/00", {}, b"", 400, "PayloadEmpty"),
        ("/3/device/00", {}, b'{"aps":"' + b"x" * 4_096 + b'"}', 413, "PayloadTooLarge"),
    ],
)
async def test_the_simulator_refuses_what_apple_would(
    path: str, change: dict[bytes, bytes | None], body: bytes, status: int, reason: str
) -> None:
    usual: dict[bytes, bytes | None] = {
        b"authorization": b"bearer " + provider_tokens().get(NOW).encode(), b"apns-topic": TOPIC.encode()
    }  # fmt: skip
    headers = [(name, value) for name, value in (usual | change).items() if value is not None]
    async with simulated() as (vendor, _):
        client = Http2Client(vendor.base_url, 10)
        answer = await client.exchange(b"POST", path.encode(), headers, body, 10)
        await client.close()
        assert (answer.status, orjson.loads(answer.body or b"")) == (status, {"reason": reason})
        assert (vendor.counts.wrong.total(), vendor.counts.targets) == (1, 0)
