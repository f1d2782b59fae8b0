"""Runs the demo: a broker, simulated providers, all roles, a fresh workload, and the check of what came."""

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from agents import topics
from pipeline import __version__
from pipeline.attachments import stores
from pipeline.broadcasts import cancel
from pipeline.broker import EmbeddedKafka
from pipeline.demo import oracle
from pipeline.demo.vendors import Vendors, told
from pipeline.demo.workload import Shop, Workload
from pipeline.providers import outbox
from pipeline.receipts.line import Line
from pipeline.receipts.receiving import Receiving
from pipeline.receipts.secret import links
from pipeline.receipts.vendors import calling
from pipeline.run import Runner, operator_token, until_told
from pipeline.settings import Settings, given
from pipeline.topics import client_options, counts, create
from pipeline.web import operations, server
from pipeline.web.repairs import Repairs
from pipeline.web.rows import Tables
from pipeline.web.tasks import Tasks
from pipeline.web.views import StoreDesk
from schemas.ids import partition_of, user_hash
from schemas.message import Message
from schemas.status import Status

READY_SECONDS = 60.0
STALLED_SECONDS = 30.0
QUIET_SECONDS = 1.0
SHOWN_PROBLEMS = 10
GRACE_SECONDS = 2.0
"""For a user who is not known: nobody wants to look at a minute of nothing."""


class DemoFailed(Exception):
    """Something came out otherwise than predicted; the message names it."""


class Demo:
    """One run. `tell` gets the lines of progress."""

    def __init__(self, events: int, seed: int, port: int, *, stay: bool, quiet: bool) -> None:
        self.events, self.seed, self.port, self.stay, self.quiet = events, seed, port, stay, quiet
        self.seen = oracle.Outcomes()
        self.last_news = time.monotonic()

    def tell(self, line: str, *, same_line: bool = False) -> None:
        """Shows progress on standard error."""
        if not self.quiet:
            end = "" if same_line else "\n"
            start = "\r\033[K" if sys.stderr.isatty() else ""
            if same_line and not start:
                return
            sys.stderr.write(f"{start}{line}{end}")
            sys.stderr.flush()

    async def run(self) -> dict[str, Any]:
        """Runs it and returns the figures. Raises DemoFailed."""
        async with contextlib.AsyncExitStack() as stack:
            state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carillon-demo-")))
            bootstrap, prefix = self._broker(stack)
            port = _free_port(self.port)
            public_url = f"http://127.0.0.1:{port}"
            vendors = Vendors(self.seed, public_url)
            await stack.enter_async_context(vendors.fleet)
            self.tell(f"simulating providers: {vendors.fleet.page_url}")
            settings = _settings(bootstrap, prefix, state, vendors.channels(), public_url)
            runner = Runner(settings)
            stack.push_async_callback(runner.stop)
            self.tell("starting the roles: " + ", ".join(runner.names))
            now, hooks, browsers = time.time_ns() // 1_000_000, vendors.url("webhook"), vendors.url("webpush")
            load = Shop(self.seed, f"{now // 1000:x}", hooks, now, browsers).make(self.events)
            await create(settings)
            await self._send_people(settings, load)
            await runner.start()
            await runner.wait_until_ready(READY_SECONDS)
            token = operator_token(settings)
            await self._pages(stack, settings, runner, token, port)
            self.tell(f"sending {self.events} events")
            watching = asyncio.create_task(self._watch(settings))
            stack.callback(watching.cancel)
            await self._send_events(settings, load)
            await self._until_settled(load, watching)
            effects = vendors.effects() + _in_outbox(state)
            figures = oracle.figures(load, self.seen, effects, self.events)
            self._report(figures, f"{public_url}/console?token={token}", vendors.fleet.page_url)
            self._check(load, figures)
            if self.stay:
                self.tell("still serving; Ctrl-C ends it")
                async with until_told() as told:
                    await told.wait()
            return figures

    def _broker(self, stack: contextlib.AsyncExitStack) -> tuple[str, str]:
        given_servers = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "")
        if given_servers:
            self.tell(f"using the Kafka at {given_servers}")
            return given_servers, f"carillon-demo-{int(time.time()):x}."
        started = time.monotonic()
        self.tell("starting an embedded Kafka 4.3.1 (its first start fetches 46 MB)")
        kafka = stack.enter_context(EmbeddedKafka())
        self.tell(f"Kafka answers at {kafka.bootstrap_servers} after {time.monotonic() - started:.1f} s")
        return kafka.bootstrap_servers, ""

    async def _pages(
        self, stack: contextlib.AsyncExitStack, settings: Settings, runner: Runner, token: str, port: int
    ) -> None:
        desk = StoreDesk(lambda: runner.apps.get("status"), Path(settings.state_dir))
        tasks = Tasks.of(runner.running, settings, runner.roles.pools)
        stack.push_async_callback(tasks.close)
        store = await stack.enter_async_context(stores.kept(settings))
        line = Line(settings)
        stack.push_async_callback(line.close)
        app = server.create(
            desk, Tables(runner.held), tasks, Repairs.of(settings),
            operations=operations.OnKafka(settings, runner.catalogue), token=token, version=__version__,
            readiness=runner.readiness, metrics=runner.metrics, cancel=partial(cancel, settings),
            store=store, receiving=Receiving(calling(settings), line.send, runner.metrics),
            public_url=settings.web.public_url, links=links(settings), send=line.send,
        )  # fmt: skip
        serving, _ = await server.serve(app, settings.web.host, port)
        stack.push_async_callback(serving.stop)

    async def _send_people(self, settings: Settings, load: Workload) -> None:
        prefix = settings.kafka.topic_prefix
        async with _producer(settings) as producer:
            for name, rows in ((topics.USERS, load.users), (topics.PREFERENCES, load.preferences)):
                sent = [
                    await producer.send(prefix + name, value, key=user.encode())
                    for user, value in rows.items()
                ]
                await asyncio.gather(*sent)
            count = counts(settings)[topics.DEVICES]
            sent = [
                await producer.send(
                    prefix + topics.DEVICES, value, key=f"{user}\0{token}".encode(),
                    partition=partition_of(user_hash(user), count),
                )
                for (user, token), value in load.devices.items()
            ]  # fmt: skip
            await asyncio.gather(*sent)

    async def _send_events(self, settings: Settings, load: Workload) -> None:
        prefix = settings.kafka.topic_prefix
        async with _producer(settings) as producer:
            sent = [
                await producer.send(prefix + topics.EVENTS + event.lane, event.value, key=event.key)
                for event in load.events
            ]
            await asyncio.gather(*sent)

    async def _watch(self, settings: Settings) -> None:
        """Reads the public stream of outcomes and the dead letters."""
        prefix = settings.kafka.topic_prefix
        dead = {prefix + name: channel for channel, name in topics.DEAD_MESSAGES.items()}
        names = [prefix + topics.DELIVERY_STATUS, prefix + topics.DEAD_EVENTS, *dead]
        consumer: Any = AIOKafkaConsumer(
            *names,
            **client_options(settings),
            group_id=None,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=50,
        )
        await consumer.start()
        try:
            while True:
                fetched = await consumer.getmany(timeout_ms=100)
                for part, records in fetched.items():
                    self.last_news = time.monotonic()
                    for record in records:
                        if part.topic == names[0]:
                            self.seen.tell(Status.from_json(record.value), record.timestamp)
                        elif part.topic == names[1]:
                            self.seen.dead_events[record.value] += 1
                        else:
                            message = Message.from_json(record.value)
                            self.seen.dead_messages.add((message.id, str(message.channel)))
        finally:
            await consumer.stop()

    async def _until_settled(self, load: Workload, watching: asyncio.Task[None]) -> None:
        """Waits until the prediction has come true and all is quiet, or nothing comes any more."""
        while True:
            await asyncio.sleep(0.2)
            if watching.done():
                watching.result()
            quiet = time.monotonic() - self.last_news
            self.tell(f"{len(self.seen.latencies)} delivered", same_line=True)
            if quiet > STALLED_SECONDS or (quiet > QUIET_SECONDS and not oracle.problems(load, self.seen)):
                self.tell(f"{len(self.seen.latencies)} delivered")
                return

    def _report(self, figures: dict[str, Any], console: str, providers: str) -> None:
        if self.quiet:
            return
        rows = {name: value for name, value in figures.items() if not isinstance(value, dict)}
        width = max(map(len, rows))
        lines = []
        for name, value in rows.items():
            lines.append(f"  {name.replace('_', ' '):<{width}}  {value:>10,}")
            if name == "delivered":
                of = figures["by_channel"].items()
                lines += [f"  {f'  by {channel}':<{width}}  {count:>10,}" for channel, count in of]
        told = "\n".join(lines)
        self.tell(f"\n{told}\n\n  console    {console}\n  providers  {providers}\n")

    def _check(self, load: Workload, figures: dict[str, Any]) -> None:
        found = oracle.problems(load, self.seen)
        if found or figures["sent_twice"]:
            shown = "\n  ".join(found[:SHOWN_PROBLEMS])
            raise DemoFailed(f"{len(found)} outcomes differ from the prediction\n  {shown}")


def _in_outbox(state: Path) -> Counter[tuple[str, str, str]]:
    """How often each target of a pair took effect in the development outbox."""
    return Counter(
        told(stored.key, stored.channel) for stored in outbox.read(state / outbox.FILE, limit=outbox.ROWS)
    )


def _settings(
    bootstrap: str, prefix: str, state: Path, channels: dict[str, Any], public_url: str = ""
) -> Settings:
    """The demo's own settings: nothing of the user's, so that nothing real is ever called."""
    here = Path(__file__).parent
    samples = here.parents[1] if (here.parents[1] / "workflows").is_dir() else here.parent / "samples"
    return given(
        state_dir=state,
        workflows_dir=samples / "workflows",
        templates_dir=samples / "templates",
        segments_dir=samples / "segments",
        kafka={"bootstrap_servers": bootstrap, "topic_prefix": prefix},
        core={"unknown_user_grace": GRACE_SECONDS},
        web={"public_url": public_url},
        channels=channels,
    )


@contextlib.asynccontextmanager
async def _producer(settings: Settings) -> Any:
    producer = AIOKafkaProducer(**client_options(settings), acks="all", linger_ms=5, enable_idempotence=True)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


def _free_port(wanted: int) -> int:
    """That port, or another one where it is taken: vendors must know it before anything listens there."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise DemoFailed("no port is free")


def as_line(figures: dict[str, Any]) -> str:
    """The figures as one line of JSON."""
    return orjson.dumps(figures).decode()
