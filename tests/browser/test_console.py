"""The operators' pages as an operator meets them."""

import asyncio
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from pipeline.providers.outbox import Outbox
from schemas.kinds import Channel, State
from tests.browser.conftest import Site
from tests.browser.desk import SOURCE, TOKEN, drop, fill, story
from tests.browser.roles import at_work, stock

pytestmark = pytest.mark.browser


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
    expected = ("OFFLINE", "DISCONNECTED", "401")
    site.seen.errors[:] = [error for error in site.seen.errors if not any(word in error for word in expected)]


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


async def test_lag_moves_by_itself(site: Site) -> None:
    app = at_work(site.office)
    page = await site.open("/console/tasks")
    lag = page.locator('[data-lag="events-0"]')
    await expect(lag).to_have_text("2")
    site.office.ends["events", 0] = 1_234
    await expect(lag).to_have_text("1\u2009224")
    app.consumer.tasks[0].abandoned = True
    await expect(page.locator('[data-state="core-0"]')).to_have_text("abandoned")


async def test_a_row_is_found_by_the_keyboard(site: Site) -> None:
    stock(site.office, 120)
    page = await site.open("/console/tables")
    await page.get_by_role("link", name="users").press("Enter")
    await page.get_by_role("link", name="Further on").press("Enter")
    await expect(page.get_by_role("link", name="user-099")).to_be_visible()
    await page.get_by_label("What keys begin with").fill("user-11")
    await page.keyboard.press("Enter")
    await expect(page.locator("tbody tr")).to_have_count(10)
    await page.get_by_role("link", name="user-113").press("Enter")
    await expect(page.locator("pre")).to_contain_text("user-113@example.com")


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


async def test_it_reads_without_scripts_too(site: Site, browser: Browser) -> None:
    fill(site.office)
    context = await browser.new_context(java_script_enabled=False)
    try:
        page = await context.new_page()
        await page.goto(f"{site.url}/console?token={TOKEN.replace(' ', '+')}")
        await expect(page.locator('[data-cell="email:delivered"]')).to_be_visible()
    finally:
        await context.close()


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
