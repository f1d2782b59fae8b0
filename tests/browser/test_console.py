"""The operators' pages as an operator meets them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from pipeline.providers.outbox import Outbox
from pipeline.web.console import event_url, user_url
from schemas.ids import notification_id
from schemas.kinds import Channel, State
from schemas.message import ChannelContent, Message
from schemas.status import Verdict
from tests.browser.conftest import Site
from tests.browser.desk import NOON, SOURCE, TOKEN, XSS, Office, fill

pytestmark = pytest.mark.browser

MAIL = """<html><body><h1 id="hello">Hello Ada</h1>
<script>document.title = top.document.title = "pwned"; document.body.dataset.ran = "yes"</script>
<img src="https://tracker.example/pixel" onerror="document.body.dataset.ran = 'yes'">
<a id="out" href="/console/sign-out" target="_top">leave</a>
<form action="/console/sign-out" method="post" target="_top"><button id="post">send</button></form></body></html>"""


def story(office: Office) -> str:
    """One notification with everything that can be told of one."""
    why = (
        Verdict(rule="workflow", saw="order.placed", verdict="orders"),
        Verdict(rule="email", verdict="queued"),
    )
    found = office.tell(State.QUEUED, took=5, why=why)
    office.tell(State.RETRYING, took=60, attempt=1, provider="main", reason="503")
    office.tell(State.SENT, took=1_300, attempt=2, provider="main", provider_message_id="m-1")
    office.tell(
        State.SUPPRESSED, channel=Channel.SMS, address="+15550000001", reason="daily_cap", detail="3 of 3"
    )
    office.tell(State.DUPLICATE, channel=None, took=2_000, reason="already_planned")
    office.write(
        found, "ada", email=ChannelContent(subject="Hello", text="Hello Ada"), sms=ChannelContent(text="Hi")
    )
    return found


@pytest.fixture
async def box(site: Site) -> AsyncIterator[Outbox]:
    assert site.office.outbox_file is not None
    found = Outbox("outbox", site.office.outbox_file, 5.0)
    yield found
    await found.close()


async def drop(box: Outbox, n: int, **fields: Any) -> None:
    """Puts a message in the outbox."""
    values = {
        "id": notification_id("ada", SOURCE, f"order-{n}", "orders"), "user_id": "ada", "channel": "email",
        "target": "ada@example.com", "target_id": "t", "subject": f"Order {n}", "text": f"Thank you for order {n}",
        "event": {"source": SOURCE, "id": f"order-{n}", "type": "order.placed"}, "event_at": NOON, "at": NOON + n,
        "category": "transactional", "priority": "normal", "doubt": "at_least_once", **fields,
    }  # fmt: skip
    await box.send(Message.model_validate(values), f"key-{n}")


async def violations(page: Page) -> list[str]:
    found: list[str] = await page.evaluate("window.violations")
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_renders_without_complaint(site: Site, box: Outbox, scheme: str) -> None:
    fill(site.office)
    found = story(site.office)
    for n in range(3):
        await drop(box, n, channel="email" if n else "sms", subject=f"Order {n}" if n else None)
    event = event_url({"source": SOURCE, "id": "order-1"})
    for path, says in (
        ("/console", "Overview"), ("/console/users/ada", "ada"), (event, "order-1"), ("/console/outbox", "Outbox"),
        (f"/console/notifications/{found}", "order.placed"), ("/console/sign-in", "Carillon"),
    ):  # fmt: skip
        page = await site.open(path, scheme=scheme)
        await expect(page.locator("h1")).to_contain_text(says)
        assert await violations(page) == []
        assert await faint(page) == []
        await page.close()


async def test_it_signs_in_by_the_keyboard_and_goes_on_where_one_wanted(site: Site) -> None:
    await site.context.clear_cookies()
    page = await site.open("/console/users/ada?limit=5")
    await expect(page.get_by_label("Operator token")).to_be_focused()
    await page.keyboard.type("wrong")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_have_text("That is not the token.")
    await expect(page.get_by_label("Operator token")).to_be_focused()
    await page.keyboard.type(TOKEN)
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_contain_text("ada")
    assert page.url == f"{site.url}/console/users/ada?limit=5"
    assert TOKEN not in str(await site.context.cookies())
    await page.get_by_role("button", name="Sign out").press("Enter")
    await expect(page.get_by_label("Operator token")).to_be_focused()
    refusals = [error for error in site.seen.errors if "401" in error]
    assert site.seen.errors == refusals and len(refusals) == 2
    site.seen.errors.clear()


async def test_counts_move_by_themselves(site: Site) -> None:
    page = await site.open("/console")
    await expect(page.get_by_text("No message yet")).to_be_visible()
    await page.evaluate("window.sameDocument = true")
    for n in range(5):
        site.office.tell(State.QUEUED, user=f"user-{n}", event=f"order-{n}")
    site.office.now += 1
    await expect(page.locator('[data-cell="email:queued"]')).to_have_text("5")
    for n in range(3):
        site.office.tell(State.DELIVERED, user=f"user-{n}", event=f"order-{n}", took=80)
    site.office.tell(State.UNKNOWN, channel=Channel.CHAT, user="user-9", event="order-9")
    site.office.ready["email"] = False
    site.office.now += 1
    await expect(page.locator('[data-cell="email:delivered"]')).to_have_text("3")
    await expect(page.locator('[data-cell="email:queued"]')).to_have_text("2")
    await expect(page.locator('[data-cell="chat:unknown"]')).to_have_text("1")
    await expect(page.locator('[data-total="reached"]')).to_have_text("3")
    await expect(page.locator('[data-role="email"]')).to_contain_text("not ready")
    await expect(page.locator("[data-now]")).to_have_text("4")
    height = await page.locator(".minute:last-of-type rect.delivered").get_attribute("height")
    assert float(height or 0) > 0
    assert await page.evaluate("window.sameDocument")


async def test_the_hour_moves_on(site: Site) -> None:
    site.office.tell(State.SENT)
    page = await site.open("/console")
    newest = page.locator(".minute").last
    await expect(newest.locator("title")).to_contain_text("1 sent")
    before = await newest.get_attribute("data-key")
    site.office.now += 120
    await expect(newest).not_to_have_attribute("data-key", before or "")
    await expect(page.locator(".minute")).to_have_count(60)
    await expect(page.locator(f'.minute[data-key="{before}"] title')).to_contain_text("1 sent")


async def test_it_rests_while_nobody_looks(site: Site) -> None:
    page = await site.context.new_page()
    site.seen.watch(page)
    await page.clock.install()
    asked: list[str] = []
    await page.goto(site.url + "/console")
    page.on(
        "request", lambda request: asked.append(request.url) if request.url.endswith("/console") else None
    )
    await page.clock.run_for(1_000)
    await expect(page.locator("#pulse")).to_have_text("live")
    await page.wait_for_load_state("networkidle")
    assert len(asked) == 1
    hide = "Object.defineProperty(document, 'hidden', {configurable: true, get: () => %s});" \
           "document.dispatchEvent(new Event('visibilitychange'))"  # fmt: skip
    await page.evaluate(hide % "true")
    await expect(page.locator("#pulse")).to_have_text("paused")
    await page.clock.run_for(60_000)
    assert len(asked) == 1
    async with page.expect_response("**/console"):
        await page.evaluate(hide % "false")
    await expect(page.locator("#pulse")).to_have_text("live")


async def test_a_lost_connection_and_an_ended_session_are_said(site: Site) -> None:
    page = await site.open("/console")
    await site.context.set_offline(True)
    await expect(page.locator("#pulse")).to_contain_text("connection lost")
    await site.context.set_offline(False)
    await expect(page.locator("#pulse")).to_have_text("live")
    await site.context.clear_cookies()
    await expect(page.locator("#pulse")).to_have_text("signed out")
    site.seen.errors[:] = [error for error in site.seen.errors if "OFFLINE" not in error and "DISCONNECTED" not in error
                           and "401" not in error]  # fmt: skip


async def test_a_message_stays_under_the_hand_while_others_arrive(site: Site, box: Outbox) -> None:
    for n in range(3):
        await drop(box, n)
    page = await site.open("/console/outbox")
    await page.locator('li[data-key="key-1"] a').focus()
    reading = page.locator("article.letter h2")
    await expect(reading).to_have_text("Order 2")
    await drop(box, 3)
    await expect(page.locator("ol > li").first).to_contain_text("Order 3")
    await expect(page.locator('li[data-key="key-1"] a')).to_be_focused()
    await expect(reading).to_have_text("Order 2")
    await expect(page.locator("li a[aria-current]")).to_contain_text("Order 2")
    await page.keyboard.press("Enter")
    await expect(reading).to_have_text("Order 1")


async def test_what_one_opened_stays_open(site: Site) -> None:
    page = await site.open("/console")
    await page.get_by_text("Minute by minute").click()
    site.office.tell(State.SENT)
    site.office.now += 1
    await expect(page.locator(".words")).to_contain_text("1 sent")
    await expect(page.locator(".words")).to_be_visible()


async def test_a_search_begins_with_a_slash(site: Site) -> None:
    found = story(site.office)
    page = await site.open("/console")
    await page.keyboard.press("/")
    await expect(page.locator("#q")).to_be_focused()
    await page.keyboard.type(f"{SOURCE} order-1")
    assert await page.locator("#q").input_value() == f"{SOURCE} order-1"
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_contain_text("order-1")
    await page.get_by_role("link", name="order.placed").press("Enter")
    assert page.url == f"{site.url}/console/notifications/{found}"


REACHABLE = """() => [...document.querySelectorAll("a[href], button, input, summary, iframe, [tabindex='0']")]
  .filter((e) => e.checkVisibility({visibilityProperty: true}) && e.type !== "hidden" && !e.closest("details:not([open]) > :not(summary)"))
  .filter((e) => !e.dataset.reached).map((e) => e.outerHTML)"""
FOCUSED = """() => {
  const here = document.activeElement, style = getComputedStyle(here);
  here.dataset.reached = "yes";
  return here === document.body || here.nodeName === "IFRAME" || (style.outlineStyle !== "none" && style.outlineWidth !== "0px");
}"""


async def test_the_keyboard_reaches_everything_and_shows_where_it_is(site: Site, box: Outbox) -> None:
    found = story(site.office)
    await drop(box, 1, html="<p>Hello</p>")
    long = "".join(f"<p>Line {n}</p>" for n in range(200))
    await drop(box, 2, html=long)
    for path in ("/console", "/console/users/ada", f"/console/notifications/{found}", "/console/outbox"):
        page = await site.open(path)
        wanted = await page.evaluate(REACHABLE)
        assert len(wanted) > 5
        for _ in range(len(wanted) + 2):
            await page.keyboard.press("Tab")
            assert await page.evaluate(FOCUSED), await page.evaluate("document.activeElement.outerHTML")
        missed = await page.evaluate(REACHABLE)
        assert missed == [], path
    await page.locator("iframe").focus()
    last = page.frame_locator("iframe").get_by_text("Line 199")
    await expect(last).not_to_be_in_viewport()
    await page.keyboard.press("End")
    await expect(last).to_be_in_viewport()


async def test_one_can_skip_to_the_page(site: Site) -> None:
    page = await site.open("/console")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the page")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_be_focused()


async def test_what_people_call_themselves_never_runs(site: Site, box: Outbox) -> None:
    page = await site.open("/console")
    for n, name in enumerate(XSS):
        found = site.office.tell(
            State.FAILED, user=name, event=name, source=name, kind=name, address=name, reason=name, detail=name,
            why=(Verdict(rule=name, saw=name, verdict=name),), provider=name, provider_message_id=name, attempt=1,
        )  # fmt: skip
        site.office.write(found, name, email=ChannelContent(subject=name, text=name))
        await drop(box, n, user_id=name, target=name, subject=name, text=name)
        paths = (user_url(name), event_url({"source": name, "id": name}), f"/console/notifications/{found}",
                 f"/console/outbox?key=key-{n}")  # fmt: skip
        for path in paths:
            await page.goto(site.url + path)
            await expect(page.locator("main")).to_contain_text(name[:12])
            assert await page.evaluate("document.title") != "pwned"
            assert await violations(page) == []
    await page.locator("#q").fill(XSS[0])
    await page.locator("#q").press("Enter")
    await expect(page.locator("h1")).to_contain_text(XSS[0])


async def test_mail_is_framed_in_a_sandbox(site: Site, box: Outbox) -> None:
    found = site.office.tell(State.SENT)
    site.office.write(found, "ada", email=ChannelContent(subject="Hello", text="Hello Ada", html=MAIL))
    await drop(box, 1, html=MAIL)
    for path in (f"/console/notifications/{found}", "/console/outbox"):
        page = await site.open(path)
        frame = page.frame_locator("iframe")
        await expect(frame.locator("#hello")).to_have_text("Hello Ada")
        # no script of the page's own can look inside, nor the mail's own run, load or lead away
        inside = await page.evaluate(
            "(() => { try { return frames[0].document.title } catch (e) { return e.name } })()"
        )
        assert inside == "SecurityError"
        assert await frame.locator("body").get_attribute("data-ran") is None
        await frame.locator("#out").click()
        await frame.locator("#post").click()
        await expect(page.locator("h1")).to_be_visible()
        assert page.url == site.url + path and await page.title() != "pwned"
        assert await violations(page) == []
        await page.close()
    blocked = ("sandbox", "Content Security Policy", "Unsafe attempt")
    assert site.seen.errors and all(any(word in error for word in blocked) for error in site.seen.errors)
    site.seen.errors.clear()


async def test_it_reads_without_scripts_too(site: Site, browser: Browser) -> None:
    fill(site.office)
    context = await browser.new_context(java_script_enabled=False)
    try:
        page = await context.new_page()
        await page.goto(f"{site.url}/console?token={TOKEN.replace(' ', '+')}")
        await expect(page.locator('[data-cell="email:delivered"]')).to_be_visible()
    finally:
        await context.close()


async def test_a_narrow_window_scrolls_only_what_must(site: Site, box: Outbox) -> None:
    fill(site.office)
    found = story(site.office)
    await drop(box, 1, target="a" * 200 + "@example.com", html="<p>Hello</p>")
    for path in (
        "/console",
        "/console/users/customer-0001",
        f"/console/notifications/{found}",
        "/console/outbox",
    ):
        page = await site.open(path)
        await page.set_viewport_size({"width": 360, "height": 740})
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        await page.close()


CONTRAST = """() => {
  const parse = (text) => {
    const n = text.match(/-?[\\d.]+(e-?\\d+)?/g).map(Number), scale = text.startsWith("color") ? 255 : 1;
    return [n[0] * scale, n[1] * scale, n[2] * scale, n.length > 3 ? n[3] : 1];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const light = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    const layers = [];
    for (; e; e = e.parentElement) layers.unshift(parse(getComputedStyle(e).backgroundColor));
    return layers.reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const found = new Set();
  for (const e of document.querySelectorAll("body *")) {
    const text = [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.nodeValue.trim()).join("");
    if (!/\\w/.test(text) || !e.checkVisibility() || e.closest("svg, .unseen, title")) continue;
    const back = behind(e), a = light(over(parse(getComputedStyle(e).color), back)), b = light(back);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.add(`${e.nodeName}.${e.className} "${text.slice(0, 20)}" ${ratio.toFixed(2)}`);
  }
  return [...found];
}"""


async def faint(page: Page) -> list[str]:
    """Text that stands out too little from what is behind it (WCAG 2.2, 1.4.3)."""
    found: list[str] = await page.evaluate(CONTRAST)
    return found


async def test_many_viewers_share_one_reading(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    plain = site.office.desk._read_figures

    def counted(now: float) -> Any:
        nonlocal read
        read += 1
        return plain(now)

    monkeypatch.setattr(site.office.desk, "_read_figures", counted)
    site.office.now += 10
    await asyncio.gather(*[site.open("/console") for _ in range(4)])
    assert read == 1
