"""SES: what a request holds, how several share one, and moto and a simulated SES at the other end."""

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.credentials import Credentials
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from moto.server import ThreadedMotoServer
from msgspec.structs import replace

from pipeline.providers import registry, ses
from pipeline.providers.aws import Signer, endpoint
from pipeline.providers.mail import Letter, MailProvider, tag
from pipeline.providers.mime import sender
from pipeline.providers.provider import Place
from pipeline.sections import SettingsError
from pipeline.simulator.ses import ONE, Ses, certificate
from pipeline.simulator.sigv4 import ACCESS_KEY_ID, SECRET_ACCESS_KEY
from pipeline.simulator.simulator import Simulator
from pipeline.simulator.vendor import BOUNCED, COMPLAINED, DELIVERED, Heard, Request, Taken
from schemas.message import Message
from schemas.outcome import Outcome
from tests.contract.letters import Files, everybody
from tests.contract.peers import KEY, Peer, http_script, listening, message

BODY = '{"MessageId":"0107"}'
OK = f"HTTP/1.1 200 OK\r\ncontent-length: {len(BODY)}\r\n\r\n{BODY}"
SENDER = "Läden <no-reply@shop.example>"


@asynccontextmanager
async def providing(url: str, **fields: Any) -> AsyncIterator[MailProvider]:
    """A provider at an address."""
    given = {
        "region": "eu-central-1", "access_key_id": ACCESS_KEY_ID, "secret_access_key": SECRET_ACCESS_KEY,
        "from": SENDER,
    } | fields  # fmt: skip
    made = registry.make("main", registry.settings("ses", base_url=url, **given), Place(Path()))
    assert isinstance(made, MailProvider)
    try:
        yield made
    finally:
        await made.close()


async def heard(*sent: Message, acts: list[str] | None = None, **fields: Any) -> tuple[Peer, list[Outcome]]:
    """What a peer heard of messages that were sent at once, and what came of them."""
    async with (
        listening(http_script(acts or [OK])) as peer,
        providing(f"http://127.0.0.1:{peer.port}", **fields) as provider,
    ):
        found = await asyncio.gather(*[provider.send(one, f"{KEY}.{n}") for n, one in enumerate(sent)])
    return peer, list(found)


async def test_a_request_says_who_what_and_which() -> None:
    peer, found = await heard(message("kim@bücher.example", text="Grüße\n"), configuration_set="carillon")
    assert peer.heard[0].startswith(b"POST /v2/email/outbound-emails HTTP/1.1\r\n")
    assert json.loads(peer.bodies[0]) == {
        "FromEmailAddress": "=?utf-8?b?TMOkZGVu?= <no-reply@shop.example>",
        "Destination": {"ToAddresses": ["kim@xn--bcher-kva.example"]},
        "Content": {
            "Simple": {
                "Subject": {"Data": "Your order has shipped", "Charset": "UTF-8"},
                "Body": {
                    "Text": {"Data": "Grüße\n", "Charset": "UTF-8"},
                    "Html": {
                        "Data": "<p>Hello Kim,</p><p>your order has shipped.</p>",
                        "Charset": "UTF-8",
                    },
                },
            }
        },
        "EmailTags": [{"Name": "carillon", "Value": f"{KEY}.0".replace(".", "_")}],
        "ConfigurationSetName": "carillon",
    }
    assert found == [Outcome(kind="sent", provider_message_id="0107")]


async def test_the_same_words_to_many_are_one_template() -> None:
    people = everybody(ses.MOST + 1)
    peer, _ = await heard(*people)
    bodies = {len(body): json.loads(body) for body in peer.bodies}
    assert len(bodies) == 2
    alone, several = bodies[min(bodies)], bodies[max(bodies)]
    assert "Content" in alone
    assert several["DefaultContent"] == {
        "Template": {
            "TemplateContent": {
                "Subject": people[0].subject, "Text": people[0].text, "Html": people[0].html,
            },
            "TemplateData": "{}",
        }
    }  # fmt: skip
    assert several["BulkEmailEntries"] == [
        {
            "Destination": {"ToAddresses": [one.target]},
            "ReplacementTags": [{"Name": "carillon", "Value": tag(f"{KEY}.{n}")}],
        }
        for n, one in enumerate(people[: ses.MOST])
    ]


@pytest.mark.parametrize(
    ("field", "value"), [("text", "Hello {{name}}"), ("subject", "{{"), ("text", "x" * ses.TEMPLATE_BYTES)]
)
async def test_what_a_template_could_take_for_its_own_goes_alone(field: str, value: str) -> None:
    peer, _ = await heard(*[replace(one, **{field: value}) for one in everybody(3)])
    assert len(peer.bodies) == 3
    assert all("Content" in json.loads(body) for body in peer.bodies)


def test_headers_go_along_but_the_message_id() -> None:
    headers = {"Message-ID": "<x@y>", "List-Unsubscribe": "<https://n.example/u>"}
    letters = [
        Letter(message(), f"k{n}", f"reader{n}@example.com", headers, (), 0.0) for n in range(2)
    ]  # fmt: skip
    signer = Signer("ses", "eu-central-1", Credentials("a", "b"))
    provider = ses.SesProvider(
        "main", signer=signer, configuration_set=None, sender=sender("a@b.example"), timeout=1,
        base_url="https://x.example",
    )  # fmt: skip
    told = [{"Name": "List-Unsubscribe", "Value": "<https://n.example/u>"}]
    one = json.loads(provider.request(letters[:1]).content)
    several = json.loads(provider.request(letters).content)
    assert one["Content"]["Simple"]["Headers"] == told
    assert [entry["ReplacementHeaders"] for entry in several["BulkEmailEntries"]] == [told, told]


async def test_one_of_several_is_refused_and_the_others_are_sent() -> None:
    async with Simulator("ses") as vendor, providing(vendor.base_url) as provider:
        people = everybody(10)
        people[4] = message("spam@example.com")
        found = await asyncio.gather(*[provider.send(one, f"k{n}") for n, one in enumerate(people)])
    assert [n for n, one in enumerate(found) if one.kind != "sent"] == [4]
    assert (found[4].kind, found[4].code, found[4].fault) == ("refused", "MESSAGE_REJECTED", "message")
    assert len({one.provider_message_id for one in found}) == 10
    assert vendor.counts.arrivals == 1
    assert [vendor.effects[f"k{n}"] for n in range(10)] == [1] * 4 + [0] + [1] * 5


async def test_one_address_that_is_none_costs_the_others_nothing() -> None:
    async with Simulator("ses") as vendor, providing(vendor.base_url) as provider:
        people = everybody(20)
        people[7] = message("invalid@example.com")
        found = await asyncio.gather(*[provider.send(one, f"k{n}") for n, one in enumerate(people)])
    assert [n for n, one in enumerate(found) if one.kind != "sent"] == [7]
    assert found[7].code == "BadRequestException"
    assert [vendor.effects[f"k{n}"] for n in range(20)] == [1] * 7 + [0] + [1] * 12


@pytest.mark.parametrize(
    ("fault", "kind", "code", "effects"),
    [
        ("SendingPausedException", "deferred", "SendingPausedException", 0),
        ("AccountSuspendedException", "deferred", "AccountSuspendedException", 0),
        ("throttled", "deferred", "TooManyRequestsException", 0),
        ("server_error", "deferred", "InternalFailure", 0),
        ("unauthorized", "deferred", "UnrecognizedClientException", 0),
        ("reset_after_body", "doubtful", None, 1),
        ("nonsense", "doubtful", "HTTP 200", 1),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
async def test_faults(fault: str, kind: str, code: str | None, effects: int, count: int) -> None:
    async with Simulator("ses", faults=[fault]) as vendor, providing(vendor.base_url) as provider:
        people = everybody(count)
        found = await asyncio.gather(*[provider.send(one, f"k{n}") for n, one in enumerate(people)])
    assert [(one.kind, one.code, one.fault) for one in found] == [(kind, code, "provider")] * count
    assert [vendor.effects[f"k{n}"] for n in range(count)] == [effects] * count
    assert vendor.counts.arrivals == 1


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"access_key_id": "AKIAOTHER"}, "UnrecognizedClientException"),
        ({"secret_access_key": "other"}, "InvalidSignatureException"),
        ({"session_token": "other"}, "UnrecognizedClientException"),
    ],
)
async def test_other_credentials_are_the_providers_fault(fields: dict[str, str], code: str) -> None:
    async with Simulator("ses") as vendor, providing(vendor.base_url, **fields) as provider:
        found = await provider.send(message(), KEY)
    assert (found.kind, found.code, found.fault) == ("deferred", code, "provider")


async def test_temporary_credentials_sign_with_their_token() -> None:
    secrets = {"access_key_id": "ASIA1", "secret_access_key": "s", "session_token": "t"}
    async with Simulator("ses", secrets=secrets) as vendor, providing(vendor.base_url, **secrets) as provider:
        assert (await provider.send(message(), KEY)).kind == "sent"


async def test_a_clock_that_is_wrong_is_the_providers_fault() -> None:
    async with Simulator("ses", clock=lambda: 0.0) as vendor, providing(vendor.base_url) as provider:
        found = await provider.send(message(), KEY)
    assert (found.code, found.fault) == ("InvalidSignatureException", "provider")


async def test_a_request_that_was_changed_on_its_way_is_refused() -> None:
    signer = Signer("ses", "eu-central-1", Credentials(ACCESS_KEY_ID, SECRET_ACCESS_KEY))
    async with Simulator("ses") as vendor, httpx.AsyncClient() as client:
        made = signer.request(f"{vendor.base_url}/v2/email/outbound-emails", b"{}", "application/json")
        changed = httpx.Request("POST", made.url, content=b"[]", headers=made.headers)
        answer = await client.send(changed)
        as_it_was = await client.send(made)
    assert answer.headers["x-amzn-errortype"] == "InvalidSignatureException"
    assert as_it_was.headers["x-amzn-errortype"] == "BadRequestException"


async def test_an_address_that_ses_cannot_take_is_not_sent_there() -> None:
    peer, found = await heard(message("käthe@example.com"))
    assert (found[0].kind, found[0].fault, peer.connections) == ("refused", "target", 0)


@pytest.mark.parametrize("fields", [{"text": "\ud800"}, {"target": "\ud800@x.example"}, {"target": "nobody"}])
async def test_what_cannot_be_sent_is_refused(fields: dict[str, Any]) -> None:
    peer, found = await heard(message(**fields))
    assert (found[0].kind, peer.connections) == ("refused", 0)


async def test_files_go_along() -> None:
    files = Files()
    async with listening(http_script([OK])) as peer:
        provider = ses.SesProvider(
            "main", signer=Signer("ses", "eu-central-1", Credentials("a", "b")), configuration_set=None,
            sender=sender("a@b.example"), timeout=5, attachments=files,
            base_url=f"http://127.0.0.1:{peer.port}",
        )  # fmt: skip
        assert (await provider.send(files.on(message()), KEY)).kind == "sent"
        await provider.close()
    (one,) = json.loads(peer.bodies[0])["Content"]["Simple"]["Attachments"]
    assert (one["FileName"], one["ContentType"]) == ("Rechnung.pdf", "application/pdf")
    assert b64decode(one["RawContent"]) == files.data


@pytest.mark.parametrize(
    ("region", "url"),
    [
        ("eu-central-1", "https://email.eu-central-1.amazonaws.com"),
        ("cn-north-1", "https://email.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_it_is_called_in_its_region(region: str, url: str) -> None:
    assert endpoint("email", region) == url


@pytest.mark.parametrize("missing", ["region", "access_key_id", "secret_access_key", "from"])
def test_what_is_missing_is_named(missing: str) -> None:
    fields = {"region": "eu-central-1", "access_key_id": "a", "secret_access_key": "b", "from": "x@y.example"}
    del fields[missing]
    with pytest.raises(SettingsError, match=rf"providers\.main\.{missing}: ses needs it"):
        registry.make("main", registry.settings("ses", **fields), Place(Path()))


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """Another implementation of Amazon's services, written by others."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


async def test_moto_takes_what_we_send(moto: str) -> None:
    signer = Signer("ses", "eu-central-1", Credentials(ACCESS_KEY_ID, SECRET_ACCESS_KEY))
    async with httpx.AsyncClient() as client, providing(moto) as provider:
        await client.post(f"{moto}/moto-api/reset")
        refused = await provider.send(message(), KEY)
        identity = b'{"EmailIdentity": "no-reply@shop.example"}'
        made = signer.request(f"{moto}/v2/email/identities", identity, "application/json")
        assert (await client.send(made)).status_code == 200
        taken = await provider.send(message(), KEY)
        (kept,) = (await client.get(f"{moto}/moto-api/data.json")).json()["ses"]["Message"]
    assert (refused.kind, refused.code, refused.fault) == ("deferred", ses.NOT_VERIFIED, "provider")
    assert (taken.kind, taken.provider_message_id) == ("sent", kept["id"])
    assert kept["destinations"] == {"ToAddresses": ["kim@example.com"]}
    assert (kept["subject"], kept["body"]) == (message().subject, message().html)


async def test_what_becomes_of_a_mail_is_told_over_sns_and_signed() -> None:
    vendor = Ses({}, lambda: 1_760_000_000.0)
    told = {"ConfigurationSetName": "c"}
    heard = Heard(f"{KEY}.s1", "kim@example.com", b"")
    for what, name in ((DELIVERED, "Delivery"), (BOUNCED, "Bounce"), (COMPLAINED, "Complaint")):
        request = Request("POST", ONE, "", {}, json.dumps(told).encode())
        (callback,) = vendor.receipts(request, heard, Taken("0107"), what)
        envelope = json.loads(callback.body)
        signed = "".join(
            f"{field}\n{envelope[field]}\n"
            for field in ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
        )
        key = x509.load_pem_x509_certificate(certificate()).public_key()
        assert isinstance(key, RSAPublicKey)
        key.verify(b64decode(envelope["Signature"]), signed.encode(), PKCS1v15(), SHA256())
        event = json.loads(envelope["Message"])
        assert (event["eventType"], event["mail"]["messageId"]) == (name, "0107")
        assert event["mail"]["tags"] == {"carillon": [tag(f"{KEY}.s1")]}
    assert vendor.receipts(Request("POST", ONE, "", {}, b"{}"), heard, Taken("0107"), DELIVERED) == ()


TO = {"ToAddresses": ["kim@example.com"]}
WHOLE: dict[str, Any] = {
    "FromEmailAddress": "a@b.example", "Destination": TO,
    "Content": {"Simple": {"Subject": {"Data": "x"}, "Body": {"Text": {"Data": "y"}}}},
}  # fmt: skip
TEMPLATE = {"Template": {"TemplateContent": {"Subject": "x", "Text": "y"}, "TemplateData": "{}"}}
SEVERAL: dict[str, Any] = {
    "FromEmailAddress": "a@b.example", "DefaultContent": TEMPLATE, "BulkEmailEntries": [{"Destination": TO}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "told", "status"),
    [
        ("outbound-emails", WHOLE, 200),
        ("outbound-emails", {}, 400),
        ("outbound-emails", WHOLE | {"Destination": {"ToAddresses": ["kim"]}}, 400),
        ("outbound-emails", WHOLE | {"Destination": {"ToAddresses": ["käthe@example.com"]}}, 400),
        ("outbound-emails", WHOLE | {"FromEmailAddress": "x"}, 400),
        ("outbound-emails", WHOLE | {"EmailTags": [{"Name": "carillon", "Value": "a.b"}]}, 400),
        ("outbound-emails", WHOLE | {"EmailTags": [{"Name": "carillon", "Value": "x" * 257}]}, 400),
        ("outbound-emails", WHOLE | {"Content": {"Simple": {"Subject": {"Data": "x"}, "Body": {}}}}, 400),
        ("outbound-bulk-emails", SEVERAL, 200),
        ("outbound-bulk-emails", SEVERAL | {"BulkEmailEntries": []}, 400),
        ("outbound-bulk-emails", SEVERAL | {"BulkEmailEntries": [{"Destination": TO}] * 51}, 400),
        ("outbound-everything", WHOLE, 404),
    ],
)
async def test_the_simulator_refuses_what_ses_would(path: str, told: dict[str, Any], status: int) -> None:
    signer = Signer("ses", "eu-central-1", Credentials(ACCESS_KEY_ID, SECRET_ACCESS_KEY))
    async with Simulator("ses") as vendor, httpx.AsyncClient() as client:
        url = f"{vendor.base_url}/v2/email/{path}"
        answer = await client.send(signer.request(url, json.dumps(told).encode(), "application/json"))
    assert answer.status_code == status
