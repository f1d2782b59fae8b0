"""Vonage: what a request holds, what the settings must, and the provider against the simulator."""

import asyncio
import hmac
from base64 import b64decode
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import orjson
import pytest

from pipeline.providers import registry
from pipeline.providers.provider import Place
from pipeline.providers.vonage import VonageProvider
from pipeline.settings import SettingsError
from pipeline.simulator.callbacks import Callbacks
from pipeline.simulator.simulator import Simulator
from pipeline.simulator.vonage import API_KEY, API_SECRET, REFUSALS, SIGNATURE_SECRET
from schemas.kinds import Channel
from schemas.message import Message
from tests.contract.heard import Heard, receiver, taken
from tests.contract.peers import KEY, http_script, listening, message

BODY = '{"message-count":"1","messages":[{"status":"0","message-id":"0A1"}]}'
ACCEPTED = f"HTTP/1.1 200 OK\r\ncontent-length: {len(BODY)}\r\n\r\n{BODY}"
PUBLIC = "https://notify.example.com/"


def sms(target: str = "+4915112345678", **fields: Any) -> Message:
    given = {"text": "Hello Kim & Ü + 5 €", "html": None, "subject": None} | fields
    return message(target, Channel.SMS, **given)


def make(base_url: str, public_url: str = "", name: str = "backup", **fields: Any) -> VonageProvider:
    given = {"api_key": API_KEY, "api_secret": API_SECRET, "from": "AcmeInc"} | fields
    settings = registry.settings("vonage", base_url=base_url, **given)
    made = registry.make(name, settings, Place(Path(), public_url))
    assert isinstance(made, VonageProvider)
    return made


async def asked(
    sent: Message, public_url: str = "", key: str = KEY, **fields: Any
) -> tuple[Heard, dict[str, str]]:
    """The request that a message becomes, and its fields."""
    async with listening(http_script([ACCEPTED])) as peer:
        provider = make(f"http://127.0.0.1:{peer.port}", public_url, **fields)
        assert (await provider.send(sent, key)).kind == "sent"
        await provider.close()
    found = taken(peer)
    return found, dict(parse_qsl(found.body.decode(), strict_parsing=True))


async def test_a_message_is_a_form() -> None:
    request, fields = await asked(sms())
    assert request.line == "POST /sms/json HTTP/1.1"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    scheme, _, login = request.headers["authorization"].partition(" ")
    assert (scheme, b64decode(login)) == ("Basic", b"abcd1234:simulated")
    assert fields == {
        "from": "AcmeInc",
        "to": "4915112345678",
        "text": "Hello Kim & Ü + 5 €",
        "client-ref": KEY,
    }


async def test_receipts_are_asked_for() -> None:
    _, fields = await asked(sms(), PUBLIC)
    assert fields["callback"] == "https://notify.example.com/callbacks/backup"


@pytest.mark.parametrize(("text", "kind"), [("5 € [1]\n", None), ("Привет", "unicode"), ("Hi 👋", "unicode")])
async def test_a_text_out_of_the_alphabet_is_unicode(text: str, kind: str | None) -> None:
    _, fields = await asked(sms(text=text))
    assert (fields["text"], fields.get("type")) == (text, kind)


async def test_a_sending_number_has_no_plus() -> None:
    _, fields = await asked(sms(), **{"from": "+447700900001"})
    assert fields["from"] == "447700900001"


@pytest.mark.parametrize(("length", "given"), [(100, True), (101, False)])
async def test_a_reference_that_is_too_long_is_left_out(length: int, given: bool) -> None:
    _, fields = await asked(sms(), key="k" * length)
    assert ("client-ref" in fields) is given


@pytest.mark.parametrize(
    ("left", "life"), [(90_500, "90500"), (5, "20000"), (-5, "20000"), (10**12, "604800000"), (None, None)]
)
async def test_vonage_tries_no_longer_than_a_message_is_wanted(left: int | None, life: str | None) -> None:
    provider = make("http://127.0.0.1:1")
    provider.clock = lambda: 1_760_000_000.0
    expires_at = None if left is None else 1_760_000_000_000 + left
    request = await provider.compose(sms(expires_at=expires_at), KEY)
    assert dict(parse_qsl(request.content.decode())).get("ttl") == life


@pytest.mark.parametrize("target", ["", "4915112345678", "+", "kim@example.com"])
async def test_what_is_no_number_is_refused_without_a_call(target: str) -> None:
    async with listening(http_script([ACCEPTED])) as peer:
        provider = make(f"http://127.0.0.1:{peer.port}")
        outcome = await provider.send(sms(target), KEY)
        await provider.close()
    assert (outcome.kind, outcome.fault, peer.connections) == ("refused", "target", 0)
    assert not target or target not in str(outcome.reason)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"api_key": ""}, "api_key: vonage needs it"),
        ({"api_secret": None}, "api_secret: vonage needs it"),
        ({"from": ""}, "from: vonage needs it"),
        ({"public_url": f"https://{'a' * 60}.example.com/{'b' * 30}"}, "100 characters"),
    ],
)
def test_what_is_missing_or_too_long_stops_the_process(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        make("http://127.0.0.1:1", **fields)


async def test_the_simulator_takes_what_the_provider_sends() -> None:
    async with Simulator("vonage") as vendor:
        provider = make(vendor.base_url, PUBLIC)
        first = await provider.send(sms(), KEY)
        again = await provider.send(sms(text="Hello Kim & Ü + 5 €"), KEY)
        long = await provider.send(sms(text="я" * 300, expires_at=4_102_444_800_000), KEY)
        await provider.close()
    assert [one.kind for one in (first, again, long)] == ["sent"] * 3
    assert first.provider_message_id != again.provider_message_id
    assert vendor.effects == {KEY: 3}  # no key is honoured
    assert len(vendor.body_hashes[KEY]) == 2


@pytest.mark.parametrize("code", sorted(REFUSALS))
async def test_the_simulator_refuses_as_vonage_does(code: str) -> None:
    async with Simulator("vonage", faults=[code]) as vendor:
        provider = make(vendor.base_url)
        outcome = await provider.send(sms(), KEY)
        await provider.close()
        assert vendor.effects.total() == 0
    assert (outcome.kind, outcome.code, outcome.fault) == ("refused", code, "target")


@pytest.mark.parametrize(
    ("fault", "code", "kind"),
    [
        ("throttled", "1", "deferred"),
        ("server_error", "5", "deferred"),
        ("unauthorized", "4", "deferred"),
        ("reset_after_body", None, "doubtful"),
        ("nonsense", "HTTP 200", "doubtful"),
    ],
)
async def test_a_fault_of_the_simulator_is_understood(fault: str, code: str | None, kind: str) -> None:
    async with Simulator("vonage", faults=[fault]) as vendor:
        provider = make(vendor.base_url)
        outcome = await provider.send(sms(), KEY)
        await provider.close()
    assert (outcome.kind, outcome.code, outcome.fault) == (kind, code, "provider")


@pytest.mark.parametrize(
    ("fields", "changed", "code"),
    [
        ({"api_secret": "another"}, {}, "4"),
        ({}, {"text": ""}, "2"),
        ({}, {"text": "x" * 3201}, "12"),
        ({"public_url": "notify.example.com"}, {}, "23"),
    ],
)
async def test_the_simulator_verifies(fields: dict[str, Any], changed: dict[str, Any], code: str) -> None:
    async with Simulator("vonage") as vendor:
        provider = make(vendor.base_url, **fields)
        outcome = await provider.send(sms(**changed), KEY)
        await provider.close()
        assert outcome.code == code
        assert vendor.effects.total() == 0


async def test_there_is_a_signed_receipt_for_each_part() -> None:
    told: asyncio.Queue[Heard] = asyncio.Queue()
    async with listening(receiver(told)) as peer:
        callbacks = Callbacks(f"http://127.0.0.1:{peer.port}/")
        await callbacks.start()
        async with Simulator("vonage", callbacks=callbacks) as vendor:
            provider = make(vendor.base_url, PUBLIC)
            outcome = await provider.send(sms("+15005550020", text="x" * 200), KEY)
            await provider.close()
            async with asyncio.timeout(10):
                receipts = [await told.get(), await told.get()]
        await callbacks.stop()
    fields = [orjson.loads(one.body) for one in receipts]
    assert {one.line for one in receipts} == {"POST /callbacks/backup HTTP/1.1"}
    assert outcome.provider_message_id in {one["messageId"] for one in fields}
    assert len({one["messageId"] for one in fields}) == 2
    for one in fields:
        assert (one["status"], one["err-code"], one["client-ref"]) == ("failed", "3", KEY)
        sig = one.pop("sig")
        whole = "".join(f"&{name}={one[name]}" for name in sorted(one))
        assert sig == hmac.new(SIGNATURE_SECRET.encode(), whole.encode(), "sha256").hexdigest()
