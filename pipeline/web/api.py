"""The operators' side for programs: `/api/v1`, JSON, over a Desk."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from pipeline.web import shown
from pipeline.web.problem import MEDIA_TYPE, Problem, Wrong
from pipeline.web.views import Desk, NotHeld
from tables.history import History

MOST = 500


class Event(BaseModel):
    """The upstream event."""

    source: str
    id: str
    type: str


class Target(BaseModel):
    """Where one channel's message went; `target` is masked."""

    channel: str | None
    target: str | None
    target_id: str | None
    state: str
    reason: str | None
    attempt: int
    provider: str | None
    provider_message_id: str | None
    at: str


class Moment(BaseModel):
    """One entry of a timeline."""

    at: str
    channel: str | None
    target_id: str | None
    state: str
    reason: str | None
    provider: str | None
    attempt: int | None
    detail: str | None


class Verdict(BaseModel):
    """One rule of the decision."""

    rule: str
    saw: str = ""
    verdict: str


class Content(BaseModel):
    """What was rendered for a channel."""

    subject: str | None = None
    text: str
    html: str | None = None


class Notification(BaseModel):
    """The story of a notification. `state` is how far its best target got; null before its first status."""

    notification_id: str
    user_id: str
    state: str | None
    event: Event | None
    event_at: str | None
    workflow: str | None
    category: str | None
    priority: str | None
    channels: dict[str, str]
    targets: list[Target]
    timeline: list[Moment]
    timeline_left_out: int
    why: list[Verdict]
    content: dict[str, Content]
    duplicates: int


class Partitions(BaseModel):
    """How much of status this process holds: what lies in other partitions is not in the answer."""

    open: int
    of: int


class Notifications(BaseModel):
    """Notifications, a user's newest first. `next_cursor` asks for those behind; null: there are none."""

    notifications: list[Notification]
    next_cursor: str | None
    partitions: Partitions


class Latency(BaseModel):
    """From event to first send; percentiles are upper bounds in ms, null beyond ten minutes."""

    count: int
    p50_ms: int | None
    p99_ms: int | None


class Minute(BaseModel):
    """How often a pair came to a state in the minute from `at`."""

    at: str
    delivered: int
    sent: int
    held_back: int
    failed: int
    in_doubt: int


class Overview(BaseModel):
    """What the console's first page shows. `counts` are pairs by channel ("": before any) and state."""

    at: str
    partitions: Partitions
    ready: dict[str, bool]
    totals: dict[str, int]
    counts: dict[str, dict[str, int]]
    minutes: list[Minute]
    latencies: dict[str, Latency]


def _problem(says: str) -> dict[str, Any]:
    return {"description": says, "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}


_ANSWERS: dict[int | str, dict[str, Any]] = {
    401: _problem("Not signed in"),
    422: _problem("A parameter cannot be used; `errors` names it"),
    503: _problem("It lives in a partition that this process does not hold"),
}


def router(desk: Desk, readiness: Callable[[], Mapping[str, bool]]) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/api/v1", responses=_ANSWERS)

    @routes.get(
        "/notifications/{notification_id}", responses={404: _problem("There is no such notification")}
    )
    async def notification(notification_id: str) -> Notification:
        """State, timeline and why of one notification."""
        found = _found(desk, notification_id, "notification_id")
        if found is None:
            raise Wrong(404, f"there is no notification {notification_id}")
        return Notification.model_validate(shown.notification(found))

    @routes.get("/notifications")
    async def notifications(
        user_id: Annotated[str | None, Query(min_length=1)] = None,
        source: Annotated[str | None, Query(min_length=1)] = None,
        event_id: Annotated[str | None, Query(min_length=1)] = None,
        limit: Annotated[int, Query(ge=1, le=MOST)] = 50,
        cursor: Annotated[
            str | None, Query(description="with user_id: `next_cursor` of the page before")
        ] = None,
    ) -> Notifications:
        """A user's notifications, or what came of an event."""
        if (user_id is None) == (source is None and event_id is None):
            raise Wrong(422, "ask by user_id, or by source and event_id", "user_id", "source", "event_id")
        if user_id is None and source is None:
            raise Wrong(422, "event_id goes with source", "source")
        if user_id is None and event_id is None:
            raise Wrong(422, "source goes with event_id", "event_id")
        after = _found(desk, cursor, "cursor") if cursor is not None else None
        if cursor is not None and (after is None or after["user_id"] != user_id):
            raise Wrong(422, "not a cursor of this user", "cursor")
        try:
            if user_id is not None:
                found = desk.of_user(user_id, limit + 1, after)
            else:
                found = desk.of_event(source or "", event_id or "", limit)
        except NotHeld as error:
            raise Wrong(503, str(error)) from None
        rows, of = desk.held()
        return Notifications(
            notifications=[Notification.model_validate(shown.notification(one)) for one in found[:limit]],
            next_cursor=found[limit - 1]["id"] if len(found) > limit else None,
            partitions=Partitions(open=len(rows), of=of),
        )

    @routes.get("/overview")
    async def overview() -> Overview:
        """Counts, the last hour, latencies and readiness."""
        return Overview.model_validate(shown.overview(desk.figures(), readiness()))

    return routes


def _found(desk: Desk, notification: str, field: str) -> History | None:
    try:
        return desk.notification(notification)
    except ValueError:
        raise Wrong(422, "not a notification id", field) from None
    except NotHeld as error:
        raise Wrong(503, str(error)) from None
