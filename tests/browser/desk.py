"""A desk over dicts: statuses are folded into it as the status role does, and the pages read it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from agents.catalogue import Catalogue
from pipeline.attachments import Store
from pipeline.broadcasts import NotCancelled
from pipeline.explaining import Found
from pipeline.metrics import Metrics
from pipeline.providers.outbox import Outbox
from pipeline.web import server
from pipeline.web.operations import Unreachable
from pipeline.web.rows import Tables
from pipeline.web.story import Asked
from pipeline.web.tasks import Ends, Tasks, Topic
from pipeline.web.views import Held, RowsDesk
from schemas.broadcast import Progress, Stage
from schemas.ids import broadcast_id, hash_in, masked, notification_id, partition_of, target_id
from schemas.kinds import Channel, Priority, State
from schemas.message import ChannelContent, Contents, Message
from schemas.notification import EventRef
from schemas.status import Status, Verdict, rfc3339
from schemas.template import Template
from tables import broadcasts, history
from tables.history import History
from tests.browser.repairs import Groups, Shelf, repairs

TOKEN = "correct horse battery"
PARTITIONS = 4
SOURCE = "https://shop.example"
NOON = 1_790_000_000_000
"""Broker time in ms."""

XSS = (
    "<script>document.title='pwned'</script>",
    '"><img src=x onerror="document.title=\'pwned\'">',
    "' autofocus onfocus='document.title=`pwned`",
    "javascript:document.title='pwned'",
    "</title></textarea></style><svg/onload=document.title='pwned'>",
    "{{ 7*7 }}{% raw %}${7*7}",
    "<iframe srcdoc='<script>parent.document.title=\"pwned\"</script>'>",
    "a/../b?c=d&e#f%2e%2e;\N{RIGHT-TO-LEFT OVERRIDE}\N{SNOWMAN}",
)
"""What somebody may call themselves who wishes us ill. None may run, or be anything but text."""


class DictRows:
    """Rows in a dict."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self.rows[key] = value

    def delete(self, key: bytes) -> None:
        self.rows.pop(key, None)

    def scan(self, prefix: bytes, *, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        found = sorted(key for key in self.rows if key.startswith(prefix) and (after is None or key > after))
        return ((key, self.rows[key]) for key in found)


@dataclass
class Outside:
    """Operations that note what they are asked for; `away`: the broker does not answer."""

    catalogue: Catalogue = field(default_factory=Catalogue)
    dead: list[dict[str, Any]] = field(default_factory=list)
    cancelled: list[tuple[str, str, EventRef | None]] = field(default_factory=list)
    away: bool = False

    async def letters(self, asked: Asked, known: Sequence[History]) -> Found:
        return Found(self.dead, not self.away)

    async def cancel(self, id: str, user_id: str, event: EventRef | None) -> None:
        self._reach()
        self.cancelled.append((id, user_id, event))

    async def publish(self, template: Template) -> None:
        self._reach()
        self.catalogue.set_template(template)

    def _reach(self) -> None:
        if self.away:
            raise Unreachable("kafka: KafkaConnectionError")


@dataclass
class Office:
    """A desk, what it stands on, and the application over it."""

    outbox_file: Path | None = None
    hosts: tuple[str, ...] = ()
    secure: bool = False
    now: float = NOON / 1000
    clocks_stand: bool = True
    of: int = PARTITIONS
    rows: dict[int, DictRows] = field(default_factory=lambda: {n: DictRows() for n in range(PARTITIONS)})
    ready: dict[str, bool] = field(default_factory=lambda: {"core": True, "email": True, "status": True})
    metrics: Metrics = field(default_factory=Metrics)

    others: dict[str, dict[int, DictRows]] = field(default_factory=dict)
    """The rows of other roles, by partition."""
    cancelled: list[str] = field(default_factory=list)
    broker_is_away: bool = False
    apps: dict[str, Any] = field(default_factory=dict)
    ends: dict[Topic, int] = field(default_factory=dict)
    outside: Outside = field(default_factory=Outside)
    shelf: Shelf = field(default_factory=Shelf)
    groups: Groups = field(default_factory=Groups)
    store: Store | None = None

    def __post_init__(self) -> None:
        self.desk = RowsDesk(lambda: Held(dict(self.rows), self.of), self.outbox_file, clock=self.clock)
        self.tables = Tables(self.held)
        self.tasks = Tasks(lambda: self.apps, Ends(self.fetch_ends), self.clock)
        self.app: FastAPI = server.create(
            self.desk, self.tables, self.tasks, repairs(self.shelf, self.groups, self.clock),
            operations=self.outside, token=TOKEN, version="0.0.1-test", readiness=lambda: self.ready,
            metrics=self.metrics, hosts=self.hosts, secure=self.secure, clock=self.clock, cancel=self.cancel,
            store=self.store,
        )  # fmt: skip

    async def cancel(self, broadcast: str) -> None:
        if self.broker_is_away:
            raise NotCancelled("the broker did not take it")
        self.cancelled.append(broadcast)

    def broadcast(self, event: str = "news", **fields: Any) -> Progress:
        """Folds in what one partition says of a broadcast, and returns that."""
        found = broadcast_id(SOURCE, event, "orders")
        given: dict[str, Any] = {
            "broadcast": found, "partition": 0, "partitions": 2, "turn": 0, "stage": Stage.RUNNING,
            "told": 1_200, "looked_at": 3_000, "undecided": 0, "segment": "pro",
            "workflow": "orders", "event_at": NOON, "at": NOON + 40,
            "event": EventRef(source=SOURCE, id=event, type="order.placed"),
        }  # fmt: skip
        told = Progress(**given | fields)
        broadcasts.tell(self._of(found), told)
        return told

    def clock(self) -> float:
        return self.now

    def held(self) -> dict[str, Held]:
        others = {role: Held(dict(rows), self.of) for role, rows in self.others.items()}
        return {**others, **({"status": Held(dict(self.rows), self.of)} if self.of else {})}

    async def fetch_ends(self, wanted: set[Topic]) -> dict[Topic, int]:
        return {one: self.ends[one] for one in wanted if one in self.ends}

    def tell(
        self,
        state: State,
        *,
        user: str = "ada",
        event: str = "order-1",
        source: str = SOURCE,
        kind: str = "order.placed",
        channel: Channel | None = Channel.EMAIL,
        address: str = "ada@example.com",
        at: int = NOON,
        took: int = 40,
        why: tuple[Verdict, ...] | None = None,
        **more: Any,
    ) -> str:
        """Folds one status in; returns the notification's id."""
        found = notification_id(user, source, event, "orders")
        target: dict[str, Any] = (
            {"target": masked(address), "target_id": target_id(address)} if channel else {}
        )
        status = Status(
            notification_id=found, user_id=user, channel=channel, state=state, at=rfc3339(at + took),
            event_at=at, event=EventRef(source=source, id=event, type=kind), workflow="orders",
            category="transactional", priority=Priority.NORMAL, why=why, **target, **more,
        )  # fmt: skip
        history.tell(self._of(found), status, at + took)
        return found

    def write(self, notification: str, user: str, **channels: ChannelContent) -> None:
        """Keeps rendered content."""
        by_channel = {Channel(name): content for name, content in channels.items()}
        contents = Contents(notification_id=notification, user_id=user, channels=by_channel)
        history.keep_contents(self._of(notification), contents)

    def lose(self, notification: str) -> None:
        """Another process holds the partition of this notification from now on."""
        del self.rows[partition_of(hash_in(notification), PARTITIONS)]

    def _of(self, notification: str) -> DictRows:
        return self.rows[partition_of(hash_in(notification), PARTITIONS)]


def fill(office: Office, events: int = 300) -> None:
    """Several channels, hundreds of notifications, every group of states."""
    steps = [*[State.DELIVERED] * 12, *[State.SENT] * 6, State.FAILED, State.UNKNOWN, State.SUPPRESSED]
    now = int(office.now * 1000)
    for n in range(events):
        user, at = f"customer-{n % 40:04d}", now - (n * 11_000) % 3_500_000 - 1_000
        for m, channel in enumerate(list(Channel)[: 1 + n % 6]):
            told: dict[str, Any] = {"user": user, "event": f"order-{n}", "channel": channel, "at": at,
                                    "address": f"{user}@example.com"}  # fmt: skip
            state = steps[(n * 7 + m * 3) % len(steps)]
            if state is State.SUPPRESSED:
                office.tell(state, **told, reason="channel_opted_out")
                continue
            office.tell(State.QUEUED, **told, took=5)
            office.tell(state, **told, took=12 + (n * 37) % 240, attempt=1, provider="main")


def story(office: Office) -> str:
    """One notification with everything that can be told of one."""
    why = (
        Verdict(rule="workflow", saw="order.placed", verdict="orders"),
        Verdict(rule="email", verdict="queued"),
    )
    found = office.tell(State.QUEUED, took=5, why=why, variant="b")
    office.tell(State.RETRYING, took=60, attempt=1, provider="main", reason="503")
    office.tell(State.SENT, took=1_300, attempt=2, provider="main", provider_message_id="m-1")
    office.tell(
        State.SUPPRESSED, channel=Channel.SMS, address="+15550000001", reason="daily_cap", detail="3 of 3"
    )
    office.tell(State.DUPLICATE, channel=None, took=2_000, reason="already_planned")
    office.write(
        found, "ada", email=ChannelContent(subject="Hello", text="Hello Ada"), sms=ChannelContent(text="Hi")
    )
    return found


async def drop(box: Outbox, n: int, **fields: Any) -> None:
    """Puts a message in the outbox."""
    values = {
        "id": notification_id("ada", SOURCE, f"order-{n}", "orders"), "step": "plan", "user_id": "ada",
        "channel": "email",
        "target": "ada@example.com", "target_id": "t", "subject": f"Order {n}",
        "text": f"Thank you for order {n}", "event_at": NOON, "at": NOON + n,
        "event": {"source": SOURCE, "id": f"order-{n}", "type": "order.placed"},
        "category": "transactional", "priority": "normal", "doubt": "at_least_once", **fields,
    }  # fmt: skip
    await box.send(Message.from_dict(values), f"key-{n}")
