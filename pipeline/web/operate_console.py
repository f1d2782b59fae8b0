"""Templates for people: `/console/templates`, and what they would say with given variables."""

from typing import Any
from urllib.parse import parse_qs, urlencode

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from agents.render import TemplateBroken
from pipeline.web import wording
from pipeline.web.console import Pages, frame
from pipeline.web.operations import Operations
from pipeline.web.wording import NoSuchVersion, Preview

MOST_IN_ADDRESS = 12_000
"""Characters of what a frame is asked for with; beyond them its HTML is shown as source."""
MOST_FIELDS = 10


class Unusable(ValueError):
    """Variables or a version that cannot be used; the message says why."""


def router(pages: Pages, operations: Operations) -> APIRouter:
    """The routes."""
    routes = APIRouter(
        prefix="/console/templates", include_in_schema=False, default_response_class=HTMLResponse
    )
    catalogue = operations.catalogue

    @routes.get("")
    async def templates() -> Response:
        using: dict[str, list[str]] = {}
        for _, workflow in sorted(catalogue.workflows.items()):
            using.setdefault(workflow.template, []).append(workflow.name)
        found = [template for _, template in sorted(catalogue.templates.items())]
        return pages.page("templates", templates=found, using=using)

    @routes.get("/{name}")
    async def template(name: str, version: str = "") -> Response:
        return await page(name, version, "{}", fill=False)

    @routes.post("/{name}")
    async def preview(request: Request, name: str) -> Response:
        body = (await request.body()).decode("utf-8", "replace")
        try:
            form = parse_qs(body, keep_blank_values=True, max_num_fields=MOST_FIELDS)
        except ValueError:
            form = {}
        return await page(name, form.get("version", [""])[0], form.get("variables", [""])[0], fill=True)

    @routes.get("/{name}/html/{channel}")
    async def html(name: str, channel: str, version: str = "", variables: str = "{}") -> Response:
        try:
            found = await wording.preview(catalogue, name, _version(version), _variables(variables))
        except (NoSuchVersion, TemplateBroken, Unusable):
            return frame(None)
        return frame(next((one.html for at, one in found.content.items() if at == channel), None))

    async def page(name: str, version: str, variables: str, *, fill: bool) -> Response:
        found: Preview | None = None
        wrong = ""
        try:
            template = wording.template_of(catalogue, name)
        except NoSuchVersion as error:
            return pages.missing("No such template", f"{error}.".capitalize())
        try:
            number = _version(version)
            wording.template_of(catalogue, name, number)
            if fill:
                found = await wording.preview(catalogue, name, number, _variables(variables))
        except (NoSuchVersion, TemplateBroken, Unusable) as error:
            number, wrong = None, str(error)
        asked = urlencode({"version": version, "variables": variables})
        return pages.page(
            "template", 422 if wrong else 200, template=template, chosen=number or template.current,
            variables=variables, found=found, wrong=wrong,
            framed=asked if len(asked) <= MOST_IN_ADDRESS else None,
        )  # fmt: skip

    return routes


def _version(text: str) -> int | None:
    """The version that is meant, None for the current one. Raises Unusable."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Unusable(f"{text[:20]!r} is no version")
    return int(text)


def _variables(text: str) -> dict[str, Any]:
    """Variables from JSON. Raises Unusable."""
    try:
        found = msgspec.json.decode(text.strip() or "{}")
    except (ValueError, RecursionError) as error:
        raise Unusable(f"The variables are not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Unusable("The variables are not a JSON object")
    return found
