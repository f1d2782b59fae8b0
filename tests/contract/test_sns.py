"""SNS: what a request holds by botocore's own serializer, and the provider against moto and the simulator."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import botocore
import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.model import ServiceModel
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.server import ThreadedMotoServer
from moto.sns.models import sns_backends

from pipeline.providers import registry
from pipeline.providers.provider import Place
from pipeline.providers.sns import SnsProvider
from pipeline.settings import SettingsError
from pipeline.simulator.sigv4 import ACCESS_KEY_ID, SECRET_ACCESS_KEY
from pipeline.simulator.simulator import Simulator
from pipeline.simulator.sns import REFUSALS
from schemas.kinds import Channel, Priority
from schemas.message import Message
from tests.contract.peers import KEY, http_script, listening, message

REGION = "eu-central-1"
DESCRIPTION = Path(botocore.__file__).parent / "data/sns/2010-03-31/service-2.json.gz"
PUBLISH = ServiceModel(json.loads(gzip.decompress(DESCRIPTION.read_bytes()))).operation_model("Publish")


def sms(target: str = "+4915112345678", **fields: Any) -> Message:
    given = {"text": "Hello Kim & Ü + 5 €", "html": None, "subject": None} | fields
    return message(target, Channel.SMS, **given)


def make(base_url: str | None = None, **fields: Any) -> SnsProvider:
    given = {
        "region": REGION,
        "access_key_id": ACCESS_KEY_ID,
        "secret_access_key": SECRET_ACCESS_KEY,
        "from": "Carillon",
    } | fields
    made = registry.make("main", registry.settings("sns", base_url=base_url, **given), Place(Path()))
    assert isinstance(made, SnsProvider)
    return made


def attributes(**values: str) -> dict[str, Any]:
    return {
        f"AWS.{name.replace('_', '.')}": {"DataType": "String", "StringValue": value}
        for name, value in values.items()
    }


@pytest.mark.parametrize(
    ("fields", "sent", "expected"),
    [
        ({}, sms(), attributes(SNS_SMS_SMSType="Transactional", SNS_SMS_SenderID="Carillon")),
        (
            {"from": "+447700900001"},
            sms(priority=Priority.LOW),
            attributes(SNS_SMS_SMSType="Promotional", MM_SMS_OriginationNumber="+447700900001"),
        ),
        ({"from": None}, sms(category="marketing"), attributes(SNS_SMS_SMSType="Promotional")),
        ({"from": ""}, sms(text="Привет\n👋"), attributes(SNS_SMS_SMSType="Transactional")),
    ],
)
async def test_a_request_is_what_botocore_would_write(
    fields: dict[str, Any], sent: Message, expected: dict[str, Any]
) -> None:
    request = await make(**fields).compose(sent, KEY)
    given = {"PhoneNumber": "+4915112345678", "Message": sent.text, "MessageAttributes": expected}
    theirs = create_serializer("query", include_validation=True).serialize_to_request(given, PUBLISH)
    ours = dict(parse_qsl(request.content.decode(), strict_parsing=True))
    assert ours == theirs["body"]
    assert str(request.url) == f"https://sns.{REGION}.amazonaws.com/"
    assert request.headers["content-type"] == theirs["headers"]["Content-Type"]


@pytest.fixture
def moto() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


async def test_moto_takes_what_the_provider_sends(moto: str) -> None:
    provider = make(moto)
    outcome = await provider.send(sms(), KEY)
    refused = await provider.send(sms(text="x" * 1601), KEY)
    await provider.close()
    assert outcome.kind == "sent"
    taken = sns_backends[DEFAULT_ACCOUNT_ID][REGION].sms_messages
    assert taken[outcome.provider_message_id or ""] == ("+4915112345678", "Hello Kim & Ü + 5 €")
    assert (refused.kind, refused.code, refused.fault) == ("refused", "InvalidParameter", "message")


@pytest.mark.parametrize("target", ["", "4915112345678", "+", "arn:aws:sns:eu-central-1:1:topic"])
async def test_what_is_no_number_is_refused_without_a_call(target: str) -> None:
    async with listening(http_script(["reset"])) as peer:
        provider = make(f"http://127.0.0.1:{peer.port}")
        outcome = await provider.send(sms(target), KEY)
        await provider.close()
    assert (outcome.kind, outcome.fault, peer.connections) == ("refused", "target", 0)
    assert not target or target not in str(outcome.reason)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"region": ""}, "region: sns needs it"),
        ({"access_key_id": ""}, "access_key_id: sns needs it"),
        ({"secret_access_key": None}, "secret_access_key: sns needs it"),
        ({"from": "longer than 11"}, "from: a number"),
    ],
)
def test_what_is_missing_stops_the_process(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        make(**fields)


async def test_the_simulator_takes_what_the_provider_sends() -> None:
    async with Simulator("sns") as vendor:
        provider = make(vendor.base_url)
        first, again = await provider.send(sms(), KEY), await provider.send(sms(), KEY)
        await provider.close()
    assert (first.kind, again.kind) == ("sent", "sent")
    assert first.provider_message_id != again.provider_message_id
    assert vendor.effects.total() == 2  # no key is honoured


async def test_a_session_token_is_signed() -> None:
    async with Simulator("sns", secrets={"session_token": "temporary"}) as vendor:
        kinds = []
        for token in ("temporary", "another", None):
            provider = make(vendor.base_url, session_token=token)
            kinds.append((await provider.send(sms(), KEY)).kind)
            await provider.close()
    assert kinds == ["sent", "deferred", "deferred"]


@pytest.mark.parametrize(
    ("fault", "code", "kind", "fault_is"),
    [
        ("InvalidParameter", "InvalidParameter PhoneNumber", "refused", "target"),
        ("OptedOut", "OptedOut", "refused", "target"),
        ("ExpiredToken", "ExpiredToken", "deferred", "provider"),
        ("throttled", "Throttling", "deferred", "provider"),
        ("server_error", "InternalError", "deferred", "provider"),
        ("unauthorized", "InvalidClientTokenId", "deferred", "provider"),
        ("reset_after_body", None, "doubtful", "provider"),
        ("nonsense", "HTTP 200", "doubtful", "provider"),
    ],
)
async def test_a_fault_of_the_simulator_is_understood(
    fault: str, code: str | None, kind: str, fault_is: str
) -> None:
    async with Simulator("sns", faults=[fault]) as vendor:
        provider = make(vendor.base_url)
        outcome = await provider.send(sms(), KEY)
        await provider.close()
    assert (outcome.kind, outcome.code, outcome.fault) == (kind, code, fault_is)


@pytest.mark.parametrize(
    ("fields", "changed", "code"),
    [
        ({"secret_access_key": "another"}, {}, "SignatureDoesNotMatch"),
        ({"access_key_id": "AKIDANOTHER"}, {}, "SignatureDoesNotMatch"),
        ({}, {"text": ""}, "InvalidParameter"),
        ({}, {"text": "x" * 1601}, "InvalidParameter"),
    ],
)
async def test_the_simulator_verifies(fields: dict[str, Any], changed: dict[str, Any], code: str) -> None:
    async with Simulator("sns") as vendor:
        provider = make(vendor.base_url, **fields)
        outcome = await provider.send(sms(**changed), KEY)
        await provider.close()
        assert outcome.code == code
        assert vendor.effects.total() == 0


@pytest.mark.parametrize("fault", ["", *REFUSALS, "throttled", "server_error", "unauthorized"])
async def test_botocore_reads_what_the_simulator_answers(fault: str) -> None:
    async with Simulator("sns", faults=[fault] if fault else []) as vendor:
        provider = make(vendor.base_url)
        answer = await provider.client.exchange(await provider.compose(sms(), KEY), 5)
        await provider.close()
    response = {"status_code": answer.status, "headers": dict(answer.headers), "body": answer.body}
    told = create_parser("query").parse(response, PUBLISH.output_shape)
    if not fault:
        assert len(told["MessageId"]) == 36
        return
    assert told["Error"]["Code"]
    assert told["Error"]["Message"]
    if fault in REFUSALS:
        assert told["Error"]["Code"] == fault


async def test_the_simulator_takes_what_botocore_signs() -> None:
    fields = {"Action": "Publish", "Version": "2010-03-31", "PhoneNumber": "+4915112345678", "Message": "Hi"}
    async with Simulator("sns") as vendor:
        headers = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
        request = AWSRequest("POST", f"{vendor.base_url}/", headers, urlencode(fields).encode())
        SigV4Auth(Credentials(ACCESS_KEY_ID, SECRET_ACCESS_KEY), "sns", REGION).add_auth(request)
        provider = make(vendor.base_url)
        signed = httpx.Request("POST", request.url, headers=dict(request.headers), content=request.data)
        answer = await provider.client.exchange(signed, 5)
        await provider.close()
    assert answer.status == 200
