"""The embedded Kafka: it answers, keeps what it should, and leaves nothing behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from click.testing import CliRunner

from pipeline.broker import (
    BrokerFailed,
    BrokerUnavailable,
    EmbeddedKafka,
    ToolFailed,
    run_tool,
    stop_detached,
)
from pipeline.broker import artifacts as kafka_artifacts
from pipeline.broker import embedded as embedded_module
from pipeline.broker.commands import broker as broker_command

pytestmark = pytest.mark.kafka


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether the condition comes true before the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def create_topic(servers: str, topic: str, *options: str) -> None:
    run_tool("kafka-topics", ["--create", "--topic", topic, *options], servers)


async def produce(servers: str, topic: str, *values: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=servers, acks="all") as producer:
        for value in values:
            await producer.send_and_wait(topic, value)


async def consume(servers: str, topic: str, count: int, group: str | None = None) -> list[tuple[bytes, int]]:
    """Values and timestamp types of the next records of the topic; commits for a group."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=servers,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=6000,
    )
    async with consumer:
        records = [await consumer.getone() for _ in range(count)]
        if group:
            await consumer.commit()
    return [(record.value, record.timestamp_type) for record in records]


@pytest.fixture(scope="module")
def embedded() -> Iterator[EmbeddedKafka]:
    with EmbeddedKafka() as running:
        yield running


async def test_a_record_comes_back_stamped_by_the_brokers_clock(embedded: EmbeddedKafka) -> None:
    servers = embedded.bootstrap_servers
    create_topic(servers, "echo", "--partitions", "1")
    await produce(servers, "echo", b"one", b"two")
    log_append_time = 1
    assert await consume(servers, "echo", 1, group="g") == [(b"one", log_append_time)]
    assert await consume(servers, "echo", 1, group="g") == [(b"two", log_append_time)]


async def test_a_record_of_nineteen_megabytes_fits(embedded: EmbeddedKafka) -> None:
    servers = embedded.bootstrap_servers
    create_topic(servers, "large")
    size = 19 * 1024 * 1024
    async with AIOKafkaProducer(bootstrap_servers=servers, max_request_size=size + 1024) as producer:
        metadata = await producer.send_and_wait("large", bytes(size))
    assert metadata.offset == 0


def test_kafkas_own_tools_run_and_their_errors_are_told(embedded: EmbeddedKafka) -> None:
    create_topic(embedded.bootstrap_servers, "listed")
    assert "listed" in run_tool("kafka-topics", ["--list"], embedded.bootstrap_servers).splitlines()
    with pytest.raises(ToolFailed, match=r"absent.*does not exist"):
        run_tool("kafka-topics", ["--describe", "--topic", "absent"], embedded.bootstrap_servers)


def test_topics_are_not_created_by_asking(embedded: EmbeddedKafka) -> None:
    servers = embedded.bootstrap_servers
    asking = ["--topic", "typo", "--command-property", "max.block.ms=1500", "--sync"]
    with contextlib.suppress(ToolFailed):
        run_tool("kafka-console-producer", asking, servers, standard_input="x\n")
    assert "typo" not in run_tool("kafka-topics", ["--list"], servers).splitlines()


async def test_an_explicit_directory_keeps_data_and_address(tmp_path: Path) -> None:
    with EmbeddedKafka(directory=tmp_path) as first:
        address = first.bootstrap_servers
        create_topic(address, "kept")
        await produce(address, "kept", b"still here")
    with EmbeddedKafka(directory=tmp_path) as second:
        assert second.bootstrap_servers == address
        assert [value for value, _ in await consume(address, "kept", 1)] == [b"still here"]


async def test_data_survives_a_killed_broker(tmp_path: Path) -> None:
    with EmbeddedKafka(directory=tmp_path) as kafka:
        create_topic(kafka.bootstrap_servers, "kept")
        await produce(kafka.bootstrap_servers, "kept", b"still here")
        pid = kafka.pids[1]
        kafka.kill(1)
        assert not psutil.pid_exists(pid)
        assert kafka.pids == {}
        kafka.restart(1)
        assert [value for value, _ in await consume(kafka.bootstrap_servers, "kept", 1)] == [b"still here"]


def test_a_cluster_id_may_begin_with_a_dash(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text('{"brokers": 1, "cluster_id": "-U3OEVBNTcwNTJENDM2Qg"}')
    with EmbeddedKafka(directory=tmp_path):
        written = (tmp_path / "broker-1" / "data" / "meta.properties").read_text()
    assert "cluster.id=-U3OEVBNTcwNTJENDM2Qg" in written


def test_a_temporary_directory_goes_with_its_kafka() -> None:
    with EmbeddedKafka() as kafka:
        pid, log = kafka.pids[1], kafka.log_paths[1]
        assert log.exists()
    assert not psutil.pid_exists(pid)
    assert not log.parent.parent.exists()


def test_a_directory_has_one_kafka_at_a_time(
    embedded: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_module, "LOCK_SECONDS", 0.1)
    with (
        EmbeddedKafka(directory=tmp_path),
        pytest.raises(BrokerUnavailable, match="another Kafka"),
        EmbeddedKafka(directory=tmp_path),
    ):
        pass


def test_a_broker_that_exits_says_why_and_leaves_its_log(tmp_path: Path) -> None:
    kafka = EmbeddedKafka(directory=tmp_path, config={"num.io.threads": "0"})
    with pytest.raises(BrokerFailed, match=r"num\.io\.threads"):
        kafka.start()
    assert kafka.pids == {}


async def test_one_of_three_brokers_can_be_killed_and_comes_back() -> None:
    with EmbeddedKafka(brokers=3) as kafka:
        servers = kafka.bootstrap_servers
        create_topic(servers, "replicated", "--partitions", "3")
        described = run_tool("kafka-topics", ["--describe", "--topic", "replicated"], servers)
        assert "ReplicationFactor: 3" in described
        assert "min.insync.replicas=2" in described
        await produce(servers, "replicated", b"before")
        kafka.kill(2)
        assert sorted(kafka.pids) == [1, 3]
        await produce(servers, "replicated", b"while it is away")
        kafka.restart(2)
        assert kafka.bootstrap_servers == servers
        assert sorted(kafka.pids) == [1, 2, 3]
        values = {value for value, _ in await consume(servers, "replicated", 2)}
        assert values == {b"before", b"while it is away"}
        second = servers.split(",")[1]
        assert "replicated" in run_tool("kafka-topics", ["--list"], second)


PARENT = """
import json, os, sys, threading
from pipeline.broker import EmbeddedKafka
kafka = EmbeddedKafka()
starter = threading.Thread(target=kafka.start)
starter.start()
starter.join()
print(json.dumps({"pid": kafka.pids[1], "log": str(kafka.log_paths[1])}), flush=True)
os.fork()  # a child that holds everything open that its parent did
sys.stdin.read()
"""


def test_a_parent_killed_with_9_takes_its_kafka_along() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent.stdin, parent.stdout:
        try:
            told = json.loads(parent.stdout.readline())
            jvm, root = psutil.Process(told["pid"]), Path(told["log"]).parent.parent
            assert jvm.is_running(), "the thread that started it has ended, and that must not matter"
            leash = jvm.parent()
            assert leash is not None
        finally:
            parent.kill()
            parent.wait(10)
        assert eventually(lambda: not jvm.is_running())
        assert eventually(lambda: not leash.is_running())
        assert not root.exists()
        assert parent.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can end a process with its parent")
def test_a_leash_killed_with_9_takes_its_jvm_along(tmp_path: Path) -> None:
    with EmbeddedKafka(directory=tmp_path) as kafka:
        jvm = psutil.Process(kafka.pids[1])
        leash = jvm.parent()
        assert leash is not None
        leash.kill()
        assert eventually(lambda: not jvm.is_running())


@pytest.fixture
def without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a repository at which nothing listens; the cache's directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CARILLON_MAVEN_REPOSITORY", "http://127.0.0.1:9/")
    assert tmp_path in kafka_artifacts.cache_directory().parents
    return tmp_path


@pytest.mark.usefixtures("without_network")
def test_without_cache_and_network_it_says_what_to_do() -> None:
    with pytest.raises(BrokerUnavailable, match="KAFKA_BOOTSTRAP_SERVERS") as caught:
        EmbeddedKafka().start()
    assert "\n" not in str(caught.value)


def test_a_full_cache_needs_no_network(monkeypatch: pytest.MonkeyPatch, embedded: EmbeddedKafka) -> None:
    assert embedded.pids, "a Kafka that runs has filled the cache"
    monkeypatch.setenv("CARILLON_MAVEN_REPOSITORY", "http://127.0.0.1:9/")
    assert all(path.exists() for path in kafka_artifacts.jars())


class Repository(ThreadingHTTPServer):
    """A Maven repository on this machine that gives the cached jars, or something else in their place."""

    daemon_threads = True

    def __init__(self, jars: Path, instead: bytes | None = None) -> None:
        self.asked: list[str] = []
        repository = self

        class Shelf(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = Path(self.path).name
                known = name.endswith(".jar")
                if known:
                    repository.asked.append(name)
                self.send_response(200 if known else 404)
                self.end_headers()
                if known:
                    self.wfile.write((jars / name).read_bytes() if instead is None else instead)

            def log_message(self, format: str, *args: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Shelf)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __exit__(self, *details: object) -> None:
        self.shutdown()
        self.server_close()


def test_a_jar_that_is_not_the_locked_one_is_refused(tmp_path: Path) -> None:
    with (
        Repository(kafka_artifacts.jars()[0].parent, instead=b"not a jar") as repository,
        pytest.raises(BrokerUnavailable, match="SHA-256"),
    ):
        kafka_artifacts.jars(cache=tmp_path, repository=repository.url)
    assert list(tmp_path.glob("*.jar")) == []


def test_two_processes_that_fetch_at_once_fetch_each_jar_once(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from pipeline.broker.artifacts import jars; jars(pathlib.Path(sys.argv[1]))"
    )
    with Repository(kafka_artifacts.jars()[0].parent) as repository:
        environment = {**os.environ, "CARILLON_MAVEN_REPOSITORY": repository.url}
        command = [sys.executable, "-c", script, str(tmp_path)]
        with ThreadPoolExecutor(2) as pool:
            fetches = [
                pool.submit(subprocess.run, command, env=environment, capture_output=True, timeout=60)
                for _ in range(2)
            ]
        assert [fetch.result().returncode for fetch in fetches] == [0, 0]
    assert sorted(repository.asked) == sorted(artifact.filename for artifact in kafka_artifacts.locked())
    assert any(b"47 of 47 jars" in fetch.result().stderr for fetch in fetches)


def test_a_broken_cache_is_mended_by_fetching_only_what_is_wrong(tmp_path: Path) -> None:
    with Repository(kafka_artifacts.jars()[0].parent) as repository:
        paths = kafka_artifacts.jars(tmp_path, repository.url)
        paths[3].write_bytes(b"cut short")
        repository.asked.clear()
        kafka_artifacts.jars(tmp_path, repository.url)
    assert repository.asked == [paths[3].name]


def test_a_detached_kafka_runs_on_until_it_is_stopped(tmp_path: Path) -> None:
    shell = CliRunner()
    started = shell.invoke(broker_command, ["start", "--dir", str(tmp_path)])
    try:
        assert started.exit_code == 0, started.output
        name, _, servers = started.stdout.strip().partition("=")
        assert name == "KAFKA_BOOTSTRAP_SERVERS"
        create_topic(servers, "detached")
        again = shell.invoke(broker_command, ["start", "--dir", str(tmp_path), "--json"])
        assert json.loads(again.stdout)["bootstrap_servers"] == servers
        other = shell.invoke(broker_command, ["start", "--dir", str(tmp_path), "--brokers", "3"])
        assert (other.exit_code, other.stdout, other.stderr.count("\n")) == (1, "", 1)
        pids = json.loads((tmp_path / "running.json").read_text())["broker_pids"].values()
    finally:
        stopped = shell.invoke(broker_command, ["stop", "--dir", str(tmp_path), "--json"])
    assert json.loads(stopped.stdout)["stopped"] is True
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert json.loads(shell.invoke(broker_command, ["stop", "--dir", str(tmp_path), "--json"]).stdout) == {
        "stopped": False,
        "directory": str(tmp_path),
    }
    assert shell.invoke(broker_command, ["start", "--brokers", "2"]).exit_code == 2


def test_stop_leaves_a_process_alone_that_only_has_the_number(tmp_path: Path) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        state = {"pid": bystander.pid, "brokers": 1, "bootstrap_servers": "127.0.0.1:1"}
        (tmp_path / "running.json").write_text(json.dumps(state))
        assert stop_detached(tmp_path) is False
        assert bystander.poll() is None
    finally:
        bystander.communicate(b"\n", timeout=10)
    assert bystander.returncode == 0


def test_the_shared_fixture_is_a_kafka_that_answers(kafka: str) -> None:
    assert run_tool("kafka-broker-api-versions", [], kafka)
