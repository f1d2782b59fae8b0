"""What the groups of this process are told: each process follows `control` and lets its engines hear it."""

import logging
from typing import Any

from faust.types import TP

from agents import topics
from pipeline.engine import Rewind, Rewinds
from pipeline.following import Follower
from pipeline.settings import Settings
from pipeline.topics import ROLES, counts, group
from schemas.base import RecordUnreadable
from schemas.control import Replay

log = logging.getLogger(__name__)
DOCTOR = b"doctor"
"""The key under which `carillon doctor` asks the broker for the time."""


class ControlReader:
    """Follows `control` without a group, and lets the engines of this process hear it.

    It is read from its beginning: what a partition has obeyed is in its store, so that neither a restart
    nor a new owner begins anew a second time, or misses what was asked while nobody was there.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._rewinds = {group(settings, role): Rewinds() for role in ROLES}
        self._known = {settings.kafka.topic_prefix + name: count for name, count in counts(settings).items()}
        self._follower = Follower(settings, (topics.CONTROL,), self.hear)

    async def start(self) -> None:
        """Reads the topic to its end, then follows it in the background."""
        await self._follower.start()

    def rewinds_of(self, name: str) -> Rewinds:
        """What the members of a consumer group were told so far, and will be."""
        return self._rewinds[name]

    async def stop(self) -> None:
        """Stops following."""
        await self._follower.stop()

    def hear(self, record: Any) -> None:
        """Takes one record over; a broken one is refused, and what a doctor left there is no request."""
        if record.key == DOCTOR:
            return
        try:
            replay = Replay.from_json(record.value)
        except RecordUnreadable as error:
            log.error("refused a broken record of control, offset %d: %s", record.offset, error)
            return
        rewinds = self._rewinds.get(replay.group)
        if rewinds is None:
            log.error("replay %s: there is no group %s", replay.id, replay.group)
            return
        for place in replay.places:
            if 0 <= place.partition < self._known.get(place.topic, 0) and place.offset >= 0:
                rewind = Rewind((record.timestamp, record.offset), place.offset)
                rewinds.hear(TP(place.topic, place.partition), rewind)
            else:
                log.error("replay %s: there is no %s-%d", replay.id, place.topic, place.partition)
