"""Roles for the pages to look at: rows as their stages write them, and tasks as the engine has them."""

from dataclasses import dataclass, field
from typing import Any

from faust.types import TP

from pipeline.engine.queues import Queue
from schemas.ids import notification_id
from schemas.kinds import Channel, State
from schemas.message import Stop
from schemas.report import Report
from tables import (
    broadcasts,
    caps,
    claims,
    digests,
    effects,
    people,
    reports,
    stops,
    suppressed,
    waits,
    watches,
)
from tables.broadcasts import Cursor
from tables.claims import Claim, Device, Instead, Manner, Origin, Pinned
from tables.digests import Gathered
from tables.effects import Attempt, Reopening, Result
from tables.reports import Kept
from tables.waits import Wait
from tables.watches import Watch
from tests.browser.desk import NOON, SOURCE, DictRows, Office

HOOK = "https://hooks.example/services/T0/SECRET"


def found_id(n: int = 1, user: str = "ada") -> str:
    """The id of the n-th notification."""
    return notification_id(user, SOURCE, f"order-{n}", "orders")


def a_report(notification: str) -> Report:
    """That it arrived."""
    return Report(
        notification_id=notification, channel=Channel.EMAIL, target_id="0a1b2c", step="plan",
        state=State.DELIVERED, at=NOON, provider="main",
    )  # fmt: skip


def a_claim(user: str, n: int) -> Claim:
    """A claim with every field filled: of a step that was put off after some of it had gone out."""
    pinned = (
        Pinned(Channel.WEBHOOK, HOOK, "daily_cap", "3 of 3"),
        Pinned(Channel.PUSH, f"t-{n}", "undelivered", "410", Device("web", {"auth": "SECRET"})),
    )
    return Claim(
        Origin("notifications", n % 2, n, NOON), "events-0-1", 7, 1, pinned, "template_failed",
        Instead(State.DIGESTED, "in_digest", "hourly", NOON + 60_000, found_id(9, user), 1, True, True),
        (("category", "transactional", "allowed"),), Manner("de", "Europe/Berlin", "b"),
    )  # fmt: skip


def stock(office: Office, users: int = 3) -> None:
    """Fills core and email, in partitions 0 and 1."""
    core = office.others["core"] = {0: DictRows(), 1: DictRows()}
    email = office.others["email"] = {0: DictRows(), 1: DictRows()}
    for n in range(users):
        user, rows, sent = f"user-{n:03d}", core[n % 2], email[n % 2]
        found = found_id(n, user)
        person = b'{"user_id":"%s","email":"%s@example.com","slack":"%s"}' % (
            user.encode(), user.encode(), HOOK.encode(),
        )  # fmt: skip
        people.upsert(rows, people.USERS + user.encode(), NOON + n, person)
        people.upsert(rows, people.PREFERENCES + user.encode(), NOON + n, b'{"channels":{"sms":false}}')
        device = b'{"user_id":"u","token":"t-%d","platform":"web","keys":{"auth":"SECRET"}}' % n
        people.upsert(rows, people.DEVICES + user.encode() + b"\0t-%d" % n, NOON, device)
        caps.raise_by_one(rows, caps.key(user, NOON // caps.DAY), n)
        claims.put(rows, claims.key(found, "plan"), a_claim(user, n))
        effect = effects.effect(found, "plan", "0a1b2c")
        effects.put_attempt(sent, effect, Attempt(1, "key", "hash", "main", NOON))
        effects.put_result(sent, effect, Result(1, "sent", NOON + 40, "main", "m-1"))
        effects.put_reopening(sent, effect, Reopening(1, "dlq-email-0-1", 1, "email-notifications-0-9"))
        record = b'{"id":"%s","target":"%s","text":"Hello"}' % (found.encode(), HOOK.encode())
        suppressed.tell(rows, user, suppressed.name(Channel.EMAIL, "0a1b2c"), "bounced", NOON)
        suppressed.tell_number(rows, "0a1b2c0a1b2c", "unsubscribed", NOON)
        stops.put_closed(
            rows, people.USERS + user.encode(), stops.Closed(NOON, 7, ((Channel.EMAIL, "user", ()),))
        )
        stops.put(sent, Stop(kind="user", user_id=user, channel=Channel.EMAIL, at=NOON))
        stops.put(sent, Stop(kind="notification", user_id=user, channel=Channel.EMAIL, at=NOON, id=found))
        digests.put(rows, digests.key(user, "orders", ""), Gathered(found, 1, 20))
        digests.put_item(rows, found, 0, b'{"id":"%s","data":{}}' % found.encode())
        watches.put(rows, watches.key(found, "plan"), Watch(b"{}", ("email:0a1b2c",), NOON))
        people.await_user(rows, user, effects.effect(found, "resume:1", ""))
        waits.put(sent, effect, NOON + n * 60_000, Wait("email-notifications", user.encode(), record, 3))
        progress = office.broadcast(f"order-{n}")
        broadcasts.put_cursor(rows, Cursor(1, progress, (user,)))
        reports.put(office.rows[n % 2], found, [Kept(a_report(found), "0-1", NOON, 1)])
        for own in (rows, sent):
            own.put(b"\0epoch", b"3")


@dataclass
class FakeTask:
    """What the pages read of an engine's task."""

    epoch: int = 3
    began: float | None = None
    abandoned: bool = False
    closed: bool = False
    runner: Any = "at work"
    by_topic: dict[str, Queue] = field(default_factory=dict)


@dataclass
class FakeConsumer:
    assigned: int | None = 1
    draining: bool = False
    tasks: dict[int, FakeTask] = field(default_factory=dict)
    done: dict[TP, int] = field(default_factory=dict)
    kept: dict[TP, int] = field(default_factory=dict)
    full: set[TP] = field(default_factory=set)
    numbers: set[int] = field(default_factory=set)

    def assignment(self) -> set[TP]:
        return {TP("store-changelog", number) for number in self.numbers}


@dataclass
class FakeApp:
    reads: list[str] = field(default_factory=lambda: ["events-express", "events"])
    partitions: int = 4
    started: bool = True
    consumer: FakeConsumer = field(default_factory=FakeConsumer)


def at_work(office: Office, role: str = "core", number: int = 0) -> FakeApp:
    """A role with one task at work: 10 done and committed of 12 in one topic, nothing known of the other."""
    app = office.apps[role] = FakeApp()
    consumer = app.consumer
    consumer.numbers = {number}
    consumer.tasks[number] = FakeTask(by_topic={topic: Queue(TP(topic, number)) for topic in app.reads})
    consumer.done[TP("events", number)] = 11
    consumer.kept[TP("events", number)] = 10
    office.ends["events", number] = 12
    return app
