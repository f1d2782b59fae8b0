"""Runs roles in one process: side by side, each started again where it stops, with pages beside them."""

import asyncio
import contextlib
import logging
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from agents.catalogue import Catalogue
from pipeline import __version__, state_owner, topics
from pipeline.app import Roles
from pipeline.attachments import stores
from pipeline.broadcasts import cancel
from pipeline.catalogue import CatalogueReader, publish
from pipeline.control import ControlReader
from pipeline.engine import UnitApp
from pipeline.metrics import Metrics
from pipeline.receipts.line import Line
from pipeline.receipts.receiving import Receiving
from pipeline.receipts.secret import links
from pipeline.receipts.vendors import calling
from pipeline.settings import Settings, SettingsError
from pipeline.web import operations, server
from pipeline.web.repairs import Repairs
from pipeline.web.rows import Tables
from pipeline.web.tasks import Tasks
from pipeline.web.views import Held, StoreDesk, held_by

log = logging.getLogger(__name__)
FIRST_PAUSE = 0.5
MOST_PAUSE = 8.0
WATCH_SECONDS = 0.1
STEADY_SECONDS = 60.0


class Runner:
    """The roles of this process. `apps` holds the running App of each."""

    def __init__(self, settings: Settings, names: tuple[str, ...] = ()) -> None:
        self.settings, self.metrics, self.catalogue = settings, Metrics(), Catalogue()
        self.control = ControlReader(settings)
        self.roles = Roles(settings, self.catalogue, self.metrics, self.control.rewinds_of)
        self.names = names or self.roles.names()
        for name in self.names:
            self.roles.check(name)
        self.apps: dict[str, UnitApp] = {}
        self.reader = CatalogueReader(settings, self.catalogue)
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self) -> None:
        """Makes sure of topics, rules and templates, then starts every role."""
        Path(self.settings.state_dir).mkdir(parents=True, exist_ok=True)
        await state_owner.claim(self.settings, self.names)
        await topics.create(self.settings)
        await self.reader.start()
        await self.control.start()
        for name in await publish(self.settings, self.catalogue):
            log.info("published %s", name)
        await self._wait_for_rules()
        self._keepers = [asyncio.create_task(self._keep(name), name=f"keeper-{name}") for name in self.names]

    async def _wait_for_rules(self) -> None:
        """A core without any workflow would ignore everything."""
        if "core" not in self.names:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                while not self.catalogue.workflows:
                    await asyncio.sleep(0.02)
        if not self.catalogue.workflows:
            raise SettingsError(
                f"workflows_dir: no workflow in {self.settings.workflows_dir} or on the topic; "
                "core would ignore every event"
            )

    async def _keep(self, name: str) -> None:
        """Keeps one role running, with a growing pause between its starts."""
        pause = FIRST_PAUSE
        while not self._stopping:
            started = asyncio.get_running_loop().time()
            app = self.apps[name] = self.roles.build(name)
            try:
                await app.start()
                while not app.should_stop:
                    await asyncio.sleep(WATCH_SECONDS)
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("role %s failed", name)
            if self._stopping:
                return
            with contextlib.suppress(Exception):
                await app.stop()
            if asyncio.get_running_loop().time() - started > STEADY_SECONDS:
                pause = FIRST_PAUSE
            log.error("role %s stopped; starting it again in %.1f s", name, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, MOST_PAUSE)

    def readiness(self) -> dict[str, bool]:
        """Which roles are recovered and committing."""
        return {name: (app := self.apps.get(name)) is not None and app.ready for name in self.names}

    def running(self) -> dict[str, UnitApp | None]:
        """The App of each role as it runs now; None before its first start."""
        return {name: self.apps.get(name) for name in self.names}

    def held(self) -> dict[str, Held]:
        """What can be read now of each role's store."""
        return {name: held_by(app) for name, app in self.running().items() if app is not None}

    async def wait_until_ready(self, seconds: float) -> None:
        """Returns when every role is ready; raises TimeoutError, which names those that are not."""
        try:
            async with asyncio.timeout(seconds):
                while not all(self.readiness().values()):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            away = [name for name, ready in self.readiness().items() if not ready]
            raise TimeoutError(f"not ready after {seconds:.0f} s: {', '.join(away)}") from None

    async def stop(self) -> None:
        """Drains and stops every role."""
        self._stopping = True
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*[app.stop() for app in self.apps.values()], return_exceptions=True)
        await asyncio.gather(*[pool.close() for pool in self.roles.pools.values()], return_exceptions=True)
        await self.roles.attached.close()
        await asyncio.gather(self.reader.stop(), self.control.stop())


def operator_token(settings: Settings) -> str:
    """The token for the operator pages: the setting, else a new one."""
    given = settings.operator_token
    return given.get_secret_value() if given else secrets.token_urlsafe(18)


@contextlib.asynccontextmanager
async def until_told(on_stop: Callable[[], None] = lambda: None) -> AsyncIterator[asyncio.Event]:
    """An event that is set at SIGINT or SIGTERM."""
    told, loop = asyncio.Event(), asyncio.get_running_loop()

    def tell() -> None:
        on_stop()
        told.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, tell)
    try:
        yield told
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def serve(settings: Settings, wanted: tuple[str, ...] = ()) -> None:
    """Runs roles and pages until SIGINT or SIGTERM."""
    runner = Runner(settings, wanted)
    async with until_told() as told, stores.kept(settings) as store:
        try:
            await runner.start()
            token = operator_token(settings)
            desk = StoreDesk(lambda: runner.apps.get("status"), Path(settings.state_dir))
            tasks = Tasks.of(runner.running, settings, runner.roles.pools)
            public = urlsplit(settings.web.public_url)
            line = Line(settings)
            app = server.create(
                desk,
                Tables(runner.held),
                tasks,
                Repairs.of(settings),
                operations=operations.OnKafka(settings, runner.catalogue),
                token=token,
                version=__version__,
                readiness=runner.readiness,
                metrics=runner.metrics,
                hosts=(public.hostname,) if public.hostname else (),
                secure=public.scheme == "https",
                cancel=partial(cancel, settings),
                store=store,
                receiving=Receiving(calling(settings), line.send, runner.metrics),
                public_url=settings.web.public_url,
                links=links(settings),
                send=line.send,
            )
            serving, port = await server.serve(app, settings.web.host, settings.web.port)
            here = "127.0.0.1" if settings.web.host in ("0.0.0.0", "::") else settings.web.host
            address = settings.web.public_url.rstrip("/") or f"http://{here}:{port}"
            sys.stderr.write(f"console: {address}/console?token={token}\n")
            try:
                await told.wait()
            finally:
                await serving.stop()
                await tasks.close()
                await line.close()
        finally:
            await runner.stop()
