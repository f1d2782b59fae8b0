"""Whose state a role's directory holds: a small file beside its databases, written at the first use.

Databases of another group, or of another Kafka, hold offsets and rows that mean nothing here.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
from aiokafka.admin import AIOKafkaAdminClient
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.settings import Settings
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
        return Owner.model_validate_json(_file(settings, role).read_bytes())
    except (OSError, ValidationError):
        return None


async def cluster_of(admin: Any) -> str:
    """The id of the Kafka cluster that an admin client speaks to."""
    return str((await admin.describe_cluster())["cluster_id"])


async def mark(settings: Settings, roles: Iterable[str]) -> None:
    """Writes the owner of each role's directory where there is none yet."""
    unmarked = [role for role in roles if not _file(settings, role).exists()]
    if not unmarked:
        return
    admin: Any = AIOKafkaAdminClient(**client_options(settings))
    try:
        await admin.start()
        cluster = await cluster_of(admin)
    finally:
        await admin.close()
    for role in unmarked:
        file = _file(settings, role)
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = file.with_suffix(".new")
        whole.write_bytes(orjson.dumps(Owner(group=group(settings, role), cluster=cluster).model_dump()))
        whole.replace(file)


def _file(settings: Settings, role: str) -> Path:
    return Path(settings.state_dir) / role / FILE
