"""E-mails with attachments: what arrives is what was stored, and what cannot be had is never left out."""

import asyncio
import re
from collections.abc import AsyncIterator
from email.message import EmailMessage, MIMEPart
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.attachments import Attached, Attachment, Terms
from pipeline.attachments.local import LocalStore
from pipeline.attachments.stores import attached
from pipeline.providers import mime
from pipeline.providers.smtp import SmtpProvider
from pipeline.settings import given as settings
from pipeline.simulator import Simulator
from pipeline.simulator.transport import Act
from pipeline.simulator.vendor import Answer, Request
from schemas.message import Message
from tests.contract.peers import HOST, KEY, listening, message, refusing, smtp_script
from tests.contract.test_mime import SENDER, check_form, content, parsed, whole

NAMES = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"), exclude_characters="/\\"), min_size=1
)
FILES = st.lists(
    st.builds(
        Attachment,
        NAMES.map(lambda name: name.encode()[:240].decode(errors="ignore").strip()).filter(bool),
        st.sampled_from(
            ["application/pdf", "text/csv; charset=utf-8", "image/png", "application/octet-stream"]
        ),
        st.binary(min_size=1, max_size=500),
    ),
    min_size=1,
    max_size=4,
)
PDF = Attachment("invoice.pdf", "application/pdf", b"%PDF-1.7\r\n.\r\n--x\0\xff" * 100)


def parts(data: bytes) -> tuple[EmailMessage, list[MIMEPart]]:
    """A whole e-mail, its body, and what is attached."""
    found = parsed(data)
    assert found.get_content_type() == "multipart/mixed"
    return found, list(found.iter_attachments())


@given(FILES, st.none() | st.text(st.characters(codec="utf-8"), max_size=200))
def test_what_was_attached_is_what_is_read(files: list[Attachment], html: str | None) -> None:
    data = mime.compose(message(html=html), KEY, SENDER, files).data
    check_form(data)
    mail, found = parts(data)
    # get_filename would take quotes and angle brackets off its ends
    told = [part["Content-Disposition"].params["filename"] for part in found]
    assert told == [one.name for one in files]
    assert [part.get_payload(decode=True) for part in found] == [one.data for one in files]
    assert [part.get_content_type() for part in found] == [one.content_type.split(";")[0] for one in files]
    assert {part.get_content_disposition() for part in found} == {"attachment"}
    assert content(mail.get_body(("plain",))) == whole(message().text)
    if html is not None:
        assert content(mail.get_body(("html",))) == whole(html)
    assert mail.keys() == ["From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type"]
    assert not mail.defects and not any(part.defects for part in mail.walk())


def test_the_same_message_with_the_same_files_is_the_same_bytes() -> None:
    one, same = (mime.compose(message(), KEY, SENDER, [PDF]).data for _ in range(2))
    assert one == same
    outer, inner = re.findall(rb'boundary="([0-9a-f]+)"', one)
    assert outer != inner and len(outer) == len(inner)
    assert mime.compose(message(), KEY + "x", SENDER, [PDF]).data != one


def test_the_lines_are_not_too_long() -> None:
    name = "Jahresabrechnung für Käthe Müller-Lüdenscheidt und alle ihre Söhne.pdf"
    data = mime.compose(message(), KEY, SENDER, [PDF._replace(name=name)]).data
    assert max(len(line) for line in data.split(b"\r\n") if b"boundary=" not in line) <= 78
    assert b"filename*0*=utf-8''Jahresabrechnung" in data
    ((_, (found,))) = parts(data)
    assert found.get_filename() == name


@pytest.mark.parametrize("kind", ["", "text/plain\r\nBcc: x@example.com", "a b/c", "text/plain; x=y", "é/x"])
def test_a_type_that_cannot_stand_in_a_header_does_not(kind: str) -> None:
    data = mime.compose(message(), KEY, SENDER, [PDF._replace(content_type=kind)]).data
    check_form(data)
    mail, (found,) = parts(data)
    assert found.get_content_type() == "application/octet-stream"
    assert mail["Bcc"] is None


@pytest.mark.parametrize(
    "name", ['a"b', "a\r\nBcc: x", "a;b=c", "a\\b", "../x", "%41", "a'b", " a ", "a=?utf-8?b?SGk=?="]
)
def test_no_name_makes_a_header(name: str) -> None:
    data = mime.compose(message(), KEY, SENDER, [PDF._replace(name=name)]).data
    check_form(data)
    mail, (found,) = parts(data)
    assert found.keys() == ["Content-Type", "Content-Transfer-Encoding", "Content-Disposition"]
    assert mail["Bcc"] is None
    assert found.get_payload(decode=True) == PDF.data


def test_what_has_nothing_attached_has_the_bytes_that_it_always_had() -> None:
    assert b'"attachments"' not in message().to_json()
    assert mime.compose(message(), KEY, SENDER, []).data == mime.compose(message(), KEY, SENDER).data
    assert b"multipart/mixed" not in mime.compose(message(), KEY, SENDER).data


def test_a_message_keeps_its_ids_on_the_way() -> None:
    sent = message(attachments=("a", "b"))
    assert Message.from_json(sent.to_json()) == sent


# -- over SMTP


class Mailbox(Simulator):
    """A server that keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__("smtp")
        self.mails: list[bytes] = []

    async def play(self, request: Request) -> Answer | Act:
        if request.body:  # not where only the envelope is asked about
            self.mails.append(request.body)
        return await super().play(request)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "attachments", Terms(1_000_000, 30, 9))


@pytest.fixture
async def mailbox() -> AsyncIterator[Mailbox]:
    box = Mailbox()
    await box.start()
    yield box
    await box.stop()


def provider(port: int, mine: Attached | None, timeout: float = 10.0) -> SmtpProvider:
    return SmtpProvider(
        "main", host=HOST, port=port, sender=SENDER, timeout=timeout, plaintext=True, attachments=mine
    )


async def test_what_arrives_is_what_was_stored_byte_for_byte(store: LocalStore, mailbox: Mailbox) -> None:
    name, data = "Rechnung für Käthe 🎉.pdf", bytes(range(256)) * 1_000 + b"\r\n.\r\nQUIT\r\n"
    ids = (await store.put(name, "application/pdf", data), await store.put("a.csv", "text/csv", b".\n..\n"))
    smtp = provider(mailbox.port, Attached(store, max_bytes=1_000_000))
    outcomes = [await smtp.send(message(attachments=ids), KEY) for _ in range(2)]
    await smtp.close()
    assert [outcome.kind for outcome in outcomes] == ["sent", "sent"]
    first, again = mailbox.mails
    assert first == again
    mail, (pdf, csv) = parts(first)
    assert (pdf.get_filename(), pdf.get_payload(decode=True)) == (name, data)
    assert (csv.get_filename(), csv.get_payload(decode=True)) == ("a.csv", b".\n..\n")
    assert content(mail.get_body(("plain",))) == whole(message().text)


async def test_what_is_missing_is_refused_and_nothing_is_sent(store: LocalStore) -> None:
    id = await store.put("a.pdf", "application/pdf", b"x")
    gone = f"{'0' * 32}-1-20000"
    async with listening(smtp_script({})) as peer:
        smtp = provider(peer.port, Attached(store, max_bytes=1_000_000))
        outcome = await smtp.send(message(attachments=(id, gone)), KEY)
        assert (outcome.kind, outcome.reason) == ("refused", f"attachment is missing: {gone}")
        assert peer.connections == 0


async def test_what_is_too_large_is_refused_and_nothing_is_sent(store: LocalStore) -> None:
    id = await store.put("a.pdf", "application/pdf", b"x" * 101)
    async with listening(smtp_script({})) as peer:
        outcome = await provider(peer.port, Attached(store, max_bytes=100)).send(
            message(attachments=(id,)), KEY
        )
        assert outcome.kind == "refused" and "too large: 101 bytes" in (outcome.reason or "")
        assert peer.connections == 0


async def test_a_store_that_is_away_means_surely_not_sent(store: LocalStore) -> None:
    async with listening(smtp_script({})) as peer:
        smtp = provider(peer.port, Attached(store, max_bytes=100))
        outcome = await smtp.send(message(attachments=(f"{'0' * 32}-1-20000",)), KEY)
        assert (outcome.kind, outcome.reason) == ("deferred", "attachments: the directory is not there")
        assert peer.connections == 0


async def test_a_store_that_hangs_is_no_doubt(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(_: str) -> Attachment:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(store, "get", hang)
    async with listening(smtp_script({})) as peer:
        mine = Attached(store, max_bytes=100)
        outcome = await provider(peer.port, mine, 0.05).send(
            message(attachments=(f"{'0' * 32}-1-20000",)), KEY
        )
        assert (outcome.kind, outcome.reason) == ("deferred", "attachments: TimeoutError")
        assert peer.connections == 0
        await mine.close()


async def test_without_a_store_nothing_is_sent_without_its_attachments() -> None:
    async with listening(smtp_script({})) as peer:
        outcome = await provider(peer.port, None).send(message(attachments=(f"{'0' * 32}-1-20000",)), KEY)
        assert (outcome.kind, peer.connections) == ("refused", 0)


async def test_a_server_that_is_away_gives_the_room_back(store: LocalStore, mailbox: Mailbox) -> None:
    id = await store.put("a.pdf", "application/pdf", b"x" * 100)
    mine = Attached(store, max_bytes=100, held_bytes=100)
    with refusing() as port:
        for _ in range(3):
            assert (await provider(port, mine).send(message(attachments=(id,)), KEY)).kind == "deferred"
    smtp = provider(mailbox.port, mine)
    assert (await smtp.send(message(attachments=(id,)), KEY)).kind == "sent"
    await smtp.close()


async def test_a_size_that_is_no_number_limits_nothing() -> None:
    for most in ("²", "٣", "1²", "x", ""):
        told = f"250-peer\r\n250 SIZE {most}".encode().decode("latin-1")
        async with listening(smtp_script({"EHLO": told})) as peer:
            smtp = provider(peer.port, None)
            assert (await smtp.send(message(), KEY)).kind == "sent", most
            await smtp.close()


async def test_the_settings_say_how_much_a_message_may_have(tmp_path: Path) -> None:
    found = settings(state_dir=tmp_path, attachments={"max_message_bytes": 3})
    store = LocalStore(tmp_path / "attachments", Terms(10, 30, 9))
    mine = attached(found)
    assert len(await mine.fetch(message(attachments=(await store.put("a", "text/plain", b"xyz"),)))) == 1
    async with listening(smtp_script({})) as peer:
        more = message(attachments=(await store.put("a", "text/plain", b"xyz!"),))
        assert (await provider(peer.port, mine).send(more, KEY)).kind == "refused"
    await mine.close()
