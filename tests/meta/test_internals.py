"""Every private attribute of faust, mode and aiokafka that the engine touches is where it was.

An upgrade that moves one fails here, by name, and not in a rebalance at night.
"""

import ast
import inspect
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import faust
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer import fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import (
    Assignment,
    Subscription,
    SubscriptionState,
    TopicPartitionState,
)
from aiokafka.producer.message_accumulator import BatchBuilder, MessageAccumulator
from aiokafka.producer.sender import Sender
from faust.stores import rocksdb
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport import consumer as faust_consumer
from faust.transport.drivers import aiokafka as driver
from mode.threads import QueueServiceThread

ENGINE = Path(__file__).parents[2] / "pipeline" / "engine"

#: where each lives, by the engine's file that names it
TOUCHED: dict[str, dict[str, Any]] = {
    "internals.py": {
        "_producer": driver.Producer,
        "_consumer": driver.AIOKafkaConsumerThread,
        "_thread": driver.Consumer,
        "_coordinator": AIOKafkaConsumer,
        "_client": AIOKafkaConsumer,
        "_fetch_max_wait_ms": AIOKafkaConsumer,
        "_subscription": AIOKafkaConsumer,
        "_position": TopicPartitionState,
        "_do_heartbeat": GroupCoordinator,
        "_maybe_leave_group": GroupCoordinator,
        "_acked": faust_consumer.Consumer,
        "_acked_index": faust_consumer.Consumer,
        "_relative_offset": BatchBuilder,
        "_builder": BatchBuilder,
        "_message_accumulator": AIOKafkaProducer,
        "_sender": AIOKafkaProducer,
        "_set_recovery_started": Recovery,
        "_set_recovery_ended": Recovery,
        "_wait": Recovery,
        "_create_worker_consumer": driver.AIOKafkaConsumerThread,
        "_consumer_record": fetcher.PartitionRecords,
        "_records_iterator": fetcher.PartitionRecords,
    },
    "app.py": {
        "_settings_extra": driver.Producer,
        "_producer": driver.Producer,
        "_recovery": TableManager,
        "_update_channels": TableManager,
        "_new_transport": faust.App,
        "_new_producer_transport": faust.App,
        "_consumer": faust.App,
    },
    "consumer.py": {
        "_new_consumer_thread": driver.Consumer,
        "_drain_messages": faust_consumer.Consumer,
        "_active_partitions": faust_consumer.Consumer,
        "_getmany": faust_consumer.ThreadDelegateConsumer,
        "_is_changelog_tp": faust_consumer.Consumer,
    },
    "store.py": {
        "_open_for_partition": rocksdb.Store,
        "_db_for_partition": rocksdb.Store,
        "_dbs": rocksdb.Store,
        "_new_store": faust.Table,
    },
}
#: what is public by its name, but not by its documentation: aiokafka's inside, and Faust's seams
LEANED_ON: list[tuple[Any, str]] = [
    (GroupCoordinator, "request_rejoin"),
    (GroupCoordinator, "fetch_committed_offsets"),
    (SubscriptionState, "subscription"),
    (Subscription, "assignment"),
    (Assignment, "state_value"),
    (MessageAccumulator, "fail_all"),
    (Sender, "sender_task"),
    (AIOKafkaClient, "close"),
    (AIOKafkaProducer, "send_batch"),
    (BatchBuilder, "append"),
    (QueueServiceThread, "call_thread"),
    (driver.AIOKafkaConsumerThread, "on_partitions_assigned"),
    (driver.AIOKafkaConsumerThread, "on_thread_stop"),
    (faust_consumer.Consumer, "perform_seek"),
    (faust_consumer.Consumer, "force_commit"),
    (faust_consumer.Consumer, "commit_and_end_transactions"),
    (faust_consumer.Consumer, "verify_all_partitions_active"),
    (faust_consumer.Consumer, "on_partitions_revoked"),
    (faust_consumer.Consumer, "close"),
    (faust_consumer.Consumer, "flow_active"),
    (faust_consumer.Consumer, "can_resume_flow"),
    (faust_consumer.Consumer, "consumer_stopped_errors"),
    (faust_consumer.Consumer, "callback"),
    (Recovery, "active_offsets"),
    (Recovery, "active_highwaters"),
    (Recovery, "active_tps"),
    (Recovery, "tp_to_table"),
    (Recovery, "in_recovery"),
    (Recovery, "need_recovery"),
    (Recovery, "signal_recovery_start"),
    (Recovery, "signal_recovery_end"),
    (Recovery, "on_recovery_completed"),
    (rocksdb.Store, "offset_key"),
    (rocksdb.Store, "partition_path"),
    (rocksdb.Store, "revoke_partitions"),
]


def has(owner: type, name: str) -> bool:
    """Whether the class, or one that it is made from, defines the attribute or sets it on its instances."""
    if hasattr(owner, name) or any(name in vars(base).get("__annotations__", {}) for base in owner.__mro__):
        return True
    ours = [
        base for base in owner.__mro__ if base.__module__.partition(".")[0] in ("faust", "mode", "aiokafka")
    ]
    return any(re.search(rf"self\.{name}\b[^=\n]*=[^=]", inspect.getsource(base)) for base in ours)


def named_in(path: Path) -> set[str]:
    """The private names that a file takes from objects or defines in classes, those of its own left out."""
    tree = ast.parse(path.read_text())
    taken = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    defined = {
        child.name
        for each in classes
        for child in each.body
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    defined |= {
        child.target.id
        for each in classes
        for child in each.body
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name)
    }
    return {name for name in taken | defined if name.startswith("_") and not name.startswith("__")}


@pytest.mark.parametrize(
    ("owner", "name"),
    [(owner, name) for names in TOUCHED.values() for name, owner in names.items()] + LEANED_ON,
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_the_engine_touches_is_where_it_was(owner: type, name: str) -> None:
    assert has(owner, name)


@pytest.mark.parametrize("path", sorted(ENGINE.glob("*.py")), ids=lambda path: path.name)
def test_every_private_name_that_the_engine_touches_is_listed_here(path: Path) -> None:
    own = {
        "app.py": {"_agent", "_end", "_ending", "_stop"},
        "unit.py": {"_run_one_by_one"},
    }.get(path.name, set())
    assert named_in(path) - own == set(TOUCHED.get(path.name, {}))


def test_a_name_that_is_nowhere_is_noticed() -> None:
    assert not has(GroupCoordinator, "_no_such_thing")
    assert not has(Recovery, "_wait_for_ever")


def test_the_versions_are_those_that_were_read() -> None:
    found = {name: version(name) for name in ("faust-streaming", "mode-streaming", "aiokafka", "rocksdict")}
    assert found == {
        "faust-streaming": "0.15.3",
        "mode-streaming": "0.7.1",
        "aiokafka": "0.14.0",
        "rocksdict": "0.3.29",
    }, "read research/faust.md §9 and pipeline/engine again before you raise these"


def test_a_heartbeat_still_goes_through_the_method_that_is_watched() -> None:
    assert "await self._do_heartbeat()" in inspect.getsource(GroupCoordinator._heartbeat_routine)


def test_faust_still_asks_its_recovery_and_seeks_in_the_order_that_the_engine_relies_on() -> None:
    restart, completed = (
        inspect.getsource(Recovery._restart_recovery.fun),
        inspect.getsource(Recovery.on_recovery_completed),
    )
    assert restart.index("_set_recovery_started") < restart.index("self._build_highwaters")
    assert restart.index("self._seek_offsets") < restart.index("consumer.resume_flow")
    assert restart.index("self.signal_recovery_end.wait()") < restart.index("self.on_recovery_completed")
    assert completed.index("consumer.perform_seek()") < completed.index("consumer.resume_flow()")
