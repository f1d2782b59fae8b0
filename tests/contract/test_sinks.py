"""The sinks count what they were told, and what they have said is on the disk."""

import asyncio
import hashlib
import signal
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from pipeline.providers import registry
from pipeline.providers.provider import Place, ProviderSettings
from pipeline.sinks import Ledger, Sink, SmtpSink, WebhookSink
from schemas.kinds import Channel
from schemas.message import Message
from tests.contract.peers import KEY, message


def aim(kind: str, port: int) -> tuple[ProviderSettings, Message]:
    if kind == "smtp":
        return registry.settings("smtp", port=port), message()
    url = f"http://127.0.0.1:{port}/hook"
    return registry.settings("webhook", allow_internal=True), message(url, Channel.WEBHOOK, text="{}")


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize(("kind", "effects"), [("smtp", [True, True]), ("webhook", [True, False])])
async def test_a_sink_of_its_own_process_keeps_a_ledger(
    kind: str, effects: list[bool], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger.ndjson"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pipeline.sinks", kind, "--port", "0", "--ledger", str(ledger),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        settings, sent = aim(kind, int(await process.stdout.readline()))
        provider = registry.make("main", settings, Place(tmp_path))
        for n, _ in enumerate(effects, 1):
            assert (await provider.send(sent, KEY)).kind == "sent"
            # it answered, so the line is there
            assert len(lines(ledger)) == n
        await provider.close()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    found = lines(ledger)
    assert [line["effect"] for line in found] == effects
    assert [line["seq"] for line in found] == [1, 2]
    assert {line["key"] for line in found} == {KEY}
    assert {line["to"] for line in found} == {"kim@example.com" if kind == "smtp" else "/hook"}
    assert len({line["body"] for line in found}) == 1


async def test_a_sink_that_starts_again_knows_what_it_knew(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.ndjson"
    for run in range(2):
        sink = WebhookSink(ledger)
        await sink.start()
        settings, sent = aim("webhook", sink.port)
        provider = registry.make("main", settings, Place(tmp_path))
        await provider.send(sent, KEY)
        await provider.send(sent, f"of run {run}")
        await provider.close()
        await sink.stop()
    assert sink.requests == {KEY: 2, "of run 0": 1, "of run 1": 1}
    assert sink.effects == {KEY: 1, "of run 0": 1, "of run 1": 1}
    assert [line["seq"] for line in lines(ledger)] == [1, 2, 3, 4]


async def test_a_line_torn_by_a_kill_was_never_answered(tmp_path: Path) -> None:
    path = tmp_path / "ledger.ndjson"
    first = Ledger(path)
    await first.add("a", "/x", b"body", effect=True)
    await first.close()
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    second = Ledger(path)
    assert second.requests == {"a": 1}
    assert second.body_hashes == {"a": {hashlib.sha256(b"body").hexdigest()}}
    await second.add("b", "/x", b"", effect=True)
    await second.close()
    assert [line["key"] for line in lines(path)] == ["a", "b"]


async def test_two_at_once_with_one_id_are_one_effect(tmp_path: Path) -> None:
    sink = WebhookSink(tmp_path / "ledger.ndjson")
    await sink.start()
    settings, sent = aim("webhook", sink.port)
    provider = registry.make("main", settings, Place(tmp_path))
    await asyncio.gather(*[provider.send(sent, KEY) for _ in range(30)])
    await provider.close()
    await sink.stop()
    assert (sink.requests, sink.effects) == ({KEY: 30}, {KEY: 1})
    assert sum(line["effect"] for line in lines(tmp_path / "ledger.ndjson")) == 1


async def test_a_sink_stops_while_its_senders_are_connected() -> None:
    sinks: list[Sink] = [SmtpSink(), WebhookSink()]
    for sink, kind in zip(sinks, ("smtp", "webhook"), strict=True):
        await sink.start()
        settings, sent = aim(kind, sink.port)
        provider = registry.make("main", settings, Place(Path()))
        assert (await provider.send(sent, KEY)).kind == "sent"
        async with asyncio.timeout(10):
            await sink.stop()
        assert (await provider.send(sent, KEY)).kind in {"deferred", "doubtful"}
        await provider.close()
