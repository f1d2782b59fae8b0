"""A state directory of another group or another Kafka: its offsets mean nothing here, so nothing begins."""

import asyncio
import os
import subprocess
import sys
import uuid
from pathlib import Path

import orjson
import pytest

from pipeline import state_owner
from pipeline.settings import Settings, SettingsError, given
from pipeline.state_owner import Owner

pytestmark = pytest.mark.kafka


def settings_of(kafka: str, state_dir: Path, prefix: str = "") -> Settings:
    prefix = prefix or f"t{uuid.uuid4().hex[:10]}-"
    return given(state_dir=state_dir, kafka={"bootstrap_servers": kafka, "topic_prefix": prefix})


def owned_by(settings: Settings, role: str, **owner: str) -> Path:
    """Writes an owner; what is not given is this set-up's."""
    file = state_owner.directory(settings, role) / state_owner.FILE
    file.write_bytes(orjson.dumps({**orjson.loads(file.read_bytes()), **owner}))
    return file


async def test_a_directory_that_was_claimed_is_claimed_again(kafka: str, tmp_path: Path) -> None:
    settings = settings_of(kafka, tmp_path)
    await state_owner.claim(settings, ["core"])
    claimed = state_owner.read(settings, "core")
    assert claimed is not None
    assert claimed.group == f"{settings.kafka.topic_prefix}carillon-core"
    assert len(claimed.cluster) > 10
    await state_owner.claim(settings, ["core", "email"])
    assert state_owner.read(settings, "core") == claimed
    assert state_owner.read(settings, "email") == Owner(
        group=f"{settings.kafka.topic_prefix}carillon-email", cluster=claimed.cluster
    )


async def test_a_file_that_names_no_owner_is_written_anew(kafka: str, tmp_path: Path) -> None:
    settings = settings_of(kafka, tmp_path)
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / state_owner.FILE).write_bytes(b"")
    await state_owner.claim(settings, ["core"])
    assert state_owner.read(settings, "core") is not None


async def test_a_directory_of_another_prefix_or_cluster_is_refused_and_left_as_it_is(
    kafka: str, tmp_path: Path
) -> None:
    one, other = settings_of(kafka, tmp_path), settings_of(kafka, tmp_path)
    await state_owner.claim(one, ["core", "email"])
    with pytest.raises(SettingsError, match="is of the group") as told:
        await state_owner.claim(other, ["core", "status"])
    assert f"{tmp_path / 'core'} is of the group {one.kafka.topic_prefix}carillon-core" in str(told.value)
    assert state_owner.read(other, "status") is None, "nothing is claimed where something is refused"
    elsewhere = owned_by(one, "email", cluster="elsewhere")
    before = elsewhere.read_bytes()
    with pytest.raises(SettingsError, match="is of the Kafka cluster elsewhere") as told:
        await state_owner.claim(one, ["core", "email"])
    assert str(tmp_path / "core") not in str(told.value)
    assert elsewhere.read_bytes() == before


def carillon(environment: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *words],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("owner", [{"group": "theirs"}, {"cluster": "elsewhere"}], ids=str)
async def test_a_run_ends_with_one_line_that_names_the_directory_and_creates_no_topic(
    kafka: str, tmp_path: Path, owner: dict[str, str]
) -> None:
    settings = settings_of(kafka, tmp_path / "state")
    await state_owner.claim(settings, ["status"])
    owned_by(settings, "status", **owner)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CARILLON_")} | {
        "KAFKA_BOOTSTRAP_SERVERS": kafka,
        "CARILLON_KAFKA__TOPIC_PREFIX": settings.kafka.topic_prefix,
        "CARILLON_STATE_DIR": str(settings.state_dir),
        "CARILLON_LOG_LEVEL": "error",
    }
    done = await asyncio.to_thread(carillon, environment, "run", "--role", "status")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"carillon: state_dir: {tmp_path / 'state' / 'status'} is of the ")
    assert next(iter(owner.values())) in line
    assert "set another state_dir" in line
    assert f"remove {tmp_path / 'state' / 'status'}" in line
    doctor = await asyncio.to_thread(carillon, environment, "doctor")
    assert "none of the" in doctor.stdout
