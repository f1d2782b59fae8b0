"""The directory of an embedded Kafka: what is remembered, each broker's configuration, formatted storage.

`cluster.json` holds the cluster id, the number of brokers and their ports; `broker-N/` holds broker N's
`server.properties`, `server.log`, `data` and `tmp`.
"""

import base64
import contextlib
import json
import random
import shutil
import socket
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline.broker.failures import BrokerFailed, BrokerUnavailable
from pipeline.broker.java import java_command, java_environment, prepare_directory
from pipeline.broker.properties import LOGGING, Ports, broker_properties, write_properties

FORMAT_SECONDS = 60.0
# Below the kernel's ephemeral ports: there, a client's own connection could take the port of a killed broker.
PORTS = range(20_000, 32_000)


def broker_home(root: Path, number: int) -> Path:
    """The directory of one broker, which is its JVM's working directory."""
    return root / f"broker-{number}"


def remembered_brokers(root: Path) -> int | None:
    """How many brokers the Kafka in this directory has; None where there is none."""
    brokers = _state(root).get("brokers")
    return int(brokers) if brokers else None


def lay_out(
    root: Path, brokers: int, config: Mapping[str, str], jars: Sequence[Path], flags: Sequence[str] = ()
) -> list[Ports]:
    """Write every broker's configuration, and format the storage where that has not been done.

    Keeps the cluster id, the data and, if they are free, the ports of what is there already.
    """
    state = _state(root)
    if state and state["brokers"] != brokers:
        raise BrokerUnavailable(f"{root} holds a Kafka of {state['brokers']} brokers, not of {brokers}")
    cluster_id = state.get("cluster_id") or base64.b64encode(uuid.uuid4().bytes, b"-_").decode().rstrip("=")
    remembered = [Ports(*pair) for pair in state.get("ports", [])]
    ports = remembered if remembered and all(map(_free, remembered)) else _free_ports(brokers)
    pairs = [[each.client, each.controller] for each in ports]
    (root / "cluster.json").write_text(
        json.dumps({"cluster_id": cluster_id, "brokers": brokers, "ports": pairs})
    )
    homes = [broker_home(root, number) for number in range(1, brokers + 1)]
    for number, home in enumerate(homes, 1):
        prepare_directory(home, LOGGING)
        write_properties(home / "server.properties", broker_properties(number, ports, config))
    with ThreadPoolExecutor(brokers) as pool:
        list(pool.map(lambda home: _format(home, cluster_id, jars, flags), homes))
    return ports


def _state(root: Path) -> dict[str, Any]:
    path = root / "cluster.json"
    state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return state


def _format(home: Path, cluster_id: str, jars: Sequence[Path], flags: Sequence[str]) -> None:
    if (home / "data").exists():
        return
    # Formatted under another name first: storage that is there is whole, even if we were killed in between.
    shutil.rmtree(home / "data.part", ignore_errors=True)
    properties = (home / "server.properties").read_text().replace("log.dirs=data\n", "log.dirs=data.part\n")
    (home / "format.properties").write_text(properties)
    # As one word, because one id in 64 begins with a dash.
    arguments = ["format", f"--cluster-id={cluster_id}", "--config", "format.properties"]
    command = java_command(jars, "kafka.tools.StorageTool", arguments, 128, flags)
    try:
        formatting = subprocess.run(
            command,
            cwd=home,
            env=java_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FORMAT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BrokerFailed(
            f"the storage in {home} was not formatted within {FORMAT_SECONDS:.0f} s"
        ) from error
    if formatting.returncode:
        said = (formatting.stderr + formatting.stdout).strip()
        raise BrokerFailed(f"the storage in {home} could not be formatted\n{said}")
    (home / "data.part").rename(home / "data")


def _free(ports: Ports) -> bool:
    with contextlib.ExitStack() as bound:
        try:
            for port in (ports.client, ports.controller):
                listener = bound.enter_context(socket.socket())
                # As Kafka does: connections that linger after a kill do not keep the port from its broker.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_ports(brokers: int) -> list[Ports]:
    candidates = random.Random().sample(PORTS, len(PORTS))
    pairs = (Ports(*pair) for pair in zip(candidates[::2], candidates[1::2], strict=True))
    free = (ports for ports in pairs if _free(ports))
    return [next(free) for _ in range(brokers)]
