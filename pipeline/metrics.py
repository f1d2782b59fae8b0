"""What this process counts, for Prometheus: each metric named once, with what it means."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pipeline.engine.observer import Observer

log = logging.getLogger(__name__)

CONTENT_TYPE = CONTENT_TYPE_LATEST
_UNIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_CALL_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_DRAIN_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)


GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "carillon_ready": ("1 while the role is recovered, at work and committing, else 0.", ("role",)),
    "carillon_pairs": (
        "(notification, target) pairs by channel and state now, in the partitions of status held here.",
        ("channel", "state"),
    ),
    "carillon_partitions_held": ("Partitions of status whose history this process can show.", ()),
}
"""Read at each scrape from whoever knows; the others are counted as things happen."""

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each counter that nothing of ours reads


class Metrics:
    """The metrics of a process, on a registry of its own. Nothing in them names a person."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._sources = _Sources()
        registry.register(self._sources)
        ProcessCollector(registry=registry)

        def counter(name: str, says: str, *labels: str) -> Counter:
            return Counter(f"carillon_{name}", says, labels, registry=registry)

        def seconds(name: str, says: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"carillon_{name}", says, labels, registry=registry, buckets=buckets)

        self.units = counter("units", "Units of work whose outputs and rows are down.", "role", "topic")
        self.records = counter("records", "Records in those units.", "role", "topic")
        self.unit_seconds = seconds(
            "unit_seconds", "Time of deciding a unit, without its waits.", _UNIT_SECONDS, "role", "topic"
        )
        self.commits = counter("commits", "Commits that moved offsets.", "role")
        self.committed = counter("committed_partitions", "Partitions whose offset a commit moved.", "role")
        self.abandonments = counter(
            "abandonments",
            "Times that a task gave its work up and began again from the changelog.",
            "role",
            "reason",
        )
        self.zombie_rows = counter("zombie_rows", "Rows of a former owner that a restore left out.", "role")
        self.restored = counter("restored_partitions", "Partitions that were restored and opened.", "role")
        self.revoked = counter("revoked_partitions", "Partitions that were given up after a drain.", "role")
        self.drain_seconds = seconds("drain_seconds", "How long drains took.", _DRAIN_SECONDS, "role")
        self.rejected = counter(
            "rejected", "Records that made their stage raise, by the kind of error.", "role", "topic", "error"
        )
        self.swept = counter("swept_rows", "Rows that were removed because their window is past.", "role")
        self.stage_stops = counter(
            "stage_stops",
            "Times that the role stopped itself: a stage raised on too many records in a row.",
            "role",
            "stage",
        )
        self.statuses = counter(
            "statuses", "Statuses folded into history that changed it.", "channel", "state"
        )
        self.provider_calls = counter(
            "provider_calls", "Calls to providers, by how they ended.", "provider", "channel", "kind"
        )
        self.provider_call_seconds = seconds(
            "provider_call_seconds", "How long calls to providers took.", _CALL_SECONDS, "provider", "channel"
        )
        self.calls_in_flight = Gauge(
            "carillon_calls_in_flight",
            "Calls to providers under way.",
            ("provider", "channel"),
            registry=registry,
        )
        self.receipts = counter(
            "receipts",
            "What providers and readers told of messages, by what it came to.",
            "provider",
            "outcome",
        )
        self.events_ignored = counter("events_ignored", "Events that no workflow wants.")
        self.dead_letters = counter("dead_letters", "Records that went to a dead-letter topic.", "topic")
        self.records_astray = counter(
            "records_astray", "Records that lay outside the partition of their user and were moved.", "topic"
        )
        self._calls: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}
        self._told: dict[tuple[str, str], Counter] = {}

    def told(self, channel: str | None = None, state: str | None = None) -> None:
        """A status changed history."""
        name = (channel or "", state or "")
        if (child := self._told.get(name)) is None:
            child = self._told[name] = self.statuses.labels(*name)
        child.inc()

    def called(self, provider: str, channel: str, kind: str, seconds: float) -> None:
        """A provider's call ended so, after so long."""
        name = (provider, channel, kind)
        if (children := self._calls.get(name)) is None:
            children = self._calls[name] = (
                self.provider_calls.labels(*name), self.provider_call_seconds.labels(provider, channel)
            )  # fmt: skip
        children[0].inc()
        children[1].observe(seconds)

    def calling(self, provider: str, channel: str) -> AbstractContextManager[None]:
        """Counts a call as under way for as long as the context lasts."""
        return self.calls_in_flight.labels(provider, channel).track_inprogress()

    def ignored(self) -> None:
        """No workflow wanted an event."""
        self.events_ignored.inc()

    def dead_lettered(self, topic: str) -> None:
        """A record went to a dead-letter topic, named without prefix."""
        self.dead_letters.labels(topic).inc()

    def astray(self, topic: str) -> None:
        """A record lay outside its user's partition and was moved."""
        self.records_astray.labels(topic).inc()

    def watch(
        self,
        *,
        readiness: Callable[[], Mapping[str, bool]] | None = None,
        pairs: Callable[[], Mapping[tuple[str, str], int]] | None = None,
        held: Callable[[], int] | None = None,
    ) -> None:
        """Says where the gauges that are read at each scrape come from."""
        sources = self._sources
        sources.readiness, sources.pairs, sources.held = (
            readiness or sources.readiness, pairs or sources.pairs, held or sources.held
        )  # fmt: skip

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


class _Sources(Collector):
    """Gauges that are read from their sources at each scrape."""

    def __init__(self) -> None:
        self.readiness: Callable[[], Mapping[str, bool]] = dict
        self.pairs: Callable[[], Mapping[tuple[str, str], int]] = dict
        self.held: Callable[[], int] = int

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield from (GaugeMetricFamily(name, says, labels=labels) for name, (says, labels) in GAUGES.items())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        ready, pairs, held = self.describe()
        for role, is_ready in self.readiness().items():
            ready.add_metric([role], float(is_ready))
        for name, count in self.pairs().items():
            pairs.add_metric(name, count)
        held.add_metric([], self.held())
        yield from (ready, pairs, held)


class _OfTopic(NamedTuple):
    units: Counter
    records: Counter
    seconds: Histogram


class EngineMetrics(Observer):
    """Counts what happens in the engine of one role; its label children are looked up once."""

    def __init__(self, metrics: Metrics, role: str) -> None:
        self._metrics, self._role = metrics, role
        self._topics: dict[str, _OfTopic] = {}
        self._commits = metrics.commits.labels(role)
        self._committed = metrics.committed.labels(role)
        self._zombies = metrics.zombie_rows.labels(role)
        self._restored = metrics.restored.labels(role)
        self._revoked = metrics.revoked.labels(role)
        self._swept = metrics.swept.labels(role)
        self._drains = metrics.drain_seconds.labels(role)

    def unit_done(self, topic: str, records: int, seconds: float) -> None:
        """Counts a unit and its records."""
        if (children := self._topics.get(topic)) is None:
            of = self._metrics
            children = self._topics[topic] = _OfTopic(
                of.units.labels(self._role, topic), of.records.labels(self._role, topic),
                of.unit_seconds.labels(self._role, topic),
            )  # fmt: skip
        children.units.inc()
        children.records.inc(records)
        children.seconds.observe(seconds)

    def committed(self, offsets: int) -> None:
        """Counts a commit."""
        self._commits.inc()
        self._committed.inc(offsets)

    def abandoned(self, reason: str) -> None:
        """Counts an abandonment; a reason that holds figures is counted without them."""
        log.warning("a task of role %s gave its work up: %s", self._role, reason)
        self._metrics.abandonments.labels(self._role, _in_kind(reason)).inc()

    def zombie_rows(self, count: int) -> None:
        """Counts rows that a restore left out."""
        log.warning("role %s: left out %d rows that a former owner wrote too late", self._role, count)
        self._zombies.inc(count)

    def revoked(self, partitions: int, seconds: float) -> None:
        """Counts partitions given up, and the drain's time."""
        self._revoked.inc(partitions)
        self._drains.observe(seconds)

    def restored(self, partitions: int) -> None:
        """Counts partitions that are open."""
        self._restored.inc(partitions)

    def rejected(self, topic: str, error: str) -> None:
        """Counts a rejected record."""
        self._metrics.rejected.labels(self._role, topic, error).inc()

    def swept(self, rows: int) -> None:
        """Counts rows that were removed."""
        self._swept.inc(rows)

    def gave_up(self, stage: str) -> None:
        """Counts a stop."""
        self._metrics.stage_stops.labels(self._role, stage).inc()


MOST_WORDS = 8


def _in_kind(reason: str) -> str:
    """The words of a reason up to its first figure: few enough to be a label."""
    words = []
    for word in reason.split()[:MOST_WORDS]:
        if any(c.isdigit() for c in word):
            break
        words.append(word)
    return " ".join(words) or "unknown"
