"""Debian's Chromium, installed if that is possible as this user, and pages over a desk of dicts."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, async_playwright

from pipeline.providers.outbox import Outbox
from pipeline.web import server
from tests.browser.desk import TOKEN, Office

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
INSTALL_SECONDS = 600

LISTEN = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.violatedDirective}: ${event.blockedURI}`));
"""


def found() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def install() -> str:
    """Installs it with apt as root. Returns why that did not work, or nothing."""
    if not shutil.which("apt-get"):
        return "there is no apt-get here"
    if os.geteuid() != 0:
        return "only root may install it (apt-get install chromium)"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "chromium"]):
            subprocess.run(command, env=environment, check=True, capture_output=True, timeout=INSTALL_SECONDS)
    except subprocess.CalledProcessError as error:
        return f"apt-get failed: {error.stderr.decode(errors='replace')[-300:]}"
    except subprocess.TimeoutExpired:
        return "apt-get took too long"
    return ""


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where Chromium is. A machine without one skips, which is a failure in CI."""
    with (Path(tempfile.gettempdir()) / "carillon-chromium.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process of the same run may be at it
        why = "" if found() else install()
    path = found()
    if path is None:
        reason = f"no Chromium: {why or 'apt-get installed none'}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        yield browser
        await browser.close()


@dataclass
class Seen:
    """What went wrong in a browser while a test looked at it."""

    errors: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(f"raised: {error}"))
        page.on("dialog", lambda dialog: self.errors.append(f"dialog: {dialog.message}"))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.type}: {message.text}")


@dataclass
class Site:
    """The pages, served, and a browser that is signed in to them."""

    office: Office
    url: str
    context: BrowserContext
    seen: Seen

    async def open(self, path: str, *, scheme: str | None = None) -> Page:
        page = await self.context.new_page()
        self.seen.watch(page)
        if scheme is not None:
            await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        await page.goto(self.url + path)
        return page


@pytest.fixture
async def site(browser: Browser, tmp_path: Path) -> AsyncIterator[Site]:
    """Over an empty desk. What its pages complained of fails the test, unless the test took it away."""
    office = Office(outbox_file=tmp_path / "outbox.sqlite3")
    serving, port = await server.serve(office.app, "127.0.0.1", 0)
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(20_000)
    await context.add_init_script(LISTEN)
    site = Site(office, f"http://127.0.0.1:{port}", context, Seen())
    try:
        page = await site.open("/console/outbox?token=" + TOKEN.replace(" ", "+"))
        await page.close()
        yield site
    finally:
        await context.close()
        await serving.stop()
    assert site.seen.errors == []


@pytest.fixture
async def box(site: Site) -> AsyncIterator[Outbox]:
    assert site.office.outbox_file is not None
    found = Outbox("outbox", site.office.outbox_file, 5.0)
    yield found
    await found.close()


async def violations(page: Page) -> list[str]:
    found: list[str] = await page.evaluate("window.violations")
    return found
