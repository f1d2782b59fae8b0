"""The page of simulated providers, in a browser: faults are set on it, and what comes shows by itself."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Page, expect

from pipeline.simulator.fleet import Fleet
from pipeline.simulator.vendor import Request
from tests.browser.conftest import LISTEN, Seen, violations

pytestmark = pytest.mark.browser


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    async with Fleet(["smtp", "webhook"]) as found:
        yield found


@pytest.fixture
async def page(browser: Browser, fleet: Fleet) -> AsyncIterator[Page]:
    context, seen = await browser.new_context(viewport={"width": 1280, "height": 900}), Seen()
    context.set_default_timeout(20_000)
    await context.add_init_script(LISTEN)
    try:
        page = await context.new_page()
        seen.watch(page)
        await page.goto(fleet.page_url)
        yield page
        assert await violations(page) == []
    finally:
        await context.close()
    assert seen.errors == []


async def test_faults_are_put_in_force_on_the_page(page: Page, fleet: Fleet) -> None:
    await page.get_by_role("link", name="webhook", exact=True).click()
    await page.get_by_label("Faults of webhook, one a line").fill("throttled:0.25\nlatency=0.1")
    await page.get_by_role("button", name="Put in force").click()
    await expect(page.get_by_label("Faults of webhook, one a line")).to_have_value(
        "throttled:0.25\nlatency=0.1"
    )
    await expect(page.get_by_role("row", name="webhook http").locator("code")).to_have_text(
        ["throttled:0.25", "latency=0.1"]
    )
    assert fleet.simulators["webhook"].faults.words == ["throttled:0.25", "latency=0.1"]
    await page.get_by_text("Addresses that steer webhook").click()
    await expect(page.get_by_role("cell", name="wants nothing any more")).to_be_visible()


async def test_what_comes_shows_by_itself_and_as_text(page: Page, fleet: Fleet) -> None:
    await expect(page.get_by_text("Nothing came yet")).to_be_visible()
    evil = "<img src=x onerror=alert(1)>"
    await page.get_by_label("Faults of smtp, one a line").fill("half a wo")
    await fleet.simulators["webhook"].play(Request("POST", f"/{evil}", "", {"webhook-id": evil}, b"{}"))
    row = page.get_by_role("row", name="webhook /<img")
    await expect(row).to_contain_text("204")
    await expect(row.get_by_role("cell", name=evil, exact=True)).to_be_visible()
    await expect(page.get_by_label("Faults of smtp, one a line")).to_have_value("half a wo")


async def test_a_narrow_page_scrolls_within_its_tables_alone(page: Page, fleet: Fleet) -> None:
    await fleet.simulators["webhook"].play(Request("POST", "/" + "x" * 300, "", {"webhook-id": "k"}, b"{}"))
    await page.set_viewport_size({"width": 400, "height": 800})
    await page.reload()
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
