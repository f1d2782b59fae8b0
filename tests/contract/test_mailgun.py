"""Mailgun: what a form holds, and a simulated Mailgun at the other end."""

import hmac
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import policy
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.providers import registry
from pipeline.providers.mail import MailProvider
from pipeline.providers.mailgun import MailgunProvider, multipart
from pipeline.providers.mime import sender
from pipeline.providers.provider import Place
from pipeline.sections import SettingsError
from pipeline.simulator.mailgun import API_KEY, Mailgun
from pipeline.simulator.simulator import Simulator
from pipeline.simulator.vendor import BOUNCED, COMPLAINED, DELIVERED, Heard, Request, Taken
from schemas.message import Message
from tests.contract.letters import File, Files
from tests.contract.peers import KEY, Peer, http_script, listening, message

BODY = '{"id":"<x@mg.shop.example>","message":"Queued. Thank you."}'
OK = f"HTTP/1.1 200 OK\r\ncontent-length: {len(BODY)}\r\n\r\n{BODY}"


@asynccontextmanager
async def providing(url: str, **fields: Any) -> AsyncIterator[MailProvider]:
    """A provider at an address."""
    given = {
        "api_key": API_KEY,
        "domain": "mg.shop.example",
        "from": "Läden <no-reply@shop.example>",
    } | fields
    made = registry.make("main", registry.settings("mailgun", base_url=url, **given), Place(Path()))
    assert isinstance(made, MailProvider)
    try:
        yield made
    finally:
        await made.close()


def form(peer: Peer) -> list[tuple[str, str | None, bytes]]:
    """The fields of what a peer heard, as the standard library reads them."""
    head = peer.heard[0].split(b"\r\n", 1)[1]
    parsed = BytesParser(policy=policy.HTTP).parsebytes(head + peer.bodies[0])
    assert not parsed.defects
    found = []
    for part in parsed.iter_parts():
        value = part.get_payload(decode=True)
        assert isinstance(value, bytes)
        name = part.get_param("name", header="content-disposition")
        found.append((str(name), part.get_filename(), value))
    return found


async def sent(*one: Message) -> Peer:
    async with listening(http_script([OK])) as peer, providing(f"http://127.0.0.1:{peer.port}") as provider:
        for this in one:
            assert (await provider.send(this, KEY)).kind == "sent"
    return peer


async def test_a_form_says_who_what_and_which() -> None:
    peer = await sent(message("kim@bücher.example", text="Grüße\n", html="<p>Grüße</p>", category="größe"))
    head = peer.heard[0].decode()
    assert head.startswith("POST /v3/mg.shop.example/messages HTTP/1.1\r\n")
    assert f"authorization: Basic {b64encode(f'api:{API_KEY}'.encode()).decode()}\r\n" in head
    assert [(name, value.decode()) for name, _, value in form(peer)] == [
        ("from", "=?utf-8?b?TMOkZGVu?= <no-reply@shop.example>"),
        ("to", "kim@xn--bcher-kva.example"),
        ("subject", "Your order has shipped"),
        ("text", "Grüße\n"),
        ("html", "<p>Grüße</p>"),
        ("h:Message-ID", f"<{KEY}@shop.example>"),
        ("v:carillon", KEY),
        ("o:tag", "gr??e"),
    ]


async def test_the_id_that_comes_back_is_our_message_id() -> None:
    async with Simulator("mailgun") as vendor, providing(vendor.base_url) as provider:
        found = await provider.send(message(), KEY)
    assert (found.kind, found.provider_message_id) == ("sent", f"{KEY}@shop.example")
    assert vendor.effects == {KEY: 1}


async def test_files_go_along_and_are_let_go_afterwards() -> None:
    files = Files()
    async with listening(http_script([OK])) as peer:
        provider = MailgunProvider(
            "main", domain="d.example", api_key="x", sender=sender("a@b.example"), timeout=5,
            attachments=files, base_url=f"http://127.0.0.1:{peer.port}",
        )  # fmt: skip
        assert (await provider.send(files.on(message()), KEY)).kind == "sent"
        await provider.close()
    assert [(name, value) for _, name, value in form(peer) if name] == [("Rechnung.pdf", files.data)]
    assert files.is_free


def test_nothing_that_is_sent_ends_the_form_early() -> None:
    first, _ = multipart([("text", "x")], [], "seed")
    held = f"--{first}\r\nContent-Disposition: form-data; name=to\r\n\r\nother@example.com\r\n"
    boundary, body = multipart([("text", held)], [File('a"\r\nb', "x/y", b"")], "seed")
    head = f"content-type: multipart/form-data; boundary={boundary}\r\n\r\n".encode()
    parsed = BytesParser(policy=policy.HTTP).parsebytes(head + body)
    names = [part.get_param("name", header="content-disposition") for part in parsed.iter_parts()]
    assert names == ["text", "attachment"]


@pytest.mark.parametrize(
    ("faults", "to", "kind", "code", "fault", "effects"),
    [
        ([], "invalid@example.com", "refused", "400 to", "target", 0),
        (["403"], "kim@example.com", "deferred", "HTTP 403", "provider", 0),
        (["413"], "kim@example.com", "refused", "HTTP 413", "message", 0),
        (["throttled"], "kim@example.com", "deferred", "HTTP 429", "provider", 0),
        (["server_error"], "kim@example.com", "deferred", "HTTP 500", "provider", 0),
        (["unauthorized"], "kim@example.com", "deferred", "HTTP 401", "provider", 0),
        (["reset_after_body"], "kim@example.com", "doubtful", None, "provider", 1),
        (["nonsense"], "kim@example.com", "doubtful", "HTTP 200", "provider", 1),
        (["oversize"], "kim@example.com", "doubtful", "HTTP 200", "provider", 1),
    ],
)
async def test_faults(
    faults: list[str], to: str, kind: str, code: str | None, fault: str, effects: int
) -> None:
    async with Simulator("mailgun", faults=faults) as vendor, providing(vendor.base_url) as provider:
        found = await provider.send(message(to), KEY)
    assert (found.kind, found.code, found.fault) == (kind, code, fault)
    assert vendor.effects[KEY] == effects
    assert found.retry_after == (1 if faults == ["throttled"] else None)


async def test_another_key_is_the_providers_fault() -> None:
    async with Simulator("mailgun") as vendor, providing(vendor.base_url, api_key="other") as provider:
        found = await provider.send(message(), KEY)
    assert (found.kind, found.code, found.fault) == ("deferred", "HTTP 401", "provider")


@pytest.mark.parametrize("fields", [{"text": "\ud800"}, {"target": "\ud800@x.example"}, {"target": "nobody"}])
async def test_what_cannot_be_sent_is_refused(fields: dict[str, Any]) -> None:
    async with listening(http_script([OK])) as peer, providing(f"http://127.0.0.1:{peer.port}") as provider:
        assert (await provider.send(message(**fields), KEY)).kind == "refused"
    assert peer.connections == 0


@pytest.mark.parametrize("missing", ["api_key", "domain", "from"])
def test_what_is_missing_is_named(missing: str) -> None:
    fields = {"api_key": "x", "domain": "d.example", "from": "x@y.example"}
    del fields[missing]
    with pytest.raises(SettingsError, match=rf"providers\.main\.{missing}: mailgun needs it"):
        registry.make("main", registry.settings("mailgun", **fields), Place(Path()))


async def test_what_becomes_of_a_mail_is_told_and_signed() -> None:
    vendor = Mailgun({"webhook_signing_key": "k"}, lambda: 1_760_000_000.0)
    boundary, body = multipart([("v:carillon", KEY), ("h:Message-ID", "<a@b>")], [], "x")
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    request = Request("POST", "/v3/d.example/messages", "", headers, body)
    tokens = set()
    for what, name in {DELIVERED: "delivered", BOUNCED: "failed", COMPLAINED: "complained"}.items():
        (callback,) = vendor.receipts(request, Heard(KEY, "kim@example.com", b""), Taken("abc"), what)
        told = json.loads(callback.body)
        signature = told["signature"]
        signed = f"{signature['timestamp']}{signature['token']}".encode()
        assert signature["signature"] == hmac.new(b"k", signed, "sha256").hexdigest()
        tokens.add(signature["token"])
        event = told["event-data"]
        assert (event["event"], event["user-variables"]) == (name, {"carillon": KEY})
        assert event["message"]["headers"]["message-id"] == "a@b"
    assert len(tokens) == 3


@pytest.mark.parametrize("sent_as", ["data", "files"])
async def test_the_simulator_takes_what_other_clients_send(sent_as: str) -> None:
    fields = {
        "from": "a@b.example",
        "to": "Kim <kim@example.com>",
        "subject": "x",
        "text": "y",
        "v:carillon": "k",
    }
    given = {"data": fields} if sent_as == "data" else {"files": {n: (None, v) for n, v in fields.items()}}
    async with Simulator("mailgun") as vendor, httpx.AsyncClient(auth=("api", API_KEY)) as client:
        answer = await client.post(f"{vendor.base_url}/v3/d.example/messages", **given)
    assert (answer.status_code, answer.json()["message"]) == (200, "Queued. Thank you.")
    assert vendor.effects == {"k": 1}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"to": ""}, 400), ({"to": "kim"}, 400), ({"from": "x"}, 400), ({"text": ""}, 400),
        ({"o:tag": "größe"}, 400), ({"v:big": "x" * 17_000}, 400), ({"o:tag": "x" * 129}, 400), ({}, 200),
    ],
)  # fmt: skip
async def test_the_simulator_refuses_what_mailgun_would(change: dict[str, str], status: int) -> None:
    fields = {"from": "a@b.example", "to": "kim@example.com", "subject": "x", "text": "y"} | change
    async with Simulator("mailgun") as vendor, httpx.AsyncClient(auth=("api", API_KEY)) as client:
        answer = await client.post(f"{vendor.base_url}/v3/d.example/messages", data=fields)
    assert answer.status_code == status


# -- what became of a call whose end nobody saw


@pytest.mark.parametrize(("fault", "found"), [("reset_after_body", "sent"), ("throttled", None)])
async def test_its_events_tell_whether_a_mail_was_taken(fault: str, found: str | None) -> None:
    async with (
        Simulator("mailgun", faults=[fault]) as simulator,
        providing(simulator.base_url, ask_after=0) as provider,
    ):
        assert isinstance(provider, MailgunProvider)
        assert (await provider.send(message(), KEY)).kind == ("doubtful" if found else "deferred")
        told = await provider.find(message(), KEY)
        assert (told.kind if told else None) == found
        assert await provider.find(message(), f"{KEY}.other") is None
    assert simulator.requests.total() == 1


async def test_events_that_cannot_be_asked_leave_the_doubt() -> None:
    async with (
        Simulator("mailgun", secrets={"api_key": "another"}) as simulator,
        providing(simulator.base_url, ask_after=0) as provider,
    ):
        assert isinstance(provider, MailgunProvider)
        told = await provider.find(message(), KEY)
        assert told is not None
        assert (told.kind, told.fault, told.code) == ("doubtful", "provider", "HTTP 401")
        await simulator.stop()
        away = await provider.find(message(), KEY)
    assert away is not None
    assert away.kind == "doubtful"


def test_a_message_takes_twice_as_long_where_it_is_asked_after() -> None:
    assert registry.settings("mailgun", timeout=7).longest == 7
    assert registry.settings("mailgun", timeout=7, ask_after=5).longest == 14
