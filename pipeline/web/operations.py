"""What the operators' side reaches beyond what is remembered: rules in force, dead letters, core's ear."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from agents import topics
from agents.catalogue import Catalogue
from pipeline import cancelling, explaining
from pipeline.explaining import Found
from pipeline.settings import Settings
from pipeline.topics import client_options
from pipeline.web.story import Asked
from schemas.notification import EventRef
from schemas.template import Template
from tables.history import History

LETTERS_SECONDS = 0.6
"""How long an answer waits for dead letters: it is to come within a second."""
SECONDS = 10.0
TOGETHER = 2


class Unreachable(Exception):
    """The broker did not take it; the message says why, and a later try may be in luck."""


class Operations(Protocol):
    """What the operators' pages and API ask of the outside."""

    @property
    def catalogue(self) -> Catalogue:
        """The workflows and templates in force."""

    async def letters(self, asked: Asked, known: Sequence[History]) -> Found:
        """The dead letters of what is asked for, as far as they are found at once; never raises."""

    async def cancel(self, id: str, user_id: str, event: EventRef | None) -> None:
        """Asks core to cancel. Raises ValueError for what is no id, Unreachable."""

    async def publish(self, template: Template) -> None:
        """Puts a template on its topic, where every process hears it. Raises Unreachable."""


class OnKafka:
    """Operations over the broker that the settings name, and the catalogue that this process follows."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self._settings, self.catalogue = settings, catalogue
        self._turns = asyncio.Semaphore(TOGETHER)

    async def letters(self, asked: Asked, known: Sequence[History]) -> Found:
        """The dead letters of what is asked for, as far as they are found at once; never raises."""

        def look() -> Found:
            return asyncio.run(explaining.about(self._settings, asked, known, LETTERS_SECONDS))

        async with self._turns:
            try:
                return await asyncio.to_thread(look)  # reading thousands would hold up the roles of this loop
            except (KafkaError, OSError):
                return Found((), False)

    async def cancel(self, id: str, user_id: str, event: EventRef | None) -> None:
        """Asks core to cancel. Raises ValueError for what is no id, Unreachable."""
        try:
            async with asyncio.timeout(SECONDS):
                await cancelling.cancel(self._settings, id, user_id, event)
        except (KafkaError, OSError, TimeoutError) as error:
            raise Unreachable(f"kafka: {type(error).__name__}") from None

    async def publish(self, template: Template) -> None:
        """Puts a template on its topic, where every process hears it. Raises Unreachable."""
        topic = self._settings.kafka.topic_prefix + topics.TEMPLATES
        producer = AIOKafkaProducer(**client_options(self._settings), acks="all", max_request_size=8 << 20)
        try:
            async with asyncio.timeout(SECONDS):
                try:
                    await producer.start()
                    await producer.send_and_wait(
                        topic, template.to_json(), key=template.name.encode(), partition=0
                    )
                finally:
                    await producer.stop()
        except (KafkaError, OSError, TimeoutError) as error:
            raise Unreachable(f"kafka: {type(error).__name__}") from None
