"""SendGrid: what a request holds, how several share one, and a simulated SendGrid at the other end."""

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from msgspec.structs import replace

from pipeline.pool import Offer, Pool
from pipeline.pool.breaker import THRESHOLD
from pipeline.providers import registry
from pipeline.providers.mail import Letter, MailProvider
from pipeline.providers.mime import sender
from pipeline.providers.provider import Place
from pipeline.providers.sendgrid import MOST, SendGridProvider
from pipeline.sections import SettingsError
from pipeline.simulator.sendgrid import API_KEY, PATH, PUBLIC_KEY, SendGrid
from pipeline.simulator.simulator import Simulator
from pipeline.simulator.vendor import BOUNCED, COMPLAINED, DELIVERED, FAILED, Heard, Request, Taken
from schemas.message import Message
from schemas.outcome import Outcome
from tests.contract.letters import Files, everybody
from tests.contract.peers import KEY, Peer, http_script, listening, message

OK = "HTTP/1.1 202 Accepted\r\nx-message-id: abc\r\ncontent-length: 0\r\n\r\n"


@asynccontextmanager
async def providing(url: str, **fields: Any) -> AsyncIterator[MailProvider]:
    """A provider at an address."""
    given: dict[str, Any] = {"api_key": API_KEY, "from": '"Shop & Co" <no-reply@shop.example>'} | fields
    made = registry.make("main", registry.settings("sendgrid", base_url=url, **given), Place(Path()))
    assert isinstance(made, MailProvider)
    try:
        yield made
    finally:
        await made.close()


async def heard(acts: list[str], *sent: Message, **fields: Any) -> tuple[Peer, list[Outcome]]:
    """What a peer heard of messages that were sent at once, and what came of them."""
    async with (
        listening(http_script(acts)) as peer,
        providing(f"http://127.0.0.1:{peer.port}", **fields) as p,
    ):
        found = await asyncio.gather(*[p.send(one, f"{KEY}.{n}") for n, one in enumerate(sent)])
    return peer, list(found)


async def test_a_request_says_who_what_and_which() -> None:
    peer, _ = await heard([OK], message("kim@bücher.example", text="Grüße 💌\n", html="<p>Grüße</p>"))
    head = peer.heard[0].decode().lower()
    assert head.startswith("post /v3/mail/send http/1.1\r\n")
    assert f"authorization: bearer {API_KEY.lower()}\r\n" in head
    assert "content-type: application/json\r\n" in head
    assert json.loads(peer.bodies[0]) == {
        "personalizations": [
            {
                "to": [{"email": "kim@xn--bcher-kva.example"}],
                "headers": {"Message-ID": f"<{KEY}.0@shop.example>"},
                "custom_args": {"carillon": f"{KEY}.0"},
            }
        ],
        "from": {"email": "no-reply@shop.example", "name": "Shop & Co"},
        "subject": "Your order has shipped",
        "content": [
            {"type": "text/plain", "value": "Grüße 💌\n"},
            {"type": "text/html", "value": "<p>Grüße</p>"},
        ],
        "categories": ["orders"],
    }


async def test_the_same_words_to_many_are_one_request_with_one_outcome_each() -> None:
    peer, found = await heard([OK], *everybody(MOST))
    assert len(peer.bodies) == 1
    people = json.loads(peer.bodies[0])["personalizations"]
    assert [one["to"][0]["email"] for one in people] == [one.target for one in everybody(MOST)]
    assert [one["custom_args"]["carillon"] for one in people] == [f"{KEY}.{n}" for n in range(MOST)]
    assert [(one.kind, one.provider_message_id) for one in found] == [("sent", "abc")] * MOST


async def test_more_than_fit_are_two_requests() -> None:
    peer, _ = await heard([OK], *everybody(MOST + 1))
    assert sorted(len(json.loads(body)["personalizations"]) for body in peer.bodies) == [1, MOST]


@pytest.mark.parametrize("field", ["subject", "text", "html", "category"])
async def test_other_words_go_alone(field: str) -> None:
    first, second = everybody(2)
    peer, _ = await heard([OK], first, replace(second, **{field: "other"}))
    assert len(peer.bodies) == 2


async def test_one_address_stands_once_in_a_request() -> None:
    peer, found = await heard([OK], message("kim@example.com"), message("Kim@Example.com"))
    assert len(peer.bodies) == 2
    assert [one.kind for one in found] == ["sent", "sent"]


async def test_as_many_share_a_request_as_the_settings_say() -> None:
    peer, _ = await heard([OK], *everybody(4), batch=1)
    assert len(peer.bodies) == 4


async def test_one_address_that_is_none_costs_the_others_nothing() -> None:
    async with Simulator("sendgrid") as vendor, providing(vendor.base_url) as provider:
        people = everybody(100)
        people[42] = message("invalid@example.com")
        found = await asyncio.gather(*[provider.send(one, f"k{n}") for n, one in enumerate(people)])
    assert [n for n, one in enumerate(found) if one.kind != "sent"] == [42]
    assert (found[42].code, found[42].fault) == ("400 to", "target")
    assert vendor.effects["k42"] == 0
    assert all(vendor.effects[f"k{n}"] == 1 for n in range(100) if n != 42)
    assert vendor.counts.arrivals < 20  # halves of halves, and not each alone


async def test_what_is_wrong_for_all_is_not_asked_again_for_each() -> None:
    body = '{"errors":[{"message":"no","field":"content.0.value"}]}'
    refusal = f"HTTP/1.1 400 Bad Request\r\ncontent-length: {len(body)}\r\n\r\n{body}"
    peer, found = await heard([refusal], *everybody(8))
    assert len(peer.bodies) == 1
    assert {(one.kind, one.code, one.fault) for one in found} == {("refused", "HTTP 400", "message")}


async def test_a_batch_without_an_answer_is_doubtful_for_each_and_not_tried_again() -> None:
    peer, found = await heard(["silent"], *everybody(5), timeout=0.3)
    assert len(peer.bodies) == 1
    assert [one.kind for one in found] == ["doubtful"] * 5


async def test_what_waited_too_long_for_its_turn_is_not_sent() -> None:
    async with listening(http_script([OK])) as peer, providing(f"http://127.0.0.1:{peer.port}") as provider:
        letters = [
            Letter(one, KEY, one.target, {}, (), asyncio.get_running_loop().time() + late)
            for one, late in zip(everybody(2), (-0.1, 60), strict=True)
        ]
        found = await provider.post(letters)
    assert [(one.kind, one.fault) for one in found] == [("deferred", "provider")] * 2
    assert peer.connections == 0


@pytest.mark.parametrize(
    ("fault", "kind", "effects"),
    [("server_error", "deferred", 0), ("reset_after_body", "doubtful", 1), ("throttled", "deferred", 0)],
)
async def test_faults_of_a_batch_are_everybodys(fault: str, kind: str, effects: int) -> None:
    async with Simulator("sendgrid", faults=[fault]) as vendor, providing(vendor.base_url) as provider:
        found = await asyncio.gather(*[provider.send(one, f"k{n}") for n, one in enumerate(everybody(3))])
    assert [(one.kind, one.fault) for one in found] == [(kind, "provider")] * 3
    assert [vendor.effects[f"k{n}"] for n in range(3)] == [effects] * 3


@pytest.mark.parametrize(
    ("act", "counted"),
    [("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", [True, False, False, False, False]), ("reset", None)],
)
async def test_a_request_that_fails_is_one_failure_to_the_breaker(
    act: str, counted: list[bool] | None
) -> None:
    async with listening(http_script([act])) as peer, providing(f"http://127.0.0.1:{peer.port}") as provider:
        pool, found = Pool([provider]), []
        for batch in range(THRESHOLD):
            assert not pool.members["main"].is_away, f"after {batch}"
            offers = [Offer(pool, one) for one in everybody(10)]
            assert [offer.choose() for offer in offers] == ["main"] * 10
            ended = await asyncio.gather(
                *[provider.send(offer.message, f"{batch}.{n}") for n, offer in enumerate(offers)]
            )
            found.append({offer.end(outcome) for offer, outcome in zip(offers, ended, strict=True)})
        assert pool.members["main"].is_away
    assert len(peer.bodies) == THRESHOLD
    # each of a batch as the others: a doubt counts until the breaker is open
    assert found == [{one} for one in counted or [True] * (THRESHOLD - 1) + [False]]


async def test_a_throttled_request_says_when_more_is_taken() -> None:
    async with Simulator("sendgrid", faults=["throttled"]) as vendor, providing(vendor.base_url) as provider:
        found = await provider.send(message(), KEY)
    assert found.retry_after is not None
    assert 0 <= found.retry_after <= 1


async def test_another_key_is_the_providers_fault() -> None:
    async with Simulator("sendgrid") as vendor, providing(vendor.base_url, api_key="SG.other") as provider:
        found = await provider.send(message(), KEY)
    assert (found.kind, found.code, found.fault) == ("deferred", "HTTP 401", "provider")


async def test_an_empty_message_is_one_that_they_take() -> None:
    async with Simulator("sendgrid") as vendor, providing(vendor.base_url) as provider:
        found = await provider.send(message(subject=None, text="", html=None), KEY)
    assert found.kind == "sent"


@pytest.mark.parametrize("fields", [{"text": "\ud800"}, {"target": "\ud800@x.example"}, {"target": "nobody"}])
async def test_what_cannot_be_sent_is_refused_and_the_others_are_not(fields: dict[str, Any]) -> None:
    broken = replace(message("lee@example.com"), **fields)
    peer, found = await heard([OK], message(), broken)
    assert [one.kind for one in found] == ["sent", "refused"]
    assert len(peer.bodies) == 1


async def test_files_go_along_and_are_let_go_afterwards() -> None:
    files = Files()
    async with listening(http_script([OK])) as peer:
        provider = SendGridProvider(
            "main", api_key="x", sender=sender("a@b.example"), timeout=5, attachments=files,
            base_url=f"http://127.0.0.1:{peer.port}",
        )  # fmt: skip
        assert (await provider.send(files.on(message()), KEY)).kind == "sent"
        await provider.close()
    (one,) = json.loads(peer.bodies[0])["attachments"]
    assert (one["filename"], one["type"], one["disposition"]) == (
        "Rechnung.pdf",
        "application/pdf",
        "attachment",
    )
    assert b64decode(one["content"]) == files.data
    assert files.is_free


async def test_files_without_a_store_are_not_left_out_in_silence() -> None:
    files = Files()
    peer, found = await heard([OK], files.on(message()))
    assert (found[0].kind, found[0].fault, peer.bodies) == ("refused", "message", [])


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"from": "x@y.example"}, "api_key"),
        ({"api_key": "x"}, "from"),
        ({"api_key": "x", "from": "x"}, "from"),
    ],
)
def test_what_is_missing_is_named(fields: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=rf"providers\.main\.{named}"):
        registry.make("main", registry.settings("sendgrid", **fields), Place(Path()))


async def test_what_becomes_of_a_mail_is_told_and_signed() -> None:
    vendor = SendGrid({}, lambda: 1_760_000_000.0)
    key = load_der_public_key(b64decode(PUBLIC_KEY))
    assert isinstance(key, EllipticCurvePublicKey)
    request = Request("POST", PATH, "", {}, b'{"categories": ["orders"]}')
    names = {DELIVERED: "delivered", BOUNCED: "bounce", COMPLAINED: "spamreport", FAILED: "dropped"}
    for what, name in names.items():
        (callback,) = vendor.receipts(request, Heard(KEY, "kim@example.com", b""), Taken("abc"), what)
        signature, at = (
            callback.headers[f"x-twilio-email-event-webhook-{part}"] for part in ("signature", "timestamp")
        )
        key.verify(b64decode(signature), at.encode() + callback.body, ECDSA(SHA256()))
        (event,) = json.loads(callback.body)
        assert (event["event"], event["carillon"], event["timestamp"]) == (name, KEY, 1_760_000_000)


ARGUMENTS = "personalizations.0.custom_args"
PERSON = {"to": [{"email": "kim@example.com"}]}
WHOLE: dict[str, Any] = {
    "personalizations": [PERSON], "from": {"email": "a@b.example"}, "subject": "x",
    "content": [{"type": "text/plain", "value": "y"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({}, None),
        ({"personalizations": []}, "personalizations"),
        ({"personalizations": [PERSON, PERSON]}, "personalizations"),
        ({"personalizations": [PERSON, {"to": [{"email": "kim"}]}]}, "personalizations.1.to.0.email"),
        ({"personalizations": [PERSON | {"headers": {"Subject": "x"}}]}, "personalizations.0.headers"),
        ({"personalizations": [PERSON | {"custom_args": {"x": "x" * 10_000}}]}, ARGUMENTS),
        ({"personalizations": [PERSON | {"custom_args": {"x": 1}}]}, ARGUMENTS),
        ({"from": {"email": "x"}}, "from.email"),
        ({"subject": ""}, "subject"),
        ({"content": []}, "content"),
        ({"content": [{"type": "text/plain", "value": ""}]}, "content"),
        ({"content": [{"type": "text/html", "value": "y"}, WHOLE["content"][0]]}, "content"),
        ({"categories": ["x"] * 11}, "categories"),
        ({"attachments": [{"filename": "x", "content": "no base64"}]}, "attachments.0.content"),
    ],
)  # fmt: skip
async def test_the_simulator_refuses_what_sendgrid_would(change: dict[str, Any], field: str | None) -> None:
    headers = {"authorization": f"Bearer {API_KEY}"}
    async with Simulator("sendgrid") as vendor, httpx.AsyncClient(headers=headers) as client:
        answer = await client.post(f"{vendor.base_url}{PATH}", json=WHOLE | change)
    if field is None:
        assert (answer.status_code, answer.headers["x-message-id"]) == (202, "simulated.0000000001")
    else:
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field)
