"""The operators' side for programs: `/api/v1`, JSON, over a Desk."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from pipeline.web import listing, shown
from pipeline.web import rows as of_tables
from pipeline.web.listing import BadCursor as BadListingCursor
from pipeline.web.listing import Sought
from pipeline.web.problem import Wrong, described
from pipeline.web.providers import State as BreakerState
from pipeline.web.rows import BadCursor, NoSuchRole, NoSuchTable, Tables
from pipeline.web.tasks import Tasks
from pipeline.web.views import Desk, NotHeld
from schemas.event import Request, milliseconds
from schemas.kinds import Channel, State
from schemas.times import Time
from tables.history import History

MOST = 500
OURS: str = Request.model_fields["source"].default
"""The source of a request that names none."""


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


Given = Annotated[str | None, Field(min_length=1)]


class Asked(BaseModel):
    """Which notifications are asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user_id: Given = Field(None, description="whose: newest first")
    source: Given = Field(None, description="of the event, with event_id; or of the request, if it named one")
    event_id: Given = Field(None, description="of the event, with source")
    idempotency_key: Given = Field(None, description=f"of a request; without source, of one by {OURS!r}")
    channel: Channel | None = Field(None, description="those that have something on this channel")
    status: State | None = Field(
        None, description="those whose `state` is this one; with channel, that channel's in `channels`"
    )
    since: Time | None = Field(None, description="of events at this time or later (RFC 3339)")
    until: Time | None = Field(None, description="of events before this time (RFC 3339)")
    limit: int = Field(50, ge=1, le=MOST)
    cursor: str | None = Field(None, description="`next_cursor` of the page before, with the same parameters")


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


class Table(BaseModel):
    """A table as one role of this process keeps it. `prefix` begins its keys in the role's store."""

    name: str
    role: str
    prefix: str
    holds: str
    key: list[str]
    partitions: Partitions


class TableList(BaseModel):
    """Every table of every role that runs in this process."""

    tables: list[Table]


class Row(BaseModel):
    """One row. The same key may stand in other partitions too: `also_in` names them as `role-partition`."""

    key: str
    role: str
    partition: int
    value: Any
    also_in: list[str] = []


class Rows(BaseModel):
    """Rows in key order, over the open partitions. `next_cursor` asks for those behind; null: there are none.

    A page may hold fewer rows than its limit, or none, and still have a cursor: what it reads is bounded.
    """

    table: str
    rows: list[Row]
    next_cursor: str | None
    partitions: Partitions


class Position(BaseModel):
    """One partition that a task reads; null is unknown. `lag` is from `committed` to `end`."""

    topic: str
    queued: int
    queued_bytes: int
    paused: bool
    done: int | None
    committed: int | None
    end: int | None
    lag: int | None


class TaskOf(BaseModel):
    """One partition number of a role; `busy_since` is null while no unit is under way."""

    partition: int
    state: str
    epoch: int | None
    busy_since: str | None
    calls: int
    lag: int | None
    positions: list[Position]


class RoleOf(BaseModel):
    """One role, and the partition numbers that this process has of it."""

    role: str
    partitions: Partitions
    lag: int | None
    tasks: list[TaskOf]


class Lag(BaseModel):
    """How far the roles of this process are."""

    roles: list[RoleOf]


class Breaker(BaseModel):
    """One provider, and whether it is called now; `seconds` until it may be."""

    channel: Channel
    name: str
    kind: str
    state: BreakerState
    failures: int
    seconds: float
    under_way: int
    per_second: float | None


class Breakers(BaseModel):
    """The providers of this process."""

    breakers: list[Breaker]


_ANSWERS: dict[int | str, dict[str, Any]] = {
    401: described("Not signed in"),
    422: described("A parameter cannot be used; `errors` names it"),
    503: described("It lives in a partition that this process does not hold"),
}


def router(
    desk: Desk, readiness: Callable[[], Mapping[str, bool]], tables: Tables, tasks: Tasks
) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/api/v1", responses=_ANSWERS)

    @routes.get(
        "/notifications/{notification_id}", responses={404: described("There is no such notification")}
    )
    async def notification(notification_id: str) -> Notification:
        """State, timeline and why of one notification."""
        found = _found(desk, notification_id, "notification_id")
        if found is None:
            raise Wrong(404, f"there is no notification {notification_id}")
        return Notification.model_validate(shown.notification(found))

    @routes.get("/notifications")
    async def notifications(asked: Annotated[Asked, Query()]) -> Notifications:
        """Notifications of a user, of an event, or of a request.

        Needed is one of: `user_id`; `source` with `event_id`; `idempotency_key`, with `source` where the
        request named one. `user_id` goes with `idempotency_key` too. `channel`, `status`, `since` and `until`
        narrow what is found. What one page looks at is bounded: it may hold fewer notifications than `limit`,
        or none, and still have a cursor. Parameters that are not known are refused.
        """
        try:
            found = listing.page(desk, _sought(asked), asked.limit, asked.cursor)
        except BadListingCursor as error:
            raise Wrong(422, str(error), "cursor") from None
        except NotHeld as error:
            raise Wrong(503, str(error)) from None
        rows, of = desk.held()
        return Notifications(
            notifications=[Notification.model_validate(shown.notification(one)) for one in found.histories],
            next_cursor=found.cursor,
            partitions=Partitions(open=len(rows), of=of),
        )

    @routes.get("/overview")
    async def overview() -> Overview:
        """Counts, the last hour, latencies and readiness."""
        return Overview.model_validate(shown.overview(desk.figures(), readiness()))

    @routes.get("/lag")
    async def lag() -> Lag:
        """States, queues, positions and lag of every task in this process."""
        return Lag.model_validate(shown.lag(await tasks.roles()))

    @routes.get("/breakers")
    async def breakers() -> Breakers:
        """Every provider of this process, a channel's in the order of failover, and its circuit breaker."""
        return Breakers(breakers=[Breaker.model_validate(one._asdict()) for one in tasks.providers()])

    _add_tables(routes, tables)
    return routes


def _sought(asked: Asked) -> Sought:
    """What is asked for. Raises Wrong for what does not go together, and where nothing says whose it is."""
    user, source, event, key = asked.user_id, asked.source, asked.event_id, asked.idempotency_key
    if event is not None and key is not None:
        raise Wrong(422, "give event_id or idempotency_key", "event_id", "idempotency_key")
    if user is None and source is None and event is None and key is None:
        needed = "ask by user_id, by source and event_id, or by idempotency_key; the others narrow these"
        raise Wrong(422, needed, "user_id", "source", "event_id", "idempotency_key")
    if key is not None:
        source, event = source or OURS, key
    elif user is not None and (source is not None or event is not None):
        raise Wrong(422, "ask by user_id, or by source and event_id", "user_id", "source", "event_id")
    elif user is None and source is None:
        raise Wrong(422, "event_id goes with source", "source")
    elif user is None and event is None:
        raise Wrong(422, "source goes with event_id, or with idempotency_key", "event_id")
    return Sought(
        user, source, event, asked.channel, asked.status, milliseconds(asked.since), milliseconds(asked.until)
    )


def _add_tables(routes: APIRouter, tables: Tables) -> None:
    missing: dict[int | str, dict[str, Any]] = {404: described("There is no such table, or no such row")}

    @routes.get("/tables")
    async def kept() -> TableList:
        """Every table of every role that runs in this process."""
        return TableList.model_validate({"tables": [shown.table_of(kept) for kept in tables.kept()]})

    @routes.get("/tables/{table}", responses=missing)
    async def rows(
        table: str,
        prefix: Annotated[str, Query(description="what the keys begin with, as they are shown")] = "",
        limit: Annotated[int, Query(ge=1, le=MOST)] = 50,
        cursor: Annotated[str | None, Query(description="`next_cursor` of the page before")] = None,
        role: Annotated[str | None, Query(description="of this role alone")] = None,
    ) -> Rows:
        """Rows of a table, in key order."""
        try:
            found = await tables.page(table, prefix, limit, cursor, role)
        except BadCursor as error:
            raise Wrong(422, str(error), "cursor") from None
        except NoSuchTable as error:
            raise Wrong(404, str(error)) from None
        except NoSuchRole as error:
            raise Wrong(422, str(error), "role") from None
        except NotHeld as error:
            raise Wrong(503, str(error)) from None
        return Rows(
            table=table, rows=[_row(one) for one in found.rows], next_cursor=found.cursor,
            partitions=Partitions(open=found.open, of=found.of),
        )  # fmt: skip

    @routes.get("/tables/{table}/{key:path}", responses=missing)
    async def row(table: str, key: str, role: str | None = None, partition: int | None = None) -> Row:
        """One row, by its key as it is shown; of the first partition that has it, unless one is named."""
        try:
            found = await tables.row(table, key, role, partition)
        except NoSuchTable as error:
            raise Wrong(404, str(error)) from None
        except NoSuchRole as error:
            raise Wrong(422, str(error), "role") from None
        except NotHeld as error:
            raise Wrong(503, str(error)) from None
        if found is None:
            raise Wrong(404, f"there is no row {key} in {table}")
        return _row(found)


def _row(found: of_tables.Row) -> Row:
    return Row(
        key=found.key, role=found.role, partition=found.partition, value=found.value,
        also_in=list(found.also_in),
    )  # fmt: skip


def _found(desk: Desk, notification: str, field: str) -> History | None:
    try:
        return desk.notification(notification)
    except ValueError:
        raise Wrong(422, "not a notification id", field) from None
    except NotHeld as error:
        raise Wrong(503, str(error)) from None
