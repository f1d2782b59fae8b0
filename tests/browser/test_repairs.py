"""Dead letters are put back, and groups replayed, by the keyboard, without scripts, unharmed."""

import re

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import Site, violations
from tests.browser.desk import TOKEN, XSS
from tests.browser.keyboard import reaches_everything, tab
from tests.browser.repairs import letters
from tests.browser.test_reach import faint

pytestmark = pytest.mark.browser


async def press(page: Page, button: str) -> None:
    """Goes to a button by the keyboard alone, and presses it."""
    wanted = page.get_by_role("button", name=button)
    for _ in range(80):
        if await wanted.evaluate("(button) => button === document.activeElement"):
            await page.keyboard.press("Enter")
            return
        await tab(page)
    raise AssertionError(f"the keyboard never comes to {button}")


async def looks_right(page: Page) -> None:
    await page.wait_for_load_state()  # with its style sheet
    assert await violations(page) == []
    assert await faint(page) == []


async def test_a_letter_is_found_and_put_back_by_the_keyboard(site: Site) -> None:
    name = letters(site.office.shelf)
    page = await site.open("/console")
    await page.get_by_role("link", name="Dead letters").press("Enter")
    await page.get_by_role("link", name="refused").first.press("Enter")
    await expect(page.get_by_role("textbox", name="Reason")).to_have_value("refused")
    await page.get_by_role("link", name=name, exact=True).press("Enter")
    await expect(page.locator("main")).to_contain_text("The provider refused the message for good.")
    await expect(page.get_by_text("Hello Ada")).not_to_be_visible()
    await press(page, "Put it back")
    await expect(page.get_by_role("status").first).to_contain_text("1 letter put back")
    assert len(site.office.shelf.back) == 1
    await page.reload()
    assert len(site.office.shelf.back) == 1, "to look again puts nothing back"
    await page.get_by_text("Show its bytes").press("Enter")
    await expect(page.get_by_label("Value")).to_contain_text("Hello Ada")


async def test_those_of_a_reason_are_counted_and_then_put_back(site: Site) -> None:
    letters(site.office.shelf)
    page = await site.open("/console/dlq?reason=refused")
    await press(page, "Count what would go back")
    await expect(page.locator("h1")).to_have_text("Put back")
    await expect(page.locator("main")).to_contain_text("21")
    await looks_right(page)
    assert site.office.shelf.back == []
    await press(page, "Put them back")
    await expect(page.get_by_role("status").first).to_contain_text("21 letters put back")
    assert len(site.office.shelf.back) == 21


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_those_of_a_provider_are_found_by_its_code_and_handed_to_another(
    site: Site, scheme: str
) -> None:
    letters(site.office.shelf)
    page = await site.open("/console/dlq", scheme=scheme)
    await looks_right(page)
    await page.get_by_label("Provider").first.fill("backup")
    await page.get_by_label("Vendor's code").fill("HTTP*")
    await press(page, "Show")
    await page.get_by_label("To be sent by").focus()
    await page.keyboard.press("o")
    await expect(page.get_by_label("To be sent by")).to_have_value("outbox")
    await press(page, "Count what would go back")
    await expect(page.locator("main")).to_contain_text("To be sent by")
    await looks_right(page)
    assert site.office.shelf.back == []
    await press(page, "Put them back")
    await expect(page.get_by_role("status").first).to_contain_text("30 letters put back")
    assert {dict(one.headers)["provider"] for one in site.office.shelf.back} == {b"outbox"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_what_a_letter_is_about_is_sent_anew_once_by_the_keyboard(site: Site, scheme: str) -> None:
    letters(site.office.shelf)
    event = b'{"specversion":"1.0","id":"order 7","source":"https://shop.example","type":"t"}'
    name = site.office.shelf.put(value=event)
    page = await site.open(f"/console/dlq/{name}", scheme=scheme)
    await page.get_by_role("link", name="Replay this event").press("Enter")
    await expect(page.get_by_label("Id of the event")).to_have_value("order 7")
    await expect(page.get_by_label("Source of the event")).to_have_value("https://shop.example")
    await looks_right(page)
    await reaches_everything(page)
    await page.set_viewport_size({"width": 360, "height": 740})
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.get_by_label("Notifications").focus()
    await page.keyboard.press("Tab")
    await page.keyboard.type("ada")
    await page.keyboard.press("Enter")
    await page.keyboard.type("grace")
    await page.get_by_label("Send them anew").focus()
    await page.keyboard.press("Space")
    await press(page, "Say what would come of it")
    await expect(page.get_by_label("Users")).to_have_value("ada\ngrace")
    await expect(page.get_by_label("Send them anew")).to_be_checked()
    await expect(page.get_by_role("row", name=re.compile("would be decided anew"))).to_contain_text("19")
    assert site.office.groups.asked == []
    await looks_right(page)
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    async with page.expect_navigation(url=re.compile("asked=")):
        await page.get_by_role("button", name="Send them anew").dblclick()
    await expect(page.get_by_role("status").first).to_contain_text("decided anew, as generation")
    assert len({(one.id, one.generation) for one in site.office.groups.asked}) == 1
    chosen = site.office.groups.asked[0].narrowing
    assert chosen.events == {("https://shop.example", "order 7")}
    assert chosen.users == {"ada", "grace"}
    await looks_right(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_replay_is_foreseen_and_asked_for_by_the_keyboard(site: Site, scheme: str) -> None:
    page = await site.open("/console/replay", scheme=scheme)
    await page.get_by_label("Group").focus()
    await page.keyboard.type("email")
    await page.keyboard.press("Tab")
    await page.keyboard.type("earliest")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="What would come of it")).to_be_visible()
    await expect(page.get_by_role("row", name=re.compile("called already"))).to_contain_text("12")
    assert site.office.groups.asked == []
    await looks_right(page)
    await page.get_by_text("Partition by partition").press("Enter")
    await reaches_everything(page)
    await page.set_viewport_size({"width": 360, "height": 740})
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.get_by_role("button", name="Ask carillon-email to begin there").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("status").first).to_contain_text("carillon-email is asked to begin anew")
    assert [one.plan.role for one in site.office.groups.asked] == ["email"]
    await looks_right(page)


async def test_what_makes_no_sense_is_said_where_one_typed_it(site: Site) -> None:
    page = await site.open("/console/replay")
    await page.get_by_label("Begin at").fill("yesterday")
    await press(page, "Say what would come of it")
    await expect(page.get_by_role("alert")).to_contain_text("not earliest, latest or a time")
    await expect(page.get_by_label("Begin at")).to_have_value("yesterday")
    await expect(page.get_by_label("Begin at")).to_have_attribute("aria-invalid", "true")
    await looks_right(page)
    site.seen.errors[:] = [error for error in site.seen.errors if "422" not in error]


async def test_it_all_works_without_scripts(site: Site) -> None:
    assert site.context.browser is not None
    name = letters(site.office.shelf)
    context = await site.context.browser.new_context(java_script_enabled=False)
    try:
        page = await context.new_page()
        await page.goto(f"{site.url}/console/dlq/{name}?token={TOKEN.replace(' ', '+')}")
        await page.get_by_role("button", name="Put it back").click()
        await expect(page.get_by_role("status").first).to_contain_text("1 letter put back")
        await page.goto(f"{site.url}/console/replay")
        await page.get_by_label("Begin at").fill("earliest")
        await page.get_by_role("button", name="Say what would come of it").click()
        await page.get_by_role("button", name="Ask carillon-core").click()
        await expect(page.get_by_role("status").first).to_contain_text("is asked to begin anew")
    finally:
        await context.close()
    assert len(site.office.shelf.back) == len(site.office.groups.asked) == 1


async def test_whatever_a_letter_holds_never_runs(site: Site) -> None:
    page = await site.open("/console/dlq")
    for evil in (*XSS, "\x1b[2J\x00 and \N{RIGHT-TO-LEFT OVERRIDE}more", "x" * 5_000):
        told = evil.encode()
        headers = [("reason", told), ("error", told), ("source-topic", told), ("source-partition", b"0"),
                   ("source-offset", b"1"), ("failed-at", b"2026-01-01T00:00:00Z"), ("attempts", told),
                   (evil, told)]  # fmt: skip
        name = site.office.shelf.put(value=told, told=headers)
        site.office.now += 60
        for path in ("/console/dlq", f"/console/dlq/{name}"):
            await page.goto(site.url + path)
            await expect(page.locator("main")).to_contain_text(name)
            assert await page.evaluate("document.title") != "pwned"
            assert await violations(page) == []
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
                path,
                evil[:40],
            )
        await page.get_by_text("Show its bytes").click()
        await expect(page.get_by_label("Value")).to_be_visible()
        await page.get_by_role("button", name="Put it back").click()
        await expect(page.get_by_role("status").first).to_contain_text("0 letters put back; 1 not")
        assert await page.evaluate("document.title") != "pwned"
    assert site.office.shelf.back == []
