"""SMTP: never in plaintext over a network, over few connections, and surely not sent until the dot."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.providers import mime, registry, smtp
from pipeline.providers.provider import Place
from pipeline.providers.smtp import SmtpProvider, is_loopback
from pipeline.settings import SettingsError
from pipeline.simulator import Simulator
from tests.contract.peers import (
    HOST,
    KEY,
    Peer,
    client_tls,
    listening,
    message,
    server_tls,
    smtp_script,
)

SENDER = mime.sender("Carillon <carillon@example.org>")
MAKE = Callable[..., SmtpProvider]


@pytest.fixture
async def make() -> AsyncIterator[MAKE]:
    made: list[SmtpProvider] = []

    def provider(port: int, **fields: Any) -> SmtpProvider:
        given: dict[str, Any] = {
            "host": HOST,
            "port": port,
            "sender": SENDER,
            "timeout": 10.0,
            "plaintext": True,
        }
        made.append(SmtpProvider("main", **(given | fields)))
        return made[-1]

    yield provider
    for one in made:
        await one.close()


def words(peer: Peer) -> list[str]:
    return [line.split()[0].decode("latin-1") for line in peer.heard if line.split()]


async def test_what_arrives_is_what_was_composed() -> None:
    text = "First\n.\n..\n.dot\n\r\nEHLO x\r\rend\u2028 of üñí text " + "long " * 300 + "\n.\r\n"
    sink = Simulator("smtp")
    await sink.start()
    settings = registry.settings("smtp", port=sink.port, **{"from": "Carillon <carillon@example.org>"})
    provider = registry.make("main", settings, Place(Path()))
    outcomes = [await provider.send(message(text=text, html=f"<p>{text}"), KEY) for _ in range(2)]
    await provider.close()
    await sink.stop()
    assert [outcome.kind for outcome in outcomes] == ["sent", "sent"]
    assert outcomes[0].provider_message_id == "4SIM00000001"
    # it honours no keys: two requests, two effects, and the same bytes
    assert (sink.requests, sink.effects) == ({KEY: 2}, {KEY: 2})
    letter = mime.compose(message(text=text, html=f"<p>{text}"), KEY, SENDER)
    assert b"\r\n.dot" in letter.data
    assert sink.body_hashes[KEY] == {hashlib.sha256(letter.data).hexdigest()}


async def test_the_bytes_are_those_of_the_letter(make: MAKE) -> None:
    letter = mime.compose(message(text=".\n.x\n"), KEY, SENDER)
    async with listening(smtp_script({})) as peer:
        await make(peer.port).send(message(text=".\n.x\n"), KEY)
    assert peer.bodies[0].replace(b"\r\n..", b"\r\n.")[:-3] == letter.data
    assert peer.heard[1:3] == [
        b"MAIL FROM:<carillon@example.org> SIZE=%d\r\n" % len(letter.data),
        b"RCPT TO:<kim@example.com>\r\n",
    ]


async def test_an_address_in_the_users_alphabet_needs_smtputf8(make: MAKE) -> None:
    sink = Simulator("smtp")
    await sink.start()
    assert (await make(sink.port).send(message("käthe@bücher.example"), KEY)).kind == "sent"
    await sink.stop()
    assert sink.effects == {KEY: 1}


# -- TLS


@pytest.mark.parametrize(
    "replies",
    [
        {},  # STARTTLS stripped from what the server offers
        {"EHLO": "250-peer\r\n250 STARTTLS", "STARTTLS": "454 4.7.0 not now"},
        {"EHLO": "250-peer\r\n250 STARTTLS", "STARTTLS": "220 go\r\n250 injected"},
        {"EHLO": "250-peer\r\n250 AUTH PLAIN LOGIN"},
    ],
)
async def test_nothing_goes_in_plaintext_where_tls_is_due(replies: dict[str, str], make: MAKE) -> None:
    async with listening(smtp_script(replies)) as peer:
        provider = make(peer.port, plaintext=False, username="kim", password="hunter2", timeout=1.0)
        outcome = await provider.send(message(), KEY)
    assert outcome.kind == "deferred"
    assert not {"MAIL", "RCPT", "DATA", "AUTH"} & set(words(peer))
    assert not any(b"hunter2" in line or b"kim" in line for line in peer.heard)
    assert peer.bodies == []


async def test_starttls_is_taken_where_it_is_offered(make: MAKE) -> None:
    replies = {"EHLO": "250-peer\r\n250-AUTH PLAIN\r\n250 STARTTLS"}
    async with listening(smtp_script(replies, server_tls())) as peer:
        provider = make(
            peer.port, plaintext=False, tls_context=client_tls(), username="kim", password="hunter2"
        )
        assert (await provider.send(message(), KEY)).kind == "sent"
    found = words(peer)
    assert found.index("STARTTLS") < found.index("AUTH") < found.index("MAIL")
    assert found.count("EHLO") == 2


async def test_the_tls_port_is_tls_from_the_start(make: MAKE, monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(smtp_script({}), server_tls()) as peer:
        monkeypatch.setattr(smtp, "TLS_PORT", peer.port)
        provider = make(peer.port, plaintext=False, tls_context=client_tls())
        assert (await provider.send(message(), KEY)).kind == "sent"
    assert "STARTTLS" not in words(peer)


async def test_a_certificate_that_nobody_vouches_for_is_not_taken(make: MAKE) -> None:
    replies = {"EHLO": "250-peer\r\n250 STARTTLS"}
    async with listening(smtp_script(replies, server_tls())) as peer:
        outcome = await make(peer.port, plaintext=False).send(message(), KEY)
    assert outcome.kind == "deferred"
    assert "MAIL" not in words(peer)


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
def test_this_machine_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["mail.example", "10.0.0.1", "0.0.0.0", "localhost.example", "127.0.0.1.example", "mailpit", ""]
)
async def test_any_other_host_needs_tls(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_loopback(host)
    async with listening(smtp_script({})) as peer:
        monkeypatch.setattr(smtp, "is_loopback", lambda asked: is_loopback(host))
        settings = registry.settings("smtp", host=HOST, port=peer.port)
        provider = registry.make("main", settings, Place(Path()))
        assert (await provider.send(message(), KEY)).kind == "deferred"
        await provider.close()
    assert peer.bodies == []


async def test_a_wrong_password_is_deferred_and_told_to_nobody(
    make: MAKE, caplog: pytest.LogCaptureFixture
) -> None:
    replies = {"EHLO": "250-peer\r\n250 AUTH PLAIN", "AUTH": "535 5.7.8 bad credentials for kim@example.org"}
    async with listening(smtp_script(replies)) as peer:
        provider = make(peer.port, username="kim@example.org", password="hunter2")
        outcome = await provider.send(message(), KEY)
    assert (outcome.kind, outcome.reason) == (
        "deferred",
        "connect: 535 5.7.8 bad credentials for <address>",
    )
    assert "hunter2" not in caplog.text + repr(provider)


# -- connections


async def test_one_after_the_other_shares_a_connection(make: MAKE) -> None:
    async with listening(smtp_script({})) as peer:
        provider = make(peer.port)
        for _ in range(50):
            assert (await provider.send(message(), KEY)).kind == "sent"
        await provider.close()
    assert peer.connections == 1
    assert words(peer).count("EHLO") == 1
    assert words(peer)[-1] == "QUIT"


async def test_many_at_once_share_a_few(make: MAKE) -> None:
    async with listening(smtp_script({})) as peer:
        provider = make(peer.port)
        outcomes = await asyncio.gather(*[provider.send(message(), KEY) for _ in range(200)])
    assert {outcome.kind for outcome in outcomes} == {"sent"}
    assert 1 < peer.connections <= smtp.CONNECTIONS
    assert len(peer.bodies) == 200


@pytest.mark.parametrize(
    "gone",
    [
        {"MAIL": ["250 Ok", "421 4.4.2 timed out", "250 Ok"]},
        {"MAIL": ["250 Ok", "452 4.5.3 too many messages", "250 Ok"]},
        {"MAIL": ["250 Ok", "reset", "250 Ok"]},
        {"MAIL": ["250 Ok", "close", "250 Ok"]},
        {"RCPT": ["250 Ok", "close", "250 Ok"]},
        {"DATA": ["354 go", "reset", "354 go"]},
    ],
)
async def test_a_connection_gone_stale_costs_nothing(gone: dict[str, str | list[str]], make: MAKE) -> None:
    async with listening(smtp_script(gone)) as peer:
        provider = make(peer.port)
        assert [(await provider.send(message(), KEY)).kind for _ in range(2)] == ["sent", "sent"]
    assert peer.connections == 2
    assert len(peer.bodies) == 2


async def test_what_is_lost_after_the_dot_is_never_sent_again_by_itself(make: MAKE) -> None:
    async with listening(smtp_script({"BODY": ["250 Ok", "reset", "250 Ok"]})) as peer:
        provider = make(peer.port)
        assert [(await provider.send(message(), KEY)).kind for _ in range(2)] == ["sent", "doubtful"]
    assert len(peer.bodies) == 2


async def test_a_refused_recipient_leaves_the_connection_to_the_next(make: MAKE) -> None:
    async with listening(smtp_script({"RCPT": ["550 no", "250 Ok"]})) as peer:
        provider = make(peer.port)
        assert [(await provider.send(message(), KEY)).kind for _ in range(2)] == ["refused", "sent"]
    assert peer.connections == 1
    assert words(peer) == ["EHLO", "MAIL", "RCPT", "RSET", "MAIL", "RCPT", "DATA"]


async def test_a_server_that_forgets_to_reset_gets_a_fresh_connection(make: MAKE) -> None:
    async with listening(smtp_script({"RCPT": ["550 no", "250 Ok"], "RSET": "500 what"})) as peer:
        provider = make(peer.port)
        assert [(await provider.send(message(), KEY)).kind for _ in range(2)] == ["refused", "sent"]
    assert peer.connections == 2


@pytest.mark.parametrize(
    ("step", "replies"),
    [
        ("DATA", ["250 Ok", "354 go"]),
        ("RCPT", ["354 go", "250 Ok"]),
        ("RCPT", ["503 5.5.1 bad sequence", "250 Ok"]),
        ("BODY", ["354 more", "250 Ok"]),
    ],
)
async def test_a_connection_out_of_step_is_not_used_again(step: str, replies: list[str], make: MAKE) -> None:
    async with listening(smtp_script({step: replies})) as peer:
        provider = make(peer.port)
        first, second = [(await provider.send(message(), KEY)).kind for _ in range(2)]
    assert (first, second) == ("doubtful" if step == "BODY" else "deferred", "sent")
    assert peer.connections == 2
    assert "RSET" not in words(peer)


async def test_a_connection_that_idled_is_not_trusted(make: MAKE) -> None:
    now = 0.0
    async with listening(smtp_script({})) as peer:
        provider = make(peer.port, clock=lambda: now)
        await provider.send(message(), KEY)
        now += smtp.IDLE_SECONDS - 1
        await provider.send(message(), KEY)
        assert peer.connections == 1
        now += smtp.IDLE_SECONDS
        await provider.send(message(), KEY)
    assert peer.connections == 2


async def test_who_waits_in_vain_for_a_connection_sent_nothing(
    make: MAKE, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp, "CONNECTIONS", 1)
    async with listening(smtp_script({"BODY": "silent"})) as peer:
        provider = make(peer.port, timeout=0.4)
        first = asyncio.create_task(provider.send(message(), KEY))
        await peer.silent.wait()
        provider.timeout = 0.05
        second = await provider.send(message(), KEY)
        assert (second.kind, (await first).kind) == ("deferred", "doubtful")
    assert len(peer.bodies) == 1


def test_settings_that_cannot_be_used_stop_the_process() -> None:
    for fields in ({"from": "nobody"}, {"from": "A\r\nB <a@b.c>"}):
        settings = registry.settings("smtp", **fields)
        with pytest.raises(SettingsError, match=r"providers\.main"):
            registry.make("main", settings, Place(Path()))
