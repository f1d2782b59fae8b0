"""What readers of messages ask for: the page to unsubscribe at, and links that tell of being followed."""

import asyncio
import logging
from base64 import b64decode
from pathlib import Path
from urllib.parse import parse_qs

import jinja2
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from agents import topics
from agents.links import CLICKED, OPENED, UNSUBSCRIBE, Click, Links, NotOurs, Subject
from agents.report import sending
from agents.sending import Send
from pipeline.metrics import Metrics
from pipeline.receipts.line import BrokerAway
from pipeline.receipts.receiving import Sender
from schemas.ids import hash_in, masked
from schemas.kinds import Channel, Priority, State
from schemas.notification import LIFT, SUPPRESS, Signal
from schemas.report import Report

log = logging.getLogger(__name__)

PAGES = Path(__file__).parent / "pages"
PIXEL = b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
"""A transparent picture of one point."""
PATIENCE = 1.0
"""Seconds that a reader waits for the broker, where the answer does not depend on it."""
FORM_BYTES = 4 << 10
OURS = "carillon"
"""Who tells it, where it is no provider."""
_LEADS_ELSEWHERE = {"referrer-policy": "no-referrer", "x-robots-tag": "noindex"}
_SHOWN_ELSEWHERE = {"cross-origin-resource-policy": "cross-origin"}
"""For a picture that stands in a mail, on pages of whoever shows that."""


def of_subject(subject: Subject, state: State, detail: str | None = None) -> Send:
    """The report that a reader opened, followed or unsubscribed. Raises ValueError for no notification id."""
    return sending(
        Report(
            notification_id=subject.notification_id, channel=Channel.EMAIL, target_id=subject.target_id,
            step=subject.step, state=state, detail=detail,
        )
    )  # fmt: skip


def of_choice(subject: Subject, *, out: bool) -> list[Send]:
    """What core, and where somebody unsubscribes their history too, is to hear.

    Core hears it at first hand: the history of an old message may be forgotten, and its link works still.
    """
    id = subject.notification_id
    signal = Signal(
        kind=SUPPRESS if out else LIFT, id=id, user_id=subject.user_id, channel=Channel.EMAIL,
        target_id=subject.target_id, reason=State.UNSUBSCRIBED, category=subject.category or None,
    )  # fmt: skip
    lane = topics.NOTIFICATION_LANES[Priority.HIGH]
    told = Send(lane, subject.user_id.encode(), signal.to_json(), hash_in(id))
    return [told, of_subject(subject, State.UNSUBSCRIBED)] if out else [told]


def router(links: Links, send: Sender, metrics: Metrics) -> APIRouter:
    """The routes. Each token says whose it is, so that nobody signs in."""
    routes = APIRouter(include_in_schema=False)
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip

    def page(status: int, stage: str, category: str = "") -> Response:
        found = pages.get_template("unsubscribe.html").render(stage=stage, category=category)
        return HTMLResponse(found, status, {"x-robots-tag": "noindex"})

    def read(token: str) -> Subject | None:
        try:
            return links.read(UNSUBSCRIBE, token, Subject)
        except NotOurs:
            return None

    async def tell(report: Send, state: State) -> None:
        """Tells it if that goes quickly: a reader is not kept waiting for our figures."""
        try:
            async with asyncio.timeout(PATIENCE):
                await send([report])
        except (BrokerAway, TimeoutError):
            metrics.receipts.labels(OURS, "lost").inc()
        else:
            metrics.receipts.labels(OURS, state).inc()

    @routes.get("/unsubscribe/{token}")
    async def ask(token: str) -> Response:
        """Asks: mail scanners follow links, and must change nothing."""
        subject = read(token)
        return page(404, "unknown") if subject is None else page(200, "ask", subject.category)

    @routes.post("/unsubscribe/{token}", max_body_size=FORM_BYTES)
    async def choose(request: Request, token: str) -> Response:
        """Unsubscribes, whatever is in the body but our own form's wish to undo it (RFC 8058, 3.1)."""
        subject = read(token)
        if subject is None:
            return page(404, "unknown")
        out = not _is_undoing(await request.body())
        try:
            await send(of_choice(subject, out=out))
        except BrokerAway:
            return page(503, "away", subject.category)
        metrics.receipts.labels(OURS, State.UNSUBSCRIBED if out else "subscribed").inc()
        return page(200, "out" if out else "in", subject.category)

    @routes.api_route("/t/o/{token}", methods=["GET", "HEAD"])
    async def opened(request: Request, token: str) -> Response:
        """A picture, whatever the token is."""
        try:
            subject = links.read(OPENED, token, Subject)
        except NotOurs:
            metrics.receipts.labels(OURS, "forged").inc()
        else:
            if not _is_ahead(request):
                await tell(of_subject(subject, State.OPENED), State.OPENED)
        return Response(PIXEL, headers=_SHOWN_ELSEWHERE, media_type="image/gif")

    @routes.api_route("/t/c/{token}", methods=["GET", "HEAD"])
    async def clicked(request: Request, token: str) -> Response:
        """Leads on to the address in the token, and to no other."""
        try:
            click = links.read(CLICKED, token, Click)
        except NotOurs:
            metrics.receipts.labels(OURS, "forged").inc()
            return page(404, "unknown")
        if not click.url.lower().startswith(("http://", "https://")):
            return page(404, "unknown")
        if not _is_ahead(request):
            await tell(of_subject(click.subject, State.CLICKED, masked(click.url)), State.CLICKED)
        return RedirectResponse(click.url, 302, _LEADS_ELSEWHERE)

    return routes


def _is_ahead(request: Request) -> bool:
    """Whether it was fetched before anybody wanted to see it."""
    purposes = (request.headers.get(name, "") for name in ("sec-purpose", "purpose", "x-purpose", "x-moz"))
    return request.method == "HEAD" or any(
        word in purpose.lower() for purpose in purposes for word in ("prefetch", "prerender", "preview")
    )


def _is_undoing(body: bytes) -> bool:
    try:
        return parse_qs(body.decode("ascii"), max_num_fields=10).get("choice") == ["in"]
    except ValueError:
        return False
