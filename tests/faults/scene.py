"""The scene of a fault loop: sinks, a workload, a feed, a watcher, and what an operator does meanwhile."""

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import tomli_w
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from agents import topics
from pipeline.demo.workload import DELIVERED, SOURCE, Sent, Shop, Workload
from pipeline.replay import Plan, ask, of_group, reading, resolve
from pipeline.settings import Settings
from pipeline.settings import load as load_settings
from pipeline.topics import ROLES, create, partitions
from schemas.ids import notification_id
from schemas.kinds import Channel, State
from schemas.template import Parts, Template
from tests.faults.verdict import Acked, Ledger, judge
from tests.faults.world import Feed, Sink, Watcher

ROOT = Path(__file__).parents[2]
SESSION_SECONDS = 6.0
SETTLE_SECONDS = 90.0
QUIET_SECONDS = 6.0
BUSY = 4
"""One webhook in so many is refused at first and waits for its retry."""
COORDINATOR_SECONDS = 30.0
"""How long a group may be without a coordinator: before its first member, and when the broker is back."""
REWOUND = {"core": (topics.NOTIFICATIONS + topics.EXPRESS, topics.NOTIFICATIONS), "email": ()}
"""The groups that are rewound, and what each writes beside `delivery-status`, with as many partitions."""
FEW_FLIP, MANY_FLIP = 17, 6
"""Of twenty plain users those from this one on change their minds."""
ONE_IN = 20
"""So many events are there to one that asks for a template which is not there yet."""


class Scene:
    """What the workers play in; `unmended` are the templates that are still missing."""

    def __init__(
        self, config: Path, settings: Settings, work: Workload, webhooks: Sink, mails: Sink,
        rnd: random.Random, unmended: list[str], flip_from: int,
    ) -> None:  # fmt: skip
        self.config, self.settings, self.work = config, settings, work
        self.webhooks, self.mails, self.unmended = webhooks, mails, unmended
        users = [user for n, user in enumerate(work.users) if n % 20 >= flip_from]
        self.flipping = [user for user in users if user.startswith("plain")]
        self.feed, self.watcher = Feed(settings, work, self.flipping, rnd), Watcher(settings)
        self.rewinds = 0

    @property
    def settled(self) -> int:
        """Events that have an outcome of every pair, roughly: notifications with no pair merely queued."""
        outcomes = self.watcher.seen.outcomes
        queued = {p[0] for p, s in outcomes.states.items() if s is State.QUEUED}
        return len({p[0] for p in outcomes.states} - queued) + len(outcomes.whole)

    @property
    def work_remains(self) -> bool:
        return self.feed.sent > self.settled or not self.feed.ended

    async def mend(self) -> None:
        """Publishes the next of the templates that are missing, if one is."""
        if self.unmended:
            name = self.unmended.pop(0)
            words = {
                Channel.EMAIL: Parts(subject="Late", text="{{ n }}"),
                Channel.WEBHOOK: Parts(text="{{ n }}"),
            }
            template = Template(name=name, versions={1: words})
            await self.feed.publish(topics.TEMPLATES, name.encode(), template.to_json())

    async def rewind(self, role: str) -> None:
        """Asks for a live rewind of a group to the earliest; notes first what was acked and what was out."""
        plan = await self._planned(role)
        acked = {
            (span.part.topic, span.part.partition): span.committed or 0 for span in plan.spans
        }  # before the ends: what was acked by then must be out by them
        count, told = partitions(self.settings, role), partitions(self.settings, "status")
        parts = [TopicPartition(name, n) for name in REWOUND[role] for n in range(count)]
        parts += [TopicPartition(topics.DELIVERY_STATUS, n) for n in range(told)]
        async with reading(self.settings, parts) as consumer:
            ends = await consumer.end_offsets(parts)
        out = {(part.topic, part.partition): end for part, end in ends.items()}
        self.watcher.seen.rewinds.append(Acked(acked, out))
        await ask(self.settings, plan)
        self.rewinds += 1

    async def _planned(self, role: str) -> Plan:
        """Where a group is to begin anew, as soon as its coordinator answers."""
        deadline = time.monotonic() + COORDINATOR_SECONDS
        while True:
            try:
                return await resolve(self.settings, of_group(self.settings, role, "earliest"))
            except KafkaError as error:
                if not error.retriable or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.2)

    async def keep_promises(self) -> None:
        """Mends whatever is left, and lets what had failed for it come up once more."""
        while self.unmended:
            await self.mend()
        await self.rewind("core")

    async def settle(self) -> None:
        """Returns when all has its outcome and nothing comes out any more, or when nothing more will."""
        watcher = self.watcher
        deadline = time.monotonic() + SETTLE_SECONDS
        watcher.last_news = time.monotonic()
        while time.monotonic() < deadline:
            await asyncio.sleep(0.5)
            watcher.check()
            quiet = time.monotonic() - watcher.last_news
            if quiet > QUIET_SECONDS * 3:
                return
            if quiet > QUIET_SECONDS and all(p in watcher.seen.outcomes.states for p in self.work.pairs):
                return

    def judge(self) -> tuple[dict[str, int], list[str]]:
        """The figures, and everything that is wrong."""
        webhooks = Ledger.read(self.webhooks.ledger, "webhook")
        mails = Ledger.read(self.mails.ledger, "email")
        figures, wrong = judge(self.work, self.watcher.seen, webhooks, mails, self.flipping)
        return {"events": len(self.work.events), "rewinds": self.rewinds, **figures}, wrong


@contextlib.asynccontextmanager
async def scene(
    bootstrap: str, directory: Path, seed: int, events: int, rnd: random.Random, *, late: int, flip_from: int
) -> AsyncIterator[Scene]:
    """A scene that is set: topics, people, sinks and watcher are there, and no event was sent yet.

    `late` is how many templates are missing at first, of which some of the events want one.
    """
    async with contextlib.AsyncExitStack() as stack:
        webhooks = Sink("webhook", directory / "webhooks", [f"server_error:keys={BUSY}"])
        mails = Sink("smtp", directory / "mails")
        for sink in (webhooks, mails):
            stack.push_async_callback(sink.stop)
            await sink.start()
        config = directory / "carillon.toml"
        config.write_text(tomli_w.dumps(_told(bootstrap, directory, webhooks.port, mails.port)))
        settings = load_settings(config)
        await create(settings)
        run, url = f"f{seed}", f"http://127.0.0.1:{webhooks.port}"
        work = Shop(seed, run, url, time.time_ns() // 1_000_000).make(events)
        unmended = [f"late-{n}" for n in range(late)]
        _ask_too_early(work, run, url, unmended)
        found = Scene(config, settings, work, webhooks, mails, rnd, unmended, flip_from)
        stack.push_async_callback(found.feed.stop)
        await found.feed.start()
        stack.push_async_callback(found.watcher.stop)
        found.watcher.start()
        yield found


def _ask_too_early(work: Workload, run: str, url: str, templates: list[str]) -> None:
    """Puts requests for templates that are not there among the events: each goes out once it is mended."""
    if not templates:
        return
    mixed: list[Sent] = []
    for n, sent in enumerate(work.events):
        mixed.append(sent)
        if n % ONE_IN:
            continue
        user, key = f"late-{n:05d}", f"{run}-late-{n}"
        work.users[user] = orjson.dumps(
            {"user_id": user, "email": f"{user}@example.com", "webhook_url": f"{url}/hooks/{user}"}
        )
        request = {
            "event_type": "shop.promised", "source": SOURCE, "user_id": user, "idempotency_key": key,
            "template_id": templates[n // ONE_IN % len(templates)], "variables": {"n": n},
            "channels": ["email", "webhook"],
        }  # fmt: skip
        mixed.append(Sent(user.encode(), orjson.dumps(request)))
        notification = notification_id(user, SOURCE, key, "direct")
        work.of_user[user] = [notification]
        for channel in (Channel.EMAIL, Channel.WEBHOOK):
            work.pairs[notification, channel] = DELIVERED
    work.events = mixed


def _told(bootstrap: str, directory: Path, webhook_port: int, smtp_port: int) -> dict[str, Any]:
    return {
        "state_dir": str(directory / "state"),
        "workflows_dir": str(ROOT / "workflows"),
        "templates_dir": str(ROOT / "templates"),
        "log_level": "warning",
        "kafka": {
            "bootstrap_servers": bootstrap, "session_timeout": SESSION_SECONDS,
            "partitions": dict.fromkeys(ROLES, 4),
        },
        "web": {"port": 0},
        "channels": {
            "email": {"providers": {"sink": {"kind": "smtp", "host": "127.0.0.1", "port": smtp_port}}},
            "sms": {"providers": {"outbox": {"kind": "outbox"}}},
            "push": {"providers": {"phones": {"kind": "outbox"}}},
            "chat": {"providers": {"rooms": {"kind": "outbox"}}},
            "web": {"providers": {"inbox": {"kind": "inbox"}}},
            "webhook": {"providers": {"hooks": {"kind": "webhook", "allow_internal": True}}},
        },
    }  # fmt: skip


def tell(line: str) -> None:
    """A line for whoever watches the loop."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
