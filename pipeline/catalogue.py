"""Reads `workflows`, `templates` and `segments` whole, follows them, and publishes what changed in files.

Every process does this for itself, without a consumer group.
"""

import logging
from typing import Any

from aiokafka import AIOKafkaProducer
from pydantic import ValidationError

from agents import topics
from agents.catalogue import Catalogue
from agents.render import TemplateBroken
from pipeline import rules
from pipeline.following import Follower
from pipeline.settings import Settings
from pipeline.topics import client_options
from schemas.event import first_problem
from schemas.segment import Segment
from schemas.template import Template
from schemas.workflow import Workflow

log = logging.getLogger(__name__)


FOLLOWED = (topics.WORKFLOWS, topics.TEMPLATES, topics.SEGMENTS)


class CatalogueReader:
    """Keeps a Catalogue as its topics have it."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self.settings, self.catalogue = settings, catalogue
        self._follower = Follower(settings, FOLLOWED, self._take)

    async def start(self) -> None:
        """Reads the topics to their ends, then follows them in the background."""
        await self._follower.start()

    async def stop(self) -> None:
        """Stops following."""
        await self._follower.stop()

    def _take(self, record: Any) -> None:
        name = record.topic.removeprefix(self.settings.kafka.topic_prefix)
        self._change(name, (record.key or b"").decode("utf-8", "replace"), record.value)

    def _change(self, topic: str, key: str, value: bytes | None) -> None:
        """Takes one record over; a broken one is refused, and the old one stays."""
        try:
            if topic == topics.WORKFLOWS:
                if value is None:
                    self.catalogue.drop_workflow(key)
                else:
                    self.catalogue.set_workflow(Workflow.model_validate_json(value))
            elif topic == topics.SEGMENTS:
                if value is None:
                    self.catalogue.drop_segment(key)
                else:
                    self.catalogue.set_segment(Segment.model_validate_json(value))
            elif value is None:
                self.catalogue.drop_template(key)
            else:
                self.catalogue.set_template(Template.model_validate_json(value))
        except ValidationError as error:
            log.error("refused a broken record of %s, key %r: %s", topic, key, first_problem(error))
        except TemplateBroken as error:
            log.error("refused a broken record of %s, key %r: %s", topic, key, error)


async def publish(settings: Settings, catalogue: Catalogue) -> list[str]:
    """Publishes the workflows, templates and segments whose files differ; returns their names.

    Raises rules.RulesBroken, which names file, line and field, before anything is published.
    """
    prefix = settings.kafka.topic_prefix
    changed: list[tuple[str, str, bytes]] = []
    for workflow in rules.load_workflows(settings.workflows_dir):
        if catalogue.workflows.get(workflow.name) != workflow:
            changed.append((topics.WORKFLOWS, workflow.name, workflow.to_json()))
    for segment in rules.load_segments(settings.segments_dir) if settings.segments_dir.is_dir() else ():
        if catalogue.segments.get(segment.name) != segment:
            changed.append((topics.SEGMENTS, segment.name, segment.to_json()))
    for source in rules.load_templates(settings.templates_dir):
        following = rules.next_template(catalogue.templates.get(source.name), source)
        if following is not None:
            changed.append((topics.TEMPLATES, following.name, following.to_json()))
    if not changed:
        return []
    producer = AIOKafkaProducer(**client_options(settings), acks="all", max_request_size=8 << 20)
    await producer.start()
    try:
        for topic, name, value in changed:
            await producer.send_and_wait(prefix + topic, value, key=name.encode(), partition=0)
    finally:
        await producer.stop()
    return [name for _, name, _ in changed]
