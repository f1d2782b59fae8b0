"""Going through a page by the keyboard alone."""

from playwright.async_api import Page

_STOPS = """[...document.querySelectorAll(
    "a[href], button, input, select, textarea, summary, iframe, [tabindex='0']")]
  .filter((e) => e.checkVisibility({visibilityProperty: true}) && e.type !== "hidden")
  .filter((e) => !e.closest("details:not([open]) > :not(summary)"))"""
_LEFT = f"() => {_STOPS}.filter((e) => !window.reached?.has(e)).map((e) => e.outerHTML)"
_BEFORE = "() => { window.before = document.activeElement; }"
_ARRIVED = f"""async () => {{
  // a sandboxed frame has a process of its own: until that has taken the focus, nobody has it
  const last = {_STOPS}.at(-1), nobody = document.body, until = Date.now() + 10_000;
  const within = /date|time|month/.test(before.type);
  const underWay = (here) => (here === before && !within) || (here === nobody && before !== last);
  while (underWay(document.activeElement) && Date.now() < until)
    await new Promise((resolve) => setTimeout(resolve, 1));
  const here = document.activeElement, style = getComputedStyle(here);
  (window.reached ??= new Set()).add(here);  // an attribute would go when a live page moves
  return !underWay(here) && (here === nobody || here.nodeName === "IFRAME"
    || (style.outlineStyle !== "none" && style.outlineWidth !== "0px"));
}}"""


async def tab(page: Page) -> None:
    """Goes on by one stop. Fails where nothing shows that the focus is there."""
    await page.evaluate(_BEFORE)
    await page.keyboard.press("Tab")
    assert await page.evaluate(_ARRIVED), await page.evaluate("document.activeElement.outerHTML")


async def left(page: Page) -> list[str]:
    """What can be used on the page and has not been reached so far."""
    found: list[str] = await page.evaluate(_LEFT)
    return found


async def reaches_everything(page: Page) -> None:
    """Goes once through the whole page. Fails where something is left out."""
    wanted = await left(page)
    assert len(wanted) > 5
    for _ in range(len(wanted) + 2):
        await tab(page)
    assert await left(page) == [], page.url
