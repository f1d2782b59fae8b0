"""The operators' side for people: the pages of `/console`, rendered here, over a Desk."""

import asyncio
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

import jinja2
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from pipeline import explaining
from pipeline.web import chart, shown, story
from pipeline.web.forms import Unasked, form, session_of
from pipeline.web.guard import FRAME_POLICY, SIGN_IN
from pipeline.web.operate_api import digests_of
from pipeline.web.operations import Operations
from pipeline.web.rows import BadCursor, NoSuchRole, NoSuchTable, Row, Tables
from pipeline.web.session import Sessions
from pipeline.web.story import Asked, Beside
from pipeline.web.tasks import Tasks
from pipeline.web.views import NOTIFICATION_ID, Desk, NotHeld
from schemas.status import rfc3339
from tables.history import BUCKETS_MS, History

HERE = Path(__file__).parent
MOST_SHOWN = 1_000
PAGE = 50
MOST_SPLITS = 8
_FRAME_BEGINS = '<!doctype html><html tabindex="0">'
"""Lets the keyboard scroll what follows; an <html> of its own adds its attributes to this one."""
_OURS = re.compile(r"/console(?:[/?][^\\\x00-\x1f]*)?")


class Pages:
    """Renders the templates beside this file; everything that is put into them is escaped."""

    def __init__(self, version: str, sessions: Sessions) -> None:
        self._sessions = sessions
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "pages"), autoescape=True, undefined=jinja2.StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self._environment.globals.update(version=version, group_of=shown.group_of)
        self._environment.filters.update(
            number=number, words=words, clock=clock, day=day, rfc3339=rfc3339, milliseconds=milliseconds,
            user_url=user_url, notification_url=notification_url, event_url=event_url, row_url=row_url,
            with_query=with_query, value=shown.value, whole_value=shown.whole_value,
        )  # fmt: skip

    def add_filters(self, **filters: Callable[..., str]) -> None:
        """Gives templates more words to say things with."""
        self._environment.filters.update(filters)

    def page(self, request: Request, name: str, status: int = 200, **fields: Any) -> HTMLResponse:
        """A page by the name of its template; its forms are those of the session that asks."""
        form_token = self._sessions.form_token(session_of(request, self._sessions))
        found = self._environment.get_template(f"{name}.html").render(form_token=form_token, **fields)
        return HTMLResponse(found, status)

    def away(self, request: Request) -> HTMLResponse:
        """The page for those who are not signed in; it leads on to where they wanted to go."""
        with_token = "token" in request.query_params
        to = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return self.door(request, "/console" if with_token else to, wrong=with_token)

    def door(self, request: Request, to: str, *, wrong: bool, status: int = 401) -> HTMLResponse:
        """The page to sign in on."""
        to = to if _OURS.fullmatch(to) else "/console"
        return self.page(request, "sign-in", status, to=to, wrong=wrong)

    def missing(self, request: Request, title: str, says: str, status: int = 404) -> HTMLResponse:
        """A page that says why there is nothing to show."""
        return self.page(request, "missing", status, title=title, says=says)

    def refused(self, request: Request, error: Unasked) -> HTMLResponse:
        """The page for a form that was not taken."""
        says = f"Nothing was done: {error}. Open its page again."
        return self.missing(request, "That form was not taken", says, 403)


def number(value: int) -> str:
    """12,345 with a thin space."""
    return f"{value:,}".replace(",", "\u2009")


def words(value: str | None) -> str:
    """A word of ours as people write it."""
    return (value or "").replace("_", " ")


def clock(at: str) -> str:
    """The time of day of an RFC 3339 time, to the millisecond; what is none stays as it is."""
    return at[11:23] if at[10:11] == "T" and at.endswith("Z") else at


def day(at: str) -> str:
    """The date of an RFC 3339 time."""
    return at[:10]


def milliseconds(value: int | None) -> str:
    """A time span as short as it can be said: 25 ms, 2.5 s, 10 min; None is beyond the last bucket."""
    if value is None:
        return "> 10 min"
    if value < 1_000:
        return f"{value} ms"
    if value < 60_000:
        return f"{value / 1_000:g} s"
    return f"{value / 60_000:g} min"


def user_url(user_id: str) -> str:
    """The page of a user. Browsers resolve "." and ".." away, however they are written."""
    if user_id in ("", ".", ".."):
        return f"/console/users?{urlencode({'id': user_id})}"
    return f"/console/users/{quote(user_id, safe='')}"


def notification_url(notification: str) -> str:
    """The page of a notification."""
    return f"/console/notifications/{quote(notification, safe='')}"


def event_url(event: Mapping[str, str]) -> str:
    """The page of an upstream event."""
    return f"/console/events?{urlencode({'source': event['source'], 'id': event['id']})}"


def row_url(row: Row, table: str) -> str:
    """The page of one row of a table."""
    place = {"key": row.key, "role": row.role, "partition": row.partition}
    return f"/console/tables/{table}/row?{urlencode(place)}"


def with_query(path: str, **fields: str | None) -> str:
    """An address with those fields that are not empty."""
    asked = urlencode({name: text for name, text in fields.items() if text})
    return f"{path}?{asked}" if asked else path


def router(
    desk: Desk,
    pages: Pages,
    sessions: Sessions,
    readiness: Callable[[], Mapping[str, bool]],
    tables: Tables,
    tasks: Tasks,
    operations: Operations,
) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/console", include_in_schema=False, default_response_class=HTMLResponse)

    @routes.get("")
    async def overview(request: Request) -> Response:
        figures, ready = desk.figures(), readiness()
        return pages.page(
            request, "overview", at=figures, table=shown.table(figures), totals=shown.totals(figures),
            chart=chart.draw(shown.bars(figures)), latencies=shown.latencies(figures), bounds=BUCKETS_MS,
            ready=ready,
        )  # fmt: skip

    @routes.get("/users")
    async def user_by_query(request: Request, id: str = "", limit: int = PAGE) -> Response:
        return of_user(request, id, limit)

    @routes.get("/users/{user_id:path}")
    async def user(request: Request, user_id: str, limit: int = PAGE) -> Response:
        return of_user(request, user_id, limit)

    def of_user(request: Request, user_id: str, limit: int) -> Response:
        limit = max(1, min(limit, MOST_SHOWN))
        try:
            found = desk.of_user(user_id, limit + 1)
        except NotHeld as error:
            return not_held(request, user_id, error)
        return pages.page(
            request, "user", user_id=user_id, histories=summaries(found[:limit]),
            more=min(limit * 2, MOST_SHOWN) if len(found) > limit and limit < MOST_SHOWN else None,
        )  # fmt: skip

    @routes.get("/events")
    async def event(request: Request, source: str = "", id: str = "", limit: int = PAGE) -> Response:
        limit = max(1, min(limit, MOST_SHOWN))
        try:
            found = desk.of_event(source, id, limit + 1)
        except NotHeld as error:
            return not_held(request, id, error)
        rows, of = desk.held()
        return pages.page(
            request, "event", source=source, id=id, histories=summaries(found[:limit]), open=len(rows), of=of,
            more=min(limit * 2, MOST_SHOWN) if len(found) > limit and limit < MOST_SHOWN else None,
        )  # fmt: skip

    @routes.get("/notifications/{notification_id}")
    async def notification(request: Request, notification_id: str) -> Response:
        try:
            found = desk.notification(notification_id)
        except ValueError:
            return pages.missing(
                request, "Not a notification id", f"“{notification_id}” is none: they are UUIDs of version 8."
            )
        except NotHeld as error:
            return not_held(request, notification_id, error)
        if found is None:
            return pages.missing(
                request,
                "No such notification",
                f"Nothing was ever told of {notification_id}, or it was longer ago than history is kept.",
            )
        beside = Beside(explaining.doubts(operations.catalogue), digests_of(desk, [found]))
        told = story.explain(Asked(notification_id), [found], beside)
        return pages.page(
            request,
            "notification",
            told=shown.notification(found),
            steps=shown.steps(found),
            stories=told.stories,
        )

    @routes.get("/notifications/{notification_id}/html/{channel}")
    async def notification_html(notification_id: str, channel: str) -> Response:
        try:
            found = desk.notification(notification_id)
        except (ValueError, NotHeld):
            found = None
        content = found["content"].get(channel) if found else None
        return frame(content.get("html") if content else None)

    @routes.get("/search")
    async def search(request: Request, q: str = "") -> Response:
        wanted = q.strip()
        if not wanted:
            return RedirectResponse("/console", 303)
        try:
            to = look_up(desk, wanted)
        except NotHeld as error:
            return not_held(request, wanted, error)
        if to is not None:
            return RedirectResponse(to, 303)
        rows, of = desk.held()
        return pages.page(request, "nothing", 404, wanted=wanted, open=len(rows), of=of)

    @routes.get("/outbox")
    async def outbox(request: Request, key: str = "", before: int | None = None, q: str = "") -> Response:
        messages = await asyncio.to_thread(desk.messages, PAGE + 1, before, q.strip() or None)
        chosen = await asyncio.to_thread(desk.message, key) if key else next(iter(messages), None)
        return pages.page(
            request, "outbox", messages=messages[:PAGE], chosen=chosen, key=key, q=q, before=before,
            older=messages[PAGE - 1].seq if len(messages) > PAGE else None,
        )  # fmt: skip

    @routes.get("/outbox/html")
    async def outbox_html(key: str = "") -> Response:
        chosen = await asyncio.to_thread(desk.message, key)
        return frame(chosen.html if chosen else None)

    @routes.get("/tasks")
    async def of_tasks(request: Request) -> Response:
        roles = await tasks.roles()
        return pages.page(request, "tasks", roles=roles, open=shown.open_numbers, providers=tasks.providers())

    @routes.get("/tables")
    async def of_tables(request: Request) -> Response:
        kept = tables.kept()
        roles = {
            role: [one for one in kept if one.role == role] for role in dict.fromkeys(o.role for o in kept)
        }
        return pages.page(request, "tables", roles=roles)

    @routes.get("/tables/{table}")
    async def table(
        request: Request, table: str, prefix: str = "", cursor: str = "", role: str = ""
    ) -> Response:
        try:
            found = await tables.page(table, prefix, PAGE, cursor or None, role or None)
        except (NoSuchTable, NoSuchRole, BadCursor, NotHeld) as error:
            return no_row(request, table, error)
        return pages.page(
            request, "table", layout=tables.layout(table), found=found, prefix=prefix, cursor=cursor,
            role=role,
        )  # fmt: skip

    @routes.get("/tables/{table}/row")
    async def row(
        request: Request, table: str, key: str = "", role: str = "", partition: int | None = None
    ) -> Response:
        try:
            found = await tables.row(table, key, role or None, partition)
        except (NoSuchTable, NoSuchRole, NotHeld) as error:
            return no_row(request, table, error)
        if found is None:
            return pages.missing(request, "No such row", f"There is no row {key} in {table}.")
        return pages.page(request, "row", layout=tables.layout(table), row=found)

    def no_row(request: Request, table: str, error: Exception) -> Response:
        if isinstance(error, NotHeld):
            return not_held(request, table, error)
        if isinstance(error, NoSuchTable):
            return pages.missing(request, "No such table", f"{table} is none of ours.")
        return pages.missing(request, "That cannot be asked", f"A parameter makes no sense: {error}.", 422)

    @routes.post("/sign-in")
    async def sign_in(request: Request) -> Response:
        sent = parse_qs((await request.body()).decode("utf-8", "replace"))
        to = sent.get("to", ["/console"])[0]
        if not sessions.is_token(sent.get("token", [""])[0].strip()):
            return pages.door(request, to, wrong=True)
        return sessions.begin(quote(to, safe="/?=&%+#:") if _OURS.fullmatch(to) else "/console")

    @routes.get("/sign-in")
    async def sign_in_page(request: Request) -> Response:
        return pages.door(request, "/console", wrong=False, status=200)

    @routes.post("/sign-out")
    async def sign_out(request: Request) -> Response:
        try:
            await form(request, sessions)
        except Unasked as error:
            return pages.refused(request, error)
        return sessions.end(SIGN_IN)

    def not_held(request: Request, what: str, error: NotHeld) -> Response:
        says = f"{what}: {error}. Ask the one that does."
        return pages.missing(request, "Held by another process", says, 503)

    return routes


def frame(html: str | None) -> Response:
    """What was written to be mailed, for a frame of a page of ours; it may do nothing but show itself."""
    return HTMLResponse(
        _FRAME_BEGINS + html if html else "", 200 if html else 404,
        headers={"content-security-policy": FRAME_POLICY, "x-frame-options": "SAMEORIGIN"},
    )  # fmt: skip


def look_up(desk: Desk, wanted: str) -> str | None:
    """The page of what somebody typed: a notification id, a user id, or source and id of an event; or None.

    Raises NotHeld where it may well be known, but to another process.
    """
    unseen: NotHeld | None = None
    try:
        if NOTIFICATION_ID.fullmatch(wanted.lower()) and desk.notification(wanted.lower()):
            return notification_url(wanted.lower())
        if desk.of_user(wanted, 1):
            return user_url(wanted)
    except NotHeld as error:
        unseen = error
    for start, end in [match.span() for match in re.finditer(r"\s+", wanted)][:MOST_SPLITS]:
        event = {"source": wanted[:start], "id": wanted[end:]}
        if desk.of_event(event["source"], event["id"], 1):
            return event_url(event)
    if unseen is not None:
        raise unseen
    return None


def summaries(found: list[History]) -> list[dict[str, Any]]:
    """Histories as lists show them."""
    return [shown.notification(history) for history in found]
