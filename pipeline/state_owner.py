"""Whose state a role's directory holds: a small file beside its databases, written at the first use.

Databases of another group, or of another Kafka, hold offsets and rows that mean nothing here.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
from aiokafka.admin import AIOKafkaAdminClient
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.settings import Settings, SettingsError
from pipeline.topics import client_options, group

FILE = "owner.json"


class Owner(BaseModel):
    """The consumer group and the Kafka cluster that a directory was first used with."""

    model_config = ConfigDict(frozen=True)

    group: str
    cluster: str


def read(settings: Settings, role: str) -> Owner | None:
    """The owner of a role's directory; None where there is no file, or none that can be read."""
    try:
        return Owner.model_validate_json((directory(settings, role) / FILE).read_bytes())
    except (OSError, ValidationError):
        return None


async def cluster_of(admin: Any) -> str:
    """The id of the Kafka cluster that an admin client speaks to."""
    return str((await admin.describe_cluster())["cluster_id"])


def foreign(settings: Settings, role: str, owner: Owner, cluster: str | None) -> str | None:
    """What is wrong where a role's directory is somebody else's; `cluster` None: it is not compared."""
    place = directory(settings, role)
    if owner.group != (own := group(settings, role)):
        return f"{place} is of the group {owner.group}, this set-up's is {own}"
    if cluster is not None and owner.cluster != cluster:
        return f"{place} is of the Kafka cluster {owner.cluster}, this one is {cluster}"
    return None


async def claim(settings: Settings, roles: Iterable[str]) -> None:
    """Writes the owner of each role's directory where there is none yet.

    Raises SettingsError where one belongs to another group or cluster: its offsets mean nothing here.
    """
    admin: Any = AIOKafkaAdminClient(**client_options(settings))
    try:
        await admin.start()
        cluster = await cluster_of(admin)
    finally:
        await admin.close()
    owners = {role: read(settings, role) for role in roles}
    wrong = {
        role: what
        for role, owner in owners.items()
        if owner is not None and (what := foreign(settings, role, owner, cluster)) is not None
    }
    if wrong:
        places = ", ".join(str(directory(settings, role)) for role in wrong)
        raise SettingsError(
            f"state_dir: {'; '.join(wrong.values())}: set another state_dir, or the broker and the "
            f"topic_prefix that it was used with; or remove {places}, which is restored from Kafka"
        )
    for role in [role for role, owner in owners.items() if owner is None]:
        _write(directory(settings, role) / FILE, Owner(group=group(settings, role), cluster=cluster))


def directory(settings: Settings, role: str) -> Path:
    """Where a role's databases are."""
    return Path(settings.state_dir) / role


def _write(file: Path, owner: Owner) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = file.with_suffix(".new")
    with whole.open("wb") as writing:
        writing.write(orjson.dumps(owner.model_dump()))
        writing.flush()
        os.fsync(writing.fileno())
    whole.replace(file)
