"""Readers over HTTP: only a POST unsubscribes; links lead where they led, and tell of it."""

import httpx
import pytest
from msgspec.structs import replace

from agents.catalogue import Catalogue
from agents.links import Click, Links, Subject
from agents.plan import Work
from agents.signals import hear
from pipeline.metrics import Metrics
from pipeline.web import readers
from schemas.ids import hash_in
from schemas.kinds import Channel, State
from schemas.notification import LIFT, SUPPRESS
from tables import suppressed
from tables.claims import Origin
from tests.browser.desk import Office
from tests.journeys.memory import NOON, MemoryRows
from tests.journeys.samples import ID
from tests.unit.test_web_callbacks import HOST, Broker

LINKS = Links(HOST, "secret")
SUBJECT = Subject(ID, "u-1", "0a1b2c3d4e5f", "plan", "news <&>")
ONE_CLICK = {"List-Unsubscribe": "One-Click"}


class Mailbox:
    """Somebody who was sent something, and is not signed in."""

    def __init__(self) -> None:
        self.broker, self.metrics, office = Broker(), Metrics(), Office()
        office.app.include_router(readers.router(LINKS, self.broker.send, self.metrics))
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(office.app), base_url=HOST)

    def counted(self, outcome: str) -> float:
        return float(self.metrics.receipts.labels("carillon", outcome)._value.get())


async def test_looking_at_the_page_changes_nothing() -> None:
    box = Mailbox()
    found = await box.client.get(LINKS.unsubscribe(SUBJECT))
    assert found.status_code == 200 and "Unsubscribe?" in found.text and "news &lt;&amp;&gt;" in found.text
    assert "default-src 'none'" in found.headers["content-security-policy"]
    assert not box.broker.sent


@pytest.mark.parametrize("site", [None, "cross-site", "same-origin"])
async def test_one_post_without_anything_else_unsubscribes(site: str | None) -> None:
    box = Mailbox()
    headers = {} if site is None else {"sec-fetch-site": site, "origin": "https://mail.example"}
    found = await box.client.post(LINKS.unsubscribe(SUBJECT), data=ONE_CLICK, headers=headers)
    assert found.status_code == 200 and "You are unsubscribed" in found.text
    [signal], [report] = box.broker.signals, box.broker.reports
    assert (signal.kind, signal.user_id, signal.channel, signal.target_id, signal.category) == (
        SUPPRESS, "u-1", Channel.EMAIL, "0a1b2c3d4e5f", "news <&>"
    )  # fmt: skip
    assert (report.state, report.notification_id) == (State.UNSUBSCRIBED, ID)
    assert {one.hashed for one in box.broker.sent} == {hash_in(ID)}
    assert box.counted("unsubscribed") == 1


async def test_a_multipart_form_unsubscribes_too() -> None:
    box = Mailbox()
    found = await box.client.post(LINKS.unsubscribe(SUBJECT), files={"List-Unsubscribe": (None, "One-Click")})
    assert found.status_code == 200 and box.broker.signals[0].kind == SUPPRESS


async def test_who_undoes_it_gets_mail_again_and_nothing_told_earlier_takes_that_back() -> None:
    box, rows = Mailbox(), MemoryRows()
    await box.client.post(LINKS.unsubscribe(SUBJECT), data={"choice": "out"})
    assert (
        "subscribed again" in (await box.client.post(LINKS.unsubscribe(SUBJECT), data={"choice": "in"})).text
    )
    out, back = box.broker.signals
    assert back.kind == LIFT
    work = Work(rows, 1, 0, Catalogue())
    for n, signal in enumerate((out, back)):
        hear(signal, Origin("notifications", 0, n, NOON + n), work)
    name = suppressed.name(Channel.EMAIL, "0a1b2c3d4e5f", "news <&>")
    assert suppressed.of_user(rows, "u-1")[name][0] is None
    late = Origin("notifications", 0, 9, NOON + 9)  # status says it again, as when it was so
    hear(replace(out, at=NOON), late, work)
    assert suppressed.of_user(rows, "u-1")[name][0] is None


async def test_a_made_up_link_leads_nowhere() -> None:
    box = Mailbox()
    other = Links(HOST, "other")
    for url in (
        "/unsubscribe/x",
        other.unsubscribe(SUBJECT),
        LINKS.opened(SUBJECT).replace("/t/o/", "/unsubscribe/"),
    ):
        assert (await box.client.get(url)).status_code == 404
        assert (await box.client.post(url, data=ONE_CLICK)).status_code == 404
    for url in ("/t/c/x", other.clicked(SUBJECT, "https://evil.example/")):
        assert (await box.client.get(url)).status_code == 404
    bad = LINKS._token("/t/c/", Click(SUBJECT, "javascript:alert(1)"))
    assert (await box.client.get(f"/t/c/{bad}")).status_code == 404
    assert not box.broker.sent


async def test_while_the_broker_is_away_who_unsubscribes_is_told_so() -> None:
    box = Mailbox()
    box.broker.away = True
    found = await box.client.post(LINKS.unsubscribe(SUBJECT), data=ONE_CLICK)
    assert found.status_code == 503 and "Nothing has been changed" in found.text


async def test_a_followed_link_leads_on_and_is_told_without_its_path() -> None:
    box = Mailbox()
    found = await box.client.get(LINKS.clicked(SUBJECT, "https://shop.example/a?token=s"))
    assert (found.status_code, found.headers["location"]) == (302, "https://shop.example/a?token=s")
    [report] = box.broker.reports
    assert (report.state, report.detail) == (State.CLICKED, "https://shop.example/…")


@pytest.mark.parametrize("away", [False, True])
async def test_a_picture_is_shown_whatever_happens(away: bool) -> None:
    box = Mailbox()
    box.broker.away = away
    for url in (LINKS.opened(SUBJECT), "/t/o/made-up"):
        found = await box.client.get(url)
        assert (found.status_code, found.headers["content-type"]) == (200, "image/gif")
        assert found.content.startswith(b"GIF89a") and found.headers["cache-control"] == "no-store"
    assert [one.state for one in box.broker.reports] == ([] if away else [State.OPENED])
    assert box.counted("lost") == away
    assert (await box.client.get(LINKS.clicked(SUBJECT, "https://shop.example/"))).status_code == 302


@pytest.mark.parametrize(
    "headers", [{"sec-purpose": "prefetch;prerender"}, {"purpose": "prefetch"}, {"x-moz": "prefetch"}]
)
async def test_what_is_fetched_ahead_does_not_count(headers: dict[str, str]) -> None:
    box = Mailbox()
    for url in (LINKS.opened(SUBJECT), LINKS.clicked(SUBJECT, "https://shop.example/")):
        assert (await box.client.get(url, headers=headers)).status_code in (200, 302)
        assert (await box.client.head(url)).status_code in (200, 302)
    assert not box.broker.sent
