"""What people write never runs, and never gets out of its frame."""

import json

import pytest
from playwright.async_api import expect

from pipeline.providers.outbox import Outbox
from pipeline.web.console import event_url, user_url
from schemas.kinds import State
from schemas.message import ChannelContent
from schemas.status import Verdict
from tests.browser.conftest import Site, violations
from tests.browser.desk import XSS, drop
from tests.journeys.samples import a_template

pytestmark = pytest.mark.browser

MAIL = """<html><body><h1 id="hello">Hello Ada</h1>
<script>document.title = top.document.title = "pwned"; document.body.dataset.ran = "yes"</script>
<img src="https://tracker.example/pixel" onerror="document.body.dataset.ran = 'yes'">
<a id="out" href="/console/sign-out" target="_top">leave</a>
<form action="/console/sign-out" method="post" target="_top"><button id="post">send</button></form>
</body></html>"""


async def test_what_people_call_themselves_never_runs(site: Site, box: Outbox) -> None:
    page = await site.open("/console")
    for n, name in enumerate(XSS):
        found = site.office.tell(
            State.FAILED, user=name, event=name, source=name, kind=name, address=name, reason=name,
            detail=name, why=(Verdict(rule=name, saw=name, verdict=name),), provider=name,
            provider_message_id=name, attempt=1,
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


async def preview_is_framed(site: Site) -> None:
    """What a template says with what somebody typed is shown, and does nothing."""
    words = {"subject": "{{ name }}", "text": "{{ name }}", "html": MAIL}
    site.office.outside.catalogue.set_template(a_template(name="hostile", email=words))
    page = await site.open("/console/templates/hostile")
    await page.get_by_label("Variables").fill(json.dumps({"name": XSS[0]}))
    await page.get_by_role("button", name="Preview").click()
    await expect(page.locator(".subject")).to_have_text(XSS[0])
    frame = page.frame_locator("iframe")
    await expect(frame.locator("#hello")).to_have_text("Hello Ada")
    assert await frame.locator("body").get_attribute("data-ran") is None
    await frame.locator("#out").click()
    await expect(page.locator("h1")).to_contain_text("hostile")
    assert await page.title() != "pwned"
    assert await violations(page) == []
    await page.close()


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
    await preview_is_framed(site)
    blocked = ("sandbox", "Content Security Policy", "Unsafe attempt")
    assert site.seen.errors and all(any(word in error for word in blocked) for error in site.seen.errors)
    site.seen.errors.clear()
