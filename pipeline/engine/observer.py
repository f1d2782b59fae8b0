"""What the engine tells those who watch it; every method may be overridden, none may raise."""


class Observer:
    """Hears what happens in the engine of one role. The default does nothing."""

    def unit_done(self, topic: str, records: int, seconds: float) -> None:
        """A unit's outputs and rows are down; `seconds` is the time of deciding."""

    def committed(self, offsets: int) -> None:
        """Offsets of that many partitions were committed."""

    def abandoned(self, reason: str) -> None:
        """A task gave its work up and starts again from the changelog."""

    def zombie_rows(self, count: int) -> None:
        """A restore left out rows that a former owner had written too late."""

    def revoked(self, partitions: int, seconds: float) -> None:
        """Partitions were given up after a drain of that length."""

    def restored(self, partitions: int) -> None:
        """Partitions were restored and are open."""

    def rejected(self, topic: str, error: str) -> None:
        """A record made its stage raise and was handed to the stage's reject."""

    def swept(self, rows: int) -> None:
        """Rows were removed whose window is past."""

    def gave_up(self, stage: str) -> None:
        """The role stops: a stage raised on too many records in a row."""
