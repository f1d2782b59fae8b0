"""The doctor before a real Kafka: a fresh set-up, a good one, and one that others have bent."""

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from agents.topics import CONTROL
from pipeline import state_owner, topics
from pipeline.doctor import findings, look
from pipeline.run import Runner
from pipeline.settings import Settings, given

pytestmark = pytest.mark.kafka


async def told(settings: Settings, least: int = 0) -> list[str]:
    """What the doctor finds when it can look at everything: at least so much.

    The controller has a change at once, the broker soon after; until then it may not tell of a topic.
    """
    async with asyncio.timeout(60):
        while True:
            facts = await look(settings)
            lines = [finding.what for finding in findings(settings, facts)]
            if facts.skipped == () and len(lines) >= least:
                assert facts.ahead is not None
                return lines
            await asyncio.sleep(0.1)


async def test_a_set_up_is_well_once_it_is_made_and_what_bends_it_is_found(
    kafka: str, tmp_path: Path
) -> None:
    prefix = f"t{uuid.uuid4().hex[:10]}-"
    two = dict.fromkeys(topics.ROLES, 2)
    settings = given(
        state_dir=tmp_path, kafka={"bootstrap_servers": kafka, "topic_prefix": prefix, "partitions": two}
    )
    facts = await look(settings)
    (nothing_there,) = findings(settings, facts)
    assert nothing_there.what.startswith("none of the ")
    assert prefix + CONTROL in facts.skipped[0]

    await topics.create(settings)
    await state_owner.claim(settings, ["core"])
    await state_owner.claim(settings, ["core", "email"])
    assert await told(settings) == []

    owner = tmp_path / "core" / state_owner.FILE
    marked = json.loads(owner.read_text())
    assert marked["group"] == f"{prefix}carillon-core"
    owner.write_text(json.dumps({**marked, "cluster": "another"}))
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.create_partitions({prefix + "users": NewPartitions(3)})
        bent = {  # what is not named goes back to the default
            "message.timestamp.type": "CreateTime",
            "cleanup.policy": "delete",
            "max.message.bytes": "1000000",
        }
        resource = ConfigResource(ConfigResourceType.TOPIC, prefix + topics.changelog("email"), bent)
        await admin.alter_configs([resource])
        await admin.delete_topics([prefix + "dlq-web"])
    finally:
        await admin.close()
    lines = await told(settings, least=6)
    found = "\n".join(lines)
    assert "core is of the Kafka cluster another" in found
    assert f"{prefix}dlq-web is missing" in found
    assert f"{prefix}users 3" in found
    for setting in ("message.timestamp.type=CreateTime", "cleanup.policy=delete", "max.message.bytes="):
        assert f"{prefix}carillon-email-store-changelog has {setting}" in found
    assert len(lines) == 6


async def test_a_worker_says_whose_the_directories_of_its_roles_are(kafka: str, tmp_path: Path) -> None:
    prefix = f"t{uuid.uuid4().hex[:10]}-"
    settings = given(state_dir=tmp_path, kafka={"bootstrap_servers": kafka, "topic_prefix": prefix})
    runner = Runner(settings, ("status",))
    await runner.start()
    try:
        owner = state_owner.read(settings, "status")
        assert owner is not None
        assert owner.group == f"{prefix}carillon-status"
        assert state_owner.read(settings, "core") is None
        await runner.wait_until_ready(30)
    finally:
        await runner.stop()
    assert [finding.what for finding in findings(settings, await look(settings))] == []
