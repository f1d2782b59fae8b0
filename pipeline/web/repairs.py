"""What operators mend a pipeline with: its dead letters, and replays of its groups."""

from typing import NamedTuple, Self

from pipeline.settings import Settings
from pipeline.web import letters, replays
from pipeline.web.apart import Apart
from pipeline.web.letters import Letters
from pipeline.web.replays import Replays


class Repairs(NamedTuple):
    """Both of them; they share the turns that their work takes."""

    letters: Letters
    replays: Replays

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Over the broker that the settings name."""
        apart = Apart()
        return cls(
            Letters(settings, letters.OnKafka(settings), apart),
            Replays(settings, replays.OnKafka(settings), apart),
        )
