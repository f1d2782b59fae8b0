"""Templates for people: `/console/templates`, and what they would say with given variables."""

from typing import Any
from urllib.parse import parse_qs, urlencode

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from agents.versions import VersionGone
from pipeline.web import wording
from pipeline.web.console import Pages, frame
from pipeline.web.operations import Operations
from pipeline.web.wording import NoSuchTemplate, Preview, Wanted

MOST_IN_ADDRESS = 12_000
"""Characters of what a frame is asked for with; beyond them its HTML is shown as source."""
MOST_FIELDS = 10
FIELDS = ("version", "variables", "locale", "variant")


class Unusable(ValueError):
    """Variables or a version that cannot be used; the message says why."""


def router(pages: Pages, operations: Operations) -> APIRouter:
    """The routes."""
    routes = APIRouter(
        prefix="/console/templates", include_in_schema=False, default_response_class=HTMLResponse
    )
    catalogue = operations.catalogue

    @routes.get("")
    async def templates(request: Request) -> Response:
        using: dict[str, list[str]] = {}
        for _, workflow in sorted(catalogue.workflows.items()):
            using.setdefault(workflow.template, []).append(workflow.name)
        found = [template for _, template in sorted(catalogue.templates.items())]
        return pages.page(request, "templates", templates=found, using=using)

    @routes.get("/{name}")
    async def template(request: Request, name: str, version: str = "") -> Response:
        return await page(request, name, {"version": version, "variables": "{}"}, fill=False)

    @routes.post("/{name}")
    async def preview(request: Request, name: str) -> Response:
        body = (await request.body()).decode("utf-8", "replace")
        try:
            form = parse_qs(body, keep_blank_values=True, max_num_fields=MOST_FIELDS)
        except ValueError:
            form = {}
        return await page(request, name, {field: texts[0] for field, texts in form.items()}, fill=True)

    @routes.get("/{name}/html/{channel}")
    async def html(
        name: str,
        channel: str,
        version: str = "",
        variables: str = "{}",
        locale: str = "",
        variant: str = "",
    ) -> Response:
        try:
            template = wording.template_of(catalogue, name)
            wanted = _wanted(version, variables, locale, variant)
            found = await wording.preview(template, wanted)
        except (NoSuchTemplate, VersionGone, Unusable):
            return frame(None)
        return frame(next((one.html for at, one in found.content.items() if at == channel), None))

    async def page(request: Request, name: str, form: dict[str, str], *, fill: bool) -> Response:
        asked = {field: form.get(field, "").strip() for field in FIELDS}
        found: Preview | None = None
        wrong = ""
        try:
            template = wording.template_of(catalogue, name)
        except NoSuchTemplate as error:
            return pages.missing(request, "No such template", f"{error}.".capitalize())
        chosen = template.current
        try:
            chosen = wording.version_of(template, _version(asked["version"]))
            if fill:
                found = await wording.preview(template, _wanted(**asked))
        except (VersionGone, Unusable) as error:
            wrong = str(error)
        query = urlencode(asked)
        return pages.page(
            request, "template", 422 if wrong else 200, template=template, chosen=chosen, asked=asked,
            found=found, wrong=wrong, framed=query if len(query) <= MOST_IN_ADDRESS else None,
        )  # fmt: skip

    return routes


def _wanted(version: str, variables: str, locale: str, variant: str) -> Wanted:
    """What a form asks for. Raises Unusable."""
    return Wanted(_version(version), _variables(variables), locale or None, variant or None)


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
