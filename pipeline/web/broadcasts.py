"""Broadcasts for operators: how far they are, as JSON and as pages, and their cancelling."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from pipeline.broadcasts import NotCancelled
from pipeline.web.console import Pages
from pipeline.web.forms import Unasked, form
from pipeline.web.problem import MEDIA_TYPE, Problem, Wrong
from pipeline.web.session import Sessions
from pipeline.web.views import NOTIFICATION_ID, Desk, NotHeld
from schemas.broadcast import Progress, Stage
from schemas.status import rfc3339
from tables.broadcasts import Broadcast as Found

Cancel = Callable[[str], Awaitable[None]]
"""Has every partition told of it. Raises NotCancelled."""
PAGE = 50


class Part(BaseModel):
    """How far one partition of core is."""

    partition: int
    stage: Stage
    told: int
    looked_at: int
    undecided: int
    at: str


class Event(BaseModel):
    """The upstream event."""

    source: str
    id: str
    type: str


class Broadcast(BaseModel):
    """How far a broadcast is: sums over the `parts` of `partitions` that have said something.

    `told` are members of the segment that have a notification, of the users `looked_at`; of `undecided`
    ones the rule failed, so that they are no members.
    """

    broadcast_id: str
    stage: Stage
    segment: str
    workflow: str
    event: Event
    event_at: str
    told: int
    looked_at: int
    undecided: int
    at: str
    partitions: int
    parts: list[Part]


class Cancelling(BaseModel):
    """The cancel is on its way; `stage` tells when a partition has heard it."""

    broadcast_id: str


def shown(found: Found) -> Broadcast:
    """A broadcast as programs get it."""
    event = found.event
    return Broadcast(
        broadcast_id=found.id, stage=found.stage, segment=found.segment, workflow=found.workflow,
        event=Event(source=event.source, id=event.id, type=event.type), event_at=rfc3339(found.event_at),
        told=found.told, looked_at=found.looked_at, undecided=found.undecided, at=rfc3339(found.at),
        partitions=found.of, parts=[_part(part) for part in found.parts],
    )  # fmt: skip


def _part(part: Progress) -> Part:
    return Part(
        partition=part.partition, stage=part.stage, told=part.told, looked_at=part.looked_at,
        undecided=part.undecided, at=rfc3339(part.at),
    )  # fmt: skip


def _answer(says: str) -> dict[str, Any]:
    return {"description": says, "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}


_ANSWERS: dict[int | str, dict[str, Any]] = {
    401: _answer("Not signed in"),
    422: _answer("That is no broadcast id"),
    503: _answer("It lives in a partition that this process does not hold, or the broker is away"),
}


def api_router(desk: Desk, cancel: Cancel | None) -> APIRouter:
    """The routes for programs."""
    routes = APIRouter(prefix="/api/v1", responses=_ANSWERS)

    @routes.get("/broadcasts/{broadcast_id}", responses={404: _answer("There is no such broadcast")})
    async def broadcast(broadcast_id: str) -> Broadcast:
        """How far a broadcast is, over all partitions."""
        try:
            found = desk.broadcast(broadcast_id)
        except ValueError:
            raise Wrong(422, "not a broadcast id", "broadcast_id") from None
        except NotHeld as error:
            raise Wrong(503, str(error)) from None
        if found is None:
            raise Wrong(404, f"there is no broadcast {broadcast_id}")
        return shown(found)

    @routes.delete("/broadcasts/{broadcast_id}", status_code=202)
    async def cancelled(broadcast_id: str) -> Cancelling:
        """Cancels what has not been told yet; one that is not known yet will not begin."""
        if not NOTIFICATION_ID.fullmatch(broadcast_id):
            raise Wrong(422, "not a broadcast id", "broadcast_id")
        await _told(cancel, broadcast_id)
        return Cancelling(broadcast_id=broadcast_id)

    return routes


def console_router(desk: Desk, pages: Pages, sessions: Sessions, cancel: Cancel | None) -> APIRouter:
    """The pages."""
    routes = APIRouter(prefix="/console", include_in_schema=False, default_response_class=HTMLResponse)

    @routes.get("/broadcasts")
    async def newest(request: Request) -> Response:
        rows, of = desk.held()
        found = [shown(one) for one in desk.broadcasts(PAGE)]
        return pages.page(request, "broadcasts", found=found, most=PAGE, open=len(rows), of=of)

    @routes.get("/broadcasts/{broadcast_id}")
    async def one(request: Request, broadcast_id: str) -> Response:
        try:
            found = desk.broadcast(broadcast_id)
        except ValueError:
            found = None
        except NotHeld as error:
            return pages.missing(request, "Held by another process", f"{broadcast_id}: {error}.", 503)
        if found is None:
            return pages.missing(request, "No such broadcast", f"Nothing was ever told of {broadcast_id}.")
        is_over = found.stage in (Stage.DONE, Stage.CANCELLED)
        return pages.page(
            request, "broadcast", told=shown(found), may_cancel=cancel is not None and not is_over
        )

    @routes.post("/broadcasts/{broadcast_id}/cancel")
    async def cancelled(request: Request, broadcast_id: str) -> Response:
        try:
            await form(request, sessions)
        except Unasked as error:
            return pages.refused(request, error)
        if not NOTIFICATION_ID.fullmatch(broadcast_id):
            return pages.missing(request, "No such broadcast", f"“{broadcast_id}” is no broadcast id.")
        try:
            await _told(cancel, broadcast_id)
        except Wrong as error:
            return pages.missing(request, "Not cancelled", f"{error}.", error.status)
        return RedirectResponse(f"/console/broadcasts/{broadcast_id}", 303)

    return routes


async def _told(cancel: Cancel | None, broadcast: str) -> None:
    """Has it cancelled. Raises Wrong."""
    if cancel is None:
        raise Wrong(503, "this process has no broker to tell")
    try:
        await cancel(broadcast)
    except NotCancelled as error:
        raise Wrong(503, str(error)) from None
