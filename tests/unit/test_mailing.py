"""What e-mails carry: a way out on bulk mail, links that tell of being followed where that is wanted."""

import os
import re
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agents.catalogue import Catalogue
from agents.links import CLICKED, OPENED, UNSUBSCRIBE, Click, Links, NotOurs, Subject
from agents.mailing import MOST_LINKS, PLAIN, Mailing, dress, followed
from agents.plan import Policy
from pipeline.receipts.secret import FILE, link_secret, mailing
from pipeline.settings import SettingsError
from pipeline.settings import given as settings_of
from schemas.ids import target_id
from schemas.kinds import Channel, Priority
from schemas.message import ChannelContent, Message
from tests.journeys.memory import Pipeline
from tests.journeys.samples import ID, a_notification, a_template, a_workflow, cloud_event

LINKS = Links("https://notify.example", "secret")
SUBJECT = Subject(ID, "u-1", target_id("ada@example.com"), "plan", "news")
MAILING = Mailing(
    LINKS,
    "Example Ltd\n1 High Street <UK>",
    frozenset({"news"}),
    frozenset({"personal"}),
    frozenset({"seen"}),
)
BULK = a_notification(category="news")
TRACKED = a_notification(category="seen")
WORDS = ChannelContent(subject="News", text="Hello\n", html="<html><body><p>Hello</p></body></html>")


def html(found: ChannelContent) -> str:
    assert found.html is not None
    return found.html


def tokens(text: str, purpose: str) -> list[str]:
    return re.findall(re.escape(LINKS.base + purpose) + r"([\w.~-]+)", text)


def test_bulk_mail_says_how_to_unsubscribe_and_who_sends_it() -> None:
    words, out = dress(WORDS, BULK, "ada@example.com", MAILING)
    assert out == LINKS.unsubscribe(SUBJECT)
    assert words.text == f"Hello\n\n-- \nExample Ltd\n1 High Street <UK>\n{out}\n"
    assert html(words).startswith("<html><body><p>Hello</p><p ") and html(words).endswith(
        "</p></body></html>"
    )
    assert "Example Ltd<br>1 High Street &lt;UK&gt;<br>" in html(words) and f'href="{out}"' in html(words)
    assert LINKS.read(UNSUBSCRIBE, tokens(words.text, UNSUBSCRIBE)[0], Subject) == SUBJECT


@pytest.mark.parametrize(
    ("notification", "is_bulk"),
    [
        (BULK, True),
        (replace(BULK, mandatory=True), False),
        (a_notification(priority="low"), True),
        (a_notification(priority="low", category="personal"), False),
        (a_notification(), False),
    ],
)
def test_what_is_bulk_is_said_by_its_category_or_its_priority(notification, is_bulk: bool) -> None:  # type: ignore[no-untyped-def]  # a notification
    words, out = dress(WORDS, notification, "ada@example.com", MAILING)
    assert (out is not None) == is_bulk == (words != WORDS)


def test_without_a_public_address_mail_carries_nothing() -> None:
    assert dress(WORDS, BULK, "ada@example.com", PLAIN) == (WORDS, None)
    assert dress(WORDS, BULK, "ada@example.com", MAILING._replace(links=None)) == (WORDS, None)


def test_mandatory_mail_is_never_tracked() -> None:
    assert dress(WORDS, replace(TRACKED, mandatory=True), "a@b.c", MAILING) == (WORDS, None)


def test_the_same_message_carries_the_same_bytes() -> None:
    notification = replace(BULK, category="seen", priority=Priority.LOW)
    first = dress(WORDS, notification, "ada@example.com", MAILING)
    other = Mailing(Links(LINKS.base, LINKS.secret), *MAILING[1:])
    assert dress(WORDS, notification, "ada@example.com", other) == first


PAGE = """<!doctype html><HTML>
<!-- <a href="https://in.comment.example/"> -->
<style>a[href="https://style.example/"] { color: red }</style>
<script>var a = '<a href="https://script.example/">';</script>
<body class='x'>
<a title="not href='https://title.example/'" class=b HREF = 'https://shop.example/a?x=1&amp;y=%C3%BC'
   data-href="https://data.example/">one &amp; two</a>
<A href=http://plain.example/path>plain</A><br/>
<a href="mailto:ada@example.com">mail</a> <a href="#top">top</a> <a>none</a> <a href>empty</a>
<a href="javascript:alert(1)">bad</a> <a href="/relative">relative</a> ünicode \N{SNOWMAN}
<img src="https://img.example/a.png"> <a\thref="https://tab.example/" href="https://second.example/">t</a>
</BODY ></HTML>"""
FOLLOWED = ["https://shop.example/a?x=1&y=%C3%BC", "http://plain.example/path", "https://tab.example/"]


def test_links_lead_over_us_and_everything_else_stays_byte_by_byte() -> None:
    words, out = dress(replace(WORDS, html=PAGE), TRACKED, "ada@example.com", MAILING)
    assert out is None and words.text == WORDS.text
    found = [LINKS.read(CLICKED, token, Click) for token in tokens(html(words), CLICKED)]
    assert [one.url for one in found] == FOLLOWED
    assert {one.subject for one in found} == {replace(SUBJECT, category="seen")}
    [pixel] = re.findall(r'<img src="[^"]*/t/o/[^>]*>', html(words))
    assert html(words).index(pixel) == html(words).index("</BODY >") - len(pixel)
    back = html(words).replace(pixel, "")
    for written, url in zip(
        ("'https://shop.example/a?x=1&amp;y=%C3%BC'", "http://plain.example/path", '"https://tab.example/"'),
        FOLLOWED, strict=True,
    ):  # fmt: skip
        back = back.replace(f'"{LINKS.clicked(replace(SUBJECT, category="seen"), url)}"', written)
    assert back == PAGE


class Hrefs(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str | None] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href"][:1]


PIECES = st.sampled_from([
    "<a href='https://a.example/?q=1&amp;r'>", '<a x="1" href="http://b.example/">', "<a href=https://c.example>",
    "</a>", "text & <b>", "<!-- ", " -->", "<script>", "</script>", "\n", "\r\n", "<a title='", "'>", '"',
    "</body>",
    "<a href=\"", "ü", "<", ">", "&amp;", "<textarea>", "</textarea>", "<a/href='https://d.example/'>",
])  # fmt: skip


@given(st.lists(PIECES, max_size=12).map("".join))
def test_any_page_stays_a_page_with_the_same_links(page: str) -> None:
    before, after = Hrefs(page).found, Hrefs(followed(page, LINKS, SUBJECT)).found
    for was, now in zip(before, after, strict=True):
        led = [LINKS.read(CLICKED, one, Click).url for one in tokens(now or "", CLICKED)]
        assert led == [(was or "").strip()] or now == was


def test_links_are_bounded() -> None:
    page = (
        '<a href="https://a.example/">a</a>' * (MOST_LINKS + 5)
        + f'<a href="https://a.example/{"a" * 3_000}">'
    )
    words, _ = dress(replace(WORDS, html=page), TRACKED, "ada@example.com", MAILING)
    assert len(tokens(html(words), CLICKED)) == MOST_LINKS
    long, _ = dress(
        replace(WORDS, html=page.rpartition("<a ")[1] + page.rpartition("<a ")[2]),
        TRACKED,
        "ada@example.com",
        MAILING,
    )
    assert not tokens(html(long), CLICKED)


# -- tokens


def test_a_token_is_good_for_its_purpose_alone() -> None:
    token = LINKS.opened(SUBJECT).rpartition("/")[2]
    assert LINKS.read(OPENED, token, Subject) == SUBJECT
    for purpose, links in ((UNSUBSCRIBE, LINKS), (CLICKED, LINKS), (OPENED, Links(LINKS.base, "other"))):
        with pytest.raises(NotOurs):
            links.read(purpose, token, Subject)


@given(st.text(max_size=80), st.integers(0, 200), st.characters(codec="ascii"))
def test_a_token_that_was_changed_or_made_up_is_not_ours(made_up: str, at: int, letter: str) -> None:
    token = LINKS.opened(SUBJECT).rpartition("/")[2]
    at %= len(token) - 1  # the last letter of Base64 has bits to spare
    changed = token[:at] + letter + token[at + 1 :]
    for one in (made_up, changed, token + "A", token[:-3], "a" * 10_000):
        if one == token:
            continue
        with pytest.raises(NotOurs):
            LINKS.read(OPENED, one, Subject)


def test_a_secret_is_made_once_and_kept(tmp_path) -> None:  # type: ignore[no-untyped-def]  # a path
    here = settings_of(state_dir=tmp_path / "state")
    made = link_secret(here)
    assert len(made) >= 32 and link_secret(here) == made
    assert (tmp_path / "state" / FILE).stat().st_mode & 0o777 == 0o600
    assert [one.name for one in (tmp_path / "state").iterdir()] == [FILE]
    assert link_secret(settings_of(state_dir=tmp_path, web={"link_secret": "given"})) == "given"
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"web.link_secret"):
        link_secret(settings_of(state_dir=tmp_path / "file"))


def test_what_mail_carries_is_set(tmp_path) -> None:  # type: ignore[no-untyped-def]  # a path
    assert mailing(settings_of(state_dir=tmp_path)) == PLAIN
    found = mailing(
        settings_of(
            state_dir=tmp_path, web={"public_url": "https://notify.example/", "link_secret": "secret"},
            categories={"news": {"bulk": True, "track": True}, "orders": {"bulk": False}},
            channels={"email": {"providers": {"outbox": {"kind": "outbox"}}, "postal_address": "Here"}},
        )
    )  # fmt: skip
    assert found == Mailing(LINKS, "Here", frozenset({"news"}), frozenset({"orders"}), frozenset({"news"}))


# -- in a journey


def sent(pipeline: Pipeline) -> list[Message]:
    return [message for _, message in pipeline.provider.calls]


def test_the_message_carries_it_and_what_is_remembered_does_not() -> None:
    policy = Policy(mailing=MAILING)
    rule = a_workflow(category="news", channels=["email", "web"])
    pipeline = Pipeline(Catalogue([rule], [a_template()]), policy=policy)
    pipeline.user("u-1", email="ada@example.com")
    told = pipeline.event(cloud_event())
    mail, inbox = sent(pipeline)
    assert mail.channel is Channel.EMAIL and mail.unsubscribe is not None
    assert mail.unsubscribe in mail.text and inbox.unsubscribe is None and "notify" not in inbox.text
    [contents] = [one.value for one in told if one.topic == "contents"]
    assert b"notify.example" not in (contents or b"")
    assert unescape(html(ChannelContent(text="", html=mail.html))).count(mail.unsubscribe) == 1


@pytest.mark.parametrize("kept", ["", "\n", "short", "x" * 31, " " * 40])
def test_a_secret_on_disk_that_is_empty_or_short_signs_nothing(kept: str, tmp_path) -> None:  # type: ignore[no-untyped-def]  # a path
    (tmp_path / FILE).write_text(kept)
    with pytest.raises(SettingsError, match=r"web.link_secret"):
        link_secret(settings_of(state_dir=tmp_path))
    assert (tmp_path / FILE).read_text() == kept


def test_a_secret_is_on_disk_before_it_is_the_one(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]  # a path
    done: list[str] = []

    def noted(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(*given: object) -> None:
            done.append(name)
            real(*given)

        return call

    for name in ("fsync", "link"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    link_secret(settings_of(state_dir=tmp_path))
    assert done[:2] == ["fsync", "link"]
