"""The HTTP side of a process: health, metrics, the operators' API and pages; and uvicorn around it."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from agents.links import Links
from pipeline.attachments import Store
from pipeline.metrics import CONTENT_TYPE, Metrics
from pipeline.receipts.receiving import Receiving, Sender
from pipeline.web import (
    api,
    attachments,
    broadcasts,
    callbacks,
    console,
    operate_api,
    operate_console,
    problem,
    readers,
    repair_api,
    repair_console,
)
from pipeline.web.apart import Away
from pipeline.web.guard import BODY_BYTES, FAILED, Guard
from pipeline.web.operations import Operations
from pipeline.web.problem import Wrong
from pipeline.web.repairs import Repairs
from pipeline.web.rows import Tables
from pipeline.web.session import Sessions
from pipeline.web.tasks import Tasks
from pipeline.web.views import Desk

Readiness = Mapping[str, bool]
"""Role -> whether it is recovered, at work and committing."""

UNREAD = "There was an error parsing the body"
"""What the framework says of a body that is no text, or nested too deeply."""
HEAD_BYTES = 32 << 10
CONNECTIONS = 512
GRACE_SECONDS = 3


def create(
    desk: Desk,
    tables: Tables,
    tasks: Tasks,
    repairs: Repairs,
    *,
    operations: Operations,
    token: str,
    version: str,
    readiness: Callable[[], Readiness],
    metrics: Metrics,
    hosts: Collection[str] = (),
    secure: bool = False,
    clock: Callable[[], float] = time.time,
    cancel: broadcasts.Cancel | None = None,
    store: Store | None = None,
    receiving: Receiving | None = None,
    public_url: str = "",
    links: Links | None = None,
    send: Sender | None = None,
) -> FastAPI:
    """The application.

    `hosts` are names beside the loopback ones by which it may be asked; `secure` says that browsers
    reach it over https; `cancel` has every partition told that a broadcast is cancelled; `store` keeps
    what is uploaded to be attached; `receiving` takes what providers tell, at `public_url`; `links` reads
    what readers follow, and `send` tells the broker of it.
    """
    app = FastAPI(title="Carillon", version=version, docs_url=None, redoc_url=None, max_body_size=BODY_BYTES)
    sessions = Sessions(token, clock, secure=secure)
    pages = console.Pages(version, sessions)

    def refuse(request: Request) -> Response:
        if request.url.path.startswith("/console"):
            return pages.away(request)
        return problem.answer(401, "sign in with the operator token", headers={"www-authenticate": "Bearer"})

    app.include_router(api.router(desk, readiness, tables, tasks))
    app.include_router(repair_api.router(repairs))
    app.include_router(operate_api.router(desk, tasks, operations))
    app.include_router(console.router(desk, pages, sessions, readiness, tables, tasks, operations))
    app.include_router(repair_console.router(repairs, pages, sessions))
    app.include_router(operate_console.router(pages, operations))
    app.include_router(broadcasts.api_router(desk, cancel))
    if store is not None:
        app.include_router(attachments.router(store))
    app.include_router(broadcasts.console_router(desk, pages, sessions, cancel))
    if receiving is not None:
        app.include_router(callbacks.router(receiving, public_url, clock))
    if links is not None and send is not None:
        app.include_router(readers.router(links, send, metrics))
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    metrics.watch(
        readiness=readiness, pairs=lambda: desk.figures().counts, held=lambda: len(desk.held().rows)
    )
    _add_health(app, readiness, metrics)
    _add_errors(app, pages)
    # around the framework's own layers too: what they answer needs its headers, and nothing of theirs a log
    app.middleware_stack = Guard(app.build_middleware_stack(), sessions=sessions, refuse=refuse, hosts=hosts)
    return app


def _add_health(app: FastAPI, readiness: Callable[[], Readiness], metrics: Metrics) -> None:
    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("/console", 307)

    @app.get("/healthz")
    async def healthz() -> dict[str, bool]:
        """The process is alive."""
        return {"alive": True}

    @app.get("/readyz", responses={503: {"description": "Some role is not"}})
    async def readyz() -> Response:
        """Every role of this process is recovered and committing."""
        roles = dict(readiness())
        away = [role for role, ready in roles.items() if not ready]
        ready = bool(roles) and not away
        return JSONResponse({"ready": ready, "roles": roles, "waiting_for": away}, 200 if ready else 503)

    @app.get("/metrics", response_class=Response)
    async def prometheus() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE})


def _add_errors(app: FastAPI, pages: console.Pages) -> None:
    def is_page(request: Request) -> bool:
        return request.url.path.startswith("/console")

    @app.exception_handler(RequestValidationError)
    async def refused(request: Request, error: RequestValidationError) -> Response:
        if is_page(request):
            fields = ", ".join(str(found["loc"][-1]) for found in error.errors())
            return pages.missing(
                request, "That cannot be asked", f"A parameter makes no sense: {fields}.", 422
            )
        return problem.of_validation(error)

    @app.exception_handler(Wrong)
    async def wrong(request: Request, error: Wrong) -> Response:
        return problem.of_wrong(error)

    @app.exception_handler(Away)
    async def away(request: Request, error: Away) -> Response:
        if is_page(request):
            return pages.missing(request, "That cannot be told now", f"{error}.", 503)
        return problem.answer(503, str(error))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return PlainTextResponse(FAILED, 500)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        if error.status_code == 413 and not is_page(request):
            return problem.too_large(request.scope)
        if error.status_code == 400 and error.detail == UNREAD and not is_page(request):
            return problem.of_body(error.__cause__)
        if is_page(request):
            return pages.missing(
                request, "No such page", f"{request.url.path} leads nowhere.", error.status_code
            )
        return problem.answer(error.status_code, str(error.detail), headers=dict(error.headers or {}))


class Serving(uvicorn.Server):
    """uvicorn in the loop that is running, leaving the process's signals alone."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config)
        self._listener, self._up = listener, asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._up.set()

    async def begin(self) -> None:
        """Returns when requests are answered."""
        self._task = asyncio.create_task(self.serve([self._listener]), name="http")
        up = asyncio.create_task(self._up.wait())
        await asyncio.wait({self._task, up}, return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            up.cancel()
            self._task.result()

    async def stop(self) -> None:
        """Lets requests end that have begun, for a moment, then stops. Safe to repeat."""
        self.should_exit = True
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)


async def serve(app: FastAPI, host: str, port: int) -> tuple[Serving, int]:
    """Serves in the running loop; returns the server, to be stopped with `stop`, and the bound port.

    Raises OSError where the address cannot be had.
    """
    listener = socket.create_server(
        (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=CONNECTIONS
    )
    listener.setblocking(False)
    # h11 rather than httptools: it bounds the size of a request's head
    config = uvicorn.Config(
        app, http="h11", h11_max_incomplete_event_size=HEAD_BYTES, ws="none", lifespan="off", log_config=None,
        access_log=False, server_header=False, proxy_headers=False, limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )  # fmt: skip
    server = Serving(config, listener)
    await server.begin()
    bound: int = listener.getsockname()[1]
    return server, bound
