"""A Faust App whose agents receive units of work."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import faust
from faust.serializers.schemas import Schema
from faust.transport.drivers import aiokafka as driver

from pipeline.engine import internals
from pipeline.engine.consumer import UnitConsumer
from pipeline.engine.effects import Call, EffectStage
from pipeline.engine.observer import Observer
from pipeline.engine.patience import Patience, StageBroken
from pipeline.engine.rewinds import Rewinds
from pipeline.engine.store import Store, StoreTable
from pipeline.engine.sweep import Sweep
from pipeline.engine.unit import Decide, Reject, Unit

log = logging.getLogger(__name__)

STORE = "store"
COMMIT_INTERVAL = 0.5
FLUSH_SECONDS = 3.0
MAX_POLL_RECORDS = 4_000
URGENT_SECONDS = 2.0
SHORT = 4
"""So long after an urgent unit the others have a quarter of their time: the tasks of a worker share a thread,
and what is urgent would wait for a whole unit of each of the others, at every step of its own."""
MAX_REQUEST_BYTES = 20_000_000


class _Producer(driver.Producer):  # type: ignore[misc]
    """Idempotent, without transactions; ends in time although the broker may be away."""

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}

    async def flush(self) -> None:
        # Every batch is awaited where it is sent; this only spares a restore what is still on its way.
        if not self.app.should_stop:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(super().flush(), FLUSH_SECONDS)

    async def on_stop(self) -> None:
        raw = self._producer
        if raw is None:
            await super().on_stop()
            return
        giving_up = self.loop.call_later(FLUSH_SECONDS, internals.give_up_sending, raw)
        try:
            await super().on_stop()
        finally:
            giving_up.cancel()
            internals.fail_batches(raw)


class _Transport(driver.Transport):  # type: ignore[misc]
    Consumer = UnitConsumer
    Producer = _Producer


class _Untouched(Schema):  # type: ignore[misc]
    """Hands units to the agents as they are."""

    def loads_key(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> Any:
        return message.key

    def loads_value(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> Any:
        return message.value


class _Tables(faust.tables.manager.TableManager):  # type: ignore[misc]
    """Faust's table manager without its second of sleep at every start, and with our recovery."""

    _recovery: internals.Recovery | None = None

    @property
    def recovery(self) -> internals.Recovery:
        if self._recovery is None:
            self._recovery = internals.Recovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery

    async def on_start(self) -> None:
        await self._update_channels()  # the consumer, started before, is up
        await self.recovery.start()


class UnitApp(faust.App):  # type: ignore[misc]
    """A role: one consumer group, one store, one changelog, and stages that are agents.

    `group` is the consumer group's id, `partitions` the number of partitions of each of its own
    topics and of its changelog, `topics` every topic that it reads or sends to with its partitions;
    `rewinds` what its members are told to read anew; `expected` the errors by which a stage speaks of a
    record, as any other is a fault of the stage (pipeline/engine/patience.py); `sweeps` the
    tables whose rows have a window.
    """

    def __init__(
        self,
        group: str,
        *,
        bootstrap_servers: str,
        partitions: int,
        topics: Mapping[str, int],
        state_dir: Path,
        session_timeout: float = 10.0,
        rebalance_timeout: float = 30.0,
        unit_seconds: float = 0.02,
        observer: Observer | None = None,
        credentials: Any = None,
        rewinds: Rewinds | None = None,
        expected: Iterable[type[Exception]] = (),
        sweeps: Iterable[Sweep] = (),
    ) -> None:
        self.group, self.partitions, self.topic_partitions = group, partitions, dict(topics)
        self.unit_seconds = unit_seconds
        self.observer = observer or Observer()
        self.rewinds = rewinds or Rewinds()
        #: what this App reads, highest first; the first `gates` of them open the others
        self.reads: list[str] = []
        self.gates: set[str] = set()
        self.urgent: set[str] = set()
        self.urgent_at = -math.inf
        self.deciders: dict[str, tuple[Decide, Reject]] = {}
        #: the stage of each topic
        self.stages: dict[str, str] = {}
        self.sweeps = tuple(sweeps)
        self.patience = Patience.with_errors(expected)
        #: why this App stops by itself
        self.gave_up: StageBroken | None = None
        self._ending: asyncio.Future[None] | None = None
        self.effects: EffectStage[Any, Any] | None = None
        super().__init__(
            group,
            broker=[f"kafka://{server.strip()}" for server in bootstrap_servers.split(",")],
            broker_credentials=credentials,
            store="rocksdb://",
            Table=StoreTable,
            TableManager=_Tables,
            datadir=state_dir,
            topic_partitions=partitions,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            web_tables_enabled=False,
            web_router_enabled=False,
            broker_session_timeout=session_timeout,
            broker_heartbeat_interval=min(3.0, session_timeout / 6),
            broker_rebalance_timeout=rebalance_timeout,
            broker_commit_interval=COMMIT_INTERVAL,
            broker_max_poll_records=MAX_POLL_RECORDS,
            producer_max_batch_size=1_000_000,
            producer_max_request_size=MAX_REQUEST_BYTES,
            producer_request_timeout=30.0,
            stream_wait_empty=False,
            stream_recovery_delay=0.0,
            table_standby_replicas=0,
        )
        raw = faust.Schema(key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
        self.store_table: StoreTable = self.Table(STORE, schema=raw, partitions=partitions)
        self.changelog: str = self.store_table.changelog_topic.get_topic_name()

    def _new_transport(self) -> Any:
        return _Transport(self.conf.broker_consumer, self, loop=self.loop)

    def _new_producer_transport(self) -> Any:
        return _Transport(self.conf.broker_producer, self, loop=self.loop)

    @property
    def store(self) -> Store:
        """The databases of the partitions that this worker owns."""
        found: Store = self.store_table.data
        return found

    def stage(
        self,
        name: str,
        *topics: str,
        decide: Decide,
        reject: Reject,
        gate: bool = False,
        urgent: bool = False,
    ) -> Any:
        """Registers a stage over its topics, as an agent.

        Stages are served in the order of their registration; `gate` ones are read to their end, at
        every assignment, before the others open; while `urgent` ones come, the units of the others are
        short. `decide(record, unit)` must be pure but for the unit.
        """
        for topic in topics:
            self.deciders[topic] = (decide, reject)
            self.stages[topic] = name
            self.reads.append(topic)
            if gate:
                self.gates.add(topic)
            if urgent:
                self.urgent.add(topic)
        return self._agent(name, topics, lambda unit: unit.run(decide, reject))

    def unit_budget(self, topic: str) -> float:
        """The seconds that the next unit of a topic may take to decide."""
        now = time.monotonic()
        if topic in self.urgent:
            self.urgent_at = now
        elif now - self.urgent_at < URGENT_SECONDS:
            return self.unit_seconds / SHORT
        return self.unit_seconds

    def effect_stage(self, name: str, gate: str, *topics: str, stage: EffectStage[Any, Any]) -> Any:
        """Registers the one stage of a role that calls the outside, in group commits.

        `gate` is the first of its topics, which is read to its end, at every assignment, before the others,
        unless it waits itself for a slow call.
        """
        self.effects, topics = stage, (gate, *topics)
        self.gates.add(gate)
        self.reads.extend(topics)
        self.stages.update(dict.fromkeys(topics, name))

        def admit(call: Call[Any], unit: Unit) -> None:
            admitted = stage.admit(call, unit)
            if admitted is True:
                unit.calls.append(call)
            elif admitted is not False:
                unit.later.append((call, admitted))

        def reject(call: Call[Any], error: Exception, unit: Unit) -> None:
            stage.reject(call.record, error, unit)

        return self._agent(name, topics, lambda unit: unit.run(admit, reject))

    def _agent(self, name: str, topics: tuple[str, ...], run: Callable[[Unit], None]) -> Any:
        async def agent(stream: Any) -> None:
            async for unit in stream:
                try:
                    run(unit)
                except Exception as error:
                    if not unit.decided.done():
                        unit.decided.set_exception(error)

        agent.__name__ = name
        return self.agent(self.topic(*topics, schema=_Untouched()), name=name)(agent)

    def give_up(self, stage: str, error: StageBroken) -> None:
        """Takes no more work and stops, with calls in flight brought to their end."""
        if self.gave_up is None:
            self.gave_up = error
            log.error("%s stops: %s", self.group, error)
            self.observer.gave_up(stage)
            self._end()

    async def stop(self) -> None:
        """Drains and commits while store and producer are still there, then stops.

        Ends within seconds after a crash and without a broker too. Who asks while it stops waits for that.
        """
        await asyncio.shield(self._end())

    def _end(self) -> asyncio.Future[None]:
        if self._ending is None or self._ending.done():
            self._ending = asyncio.ensure_future(self._stop())
        return self._ending

    async def _stop(self) -> None:
        if self._consumer is not None and (self.crashed or not self.should_stop):
            await self.consumer.close_tasks()
        await super().stop()

    @property
    def ready(self) -> bool:
        """Recovered, every task open, and committing."""
        consumer = self.consumer if self.started else None
        return consumer is not None and consumer.ready and self.gave_up is None
