"""What people get to see, and that whatever is put into it is text."""

import html
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from pipeline.providers.outbox import Outbox
from pipeline.web import chart, guard, shown
from pipeline.web.console import event_url, milliseconds, user_url
from pipeline.web.views import Figures
from schemas.ids import notification_id
from schemas.kinds import Channel, State
from schemas.message import ChannelContent, Message
from schemas.status import Verdict
from tables.history import BUCKETS_MS
from tests.browser.desk import NOON, SOURCE, TOKEN, XSS, Office, fill


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(outbox_file=tmp_path / "outbox.sqlite3")


async def look(office: Office, path: str, status: int = 200) -> str:
    transport = httpx.ASGITransport(office.app)
    bearer = {"authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=bearer) as client:
        found = await client.get(path, follow_redirects=True)
    assert found.status_code == status, found.text
    return found.text


async def leads_to(office: Office, wanted: str) -> str:
    transport = httpx.ASGITransport(office.app)
    bearer = {"authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=bearer) as client:
        found = await client.get("/console/search", params={"q": wanted})
        return str(found.headers.get("location", ""))


class Tags(HTMLParser):
    """Collects elements, their attributes, and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data


def is_harmless(page: str) -> None:
    """Nothing inline that a browser would run, and no address of another scheme or site."""
    for tag, attributes in Tags(page).elements:
        assert tag not in {"object", "embed", "base", "style", "math"}
        assert tag != "script" or attributes == {"src": "/static/console.js", "defer": ""}
        assert tag != "iframe" or (attributes["sandbox"] == "" and "srcdoc" not in attributes)
        for name, value in attributes.items():
            assert not name.startswith("on") and name != "style", (tag, name)
            if name in {"href", "src", "action"}:
                assert re.match(r"/(?!/)|\?|#main$", value), value


async def test_the_overview_shows_counts_latencies_readiness_and_the_hour(office: Office) -> None:
    fill(office)
    office.ready["email"] = False
    page = await look(office, "/console")
    is_harmless(page)
    for channel in Channel:
        assert f'data-cell="{channel}:delivered"' in page
    assert "not ready" in page
    assert page.count('class="minute"') == 60
    told = shown.overview(office.desk.figures(), {})
    assert f'data-total="reached">{told["totals"]["reached"]:,}'.replace(",", "\u2009") in page
    assert "This process holds" not in page


async def test_an_empty_overview_says_what_to_do(office: Office) -> None:
    page = await look(office, "/console")
    assert "No message yet" in page and "carillon send" in page


async def test_the_overview_says_when_it_sees_but_a_part(office: Office) -> None:
    del office.rows[1]
    assert "This process holds 3 of 4 partitions" in await look(office, "/console")
    assert "The status role does not run in this process" in await look(Office(rows={}, of=0), "/console")


async def test_a_notification_shows_its_story(office: Office) -> None:
    why = (Verdict(rule="sms", saw="channels.sms: false", verdict="suppressed: channel_opted_out"),)
    found = office.tell(State.QUEUED, took=5, why=why)
    office.tell(State.RETRYING, took=40, attempt=1, provider="main", reason="503 <b>later</b>")
    office.tell(State.SENT, took=1_240, attempt=2, provider="main")
    office.tell(State.SUPPRESSED, channel=Channel.SMS, address="+15550000001", reason="channel_opted_out")
    mail = ChannelContent(subject="A & B", text="1 < 2", html="<p onclick=x()>Hi</p>")
    office.write(found, "ada", email=mail)
    page = await look(office, f"/console/notifications/{found}")
    is_harmless(page)
    text = re.sub(r"\s+", " ", Tags(page).text)
    for said in ("order.placed", "a••@example.com", "channel opted out", "channels.sms: false", "A & B",
                 "1 < 2", "503 <b>later</b>", "by main, attempt 2", "+1.24 s"):  # fmt: skip
        assert said in text, said
    assert f'src="/console/notifications/{found}/html/email"' in page
    assert "onclick" not in page


async def test_html_content_is_served_in_a_sandbox_of_its_own(office: Office) -> None:
    found = office.tell(State.QUEUED)
    office.write(
        found, "ada", email=ChannelContent(text="x", html="<script>1</script>"), sms=ChannelContent(text="x")
    )
    transport = httpx.ASGITransport(office.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        path = f"/console/notifications/{found}/html"
        assert (await client.get(f"{path}/email")).status_code == 401
        await client.get("/console", params={"token": TOKEN})
        shown_html = await client.get(f"{path}/email")
        assert shown_html.status_code == 200 and shown_html.text.endswith("<script>1</script>")
        for answer in (shown_html, await client.get(f"{path}/sms"), await client.get(f"{path}/none")):
            assert answer.headers["content-security-policy"] == guard.FRAME_POLICY
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert (await client.get(f"{path}/sms")).status_code == 404


@pytest.mark.parametrize("name", XSS)
async def test_what_people_call_themselves_is_text(office: Office, name: str) -> None:
    why = (Verdict(rule=name, saw=name, verdict=name),)
    found = office.tell(
        State.FAILED, user=name, event=name, source=name, kind=name, address=name, reason=name,
        detail=name, why=why, provider=name, provider_message_id=name, attempt=1,
    )  # fmt: skip
    office.write(found, name, email=ChannelContent(subject=name, text=name, html=name))
    paths = ("/console", user_url(name), event_url({"source": name, "id": name}),
             f"/console/notifications/{found}", f"/console/search?q={quote(name + '?')}",
             f"/console/outbox?q={quote(name)}")  # fmt: skip
    for path in paths:
        page = await look(office, path, 404 if "search" in path else 200)
        is_harmless(page)
        if path != "/console":
            assert name in html.unescape(page)
    transport = httpx.ASGITransport(office.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        door = await client.get("/console/search", params={"q": name})
        assert door.status_code == 401
        is_harmless(door.text)


@pytest.mark.parametrize(
    "user", ["ada", "a/b", "a?b#c", "..", ".", "a b", "50%", "a%2Fb", "ünï☃", "/", "a\\b", "?", "*", *XSS]
)
async def test_any_user_id_has_a_page_and_is_found(office: Office, user: str) -> None:
    found = office.tell(State.SENT, user=user)
    page = await look(office, user_url(user))
    assert f'href="/console/notifications/{found}"' in page
    assert await leads_to(office, user) == user_url(user)


async def test_search_finds_notifications_users_and_events(office: Office) -> None:
    found = office.tell(State.SENT, user="ada lovelace", event="order 1", source="urn:a b")
    assert await leads_to(office, f" {found.upper()} ") == f"/console/notifications/{found}"
    assert await leads_to(office, "ada lovelace") == "/console/users/ada%20lovelace"
    assert await leads_to(office, "urn:a b order 1") == "/console/events?source=urn%3Aa+b&id=order+1"
    assert await leads_to(office, "  ") == "/console"
    assert "Nothing is known of" in await look(office, "/console/search?q=nobody", 404)


async def test_search_says_when_another_process_may_know(office: Office) -> None:
    office.lose(office.tell(State.SENT))
    assert "not held by this process" in await look(office, "/console/search?q=ada", 503)
    assert "not held by this process" in await look(office, "/console/users/ada", 503)


async def test_pages_that_are_not_there_say_so(office: Office) -> None:
    nobody = notification_id("nobody", SOURCE, "x", "y")
    assert "No such notification" in await look(office, f"/console/notifications/{nobody}", 404)
    assert "Not a notification id" in await look(office, "/console/notifications/x", 404)
    assert "No such page" in await look(office, "/console/nowhere", 404)
    assert "makes no sense" in await look(office, "/console/outbox?before=yesterday", 422)
    assert "Nothing was ever told" in await look(office, "/console/users/nobody")


async def test_a_long_history_shows_its_newest_first_and_leads_to_more(office: Office) -> None:
    for n in range(60):
        office.tell(State.SENT, event=f"order-{n:03d}", at=NOON + n, kind=f"kind-{n:03d}")
    page = await look(office, "/console/users/ada")
    assert re.findall(r">kind-(\d+)<", page) == [f"{n:03d}" for n in reversed(range(10, 60))]
    assert "?limit=100" in page
    assert "kind-000" in await look(office, "/console/users/ada?limit=100")


async def letter(box: Outbox, n: int, **fields: object) -> str:
    values = {
        "id": notification_id("ada", SOURCE, f"order-{n}", "orders"), "step": "plan", "user_id": "ada",
        "channel": "email",
        "target": "ada@example.com", "target_id": "t", "subject": f"Order {n}", "text": "Thank you",
        "event": {"source": SOURCE, "id": f"order-{n}", "type": "order.placed"}, "event_at": NOON,
        "at": NOON + n, "category": "transactional", "priority": "normal", "doubt": "at_least_once", **fields,
    }  # fmt: skip
    await box.send(Message.from_dict(values), f"key-{n}")
    return f"key-{n}"


async def test_the_outbox_reads_like_mail(office: Office) -> None:
    assert office.outbox_file is not None
    assert "The outbox is empty" in await look(office, "/console/outbox")
    box = Outbox("outbox", office.outbox_file, 5.0)
    try:
        for n in range(60):
            await letter(box, n, html=f"<h1>Hello {n}</h1><script>1</script>" if n == 7 else None)
        await letter(box, 61, subject=XSS[0], text=XSS[1], target=XSS[2], user_id=XSS[4])
    finally:
        await box.close()
    page = await look(office, "/console/outbox")
    is_harmless(page)
    assert re.findall(r'class="subject">Order (\d+)', page)[:2] == ["59", "58"]
    older = re.search(r'href="(\?before=\d+)"', page)
    assert older is not None
    assert '"subject">Order 0<' in await look(office, "/console/outbox" + older[1])
    one = await look(office, "/console/outbox?key=key-7")
    assert 'src="/console/outbox/html?key=key-7"' in one and "Thank you" in one
    assert "<script>1" in await look(office, "/console/outbox/html?key=key-7")
    assert (
        re.findall(r'class="subject">Order (\d+)', await look(office, "/console/outbox?q=order 42"))[0]
        == "42"
    )
    assert "not kept any more" in await look(office, "/console/outbox?key=none")


async def test_where_there_is_no_outbox_it_is_empty() -> None:
    assert "The outbox is empty" in await look(Office(), "/console/outbox")


# -- how things are said


def test_every_state_is_in_one_group_and_ranked_once() -> None:
    grouped = [state for states in shown.GROUPS.values() for state in states]
    assert sorted(grouped) == sorted(State) and sorted(shown.BEST_FIRST) == sorted(State)


def test_percentiles_are_upper_bounds() -> None:
    buckets = [0] * (len(BUCKETS_MS) + 1)
    assert shown.percentile(buckets, 0.5) is None
    buckets[0], buckets[2] = 98, 2
    assert (shown.percentile(buckets, 0.5), shown.percentile(buckets, 0.99)) == (10, 50)
    buckets[-1] = 1_000
    assert shown.percentile(buckets, 0.99) is None
    assert [milliseconds(value) for value in (25, 2_500, 600_000, None)] == [
        "25 ms",
        "2.5 s",
        "10 min",
        "> 10 min",
    ]


@pytest.mark.parametrize("most", [0, 1, 5, 7, 81, 999, 1_000, 1_001, 123_456])
def test_a_scale_ends_at_a_round_number_not_far_above(most: int) -> None:
    end = shown.top(most)
    assert max(4, most) <= end <= max(5, most * 2.1)
    assert int(str(end).rstrip("0")) in (1, 2, 4, 5, 8)


def test_bars_stand_on_the_floor_and_below_the_ceiling() -> None:
    minute = NOON // 60_000
    counts = {(minute - n, "email", str(state)): n * 7 for n in range(60) for state in State}
    drawn = chart.draw(shown.bars(Figures(NOON / 1000, 1, 1, minutes=counts)))
    for column in drawn.columns:
        assert sum(piece.height for piece in column.pieces) <= drawn.floor - 7.9
        assert all(piece.height >= 0 for piece in column.pieces)
    assert drawn.columns[-1].minute == minute and drawn.now == 0
    assert chart.draw([]).columns == ()
