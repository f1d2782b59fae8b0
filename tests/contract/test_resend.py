"""Resend: what a request holds, what its key is worth, and a simulated Resend at the other end."""

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.providers import registry
from pipeline.providers.mail import MailProvider, tag
from pipeline.providers.mime import sender
from pipeline.providers.provider import Forgetful, Place
from pipeline.providers.resend import ResendProvider
from pipeline.receipts.receipt import Callback, Receipt
from pipeline.receipts.resend import Resend as Receiver
from pipeline.sections import SettingsError
from pipeline.simulator.resend import API_KEY, KNOWN_SECONDS, PATH, WEBHOOK_SECRET, Resend
from pipeline.simulator.simulator import Simulator
from pipeline.simulator.vendor import BOUNCED, COMPLAINED, DELIVERED, FAILED, Heard, Request, Taken, Wrong
from schemas.kinds import State
from schemas.message import Message
from schemas.outcome import Outcome
from tests.contract.heard import taken
from tests.contract.letters import Files
from tests.contract.peers import KEY, Peer, http_script, listening, message

OK = 'HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{"id": "r1"}'


@asynccontextmanager
async def providing(url: str, **fields: Any) -> AsyncIterator[MailProvider]:
    """A provider at an address."""
    given: dict[str, Any] = {"api_key": API_KEY, "from": '"Shop & Co" <no-reply@shop.example>'} | fields
    made = registry.make("main", registry.settings("resend", base_url=url, **given), Place(Path()))
    assert isinstance(made, MailProvider)
    try:
        yield made
    finally:
        await made.close()


async def heard(sent: Message, **fields: Any) -> tuple[Peer, Outcome]:
    """What a peer heard of a message, and what came of it."""
    async with (
        listening(http_script([OK])) as peer,
        providing(f"http://127.0.0.1:{peer.port}", **fields) as p,
    ):
        return peer, await p.send(sent, KEY)


async def test_a_request_says_who_what_and_which() -> None:
    url = "https://notify.example.com/unsubscribe/x"
    peer, _ = await heard(
        message("kim@bücher.example", text="Grüße 💌\n", html="<p>Grüße</p>", unsubscribe=url)
    )
    told = taken(peer)
    assert told.line == "POST /emails HTTP/1.1"
    assert told.headers["authorization"] == f"Bearer {API_KEY}"
    assert told.headers["content-type"] == "application/json"
    assert told.headers["idempotency-key"] == KEY
    assert json.loads(told.body) == {
        "from": "Shop & Co <no-reply@shop.example>",
        "to": ["kim@xn--bcher-kva.example"],
        "subject": "Your order has shipped",
        "text": "Grüße 💌\n",
        "html": "<p>Grüße</p>",
        "headers": {
            "List-Unsubscribe": f"<{url}>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        },
        "tags": [
            {"name": "carillon", "value": KEY.replace(".", "_")},
            {"name": "category", "value": "orders"},
        ],
    }


async def test_a_name_beyond_ascii_goes_as_it_is_written() -> None:
    peer, _ = await heard(message(), **{"from": "Bücher <no-reply@shop.example>"})
    assert json.loads(peer.bodies[0])["from"] == "Bücher <no-reply@shop.example>"


async def test_an_empty_message_is_one_that_they_take() -> None:
    async with Simulator("resend") as vendor, providing(vendor.base_url) as provider:
        found = await provider.send(message(subject=None, text="", html=None, category="für alle"), KEY)
    assert found.kind == "sent"


async def test_letters_beyond_ascii_before_the_at_are_not_sent() -> None:
    peer, found = await heard(message("grüße@example.com"))
    assert (found.kind, found.fault, peer.bodies) == ("refused", "target", [])


async def test_files_go_along_and_are_let_go_afterwards() -> None:
    files = Files()
    async with listening(http_script([OK])) as peer:
        provider = ResendProvider(
            "main", api_key="x", sender=sender("a@b.example"), timeout=5, attachments=files,
            base_url=f"http://127.0.0.1:{peer.port}",
        )  # fmt: skip
        assert (await provider.send(files.on(message()), KEY)).kind == "sent"
        await provider.close()
    (one,) = json.loads(peer.bodies[0])["attachments"]
    assert (one["filename"], one["content_type"]) == ("Rechnung.pdf", "application/pdf")
    assert b64decode(one["content"]) == files.data
    assert files.is_free


# what a key is worth


async def test_a_second_call_with_a_key_has_no_second_effect_and_the_first_id() -> None:
    async with Simulator("resend") as vendor, providing(vendor.base_url) as provider:
        assert provider.honours_keys
        assert isinstance(provider, Forgetful)
        assert provider.key_window == 24 * 60 * 60
        found = [await provider.send(message(), KEY) for _ in range(3)]
    assert {one.kind for one in found} == {"sent"}
    assert len({one.provider_message_id for one in found}) == 1
    assert (vendor.requests[KEY], vendor.effects[KEY]) == (3, 1)


async def test_an_answer_that_got_lost_is_had_by_asking_again() -> None:
    fault = "reset_after_body:first=1"
    async with Simulator("resend", faults=[fault]) as vendor, providing(vendor.base_url) as provider:
        lost, again = await provider.send(message(), KEY), await provider.send(message(), KEY)
    assert (lost.kind, again.kind, vendor.effects[KEY]) == ("doubtful", "sent", 1)


async def test_other_bytes_under_a_known_key_are_in_doubt_and_not_sent() -> None:
    async with Simulator("resend") as vendor:
        async with providing(vendor.base_url) as provider:
            await provider.send(message(), KEY)
        async with providing(vendor.base_url, **{"from": "Other <no-reply@shop.example>"}) as provider:
            found = await provider.send(message(), KEY)
    assert (found.kind, found.code) == ("doubtful", "invalid_idempotent_request")
    assert vendor.effects[KEY] == 1


async def test_a_call_beside_one_that_still_runs_is_no_proof_that_nothing_was_sent() -> None:
    fault = "concurrent_idempotent_requests:first=1"
    async with Simulator("resend", faults=[fault]) as vendor, providing(vendor.base_url) as provider:
        found = await provider.send(message(), KEY)
    assert (found.kind, found.fault) == ("doubtful", None)


def test_the_simulator_forgets_a_key_after_a_day() -> None:
    now = 0.0
    vendor = Resend({}, lambda: now)
    headers = {"authorization": f"Bearer {API_KEY}", "idempotency-key": KEY}
    first, other = (
        Request("POST", PATH, "", headers, json.dumps(WHOLE | {"text": text}).encode()) for text in "ab"
    )
    vendor.remember(first, Taken("r1"))
    now = KNOWN_SECONDS - 1
    with pytest.raises(Wrong, match="another body"):
        vendor.hear(other)
    now = KNOWN_SECONDS
    assert vendor.hear(other)


@pytest.mark.parametrize(
    ("fault", "kind", "code", "retry_after"),
    [
        ("throttled", "deferred", "rate_limit_exceeded", 1.0),
        ("server_error", "deferred", "application_error", None),
        ("unauthorized", "deferred", "invalid_api_key", None),
        ("daily_quota_exceeded", "deferred", "daily_quota_exceeded", None),
        ("validation_error 403", "deferred", "validation_error 403", None),
        ("validation_error to", "refused", "validation_error to", None),
    ],
)
async def test_the_simulators_faults_are_read(
    fault: str, kind: str, code: str, retry_after: float | None
) -> None:
    async with Simulator("resend", faults=[fault]) as vendor, providing(vendor.base_url) as provider:
        found = await provider.send(message(), KEY)
    assert (found.kind, found.code, found.retry_after) == (kind, code, retry_after)
    assert vendor.effects[KEY] == 0


async def test_another_key_is_the_providers_fault() -> None:
    async with Simulator("resend") as vendor, providing(vendor.base_url, api_key="re_other") as provider:
        found = await provider.send(message(), KEY)
    assert (found.kind, found.code, found.fault) == ("deferred", "invalid_api_key", "provider")


async def test_many_at_once_are_one_effect_each() -> None:
    async with Simulator("resend") as vendor, providing(vendor.base_url) as provider:
        found = await asyncio.gather(*[provider.send(message(), f"{KEY}{n % 20}") for n in range(60)])
    assert {one.kind for one in found} == {"sent"}
    assert sorted(vendor.effects.values()) == [1] * 20


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
        registry.make("main", registry.settings("resend", **fields), Place(Path()))


# what they tell


@pytest.mark.parametrize(
    ("what", "state"),
    [
        (DELIVERED, State.DELIVERED),
        (BOUNCED, State.BOUNCED),
        (COMPLAINED, State.COMPLAINED),
        (FAILED, State.FAILED),
    ],
)
async def test_what_becomes_of_a_mail_is_told_signed_and_read(what: str, state: State) -> None:
    vendor = Resend({}, lambda: 1_760_000_000.0)
    told = WHOLE | {"tags": [{"name": "carillon", "value": tag(KEY)}]}
    request = Request("POST", PATH, "", {}, json.dumps(told).encode())
    (made,) = vendor.receipts(request, Heard(KEY, "kim@example.com", b""), Taken("r1"), what)
    callback, receiver = Callback("", made.headers, made.body, 1_760_000_001.0), Receiver(WEBHOOK_SECRET)
    await receiver.verify(callback)
    (word,) = receiver.read(callback)
    assert isinstance(word, Receipt)
    assert (word.reference, word.state, word.at, word.provider_message_id) == (
        KEY, state, 1_760_000_000_000, "r1"
    )  # fmt: skip


WHOLE: dict[str, Any] = {
    "from": "Shop <a@b.example>", "to": ["kim@example.com"], "subject": "x", "text": "y",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "status", "name"),
    [
        ({}, 200, None),
        ({"to": "kim@example.com"}, 200, None),
        ({"from": "x"}, 422, "validation_error"),
        ({"to": ["kim"]}, 422, "validation_error"),
        ({"to": []}, 422, "missing_required_field"),
        ({"to": [f"k{n}@example.com" for n in range(51)]}, 422, "validation_error"),
        ({"subject": ""}, 422, "missing_required_field"),
        ({"subject": 1}, 422, "validation_error"),
        ({"text": ""}, 422, "missing_required_field"),
        ({"headers": {"x": 1}}, 422, "validation_error"),
        ({"tags": [{"name": "carillon", "value": KEY}]}, 422, "validation_error"),
        ({"attachments": [{"filename": "x", "content": "no base64"}]}, 422, "invalid_attachment"),
    ],
)
async def test_the_simulator_refuses_what_resend_would(
    change: dict[str, Any], status: int, name: str | None
) -> None:
    headers = {"authorization": f"Bearer {API_KEY}"}
    async with Simulator("resend") as vendor, httpx.AsyncClient(headers=headers) as client:
        answer = await client.post(f"{vendor.base_url}{PATH}", json=WHOLE | change)
    assert (answer.status_code, answer.json().get("name")) == (status, name)
