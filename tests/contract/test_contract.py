"""What every provider keeps, each against its own table of recorded cases.

A kind without a table fails here; so does a table that is silent about a situation.
"""

import asyncio
import contextlib
import functools
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from pipeline.providers import registry, retry_after
from pipeline.providers.provider import Place, Provider
from pipeline.simulator import registry as simulator
from pipeline.simulator.vendor import Vendor
from schemas.kinds import Channel
from schemas.message import Message
from tests.contract.peers import KEY, RECORDED, Peer, http_script, listening, message, refusing, smtp_script
from tests.contract.push_scenes import apns_scene, fcm_scene, webpush_scene
from tests.contract.ses_scene import ses_scene

SITUATIONS = {
    "success", "permanent", "transient", "transient code before the request", "throttled", "nobody there",
    "silence before the request", "silence after the request", "reset before the request",
    "reset after the request", "garbage before the request", "garbage after the request", "oversize",
    "slow answer", "token expiry",
}  # fmt: skip
KINDS = sorted(registry.KINDS)
Case = dict[str, Any]
Scene = tuple[Provider, Message, Peer | None]


def table(kind: str) -> dict[str, Any]:
    """What was recorded for a kind; nothing where no file is: that is a test's to tell."""
    file = RECORDED / f"{kind}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"cases": [], "situations": {}}
    return found


def recorded() -> list[Any]:
    """Every case of every kind."""
    return [
        pytest.param(kind, case, id=f"{kind}: {case['situation']}: {case['name']}")
        for kind in KINDS
        for case in table(kind)["cases"]
    ]


def success(kind: str) -> Case:
    """The first case of a kind that goes well."""
    return next(case for case in table(kind)["cases"] if case["situation"] == "success")


@contextlib.asynccontextmanager
async def http_scene(case: Case, state_dir: Path) -> AsyncIterator[Scene]:
    fields: Case = {"text": '{"order": 1}', "html": None, "subject": None} | case.get("fields", {})
    timeout = case.get("timeout", 10)
    settings = registry.settings("webhook", allow_internal=True, timeout=timeout)
    async with contextlib.AsyncExitStack() as stack:
        peer = None
        if case.get("peer") == "refusing":
            port = stack.enter_context(refusing())
        else:
            script = http_script(case["acts"], at_once=case.get("at_once", False))
            peer = await stack.enter_async_context(listening(script))
            port = peer.port
        url = f"{case.get('scheme', 'http')}://127.0.0.1:{port}/hook"
        provider = registry.make("main", settings, Place(state_dir))
        stack.push_async_callback(provider.close)
        yield provider, message(url, Channel.WEBHOOK, **fields), peer


@contextlib.asynccontextmanager
async def smtp_scene(case: Case, state_dir: Path) -> AsyncIterator[Scene]:
    async with contextlib.AsyncExitStack() as stack:
        peer = None
        if case.get("peer") == "refusing":
            port = stack.enter_context(refusing())
        else:
            peer = await stack.enter_async_context(listening(smtp_script(case["replies"])))
            port = peer.port
        settings = registry.settings("smtp", port=port, timeout=case.get("timeout", 10))
        provider = registry.make("main", settings, Place(state_dir))
        stack.push_async_callback(provider.close)
        yield provider, message(case.get("target", "kim@example.com")), peer


@contextlib.asynccontextmanager
async def inbox_scene(case: Case, state_dir: Path) -> AsyncIterator[Scene]:
    provider = registry.make("main", registry.settings("inbox"), Place(state_dir))
    yield provider, message("u1", Channel.WEB), None
    await provider.close()


@contextlib.asynccontextmanager
async def outbox_scene(case: Case, state_dir: Path) -> AsyncIterator[Scene]:
    file = state_dir / "outbox.sqlite3"
    sent = message()
    if "text" in case:
        sent = replace(sent, text=case["text"])
    with contextlib.ExitStack() as stack:
        match case.get("file"):
            case "directory is a file":
                state_dir = state_dir / "file"
                state_dir.touch()
            case "is a directory":
                file.mkdir()
            case "is no database":
                file.write_bytes(b"no database at all" * 100)
            case "locked":
                holder = stack.enter_context(contextlib.closing(sqlite3.connect(file, isolation_level=None)))
                holder.execute("CREATE TABLE held (x)")
                holder.execute("BEGIN EXCLUSIVE")
        settings = registry.settings("outbox", timeout=case.get("timeout", 10))
        provider = registry.make("main", settings, Place(state_dir))
        yield provider, sent, None
    await provider.close()


@contextlib.asynccontextmanager
async def vendor_scene(kind: str, case: Case, state_dir: Path) -> AsyncIterator[Scene]:
    """A vendor's API: its table says with what settings and message, a case what is answered."""
    found = table(kind)
    async with contextlib.AsyncExitStack() as stack:
        peer = None
        if case.get("peer") == "refusing":
            port = stack.enter_context(refusing())
        else:
            script = http_script(case["acts"], at_once=case.get("at_once", False))
            peer = await stack.enter_async_context(listening(script))
            port = peer.port
        fields = found["settings"] | case.get("settings", {})
        base_url = f"{case.get('scheme', 'http')}://127.0.0.1:{port}"
        settings = registry.settings(kind, base_url=base_url, timeout=case.get("timeout", 10), **fields)
        provider = registry.make("main", settings, Place(state_dir, "https://notify.example.com"))
        stack.push_async_callback(provider.close)
        fields = found["message"] | case.get("fields", {})
        yield provider, message(**fields | {"channel": Channel(fields["channel"])}), peer


SCENES: dict[str, Callable[[Case, Path], AbstractAsyncContextManager[Scene]]] = {
    kind: functools.partial(vendor_scene, kind) for kind in KINDS
} | {
    "webhook": http_scene, "smtp": smtp_scene, "inbox": inbox_scene, "outbox": outbox_scene,
    "ses": functools.partial(ses_scene, vendor_scene),
    "fcm": fcm_scene, "apns": apns_scene, "webpush": webpush_scene,
}  # fmt: skip
OURS = {"inbox", "outbox"}
"""Those that call nobody, so that there is nobody to simulate."""
VENDORS = [kind for kind in KINDS if "settings" in table(kind)]
"""Those whose table says with what settings they are made."""


def simulated(kind: str) -> Vendor:
    """How the simulator speaks for a kind."""
    return simulator.KINDS[kind].make({}, time.time)


def test_every_kind_but_ours_can_be_simulated() -> None:
    assert set(simulator.KINDS) == set(KINDS) - OURS, "write pipeline/simulator/<kind>.py"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_table(kind: str) -> None:
    assert table(kind)["cases"], f"record tests/contract/recorded/{kind}.json"


@pytest.mark.parametrize("kind", VENDORS)
def test_every_code_of_a_vendor_is_played(kind: str) -> None:
    played = {case.get("code") for case in table(kind)["cases"]}
    codes = {code for code in registry.KINDS[kind].CODES if not code.endswith("xx")}
    assert {code for code in codes if code not in played and f"HTTP {code}" not in played} == set()


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_is_silent_about_no_situation(kind: str) -> None:
    found = table(kind)
    played = {case["situation"] for case in found["cases"]}
    excused = set(found["situations"])
    assert played | excused == SITUATIONS
    assert not played & excused
    assert all(found["situations"].values()), "an excuse is a sentence"


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_its_settings_its_codes_and_its_maker(kind: str) -> None:
    module = registry.KINDS[kind]
    assert module.Settings.model_fields["kind"].default == kind
    assert all(meaning.words for meaning in module.CODES.values())


@pytest.mark.parametrize(("kind", "case"), recorded())
async def test_an_answer_becomes_its_outcome(
    kind: str, case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with SCENES[kind](case, tmp_path) as (provider, sent, peer):
        began = time.monotonic()
        outcome = await provider.send(sent, KEY)
        took = time.monotonic() - began
    assert outcome.kind == case["kind"], outcome
    for field in ("reason", "retry_after", "provider_message_id", "code", "fault", "dead_since"):
        if field in case:
            assert getattr(outcome, field) == case[field]
    assert took < case.get("timeout", 10) + 1
    if outcome.kind in {"refused", "deferred", "doubtful"}:
        assert outcome.reason
        assert len(outcome.reason) <= 300
    told = caplog.text + (outcome.reason or "")
    for private in (sent.target, sent.text, sent.subject):
        assert not private or private not in told
    if peer is not None and case["situation"] == "oversize":
        assert peer.written < 20_000_000  # what fits into socket buffers and a cap


def waiting(kind: str) -> Case | None:
    """A case of a kind in which the answer says how long to wait."""
    cases = [one for one in table(kind)["cases"] if one["situation"] in {"throttled", "transient"}]
    return next((one for one in cases if "retry-after:" in str(one.get("acts")).lower()), None)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if waiting(kind)])
async def test_an_answer_over_which_we_stumble_is_in_doubt_and_nothing_is_raised(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(value: str | None, now: float) -> float | None:
        raise RuntimeError("kim@example.com")

    case = waiting(kind)
    assert case is not None
    monkeypatch.setattr(retry_after, "seconds", stumble)
    async with SCENES[kind](case, tmp_path) as (provider, sent, _):
        outcome = await provider.send(sent, KEY)
    assert outcome.kind == "doubtful"
    assert "RuntimeError" in (outcome.reason or "")
    assert "kim" not in (outcome.reason or "")
    assert outcome.fault == ("target" if kind == "webhook" else "provider")


@pytest.mark.parametrize("kind", KINDS)
async def test_it_is_what_it_says(kind: str, tmp_path: Path) -> None:
    async with SCENES[kind](success(kind), tmp_path) as (provider, sent, _):
        assert (provider.name, provider.kind) == ("main", kind)
        assert provider.honours_keys is (simulated(kind).keyed if kind not in OURS else True)
        first, again = await provider.send(sent, KEY), await provider.send(sent, KEY)
        assert first == again
        await provider.close()
        await provider.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_two_sends_of_a_message_are_the_same_bytes(kind: str, tmp_path: Path) -> None:
    async with SCENES[kind](success(kind), tmp_path) as (provider, sent, peer):
        await provider.send(sent, KEY)
        await provider.send(Message.from_json(sent.to_json()), KEY)
        if peer is not None:
            assert len(peer.bodies) == 2
            assert peer.bodies[0] == peer.bodies[1]


OK = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
BEGUN = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\na & silent"
STEPS = {"GREETING": "220 peer", "EHLO": "250 peer", "RCPT": "250 Ok", "DATA": "354 go", "BODY": "250 Ok"}
CANCELLED: list[tuple[str, Case]] = [
    ("webhook", {"acts": ["silent", OK]}),
    ("webhook", {"acts": [BEGUN, OK]}),
    *[("smtp", {"replies": {step: ["silent", after]}}) for step, after in STEPS.items()],
    *[(kind, {"acts": ["silent", success(kind)["acts"][0]]}) for kind in VENDORS],
]


@pytest.mark.parametrize(("kind", "case"), CANCELLED)
async def test_a_cancelled_send_leaves_nothing_behind(kind: str, case: Case, tmp_path: Path) -> None:
    async with SCENES[kind](case, tmp_path) as (provider, sent, peer):
        assert peer is not None
        call = asyncio.create_task(provider.send(sent, KEY))
        async with asyncio.timeout(10):
            await peer.silent.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (await provider.send(sent, KEY)).kind == "sent"


@pytest.mark.parametrize("kind", ["smtp", "webhook"])
@pytest.mark.parametrize(
    ("broken", "kinds"),
    [
        ({"text": "\ud800"}, {"refused"}),
        ({"target": "\ud800@example.com"}, {"refused"}),
        ({"subject": "\ud800"}, {"refused", "sent"}),
        ({"at": 10**18}, {"sent"}),
        ({"at": -(10**18)}, {"sent"}),
    ],
)
async def test_whatever_a_message_holds_nothing_is_raised(
    kind: str, broken: dict[str, Any], kinds: set[str], tmp_path: Path
) -> None:
    async with SCENES[kind](success(kind) | {"fields": {"text": "plain"}}, tmp_path) as (
        provider,
        sent,
        peer,
    ):
        outcome = await provider.send(replace(sent, **broken), KEY)
        assert peer is not None
        assert outcome.kind in kinds
        assert (peer.connections > 0) is (outcome.kind == "sent")
