"""Slack: what a request holds, which URLs are webhooks, and the provider against the simulator."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.providers import registry
from pipeline.providers.provider import Place
from pipeline.providers.slack import SlackProvider, escaped
from pipeline.simulator.simulator import Simulator
from pipeline.simulator.slack import BOT_TOKEN, SlackSimulator
from schemas.kinds import Channel
from schemas.message import Message
from tests.contract.heard import taken
from tests.contract.peers import KEY, http_script, listening, message

HOOK = "https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX"
OK = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def chat(target: str = "C1H9RESGL", **fields: Any) -> Message:
    given = {"text": "Hello *Kim* & <!channel> 👋", "html": "<b>no</b>", "subject": "no"} | fields
    return message(target, Channel.CHAT, **given)


def make(base_url: str | None, bot_token: str | None = BOT_TOKEN, **fields: Any) -> SlackProvider:
    settings = registry.settings("slack", base_url=base_url, bot_token=bot_token, **fields)
    made = registry.make("main", settings, Place(Path()))
    assert isinstance(made, SlackProvider)
    return made


async def test_a_channel_is_written_to_with_the_token() -> None:
    body = '{"ok": true, "channel": "C1", "ts": "1.2"}'
    async with listening(
        http_script([f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n{body}"])
    ) as peer:
        provider = make(f"http://127.0.0.1:{peer.port}", "xoxb-1")
        outcome = await provider.send(chat(), KEY)
        await provider.close()
    request = taken(peer)
    assert (outcome.kind, outcome.provider_message_id) == ("sent", "C1/1.2")
    assert request.line == "POST /api/chat.postMessage HTTP/1.1"
    assert request.headers["authorization"] == "Bearer xoxb-1"
    assert request.headers["content-type"] == "application/json; charset=utf-8"
    assert orjson.loads(request.body) == {
        "channel": "C1H9RESGL",
        "text": "Hello *Kim* &amp; &lt;!channel&gt; 👋",
        "metadata": {"event_type": "carillon", "event_payload": {"reference": KEY}},
    }


async def test_a_webhook_is_written_to_without_the_token() -> None:
    async with listening(http_script([OK])) as peer:
        provider = make(f"http://127.0.0.1:{peer.port}", "xoxb-1")
        assert (await provider.send(chat(HOOK), KEY)).kind == "sent"
        await provider.close()
    request = taken(peer)
    assert request.line == "POST /services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX HTTP/1.1"
    assert "authorization" not in request.headers
    assert orjson.loads(request.body) == {"text": "Hello *Kim* &amp; &lt;!channel&gt; 👋"}


@pytest.mark.parametrize(
    "target",
    [
        "http://hooks.slack.com/services/T/B/X",
        "https://hooks.slack.com.example.org/services/T/B/X",
        "https://example.org/services/T/B/X",
        "https://kim@hooks.slack.com/services/T/B/X",
        "https://hooks.slack.com:8443/services/T/B/X",
        "https://hooks.slack.com/services/../api/chat.postMessage",
        "https://hooks.slack.com/services/T/B/X?a=b",
        "https://hooks.slack.com/services/T/B/X\n",
        "https://hooks.slack.com/workflows/T/B/X",
        "",
        "C" * 101,
    ],
)
async def test_nobody_is_called_for_what_is_no_webhook_of_slacks(target: str) -> None:
    async with listening(http_script([OK])) as peer:
        provider = make(f"http://127.0.0.1:{peer.port}")
        outcome = await provider.send(chat(target), KEY)
        await provider.close()
    assert (outcome.kind, outcome.fault, peer.connections) == ("refused", "target", 0)
    assert not target or target not in str(outcome.reason)


@pytest.mark.parametrize("broken", [{"text": "\ud800"}, {"target": "C\ud800"}, {"target": HOOK + "\ud800"}])
async def test_what_cannot_be_written_is_refused(broken: dict[str, Any]) -> None:
    async with listening(http_script([OK])) as peer:
        provider = make(f"http://127.0.0.1:{peer.port}")
        outcome = await provider.send(chat(**broken), KEY)
        await provider.close()
    assert (outcome.kind, peer.connections) == ("refused", 0)


async def test_a_channel_takes_a_token() -> None:
    provider = make("http://127.0.0.1:1", None)
    outcome = await provider.send(chat(), KEY)
    await provider.close()
    assert (outcome.kind, outcome.fault) == ("refused", "target")
    assert outcome.reason == "a channel is reached with a bot_token only"


@given(st.text())
def test_no_text_holds_a_command(text: str) -> None:
    found = escaped(text)
    assert "<" not in found
    assert ">" not in found
    assert found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == text


async def test_the_simulator_takes_what_the_provider_sends() -> None:
    async with Simulator("slack") as vendor:
        provider = make(vendor.base_url)
        first = await provider.send(chat(), KEY)
        again = await provider.send(chat(), KEY)
        hook = await provider.send(chat(HOOK), KEY)
        await provider.close()
    assert [one.kind for one in (first, again, hook)] == ["sent"] * 3
    assert first.provider_message_id != again.provider_message_id
    assert (first.provider_message_id or "").startswith("C1H9RESGL/")
    assert vendor.effects == {KEY: 2, "": 1}  # no key is honoured, and a webhook takes none
    assert len(vendor.body_hashes[KEY]) == 1


@pytest.mark.parametrize("target", ["C1H9RESGL", HOOK])
@pytest.mark.parametrize("code", SlackSimulator.codes)
async def test_the_simulator_refuses_in_slacks_words(code: str, target: str) -> None:
    async with Simulator("slack", faults=[code]) as vendor:
        provider = make(vendor.base_url)
        outcome = await provider.send(chat(target), KEY)
        await provider.close()
        assert vendor.effects.total() == 0
    assert outcome.kind != "sent"
    assert outcome.code == code


@pytest.mark.parametrize(
    ("fault", "target", "expected"),
    [
        ("throttled", "C1", {"code": "ratelimited", "fault": "provider", "retry_after": 1}),
        ("throttled:retry_after=9", "C1", {"code": "ratelimited", "retry_after": 9}),
        ("throttled", HOOK, {"code": "rate_limited", "fault": "target", "retry_after": 1}),
        ("server_error", "C1", {"code": "internal_error", "kind": "doubtful"}),
        ("server_error", HOOK, {"code": "rollup_error", "kind": "doubtful"}),
        ("unauthorized", "C1", {"code": "invalid_auth", "fault": "provider"}),
        ("unauthorized", HOOK, {"code": "invalid_token", "kind": "refused", "fault": "target"}),
        ("reset_after_body", "C1", {"kind": "doubtful"}),
        ("nonsense", "C1", {"kind": "doubtful", "code": "HTTP 200"}),
        ("nonsense", HOOK, {"kind": "doubtful", "code": "HTTP 200"}),
    ],
)
async def test_a_fault_of_the_simulator_is_understood(
    fault: str, target: str, expected: dict[str, Any]
) -> None:
    async with Simulator("slack", faults=[fault]) as vendor:
        provider = make(vendor.base_url)
        outcome = await provider.send(chat(target), KEY)
        await provider.close()
    expected = {"kind": "deferred"} | expected
    assert {name: getattr(outcome, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("fields", "target", "changed", "code"),
    [
        ({"bot_token": "another"}, "C1", {}, "invalid_auth"),
        ({}, "C1", {"text": ""}, "no_text"),
        ({}, HOOK, {"text": ""}, "no_text"),
        ({}, "C1", {"text": "x" * 40_001}, "msg_too_long"),
        ({}, "CMISSING1", {}, "channel_not_found"),
        ({}, "https://hooks.slack.com/services/T0/BGONE/X", {}, "no_service"),
    ],
)
async def test_the_simulator_verifies(
    fields: dict[str, Any], target: str, changed: dict[str, Any], code: str
) -> None:
    async with Simulator("slack") as vendor:
        provider = make(vendor.base_url, **fields)
        outcome = await provider.send(chat(target, **changed), KEY)
        await provider.close()
        assert outcome.code == code
        assert vendor.effects.total() == 0
