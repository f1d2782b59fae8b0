"""Every page renders without complaint, and everybody can use it: by keyboard, in the dark, on a phone."""

import pytest
from playwright.async_api import Page, expect

from pipeline.providers.outbox import Outbox
from pipeline.web.console import event_url
from tests.browser.conftest import Site, violations
from tests.browser.desk import SOURCE, drop, fill, story
from tests.browser.keyboard import reaches_everything
from tests.browser.repairs import letters
from tests.browser.roles import at_work, stock
from tests.journeys.samples import a_template

pytestmark = pytest.mark.browser

CONTRAST = """() => {
  const parse = (text) => {
    const n = text.match(/-?[\\d.]+(e-?\\d+)?/g).map(Number), scale = text.startsWith("color") ? 255 : 1;
    return [n[0] * scale, n[1] * scale, n[2] * scale, n.length > 3 ? n[3] : 1];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_renders_without_complaint(site: Site, box: Outbox, scheme: str) -> None:
    fill(site.office)
    stock(site.office)
    at_work(site.office)
    site.office.outside.catalogue.set_template(a_template())
    found = story(site.office)
    for n in range(3):
        await drop(box, n, channel="email" if n else "sms", subject=f"Order {n}" if n else None)
    event = event_url({"source": SOURCE, "id": "order-1"})
    dead = letters(site.office.shelf)
    for path, says in (
        ("/console", "Overview"), ("/console/users/ada", "ada"), (event, "order-1"),
        ("/console/outbox", "Outbox"), (f"/console/notifications/{found}", "order.placed"),
        ("/console/sign-in", "Carillon"), ("/console/tables", "Tables"), ("/console/tasks", "Tasks"),
        ("/console/tables/users", "users"), ("/console/tables/users/row?key=user-001", "user-001"),
        ("/console/templates", "Templates"), ("/console/templates/order", "order"),
        ("/console/dlq", "Dead letters"), (f"/console/dlq/{dead}", dead), ("/console/replay", "Replay"),
        ("/console/replay?source=s&event=e&ids=a%0Ab&reasons=expired", "Replay"),
        ("/console/dlq?reason=refused&since=2026-01-01", "Dead letters"),
    ):  # fmt: skip
        page = await site.open(path, scheme=scheme)
        await expect(page.locator("h1")).to_contain_text(says)
        assert await violations(page) == []
        assert await faint(page) == []
        await page.close()


async def test_the_keyboard_reaches_everything_and_shows_where_it_is(site: Site, box: Outbox) -> None:
    found = story(site.office)
    await drop(box, 1, html="<p>Hello</p>")
    long = "".join(f"<p>Line {n}</p>" for n in range(200))
    await drop(box, 2, html=long)
    stock(site.office)
    at_work(site.office)
    site.office.outside.catalogue.set_template(a_template())
    dead = letters(site.office.shelf)
    for path in (
        "/console/templates", "/console/templates/order",
        "/console/dlq?reason=refused", f"/console/dlq/{dead}", "/console/replay",
        "/console/tables", "/console/tables/users?prefix=u", "/console/tasks", "/console",
        "/console/users/ada", f"/console/notifications/{found}", "/console/outbox",
    ):  # fmt: skip
        page = await site.open(path)
        await reaches_everything(page)
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


async def test_a_narrow_window_scrolls_only_what_must(site: Site, box: Outbox) -> None:
    fill(site.office)
    stock(site.office)
    at_work(site.office)
    site.office.outside.catalogue.set_template(a_template())
    found = story(site.office)
    dead = letters(site.office.shelf)
    await drop(box, 1, target="a" * 200 + "@example.com", html="<p>Hello</p>")
    for path in (
        "/console",
        "/console/users/customer-0001",
        f"/console/notifications/{found}",
        "/console/outbox",
        "/console/tables",
        "/console/tables/claims",
        "/console/tables/users/row?key=user-001",
        "/console/templates",
        "/console/templates/order",
        "/console/tasks",
        "/console/dlq?reason=refused",
        f"/console/dlq/{dead}",
        "/console/replay",
    ):
        page = await site.open(path)
        await page.set_viewport_size({"width": 360, "height": 740})
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        await page.close()
