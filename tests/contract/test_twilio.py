"""Twilio: what a request holds, what the settings must, and the provider against the simulator."""

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
from pipeline.providers.twilio import TwilioProvider
from pipeline.settings import SettingsError
from pipeline.simulator.callbacks import Callbacks
from pipeline.simulator.simulator import Simulator
from pipeline.simulator.twilio import ACCOUNT_SID, AUTH_TOKEN, REFUSALS
from schemas.kinds import Channel
from schemas.message import Message
from schemas.outcome import Outcome
from tests.contract.heard import Heard, receiver, taken
from tests.contract.peers import KEY, http_script, listening, message

SID = "AC" + "0" * 31 + "a"
CREATED = 'HTTP/1.1 201 Created\r\ncontent-length: 14\r\n\r\n{"sid": "SM1"}'
PUBLIC = "https://notify.example.com/"


def sms(target: str = "+4915112345678", **fields: Any) -> Message:
    given = {"text": "Hello Kim & Ü + 5 €", "html": None, "subject": None} | fields
    return message(target, Channel.SMS, **given)


def make(base_url: str | None, public_url: str = "", **fields: Any) -> TwilioProvider:
    given = {"account_sid": SID, "auth_token": "a token", "from": "+15005550006"} | fields
    settings = registry.settings("twilio", base_url=base_url, **given)
    made = registry.make("main", settings, Place(Path(), public_url))
    assert isinstance(made, TwilioProvider)
    return made


async def asked(sent: Message, public_url: str = "", **fields: Any) -> tuple[Heard, dict[str, str]]:
    """The request that a message becomes, and its fields."""
    async with listening(http_script([CREATED])) as peer:
        provider = make(f"http://127.0.0.1:{peer.port}", public_url, **fields)
        assert (await provider.send(sent, KEY)).kind == "sent"
        await provider.close()
    found = taken(peer)
    return found, dict(parse_qsl(found.body.decode(), strict_parsing=True))


async def test_a_message_is_a_form_of_the_messages_resource() -> None:
    request, fields = await asked(sms())
    assert request.line == f"POST /2010-04-01/Accounts/{SID}/Messages.json HTTP/1.1"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    scheme, _, login = request.headers["authorization"].partition(" ")
    assert (scheme, b64decode(login)) == ("Basic", f"{SID}:a token".encode())
    assert fields == {"To": "+4915112345678", "From": "+15005550006", "Body": "Hello Kim & Ü + 5 €"}


async def test_receipts_are_asked_for_with_our_reference() -> None:
    _, fields = await asked(sms(), PUBLIC)
    assert fields["StatusCallback"] == f"https://notify.example.com/callbacks/main?ref={KEY}"


@pytest.mark.parametrize("public_url", ["http://127.0.0.1:8080", "http://localhost:8080", "http://[::1]"])
async def test_twilio_is_given_no_address_that_only_we_can_reach(public_url: str) -> None:
    request = await make(None, public_url).compose(sms(), KEY)
    assert "StatusCallback" not in dict(parse_qsl(request.content.decode()))
    request = await make("http://127.0.0.1:4010", public_url).compose(sms(), KEY)
    assert "StatusCallback" in dict(parse_qsl(request.content.decode()))


async def test_an_api_key_signs_in_for_the_account() -> None:
    request, _ = await asked(sms(), api_key="SK1", api_secret="a secret")
    assert b64decode(request.headers["authorization"].partition(" ")[2]) == b"SK1:a secret"
    assert f"/Accounts/{SID}/" in request.line


async def test_a_messaging_service_may_choose_the_sender() -> None:
    given: dict[str, Any] = {"messaging_service_sid": "MG1", "from": None}
    _, fields = await asked(sms(), **given)
    assert fields["MessagingServiceSid"] == "MG1"
    assert "From" not in fields


async def test_a_number_is_sent_as_e164() -> None:
    _, fields = await asked(sms("+49 (0)151 1234-5678"))
    assert fields["To"] == "+4915112345678"


@pytest.mark.parametrize(
    ("left", "validity"), [(90_500, "90"), (36_000_000, None), (35_999_999, "35999"), (-5, "1"), (None, None)]
)
async def test_twilio_keeps_a_message_no_longer_than_it_is_wanted(
    left: int | None, validity: str | None
) -> None:
    provider = make("http://127.0.0.1:1")
    provider.clock = lambda: 1_760_000_000.0
    expires_at = None if left is None else 1_760_000_000_000 + left
    request = await provider.compose(sms(expires_at=expires_at), KEY)
    assert dict(parse_qsl(request.content.decode())).get("ValidityPeriod") == validity


@pytest.mark.parametrize("target", ["", "0151 12345678", "+", "kim@example.com", "+1 212 555 0123 ext. 9"])
async def test_what_is_no_number_is_refused_without_a_call(target: str) -> None:
    async with listening(http_script([CREATED])) as peer:
        provider = make(f"http://127.0.0.1:{peer.port}")
        outcome = await provider.send(sms(target), KEY)
        await provider.close()
    assert (outcome.kind, outcome.fault, peer.connections) == ("refused", "target", 0)
    assert not target or target not in str(outcome.reason)


@pytest.mark.parametrize("broken", [{"text": "\ud800"}, {"target": "+49151\ud800"}])
async def test_what_cannot_be_written_is_refused(broken: dict[str, Any]) -> None:
    async with listening(http_script([CREATED])) as peer:
        provider = make(f"http://127.0.0.1:{peer.port}")
        outcome = await provider.send(sms(**broken), KEY)
        await provider.close()
    assert (outcome.kind, peer.connections) == ("refused", 0)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"account_sid": ""}, "account_sid: twilio needs it"),
        ({"account_sid": "../AC1"}, "account_sid: AC and"),
        ({"auth_token": None}, "auth_token: twilio needs it"),
        ({"api_key": "SK1"}, "api_secret: twilio needs it"),
        ({"from": None}, "from: twilio needs it, or messaging_service_sid"),
    ],
)
def test_what_is_missing_stops_the_process(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        make("http://127.0.0.1:1", **fields)


def simulated(base_url: str, public_url: str = "", **fields: Any) -> TwilioProvider:
    return make(base_url, public_url, **{"account_sid": ACCOUNT_SID, "auth_token": AUTH_TOKEN} | fields)


async def test_the_simulator_takes_what_the_provider_sends() -> None:
    async with Simulator("twilio") as vendor:
        provider = simulated(vendor.base_url, PUBLIC)
        first = await provider.send(sms(), KEY)
        again = await provider.send(sms(), KEY)
        await provider.close()
    assert (first.kind, again.kind) == ("sent", "sent")
    assert first.provider_message_id != again.provider_message_id
    assert (vendor.requests, vendor.effects) == ({KEY: 2}, {KEY: 2})  # no key is honoured
    assert len(vendor.body_hashes[KEY]) == 1


@pytest.mark.parametrize("code", sorted(REFUSALS))
async def test_the_simulator_refuses_as_twilio_words_it(code: str) -> None:
    async with Simulator("twilio", faults=[code]) as vendor:
        provider = simulated(vendor.base_url)
        outcome = await provider.send(sms(), KEY)
        await provider.close()
        assert vendor.effects.total() == 0
    assert outcome.code == code
    assert outcome.fault == ("provider" if code == "21611" else "target")


@pytest.mark.parametrize(
    ("fault", "code", "fields"),
    [
        ("throttled", "20429", {}),
        ("throttled:retry_after=9", "20429", {"retry_after": 9}),
        ("server_error", "20500", {"kind": "doubtful"}),
        ("unauthorized", "20003", {}),
        ("reset_after_body", None, {"kind": "doubtful"}),
        ("nonsense", "HTTP 200", {"kind": "doubtful"}),
        ("oversize", "HTTP 200", {"kind": "doubtful"}),
    ],
)
async def test_a_fault_of_the_simulator_is_understood(
    fault: str, code: str | None, fields: dict[str, Any]
) -> None:
    async with Simulator("twilio", faults=[fault]) as vendor:
        provider = simulated(vendor.base_url)
        outcome = await provider.send(sms(), KEY)
        await provider.close()
    expected = {"kind": "deferred", "fault": "provider", "code": code} | fields
    assert {name: getattr(outcome, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("fields", "changed", "code"),
    [
        ({"auth_token": "another"}, {}, "20003"),
        ({"account_sid": SID}, {}, "20003"),
        ({"from": "+4915112345678"}, {}, "21266"),
        ({}, {"text": ""}, "21602"),
        ({}, {"text": "x" * 1601}, "21617"),
        ({"public_url": "https://a_b.example"}, {}, "21609"),
    ],
)
async def test_the_simulator_verifies(fields: dict[str, Any], changed: dict[str, Any], code: str) -> None:
    async with Simulator("twilio") as vendor:
        provider = simulated(vendor.base_url, **fields)
        outcome = await provider.send(sms(**changed), KEY)
        await provider.close()
        assert outcome.code == code
        assert vendor.effects.total() == 0


async def test_the_simulator_knows_an_api_key() -> None:
    secrets = {"account_sid": SID, "api_key": "SK1", "api_secret": "a secret"}
    async with Simulator("twilio", secrets=secrets) as vendor:
        outcomes: list[Outcome] = []
        for secret in ("a secret", "another"):
            provider = make(vendor.base_url, api_key="SK1", api_secret=secret)
            outcomes.append(await provider.send(sms(), KEY))
            await provider.close()
    assert [outcome.code for outcome in outcomes] == [None, "20003"]


async def test_receipts_are_signed_over_the_url_that_the_request_named() -> None:
    told: asyncio.Queue[Heard] = asyncio.Queue()
    async with listening(receiver(told)) as peer:
        callbacks = Callbacks(f"http://127.0.0.1:{peer.port}/")
        await callbacks.start()
        async with Simulator("twilio", callbacks=callbacks) as vendor:
            provider = simulated(vendor.base_url, PUBLIC)
            outcome = await provider.send(sms("+15005550020"), KEY)
            await provider.close()
            async with asyncio.timeout(10):
                receipts = [await told.get(), await told.get()]
        await callbacks.stop()
    fields = {dict(parse_qsl(one.body.decode()))["MessageStatus"]: one for one in receipts}
    assert set(fields) == {"sent", "undelivered"}
    last = fields["undelivered"]
    assert last.line == f"POST /callbacks/main?ref={KEY} HTTP/1.1"
    given = dict(parse_qsl(last.body.decode()))
    assert (given["MessageSid"], given["ErrorCode"]) == (outcome.provider_message_id, "30005")
    signed = f"{PUBLIC}callbacks/main?ref={KEY}" + "".join(name + given[name] for name in sorted(given))
    digest = hmac.new(AUTH_TOKEN.encode(), signed.encode(), "sha1").digest()
    assert b64decode(last.headers["x-twilio-signature"]) == digest


async def test_an_answer_of_the_simulator_is_a_message_of_twilios() -> None:
    async with Simulator("twilio") as vendor:
        provider = simulated(vendor.base_url)
        answer = await provider.client.exchange(await provider.compose(sms(text="я" * 71), KEY), 5)
        await provider.close()
    told = orjson.loads(answer.body or b"")
    assert (answer.status, told["status"], told["num_segments"]) == (201, "queued", "2")
    assert told["to"] == "+4915112345678"
