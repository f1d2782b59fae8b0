"""How far the tasks of each role in this process are: states, queues, positions and lag."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from pipeline.pool import Pool
from pipeline.settings import Settings
from pipeline.topics import client_options
from pipeline.web.providers import ProviderState, states
from schemas.kinds import Channel

log = logging.getLogger(__name__)
EVERY_SECONDS = 1.0
"""How often ends are asked for, at the most, and only while somebody looks."""
ANSWER_SECONDS = 3.0
PATIENCE_SECONDS = 0.5
"""How long a look waits for an answer that is under way."""
METADATA_MS = 15
"""aiokafka learns of topics one by one, with this pause after each; its own would make it seconds."""
KNOWN_SECONDS = 10.0
"""How long ends count as known."""

Topic = tuple[str, int]
"""A topic's name and the number of a partition."""


class TaskState(StrEnum):
    """What a task is about. *opening*: its store is being restored, or its epoch raised."""

    OPENING = "opening"
    RUNNING = "running"
    DRAINING = "draining"
    ABANDONED = "abandoned"
    CLOSED = "closed"


class Position(NamedTuple):
    """One partition that a task reads; None where it is unknown.

    `done` is the offset behind what is finished, `committed` where a restart would begin, `end` where the
    partition ended lately, and `lag` the offsets from `committed` to there (some may hold no record).
    """

    topic: str
    queued: int
    queued_bytes: int
    paused: bool
    done: int | None
    committed: int | None
    end: int | None

    @property
    def lag(self) -> int | None:
        return None if self.end is None or self.committed is None else max(self.end - self.committed, 0)


class Number(NamedTuple):
    """One partition number of a role. `busy_since` is a Unix time in seconds, None while nothing goes on.

    `calls` are those to the outside that have not ended.
    """

    number: int
    state: TaskState
    epoch: int | None
    busy_since: float | None
    calls: int
    positions: tuple[Position, ...]

    @property
    def lag(self) -> int | None:
        return total(position.lag for position in self.positions)


class Role(NamedTuple):
    """One role: the partition numbers that this process has of it, `of` in all."""

    name: str
    of: int
    numbers: tuple[Number, ...]

    @property
    def lag(self) -> int | None:
        return total(number.lag for number in self.numbers)


def total(lags: Iterable[int | None]) -> int | None:
    """The sum, None where one of them is unknown."""
    known = list(lags)
    return None if None in known else sum(lag for lag in known if lag is not None)


Fetch = Callable[[set[Topic]], Awaitable[Mapping[Topic, int]]]


class Ends:
    """Where partitions end, asked for in the background, and never twice at a time."""

    def __init__(self, fetch: Fetch, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch, self._clock = fetch, clock
        self._known: Mapping[Topic, int] = {}
        self._asked = self._answered = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    async def look(self, wanted: set[Topic]) -> Mapping[Topic, int]:
        """What is known, after a moment's patience; what is not known is left out."""
        if self._asking is None and wanted and self._clock() - self._asked >= EVERY_SECONDS:
            self._asked = self._clock()
            self._asking = asyncio.create_task(self._ask(set(wanted)), name="ends")
        if self._asking is not None:
            await asyncio.wait({self._asking}, timeout=PATIENCE_SECONDS)
        return self._known if self._clock() - self._answered < KNOWN_SECONDS else {}

    async def _ask(self, wanted: set[Topic]) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                self._known = await self._fetch(wanted)
            self._answered = self._clock()
        except (KafkaError, TimeoutError, OSError) as error:
            log.debug("the ends of partitions are unknown: %s", type(error).__name__)
        finally:
            self._asking = None

    async def close(self) -> None:
        """Gives up what is asked for."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)


class EndsReader:
    """Asks the broker over a connection of its own, so that no fetch and no commit waits for it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumer: Any = None

    async def fetch(self, wanted: set[Topic]) -> Mapping[Topic, int]:
        """Where partitions end. Raises KafkaError."""
        if self._consumer is None:
            consumer = AIOKafkaConsumer(
                **client_options(self._settings), group_id=None, retry_backoff_ms=METADATA_MS
            )
            try:
                await consumer.start()
            except BaseException:
                await consumer.stop()
                raise
            self._consumer = consumer
        found = await self._consumer.end_offsets([TopicPartition(*one) for one in wanted])
        return {(tp.topic, tp.partition): end for tp, end in found.items()}

    async def close(self) -> None:
        """Closes the connection."""
        if self._consumer is not None:
            await self._consumer.stop()


@dataclass
class Tasks:
    """The tasks of this process; `apps` gives the App of each role as it runs now, or None."""

    apps: Callable[[], Mapping[str, Any]]
    ends: Ends
    clock: Callable[[], float] = time.time
    reader: EndsReader | None = None
    pools: Mapping[Channel, Pool] = field(default_factory=dict)

    @classmethod
    def of(
        cls, apps: Callable[[], Mapping[str, Any]], settings: Settings, pools: Mapping[Channel, Pool]
    ) -> Self:
        """Over the broker that the settings name; `pools` are the providers, and grow with the roles."""
        reader = EndsReader(settings)
        return cls(apps, Ends(reader.fetch), reader=reader, pools=pools)

    def providers(self) -> list[ProviderState]:
        """Every provider of this process as it does now."""
        return states(self.pools)

    async def roles(self) -> list[Role]:
        """Every role with its partition numbers, as they are now."""
        wanted = {
            (topic, number)
            for app in self.apps().values()
            for number in _numbers(_consumer(app))
            for topic in app.reads
        }
        ends = await self.ends.look(wanted)
        return [read(name, app, ends, self.clock()) for name, app in self.apps().items()]

    async def close(self) -> None:
        """Lets go of the broker."""
        await self.ends.close()
        if self.reader is not None:
            await self.reader.close()


def _consumer(app: Any) -> Any:
    """The consumer of an App, or None: asking for one that is not there would make it."""
    return app.consumer if app is not None and app.started else None


def _numbers(consumer: Any) -> list[int]:
    """The partition numbers that were assigned, those included whose tasks are not made yet."""
    if consumer is None:
        return []
    assigned = consumer.assignment() if consumer.assigned is not None else ()
    return sorted({tp.partition for tp in assigned} | set(consumer.tasks))


def read(name: str, app: Any, ends: Mapping[Topic, int], now: float) -> Role:
    """One role as it is now; changes nothing, and waits for nothing."""
    if app is None:
        return Role(name, 0, ())
    consumer = _consumer(app)
    numbers = []
    for number in _numbers(consumer):
        task = consumer.tasks.get(number)
        positions = tuple(_position(consumer, topic, number, task, ends) for topic in app.reads)
        if task is None:
            numbers.append(Number(number, TaskState.OPENING, None, None, 0, positions))
            continue
        busy = None if task.began is None else now - (time.monotonic() - task.began)
        numbers.append(
            Number(
                number, state_of(task, consumer.draining), task.epoch, busy,
                len(getattr(task, "calls", ())), positions,
            )
        )  # fmt: skip
    return Role(name, app.partitions, tuple(numbers))


def state_of(task: Any, draining: bool) -> TaskState:
    """What a task is about."""
    if task.closed:
        return TaskState.CLOSED
    if task.abandoned:
        return TaskState.ABANDONED
    if draining:
        return TaskState.DRAINING
    return TaskState.OPENING if task.runner is None else TaskState.RUNNING


def _position(consumer: Any, topic: str, number: int, task: Any, ends: Mapping[Topic, int]) -> Position:
    tp = (topic, number)  # equal to Faust's own, which is a named tuple
    queue = None if task is None else task.by_topic.get(topic)
    committed = consumer.kept.get(tp)
    return Position(
        topic, len(queue) if queue else 0, queue.bytes if queue else 0, tp in consumer.full,
        consumer.done.get(tp, committed), committed, ends.get(tp),
    )  # fmt: skip
