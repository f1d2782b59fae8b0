"""E-mails as bytes: what the standard library reads back is what was meant."""

import email.policy
import re
from email.headerregistry import Address
from email.message import EmailMessage, MIMEPart
from email.parser import BytesParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeline.providers import mime
from pipeline.providers.mime import Unsendable
from tests.contract.peers import KEY, message

SENDER = mime.sender("Carillon <carillon@example.org>")
TEXT = st.text(st.characters(codec="utf-8"), max_size=2_000)


def parsed(data: bytes) -> EmailMessage:
    found = BytesParser(policy=email.policy.default).parsebytes(data)
    assert isinstance(found, EmailMessage)
    return found


def whole(text: str) -> str:
    """A text as a mail reader has it: with one kind of line end, and one at its end."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.endswith("\n") else text + "\n"


def content(part: MIMEPart | None) -> str:
    assert part is not None
    found = part.get_payload(decode=True)
    assert isinstance(found, bytes)
    return found.decode().replace("\r\n", "\n")


def check_form(data: bytes) -> None:
    """RFC 5321 and 5322: ASCII lines that end with CRLF, none too long, no CR or LF alone."""
    assert data.endswith(b"\r\n")
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\x00", data)
    assert max(len(line) for line in data.split(b"\r\n")) <= 998
    assert data.isascii()


@given(text=TEXT, html=st.none() | TEXT)
def test_what_was_written_is_what_is_read(text: str, html: str | None) -> None:
    data = mime.compose(message(text=text, html=html), KEY, SENDER).data
    check_form(data)
    found = parsed(data)
    assert content(found.get_body(("plain",))) == whole(text)
    if html is None:
        assert found.get_content_type() == "text/plain"
    else:
        assert found.get_content_type() == "multipart/alternative"
        assert [part.get_content_type() for part in found.iter_parts()] == ["text/plain", "text/html"]
        assert content(found.get_body(("html",))) == whole(html)


@given(st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=1_200))
def test_a_subject_is_what_was_written(subject: str) -> None:
    data = mime.compose(message(subject=subject), KEY, SENDER).data
    check_form(data)
    found = parsed(data)
    shown = "".join(c if c.isprintable() else " " for c in subject)
    assert str(found["Subject"]).strip() == shown.strip()
    assert len(found.keys()) == 7


@pytest.mark.parametrize(
    "subject", ["=?utf-8?b?SGk=?=", "50 % off =?", "a" * 998, "wide  spaces  " * 20, "🎉" * 300]
)
def test_a_subject_of_any_shape_is_shown_as_written(subject: str) -> None:
    data = mime.compose(message(subject=subject), KEY, SENDER).data
    check_form(data)
    assert str(parsed(data)["Subject"]).strip() == subject.strip()


@given(st.text(max_size=200).map(lambda s: s.encode("utf-8", "replace").decode()))
def test_no_subject_makes_a_header(tail: str) -> None:
    data = mime.compose(message(subject=f"Hi\r\nBcc: spy@example.com\r\n\r\n{tail}"), KEY, SENDER).data
    check_form(data)
    found = parsed(data)
    assert found.keys() == ["From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type"]
    assert content(found.get_body(("plain",))) == whole(message().text)


def test_the_headers_are_ours() -> None:
    found = parsed(mime.compose(message(), KEY, SENDER).data)
    assert found["From"].addresses == (Address("Carillon", "carillon", "example.org"),)
    assert found["To"].addresses == (Address("", "kim", "example.com"),)
    assert found["Subject"] == "Your order has shipped"
    assert found["Date"].datetime.timestamp() == message().at // 1000
    assert found["Message-ID"] == f"<{KEY}@example.org>"


def test_the_same_message_is_the_same_bytes_and_another_key_is_not() -> None:
    one, same = (mime.compose(message(), KEY, SENDER).data for _ in range(2))
    assert one == same
    other = mime.compose(message(), KEY + "x", SENDER).data
    assert parsed(one).get_boundary() != parsed(other).get_boundary()
    assert parsed(one)["Message-ID"] != parsed(other)["Message-ID"]


@pytest.mark.parametrize("key", ["a b", "a>\r\nBcc: x", "", "<>", "käthe", "a..b", "x" * 300])
def test_a_key_of_any_shape_makes_one_message_id(key: str) -> None:
    data = mime.compose(message(), key, SENDER).data
    check_form(data)
    found = parsed(data)
    assert re.fullmatch(r"<[!-~]+@example\.org>", str(found["Message-ID"]))
    assert found["Bcc"] is None


@pytest.mark.parametrize(
    ("target", "recipient", "utf8"),
    [
        ("kim@example.com", "kim@example.com", False),
        ("kim+tag=1@sub.example.com", "kim+tag=1@sub.example.com", False),
        ("O'Neil@localhost", "O'Neil@localhost", False),
        ("kim@bücher.example", "kim@xn--bcher-kva.example", False),
        ("käthe@bücher.example", "käthe@xn--bcher-kva.example", True),
    ],
)
def test_an_address_goes_to_its_mailbox(target: str, recipient: str, utf8: bool) -> None:
    letter = mime.compose(message(target), KEY, SENDER)
    assert (letter.recipient, letter.utf8) == (recipient, utf8)
    assert f"\r\nTo: {recipient}\r\n".encode() in letter.data


@pytest.mark.parametrize(
    "target",
    [
        "", "kim", "@example.com", "kim@", "kim@@example.com", "kim@example.com\n", "kim@exa mple.com",
        "kim lee@example.com", '"kim lee"@example.com', "Kim <kim@example.com>", "a@b.c, d@e.f", "kim@-x.com",
        "kim@example..com", ".kim@example.com", "kim.@example.com", "a@b.c;d@e.f", "kim@example.com.",
        "kim>@example.com", "kim@example.com>", "kim@[127.0.0.1]", "k\u2028m@b.c", "kä m@b.c", "k\x00@b.c",
        "ki\ud800m@b.c", "kim@ex\u200bample\x7f.com", "@a.b:kim@example.com", "kim@" + "ü" * 64 + ".com",
        "x" * 65 + "@example.com", "ü" * 33 + "@example.com", "x@" + "abcdefgh." * 30 + "com",
    ],
)  # fmt: skip
def test_what_is_no_plain_address_is_unsendable(target: str) -> None:
    with pytest.raises(Unsendable) as told:
        mime.compose(message(target), KEY, SENDER)
    assert not target or target not in str(told.value) or len(target) < 4


@given(st.text(max_size=300))
def test_no_address_makes_a_command_or_a_header(target: str) -> None:
    try:
        letter = mime.compose(message(target), KEY, SENDER)
    except Unsendable:
        return
    assert not re.search(r"[\s<>,;:\"]", letter.recipient)
    assert letter.recipient.count("@") == 1


@pytest.mark.parametrize(
    ("written", "name", "address"),
    [
        ("Carillon <carillon@localhost>", "Carillon", "carillon@localhost"),
        ("carillon@localhost", "", "carillon@localhost"),
        ("<carillon@localhost>", "", "carillon@localhost"),
        ('"Shop, the one" <shop@example.org>', "Shop, the one", "shop@example.org"),
        ("Käthes Blumen <shop@blüten.example>", "Käthes Blumen", "shop@xn--blten-lva.example"),
    ],
)
def test_a_sender_may_have_a_name(written: str, name: str, address: str) -> None:
    found = mime.sender(written)
    assert found.address == address
    data = mime.compose(message(), KEY, found).data
    check_form(data)
    shown = parsed(data)["From"].addresses
    assert [(a.display_name, a.addr_spec) for a in shown] == [(name, address)]


@pytest.mark.parametrize(
    "written", ["", "Shop", "Shop <>", "Shop <a@b\r\n>", "Sho\r\nBcc: p <a@b.c>", "a@b.c, d@e.f", "kä@b.c"]
)
def test_a_sender_that_is_none_is_told_at_the_start(written: str) -> None:
    with pytest.raises(Unsendable):
        mime.sender(written)


def test_text_that_is_not_unicode_is_unsendable() -> None:
    for broken in ({"text": "\ud800"}, {"html": "\ud800"}):
        with pytest.raises(Unsendable):
            mime.compose(replace(message(), **broken), KEY, SENDER)


def test_a_way_out_is_named_as_mail_readers_know_it() -> None:
    url = "https://notify.example/unsubscribe/W10.a-b_c"
    found = parsed(mime.compose(replace(message(), unsubscribe=url), KEY, SENDER).data)
    assert found["List-Unsubscribe"] == f"<{url}>"
    assert found["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    plain = parsed(
        mime.compose(replace(message(), unsubscribe=url.replace("https", "http")), KEY, SENDER).data
    )
    assert plain["List-Unsubscribe"] and plain["List-Unsubscribe-Post"] is None


@pytest.mark.parametrize(
    "url", ["https://x/\r\nBcc: y", "javascript:x", "https://x/>,<mailto:y", "https://x/ y", "https://ü/"]
)
def test_no_url_breaks_out_of_its_header(url: str) -> None:
    with pytest.raises(Unsendable):
        mime.compose(replace(message(), unsubscribe=url), KEY, SENDER)
