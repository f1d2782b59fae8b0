"""The engine's test bench: topics of one test, stages that are easy to judge, workers that may be killed."""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import rocksdict
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import LeaveGroupRequest
from aiokafka.record import MemoryRecords

from pipeline.app import sweeps
from pipeline.engine import Call, Record, Unit, UnitApp
from pipeline.engine.observer import Observer
from pipeline.engine.outbox import key_hash
from pipeline.engine.store import OFFSET_KEY, OWN, options
from pipeline.settings import Retention

Rows = dict[bytes, bytes]
SESSION_SECONDS = 2.0
POISON = b"poison"
DEADLY = b"deadly"
"""Kills the process that decides it."""


async def eventually(condition: Callable[[], object], what: str = "", seconds: float = 20.0) -> None:
    """Returns as soon as the condition holds; fails where it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        await asyncio.sleep(0.01)


async def becomes(condition: Callable[[], Awaitable[object]], what: str, seconds: float = 20.0) -> None:
    """`eventually` for a condition that has to ask the broker."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.05)


class Ground:
    """The topics of one test, under a prefix of their own, and direct ways to write and read them."""

    def __init__(self, servers: str, partitions: int = 1) -> None:
        self.servers, self.partitions = servers, partitions
        self.prefix = f"t{uuid.uuid4().hex[:10]}"
        self.group = f"{self.prefix}-role"
        self.changelog = f"{self.group}-store-changelog"
        self.counts: dict[str, int] = {}

    def topic(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    async def create(self, *names: str, **partitions: int) -> None:
        """Creates topics, and the changelog; `partitions` names those that have another count."""
        self.counts = {self.topic(name): partitions.get(name, self.partitions) for name in names}
        config = {"max.message.bytes": "20000000", "message.timestamp.type": "LogAppendTime"}
        new = [NewTopic(topic, count, 1, topic_configs=config) for topic, count in self.counts.items()]
        compacted = {**config, "cleanup.policy": "compact"}
        count = partitions.get("changelog", self.partitions)
        new.append(NewTopic(self.changelog, count, 1, topic_configs=compacted))
        async with self._admin() as admin:
            await admin.create_topics(new)
            await becomes(lambda: self._led(admin), "leaders of the new topics")

    async def _led(self, admin: Any) -> bool:
        found = await admin.describe_topics([*self.counts, self.changelog])
        return all(
            topic["error_code"] == 0
            and topic["partitions"]
            and all(p["leader"] >= 0 for p in topic["partitions"])
            for topic in found
        )

    @contextlib.asynccontextmanager
    async def _admin(self) -> AsyncIterator[Any]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.servers)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    async def bury(self) -> None:
        """Takes the dead members out of the group, whose sessions would have to run out else."""
        async with self._admin() as admin:
            node = await admin.find_coordinator(self.group)
            for answer in await admin.describe_consumer_groups([self.group], node):
                for member_id, *_ in answer.groups[0][5]:
                    await admin._send_request(LeaveGroupRequest(self.group, member_id), node)

    @contextlib.asynccontextmanager
    async def producer(self, **settings: Any) -> AsyncIterator[Any]:
        producer = AIOKafkaProducer(bootstrap_servers=self.servers, max_request_size=20_000_000, **settings)
        await producer.start()
        try:
            yield producer
        finally:
            await producer.stop()

    async def send(
        self,
        name: str,
        records: Iterable[tuple[bytes, bytes | None]],
        *,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Sends key and value pairs to a topic, by its whole name or by that of the test's own."""
        topic = name if name == self.changelog else self.topic(name)
        full: list[tuple[int, Any]] = []
        filling: dict[int, Any] = {}
        async with self.producer(max_batch_size=200_000) as producer:
            for key, value in records:
                number = (
                    key_hash(key) % self.counts.get(topic, self.partitions)
                    if partition is None
                    else partition
                )
                batch = filling.setdefault(number, None) or producer.create_batch()
                if batch.append(key=key, value=value, timestamp=None, headers=list(headers)) is None:
                    full.append((number, batch))
                    batch = producer.create_batch()
                    batch.append(key=key, value=value, timestamp=None, headers=list(headers))
                filling[number] = batch
            for number, batch in [*full, *filling.items()]:
                await (await producer.send_batch(batch, topic, partition=number))

    async def send_in_transaction(self, topic: str, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Sends records to partition 0 so that a transaction's marker, which is no record, ends it."""
        async with self.producer(transactional_id=uuid.uuid4().hex) as producer, producer.transaction():
            for key, value in records:
                await producer.send(topic, value, key=key, partition=0)

    @contextlib.asynccontextmanager
    async def consumer(self, group: str | None = None) -> AsyncIterator[Any]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.servers,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=20_000_000,
        )
        await consumer.start()
        try:
            yield consumer
        finally:
            await consumer.stop()

    def parts(self, *topics: str) -> list[TopicPartition]:
        return [
            TopicPartition(topic, number)
            for topic in topics
            for number in range(self.counts.get(topic, self.partitions))
        ]

    async def ends(self, *topics: str) -> dict[TopicPartition, int]:
        async with self.consumer() as consumer:
            parts = self.parts(*topics)
            consumer.assign(parts)
            return dict(await consumer.end_offsets(parts))

    async def read(self, name: str) -> list[Any]:
        """Every record of a topic as it is now, partition by partition."""
        topic = name if name == self.changelog else self.topic(name)
        async with self.consumer() as consumer:
            parts = self.parts(topic)
            consumer.assign(parts)
            ends = await consumer.end_offsets(parts)
            found: dict[TopicPartition, list[Any]] = {tp: [] for tp in parts}
            for tp in parts:
                while await consumer.position(tp) < ends[tp]:
                    for records in (await consumer.getmany(tp, timeout_ms=200)).values():
                        found[tp].extend(records)
            return [record for tp in parts for record in found[tp]]

    async def committed(self, *names: str) -> dict[tuple[str, int], int]:
        """The group's offsets, without those that it never committed, by (name, partition)."""
        async with self._admin() as admin:
            found = await admin.list_consumer_group_offsets(self.group)
        wanted = {self.topic(name): name for name in names}
        return {
            (wanted[tp.topic], tp.partition): meta.offset
            for tp, meta in found.items()
            if tp.topic in wanted and meta.offset >= 0
        }

    async def caught_up(self, *names: str) -> bool:
        """Whether the group has committed the end of every partition of these topics."""
        ends = await self.ends(*[self.topic(name) for name in names])
        wanted = {(tp.topic, tp.partition): end for tp, end in ends.items() if end}
        found = {(self.topic(n), p): offset for (n, p), offset in (await self.committed(*names)).items()}
        return all(found.get(tp) == end for tp, end in wanted.items())

    async def commit(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Resets the group, which must have no members, to these offsets."""

        async def once() -> bool:
            async with self.consumer(self.group) as consumer:
                consumer.assign([TopicPartition(self.topic(name), number) for name, number in offsets])
                try:
                    await consumer.commit(
                        {TopicPartition(self.topic(n), number): to for (n, number), to in offsets.items()}
                    )
                except Exception as error:
                    if "rebalanced" not in str(error):
                        raise
                    return False  # a killed member's session is still running out
            return True

        await becomes(once, "a reset of the group")

    async def batches(self, topic: str, partition: int = 0) -> list[list[Any]]:
        """The records of a partition, one list a record batch, as the broker keeps them."""
        client = AIOKafkaClient(bootstrap_servers=self.servers)
        await client.bootstrap()
        try:
            client.set_topics([topic])
            await client.force_metadata_update()
            leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
            end = (await self.ends(topic))[TopicPartition(topic, partition)]
            found: list[list[Any]] = []
            offset = 0
            while offset < end:
                request = FetchRequest(100, 1, 50_000_000, 0, [(topic, [(partition, offset, 50_000_000)])])
                response = await client.send(leader, request)
                pieces = MemoryRecords(response.topics[0][1][0][-1])
                while pieces.has_next():
                    batch = pieces.next_batch()
                    records = [record for record in batch if record.offset >= offset]
                    if records:
                        found.append(records)
                    offset = batch.next_offset
            return found
        finally:
            await client.close()


def fold(records: Iterable[Any]) -> Rows:
    """What a changelog says, its records taken in their order; the engine's own rows left out."""
    rows: Rows = {}
    for record in records:
        if record.key.startswith(OWN):
            continue
        if record.value is None:
            rows.pop(record.key, None)
        else:
            rows[record.key] = record.value
    return rows


def rows_of(db: Any) -> Rows:
    """A database's rows without the engine's own."""
    return {k: v for k, v in db.items() if not k.startswith(OWN) and k != OFFSET_KEY}


def rows_on_disk(state_dir: Path, partition: int = 0) -> Rows:
    """The rows that a dead worker left on its disk."""
    path = next(iter(state_dir.rglob(f"store-{partition}.db")), None)
    if path is None:
        return {}
    db = rocksdict.Rdict(str(path), options())
    try:
        return rows_of(db)
    finally:
        db.close()


# -- a stage that claims


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a claim row says: where the record came from, the unit that decided it, and its turn."""

    origin: str
    number: int
    turn: int

    @classmethod
    def read(cls, row: bytes) -> "Claim":
        origin, number, turn = row.decode().split()
        return cls(origin, int(number), int(turn))

    def row(self) -> bytes:
        return f"{self.origin} {self.number} {self.turn}".encode()


class Claims:
    """Decides each id once: its claim pins the output, which a record that finds its own claim sends again.

    An output tells its user's how many-th it is, so that a decision made twice differs from the first.
    """

    def __init__(self, *outputs: str, dlq: str = "", slow: float = 0.0) -> None:
        self.outputs, self.dlq, self.slow = outputs, dlq, slow
        self.decided: list[tuple[str, bytes]] = []

    def decide(self, record: Any, unit: Unit) -> None:
        if self.slow:
            time.sleep(self.slow)
        self.decided.append((record.topic, record.value))
        if record.value.startswith(DEADLY):
            os.kill(os.getpid(), signal.SIGKILL)
        origin = f"{record.topic}/{record.partition}/{record.offset}"
        row = unit.get(b"c|" + record.value)
        if row is None:
            turn = int(unit.get(b"n|" + record.key) or 0) + 1
            unit.put(b"n|" + record.key, b"%d" % turn)
            claim = Claim(origin, unit.number, turn)
            unit.put(b"c|" + record.value, claim.row())
        else:
            claim = Claim.read(row)
            if claim.origin != origin or claim.number <= unit.mark:
                return
        for topic in self.outputs:
            unit.outbox.add(topic, record.key, record.value + b" %d" % claim.turn)
        if record.value.startswith(POISON):
            raise ValueError("poison")

    def reject(self, record: Any, error: Exception, unit: Unit) -> None:
        unit.outbox.add(self.dlq, record.key, record.value, [("error", str(error).encode())])


def claims_of(changelog: Iterable[Any]) -> dict[bytes, Claim]:
    return {
        key.removeprefix(b"c|"): Claim.read(row)
        for key, row in fold(changelog).items()
        if key.startswith(b"c|")
    }


def outputs_by_id(records: Iterable[Any]) -> dict[bytes, list[bytes]]:
    """The outputs, in their order, of each id."""
    found: dict[bytes, list[bytes]] = defaultdict(list)
    for record in records:
        found[record.value.split()[0]].append(record.value)
    return dict(found)


# -- a stage that calls


class Sink:
    """Calls that are noted in a file, one line a call: what the outside has seen, whoever dies.

    An id has rows `a|id|n` for its attempts and `r|id` for its result. `hold` makes a call wait until it
    is let go, `fail` makes the first calls of an id end in a retry after so many seconds.
    """

    def __init__(self, path: Path, statuses: str, *, window: int = 64, hold: Iterable[bytes] = ()) -> None:
        self.path, self.statuses, self.window, self.deadline = path, statuses, window, 3.0
        self.parallel = 1_000
        self.held = {effect: asyncio.Event() for effect in hold}
        self.retries: Counter[bytes] = Counter()
        self.retry_after = 0.02
        self.running: set[bytes] = set()
        self.most_running = 0
        self.turns: Counter[bytes] = Counter()
        #: when each call was made, in ms since the epoch
        self.called_at: dict[bytes, list[int]] = {}
        self.overlaps = 0
        self.unlogged: list[bytes] = []
        self.db: Callable[[int], Any] | None = None
        self.refuse: set[bytes] = set()
        #: whether there is no room for any call
        self.closed = False
        #: what is to be asked for again after so many seconds
        self.put_off: dict[bytes, float] = {}
        self.share = 0.0
        self.dropped: list[bytes] = []

    def identify(self, record: Record) -> Call[bytes]:
        value = record.value or b""
        if value.startswith(POISON):
            raise ValueError("poison")
        return Call(value, record.key or b"", value, record)

    @property
    def room(self) -> int:
        return 0 if self.closed else self.parallel

    @property
    def ready_in(self) -> float:
        return 0.01 if self.closed else 0.0

    def assigned(self, share: float, window: int) -> None:
        self.share = share

    def is_ready(self, call: Call[bytes]) -> bool:
        return True

    def drop(self, call: Call[bytes]) -> None:
        self.dropped.append(call.effect)

    def admit(self, call: Call[bytes], unit: Unit) -> bool | float:
        if (seconds := self.put_off.pop(call.effect, None)) is not None:
            return seconds
        if call.effect in self.refuse:
            raise ValueError("refused")
        if unit.get(b"r|" + call.effect) is not None:
            self.tell(call, unit)
            return False
        attempts = sum(1 for _ in unit.scan(b"a|" + call.effect + b"|"))
        unit.put(b"a|" + call.effect + b"|%d" % (attempts + 1), b"")
        return True

    async def call(self, call: Call[bytes]) -> bool:
        if self.db is not None and not any(
            True for _ in attempts_of(self.db(call.record.partition), call.effect)
        ):
            self.unlogged.append(call.effect)
        self.overlaps += self.turns[call.turn]
        self.turns[call.turn] += 1
        self.running.add(call.effect)
        self.called_at.setdefault(call.effect, []).append(time.time_ns() // 1_000_000)
        self.most_running = max(self.most_running, len(self.running))
        with self.path.open("ab") as file:
            file.write(call.effect + b"\n")
        try:
            if (held := self.held.get(call.effect)) is not None:
                await held.wait()
            else:
                await asyncio.sleep(0)
        finally:
            self.running.discard(call.effect)
            self.turns[call.turn] -= 1
        self.retries[call.effect] -= 1
        return self.retries[call.effect] < 0

    def settle(self, call: Call[bytes], result: bool, unit: Unit) -> float | None:
        if not result:
            return self.retry_after
        unit.put(b"r|" + call.effect, b"")
        self.tell(call, unit)
        return None

    def tell(self, call: Call[bytes], unit: Unit) -> None:
        unit.outbox.add(self.statuses, call.turn, call.effect)

    def reject(self, record: Record, error: Exception, unit: Unit) -> None:
        unit.outbox.add(self.statuses, record.key, POISON)

    def calls(self) -> Counter[bytes]:
        """How often each effect was called, by any worker."""
        return Counter(self.path.read_bytes().split()) if self.path.exists() else Counter()


def attempts_of(db: Any, effect: bytes) -> Iterable[bytes]:
    prefix = b"a|" + effect + b"|"
    return (key for key in db.keys(from_key=prefix) if key.startswith(prefix))


# -- apps


class Notes(Observer):
    """Remembers what the engine told."""

    def __init__(self) -> None:
        self.units: list[tuple[str, int]] = []
        self.commits = self.zombies = self.restores = 0
        self.abandonments: list[str] = []
        self.drains: list[float] = []
        self.rejections: list[tuple[str, str]] = []
        self.stops: list[str] = []
        self.swept_rows = 0

    def unit_done(self, topic: str, records: int, seconds: float) -> None:
        self.units.append((topic, records))

    def committed(self, offsets: int) -> None:
        self.commits += 1

    def abandoned(self, reason: str) -> None:
        self.abandonments.append(reason)

    def zombie_rows(self, count: int) -> None:
        self.zombies += count

    def revoked(self, partitions: int, seconds: float) -> None:
        if partitions:
            self.drains.append(seconds)

    def restored(self, partitions: int) -> None:
        self.restores += 1

    def rejected(self, topic: str, error: str) -> None:
        self.rejections.append((topic, error))

    def swept(self, rows: int) -> None:
        self.swept_rows += rows

    def gave_up(self, stage: str) -> None:
        self.stops.append(stage)


def new_app(ground: Ground, state_dir: Path, notes: Observer | None = None, **settings: Any) -> UnitApp:
    settings = {"session_timeout": SESSION_SECONDS, **settings}
    app = UnitApp(
        ground.group,
        bootstrap_servers=ground.servers,
        partitions=ground.partitions,
        topics=ground.counts,
        state_dir=state_dir,
        observer=notes,
        **settings,
    )
    app.conf.broker_commit_interval = 0.1
    return app


def claiming_app(
    ground: Ground,
    state_dir: Path,
    claims: Claims,
    *reads: str,
    notes: Observer | None = None,
    **settings: Any,
) -> UnitApp:
    app = new_app(ground, state_dir, notes, **settings)
    topics = [ground.topic(name) for name in reads]
    app.stage("claims", *topics, decide=claims.decide, reject=claims.reject)
    return app


def calling_app(
    ground: Ground, state_dir: Path, sink: Sink, *reads: str, notes: Observer | None = None, **settings: Any
) -> UnitApp:
    app = new_app(ground, state_dir, notes, **settings)
    app.effect_stage("calls", *[ground.topic(name) for name in reads], stage=sink)
    sink.db = app.store.db
    return app


def keep(record: Record, unit: Unit) -> None:
    """Writes the rows that a record holds."""
    for key, value in json.loads(record.value or b"{}").items():
        unit.put(bytes.fromhex(key), bytes.fromhex(value))


def keeping_app(
    ground: Ground, state_dir: Path, role: str, *reads: str, notes: Observer | None = None
) -> UnitApp:
    """An app that keeps what it is told until the windows of a role are past."""
    app = new_app(ground, state_dir, notes, sweeps=sweeps(role, Retention()))
    app.stage("keep", *[ground.topic(name) for name in reads], decide=keep, reject=Claims().reject)
    return app


@contextlib.asynccontextmanager
async def running(*apps: UnitApp, ready: bool = True) -> AsyncIterator[None]:
    """Runs apps in this process; with `ready`, they are when the body begins, else they are just starting."""
    starts = [asyncio.create_task(app.start()) for app in apps]
    try:
        if ready:
            await asyncio.gather(*starts)
            await eventually(lambda: all(app.ready for app in apps), "apps ready")
        yield
    finally:
        await asyncio.gather(*[app.stop() for app in apps])
        await asyncio.gather(*starts)


# -- workers in processes of their own


@dataclasses.dataclass
class Worker:
    """One process that runs one app until it is told to stop, or dies at a failpoint."""

    ground: Ground
    state_dir: Path
    reads: tuple[str, ...]
    outputs: tuple[str, ...] = ("out",)
    gates: tuple[str, ...] = ()
    calls: str = ""
    hold: tuple[str, ...] = ()
    retries: tuple[str, ...] = ()
    retry_after: float = 0.02
    dlq: str = ""
    #: the role whose windows are swept; the worker then writes the rows that its records hold
    sweeps: str = ""
    unit_seconds: float = 0.02
    session_timeout: float = SESSION_SECONDS
    failpoint: str = ""
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> "Worker":
        self.state_dir.mkdir(parents=True, exist_ok=True)
        self._ready.unlink(missing_ok=True)
        environment = {**os.environ, "CARILLON_FAILPOINT": self.failpoint}
        environment["CARILLON_FAILPOINT_LOG"] = str(self.state_dir / "failpoints")
        fields = (
            "reads", "outputs", "gates", "calls", "hold", "retries", "retry_after", "dlq", "unit_seconds",
            "session_timeout", "sweeps",
        )  # fmt: skip
        told = {name: getattr(self, name) for name in fields}
        told |= {name: getattr(self.ground, name) for name in ("servers", "prefix", "partitions", "counts")}
        told["state_dir"] = str(self.state_dir)
        with (self.state_dir / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "tests.kafka.engine_app", json.dumps(told)),
                env=environment,
                stderr=log,
            )
        return self

    @property
    def _started(self) -> asyncio.subprocess.Process:
        assert self.process is not None
        return self.process

    async def dies(self) -> None:
        """Waits until the process has died at its failpoint."""
        status = await asyncio.wait_for(self._started.wait(), 30)
        assert status == -signal.SIGKILL, f"{status}: {(self.state_dir / 'log').read_text()[-2000:]}"
        assert (self.state_dir / "failpoints").read_text().split()[-1] == self.failpoint.partition(":")[0]
        await self.ground.bury()

    async def falls(self) -> None:
        """Waits until the process has died of a record."""
        status = await asyncio.wait_for(self._started.wait(), 30)
        assert status == -signal.SIGKILL, f"{status}: {(self.state_dir / 'log').read_text()[-2000:]}"
        await self.ground.bury()

    async def kill(self) -> None:
        self._started.kill()
        await self._started.wait()
        await self.ground.bury()

    @property
    def _ready(self) -> Path:
        return self.state_dir / "ready"

    async def is_ready(self) -> None:
        await eventually(self._ready.exists, "a worker that is ready")

    async def stop(self) -> None:
        """Stops the process as an operator does, once it is ready."""
        await self.is_ready()
        self._started.terminate()
        assert await asyncio.wait_for(self._started.wait(), 30) == 0, (self.state_dir / "log").read_text()[
            -2000:
        ]

    async def __aenter__(self) -> "Worker":
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        if self._started.returncode is None:
            self._started.kill()
            await self._started.wait()


async def work(told: dict[str, Any]) -> int:
    """What a worker's process does."""
    ground = Ground(told["servers"], told["partitions"])
    ground.__dict__.update(prefix=told["prefix"], counts=told["counts"])
    ground.group = f"{ground.prefix}-role"
    state_dir = Path(told["state_dir"])
    outputs = [ground.topic(name) for name in told["outputs"]]
    if told["calls"]:
        sink = Sink(Path(told["calls"]), outputs[0], hold=[effect.encode() for effect in told["hold"]])
        sink.retries.update(effect.encode() for effect in told["retries"])
        sink.retry_after = told["retry_after"]
        app = calling_app(ground, state_dir, sink, *told["reads"], session_timeout=told["session_timeout"])
    elif told["sweeps"]:
        app = keeping_app(ground, state_dir, told["sweeps"], *told["reads"])
    else:
        claims = Claims(*outputs, dlq=ground.topic(told["dlq"]))
        settings = {name: told[name] for name in ("unit_seconds", "session_timeout")}
        app = new_app(ground, state_dir, **settings)
        for name in told["reads"]:
            gate = name in told["gates"]
            app.stage(name, ground.topic(name), decide=claims.decide, reject=claims.reject, gate=gate)
    told_to_stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told_to_stop.set)
    await app.start()
    await eventually(lambda: app.ready, "ready")
    (state_dir / "ready").touch()
    ends = [asyncio.create_task(end) for end in (told_to_stop.wait(), app.wait_until_stopped())]
    _, pending = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for end in pending:
        end.cancel()
    crashed = app.crashed
    if crashed:
        sys.stderr.write(f"{app.crash_reason!r}\n")
    await app.stop()
    return 3 if crashed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(work(json.loads(sys.argv[1]))))
