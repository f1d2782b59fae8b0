"""Web Push: only the browser reads it, the push service knows its sender, no address inside is called."""

import base64
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp.abc
import httpx
import jwt
import orjson
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pipeline.providers import registry, webpush
from pipeline.providers.http import Ended
from pipeline.providers.provider import Place
from pipeline.providers.webpush import VapidTokens, WebPushProvider
from pipeline.settings import SettingsError
from pipeline.simulator import Simulator
from pipeline.simulator.webpush import subscription
from schemas.kinds import Channel, Priority
from schemas.message import Message
from tests.contract import rfc8291
from tests.contract.peers import HOST, KEY, http_script, listening, message
from tests.contract.push_scenes import AUTH, BROWSER, KEYS, SUBJECT, settings, vapid_key
from tests.contract.test_webhook import INWARD, Names

CREATED = "HTTP/1.1 201 Created\r\nlocation: https://push.example.net/m/1\r\ncontent-length: 0\r\n\r\n"
NOW = 1_760_000_000.0
SECRET = rfc8291.unbase64(AUTH)


def push(to: str, keys: dict[str, str] | None = KEYS, **fields: Any) -> Message:
    given: dict[str, Any] = {"platform": "web", "keys": keys, "html": None, "text": "It is on its way — ü"}
    return message(to, Channel.PUSH, **(given | fields))


@asynccontextmanager
async def provider(**fields: Any) -> AsyncIterator[WebPushProvider]:
    tokens = VapidTokens(webpush.vapid_key("main", vapid_key()), SUBJECT)
    given: dict[str, Any] = {"timeout": 10, "tokens": tokens, "clock": lambda: NOW}
    found = WebPushProvider("main", **(given | fields))
    try:
        yield found
    finally:
        await found.close()


def headers_of(head: bytes) -> dict[str, str]:
    lines = head.decode().split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}


def test_the_example_of_rfc_8291_is_read() -> None:
    record = (
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27ml"
        "mlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPT"
        "pK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
    )
    assert rfc8291.point_of(BROWSER.public_key()) == rfc8291.unbase64(KEYS["p256dh"])
    plain = rfc8291.decrypt(rfc8291.unbase64(record), BROWSER, SECRET)
    assert plain == b"When I grow up, I want to be a watermelon"


async def test_only_the_browser_can_read_it() -> None:
    async with listening(http_script([CREATED])) as peer, provider(allow_internal=True) as main:
        outcome = await main.send(push(f"http://{HOST}:{peer.port}/push/kim"), KEY)
    assert (outcome.kind, outcome.provider_message_id) == ("sent", None)
    (body,) = peer.bodies
    assert orjson.loads(rfc8291.decrypt(body, BROWSER, SECRET)) == {
        "title": "Your order has shipped",
        "body": "It is on its way — ü",
        "notification_id": KEY.split(".")[0],
        "reference": KEY,
    }
    assert b"way" not in body
    for key, auth in ((ec.generate_private_key(ec.SECP256R1()), SECRET), (BROWSER, b"x" * 16)):
        with pytest.raises(InvalidTag):
            rfc8291.decrypt(body, key, auth)


async def test_the_push_service_knows_who_sent_it_and_how_long_to_keep_it() -> None:
    async with listening(http_script([CREATED])) as peer, provider(allow_internal=True) as main:
        origin = f"http://{HOST}:{peer.port}"
        expires_at = int(NOW * 1000) + 90_500
        await main.send(push(f"{origin}/push/kim?x=1", expires_at=expires_at, priority=Priority.HIGH), KEY)
        public = main.tokens.public_key
    assert peer.heard[0].startswith(b"POST /push/kim?x=1 HTTP/1.1\r\n")
    found = headers_of(peer.heard[0])
    assert (found["ttl"], found["urgency"], found["content-encoding"]) == ("90", "high", "aes128gcm")
    assert len(found["topic"]) == 32
    scheme, _, rest = found["authorization"].partition(" ")
    fields = dict(part.split("=", 1) for part in rest.split(", "))
    assert (scheme, fields["k"]) == ("vapid", public)
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), rfc8291.unbase64(fields["k"]))
    claims = jwt.decode(fields["t"], point, ["ES256"], audience=origin, options={"verify_exp": False})
    assert claims["sub"] == SUBJECT
    assert NOW < claims["exp"] <= NOW + 86_400


def test_no_two_messages_share_a_salt_or_a_key() -> None:
    records = [webpush.encrypted(b"the same", KEYS) for _ in range(50)]
    assert len({record[:16] for record in records}) == 50
    assert len({record[21:86] for record in records}) == 50
    assert {rfc8291.decrypt(record, BROWSER, SECRET) for record in records} == {b"the same"}


def test_the_largest_message_is_the_largest_that_push_services_must_take() -> None:
    record = webpush.encrypted(b"x" * webpush.PAYLOAD_BYTES, KEYS)
    assert len(record) == 4096
    assert len(rfc8291.decrypt(record, BROWSER, SECRET)) == webpush.PAYLOAD_BYTES


async def test_a_larger_one_is_refused_before_any_call() -> None:
    room = webpush.PAYLOAD_BYTES - len(webpush.payload(push("", text=""), KEY))
    async with listening(http_script([CREATED])) as peer, provider(allow_internal=True) as main:
        url = f"http://{HOST}:{peer.port}/push/kim"
        assert (await main.send(push(url, text="x" * room), KEY)).kind == "sent"
        outcome = await main.send(push(url, text="x" * (room + 1)), KEY)
    assert (outcome.kind, outcome.fault) == ("refused", "message")
    assert outcome.reason == "too large: 3994 bytes of 3993"
    assert len(peer.bodies) == 1


def test_keys_are_read_as_whatever_library_wrote_them() -> None:
    padded = {name: base64.b64encode(rfc8291.unbase64(value)).decode() for name, value in KEYS.items()}
    assert rfc8291.decrypt(webpush.encrypted(b"x", padded), BROWSER, SECRET) == b"x"


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"p256dh": KEYS["p256dh"]},
        {"auth": AUTH},
        KEYS | {"auth": "AAAA"},
        KEYS | {"auth": "!!!"},
        KEYS | {"auth": "ü" * 22},
        KEYS | {"p256dh": AUTH},
        KEYS | {"p256dh": "B" + "A" * 86},
        KEYS | {"p256dh": KEYS["p256dh"][:-1] + "A"},
    ],
)
def test_what_are_no_keys_is_the_targets_fault(keys: dict[str, str]) -> None:
    with pytest.raises(Ended) as ended:
        webpush.encrypted(b"x", keys)
    assert (ended.value.outcome.kind, ended.value.outcome.fault) == ("refused", "target")


def test_a_token_serves_an_origin_until_its_end_is_near() -> None:
    tokens = VapidTokens(webpush.vapid_key("main", vapid_key()), SUBJECT)
    first = tokens.get("https://a.example", NOW)
    assert tokens.get("https://a.example", NOW + webpush.TOKEN_SECONDS - webpush.RENEW_SECONDS) == first
    assert tokens.get("https://b.example", NOW) != first
    assert tokens.get("https://a.example", NOW + webpush.TOKEN_SECONDS - webpush.RENEW_SECONDS + 1) != first
    for n in range(2 * webpush.ORIGINS):
        tokens.get(f"https://{n}.example", NOW)
    assert len(tokens._known) <= webpush.ORIGINS


@pytest.mark.parametrize("host", INWARD)
async def test_an_address_inside_is_never_dialled(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: list[Any] = []

    async def dial(loop: Any, sock: socket.socket, address: Any) -> None:
        dialled.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr("asyncio.SelectorEventLoop.sock_connect", dial)
    async with provider() as main:
        outcome = await main.send(push(f"https://{host}/push/kim"), KEY)
    assert dialled == []
    assert outcome.fault == "target"
    unresolved = outcome.kind == "deferred" and outcome.reason == "not connected: gaierror"
    unusable = outcome.kind == "refused" and (outcome.reason or "").startswith("no usable endpoint")
    assert outcome.reason == "blocked address" or unresolved or unusable, outcome


@pytest.mark.parametrize("answer", ["127.0.0.1", "::ffff:127.0.0.1", "169.254.169.254"])
async def test_a_name_that_leads_inside_is_blocked(answer: str) -> None:
    async with provider(resolver=Names(answer)) as main:
        outcome = await main.send(push("https://fcm.googleapis.com/fcm/send/x"), KEY)
    assert (outcome.kind, outcome.reason) == ("refused", "blocked address")


@pytest.mark.parametrize(
    "url", ["http://push.example.net/x", "ftp://x/", "", "kim", "https://", "https://a\x00b/"]
)
async def test_what_is_no_endpoint_is_refused(url: str) -> None:
    async with provider(resolver=Names("8.8.8.8")) as main:
        outcome = await main.send(push(url), KEY)
    assert (outcome.kind, outcome.fault) == ("refused", "target")
    assert (outcome.reason or "").startswith("no usable endpoint")


class Unknown(Names):
    async def resolve(self, *args: Any, **kwargs: Any) -> list[aiohttp.abc.ResolveResult]:
        raise socket.gaierror(-2, "Name or service not known")


@pytest.mark.parametrize(
    ("host", "fault"),
    [
        ("fcm.googleapis.com", "provider"),
        ("updates.push.services.mozilla.com", "provider"),
        ("web.push.apple.com", "provider"),
        ("wns2-par02p.notify.windows.com", "provider"),
        ("jmt17.google.com", "provider"),
        ("autopush.stage.push.services.mozilla.com", "provider"),
        ("storage.googleapis.com", "target"),
        ("x.fcm.googleapis.com", "target"),
        ("x.web.push.apple.com", "target"),
        ("evilgoogleapis.com", "target"),
        ("googleapis.com.example.net", "target"),
        ("push.example.net", "target"),
    ],
)
async def test_who_made_up_an_endpoint_cannot_stop_the_provider(host: str, fault: str) -> None:
    async with provider(resolver=Unknown("-")) as main:
        outcome = await main.send(push(f"https://{host}/x"), KEY)
    assert (outcome.kind, outcome.fault) == ("deferred", fault)


def test_a_key_in_pem_is_the_same_key() -> None:
    key = webpush.vapid_key("main", vapid_key())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    assert webpush.vapid_key("main", pem).private_numbers() == key.private_numbers()


def test_settings_that_cannot_be_used_stop_the_process() -> None:
    pem = "-----BEGIN PRIVATE KEY-----\nhush\n-----END PRIVATE KEY-----"
    for fields in (
        {"base_url": "http://127.0.0.1"},
        {"vapid_private_key": None},
        {"vapid_private_key": "hush"},
        {"vapid_private_key": pem},
        {"vapid_private_key": "A" * 43},
        {"subject": None},
        {"subject": "kim@example.com"},
    ):
        with pytest.raises(SettingsError) as told:
            registry.make("main", settings("webpush", **fields), Place(Path()))
        assert str(told.value).startswith("providers.main.")
        assert "hush" not in str(told.value)


# against the simulator


@asynccontextmanager
async def simulated(*faults: str) -> AsyncIterator[Simulator]:
    secrets = {"vapid_private_key": vapid_key()}
    async with Simulator("webpush", faults=faults, secrets=secrets, clock=lambda: NOW) as vendor:
        yield vendor


def subscribed(vendor: Simulator, name: str) -> Message:
    found = subscription(vendor.base_url, name)
    return push(found["endpoint"], found["keys"])


async def test_the_simulator_reads_what_we_send() -> None:
    async with simulated() as vendor, provider(allow_internal=True) as main:
        for _ in range(2):
            assert (await main.send(subscribed(vendor, "kim"), KEY)).kind == "sent"
        assert (vendor.effects[KEY], vendor.counts.wrong.total()) == (2, 0)
        assert len(vendor.body_hashes[KEY]) == 1
        other = push(subscribed(vendor, "kim").target)
        assert (await main.send(other, KEY)).code == "HTTP 400"
        assert vendor.counts.wrong.total() == 1


@pytest.mark.parametrize(
    ("name", "kind", "code", "dead"),
    [
        ("dead-1", "refused", "HTTP 410", 0),
        ("missing-1", "refused", "HTTP 404", 0),
        ("other-1", "deferred", "HTTP 403", None),
        ("busy-1", "deferred", "HTTP 429", None),
        ("broken-1", "doubtful", "HTTP 500", None),
    ],
)
async def test_a_path_says_what_becomes_of_it(name: str, kind: str, code: str, dead: int | None) -> None:
    async with simulated() as vendor, provider(allow_internal=True) as main:
        outcome = await main.send(subscribed(vendor, name), KEY)
        assert (outcome.kind, outcome.code, outcome.dead_since) == (kind, code, dead)
        assert vendor.effects[KEY] == 0


async def test_each_of_its_faults_is_understood() -> None:
    for fault, kind, effects in (
        ("throttled:first=1", "deferred", 0),
        ("unauthorized:first=1", "deferred", 0),
        ("reset_after_body:first=1", "doubtful", 1),
        ("garbage:first=1", "doubtful", 1),
    ):
        async with simulated(fault) as vendor, provider(allow_internal=True) as main:
            assert (await main.send(subscribed(vendor, "kim"), KEY)).kind == kind, fault
            assert vendor.effects[KEY] == effects, fault


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"authorization": ""}, 401),
        ({"authorization": "vapid t=x, k=y"}, 403),
        ({"host": "push.example.net"}, 403),
        ({"ttl": ""}, 400),
        ({"urgency": "now"}, 400),
        ({"topic": "x" * 33}, 400),
        ({"content-encoding": "aesgcm"}, 400),
    ],
)
async def test_the_simulator_refuses_what_push_services_would(change: dict[str, str], status: int) -> None:
    async with simulated() as vendor, provider(allow_internal=True) as main:
        request = main._request(subscribed(vendor, "kim"), KEY)
        request.headers.update(change)
        async with httpx.AsyncClient() as client:
            answer = await client.send(request)
        assert answer.status_code == status
        assert (vendor.counts.wrong.total(), vendor.counts.targets) == (1, 0)


async def test_the_simulator_refuses_another_vapid_key() -> None:
    stranger = VapidTokens(ec.generate_private_key(ec.SECP256R1()), SUBJECT)
    async with simulated() as vendor, provider(allow_internal=True, tokens=stranger) as main:
        outcome = await main.send(subscribed(vendor, "kim"), KEY)
        assert (outcome.kind, outcome.code, outcome.fault) == ("deferred", "HTTP 403", "target")
        assert vendor.effects[KEY] == 0
