"""How histories and figures are said: pure functions from what is stored to what pages and programs get."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from pipeline.web.rows import Kept
from pipeline.web.tasks import Number, Role, TaskState
from pipeline.web.views import MINUTES_SHOWN, Figures
from schemas.kinds import Channel, State
from schemas.status import rfc3339
from tables.history import BUCKETS_MS, History
from tables.layout import say

BEST_FIRST = (
    State.CLICKED, State.OPENED, State.DELIVERED, State.COMPLAINED, State.UNSUBSCRIBED, State.SENT,
    State.UNKNOWN, State.SENDING, State.RETRYING, State.QUEUED, State.SCHEDULED, State.ACCEPTED,
    State.DIGESTED, State.BOUNCED, State.FAILED, State.EXPIRED, State.CANCELLED, State.TOO_OLD,
    State.SUPPRESSED, State.IGNORED, State.DUPLICATE,
)  # fmt: skip
"""How far a notification got is how far its best target got."""
_ORDER: Mapping[str, int] = {state: n for n, state in enumerate(BEST_FIRST)}

GROUPS: Mapping[str, tuple[State, ...]] = {
    "reached": (
        State.SENT, State.DELIVERED, State.OPENED, State.CLICKED, State.COMPLAINED, State.UNSUBSCRIBED,
    ),
    "under way": (State.ACCEPTED, State.SCHEDULED, State.QUEUED, State.SENDING, State.RETRYING),
    "held back": (State.SUPPRESSED, State.DIGESTED, State.EXPIRED, State.CANCELLED, State.TOO_OLD),
    "failed": (State.FAILED, State.BOUNCED),
    "in doubt": (State.UNKNOWN,),
    "not ours": (State.IGNORED, State.DUPLICATE),
}  # fmt: skip
"""What each state means to somebody who runs this; every state is in one."""
GROUP_OF: Mapping[str, str] = {state: group for group, states in GROUPS.items() for state in states}

_ALWAYS = (State.QUEUED, State.SENT, State.DELIVERED, State.SUPPRESSED, State.FAILED)
"""Columns that stand there from the start; others come with their first pair."""


def group_of(state: str | None) -> str:
    """The group of a state; of an unknown word, none."""
    return GROUP_OF.get(state, "") if state else ""


def best(states: Iterable[str]) -> str | None:
    """The state that got farthest; None of none."""
    return min(states, key=lambda state: _ORDER.get(state, len(_ORDER)), default=None)


def whole(history: History) -> str | None:
    """How far a notification got; None before its first status."""
    found = best(pair["state"] for pair in history["pairs"].values())
    return found or (State.DUPLICATE if history["duplicates"] else None)


def of_channel(history: History, channel: str) -> str | None:
    """How far a notification got on a channel; None: it has nothing there."""
    return best(pair["state"] for pair in history["pairs"].values() if pair["channel"] == channel)


def notification(history: History) -> dict[str, Any]:
    """A history as programs get it."""
    channels: dict[str, list[str]] = defaultdict(list)
    for pair in history["pairs"].values():
        channels[pair["channel"]].append(pair["state"])
    return {
        "notification_id": history["id"],
        "user_id": history["user_id"],
        "state": whole(history),
        "event": history["event"] or None,
        "event_at": rfc3339(history["event_at"]) if history["event_at"] else None,
        "workflow": history["workflow"],
        "category": history["category"],
        "priority": history["priority"],
        "channels": {channel: best(states) for channel, states in sorted(channels.items()) if channel},
        "targets": [
            {"target_id": name.partition(":")[2] or None, **pair, "channel": pair["channel"] or None}
            for name, pair in sorted(history["pairs"].items())
        ],
        "timeline": [dict(zip(_TIMELINE, entry, strict=False)) for entry in history["timeline"]],
        "timeline_left_out": history["left_out"],
        "why": history["why"],
        "content": {
            channel: {"subject": content.get("subject"), "text": content["text"], "html": content.get("html")}
            for channel, content in history["content"].items()
        },
        "duplicates": history["duplicates"],
    }


_TIMELINE = ("at", "channel", "target_id", "state", "reason", "provider", "attempt", "detail")


class Latency(NamedTuple):
    """From event to first send, of one channel; percentiles are upper bounds of buckets (None: beyond)."""

    channel: str
    n: int
    p50_ms: int | None
    p99_ms: int | None
    shares: tuple[float, ...]


def latencies(figures: Figures) -> list[Latency]:
    """One line a channel that has sent anything."""
    bounds = (*BUCKETS_MS, -1)
    found = []
    for channel in _channels(channel for channel, _ in figures.latencies):
        buckets = [figures.latencies.get((channel, bound), 0) for bound in bounds]
        if total := sum(buckets):
            most = max(buckets)
            found.append(
                Latency(
                    channel, total, percentile(buckets, 0.50), percentile(buckets, 0.99),
                    tuple(count / most for count in buckets),
                )
            )  # fmt: skip
    return found


def percentile(buckets: list[int], share: float) -> int | None:
    """The upper bound of the bucket in which that share falls; None: beyond the last bound, or no values."""
    wanted, seen = share * sum(buckets), 0
    for bound, count in zip(BUCKETS_MS, buckets, strict=False):
        seen += count
        if count and seen >= wanted:
            return bound
    return None


def _channels(found: Iterable[str]) -> list[str]:
    """Channels in our order, unknown ones behind, "" (before any channel) last."""
    ours = {str(channel): n for n, channel in enumerate(Channel)}
    return sorted(set(found), key=lambda c: (c == "", ours.get(c, len(ours)), c))


class Row(NamedTuple):
    """One channel's counts, as the table's columns have them."""

    channel: str
    cells: tuple[int, ...]
    total: int


class Table(NamedTuple):
    """Counts of pairs by channel and state."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    sums: tuple[int, ...]
    total: int


def table(figures: Figures) -> Table:
    """The table of the overview. Ignored and duplicate ones are no pairs: they stand apart."""
    counts = {name: n for name, n in figures.counts.items() if n and group_of(name[1]) != "not ours"}
    seen = {state for _, state in counts}
    ours = [str(state) for state in State if state in seen or state in _ALWAYS]
    columns = (*ours, *sorted(seen.difference(ours)))
    rows = []
    for channel in _channels({channel for channel, _ in counts}):
        cells = tuple(counts.get((channel, state), 0) for state in columns)
        rows.append(Row(channel, cells, sum(cells)))
    sums = tuple(sum(row.cells[n] for row in rows) for n in range(len(columns)))
    return Table(columns, tuple(rows), sums, sum(sums))


def totals(figures: Figures) -> dict[str, int]:
    """How many pairs there are of each group, and how many events made none."""
    found = dict.fromkeys((group for group in GROUPS if group != "not ours"), 0)
    found |= {"duplicates": 0, "ignored": 0}
    for (_, state), count in figures.counts.items():
        group = group_of(state)
        if group in found:
            found[group] += count
        elif state == State.DUPLICATE:
            found["duplicates"] += count
        elif state == State.IGNORED:
            found["ignored"] += count
    return found


SERIES: Mapping[str, tuple[State, ...]] = {
    "delivered": (State.DELIVERED,),
    "sent": (State.SENT,),
    "held back": GROUPS["held back"],
    "failed": GROUPS["failed"],
    "in doubt": GROUPS["in doubt"],
}
"""What the chart stacks, from below; opened and clicked come later to what was delivered already."""


class Bar(NamedTuple):
    """One minute: when it began (Unix minutes) and its count in each series."""

    minute: int
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        return sum(self.counts)


def bars(figures: Figures) -> list[Bar]:
    """The last hour, minute by minute, this one last."""
    now = int(figures.at // 60)
    found: dict[int, list[int]] = {m: [0] * len(SERIES) for m in range(now - MINUTES_SHOWN + 1, now + 1)}
    for (minute, _, state), count in figures.minutes.items():
        for n, states in enumerate(SERIES.values()):
            if state in states and minute in found:
                found[minute][n] += count
    return [Bar(minute, tuple(counts)) for minute, counts in found.items()]


def top(most: int) -> int:
    """A round number not below `most`, for the end of a scale."""
    if most <= 4:
        return 4
    size = 1
    while True:
        for factor in (1, 2, 4, 5, 8):
            if factor * size * 10 >= most * 10 and factor * size >= 5:
                return factor * size
        size *= 10


def overview(figures: Figures, ready: Mapping[str, bool]) -> dict[str, Any]:
    """The overview as programs get it."""
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for (channel, state), count in sorted(figures.counts.items()):
        if count:
            counts[channel][state] = count
    return {
        "at": rfc3339(int(figures.at * 1000)),
        "partitions": {"open": figures.open, "of": figures.of},
        "ready": dict(ready),
        "totals": {group.replace(" ", "_"): count for group, count in totals(figures).items()},
        "counts": dict(counts),
        "minutes": [
            {
                "at": rfc3339(bar.minute * 60_000),
                **{name.replace(" ", "_"): n for name, n in zip(SERIES, bar.counts, strict=True)},
            }
            for bar in bars(figures)
        ],
        "latencies": {
            line.channel: {"count": line.n, "p50_ms": line.p50_ms, "p99_ms": line.p99_ms}
            for line in latencies(figures)
        },
    }


class Step(NamedTuple):
    """One entry of a timeline, `after_ms` the event was on the broker (None where a time cannot be read)."""

    told: Mapping[str, Any]
    target: str | None
    after_ms: int | None


def steps(history: History) -> list[Step]:
    """The timeline, with what each entry was about."""
    found = []
    for entry in history["timeline"]:
        told = dict(zip(_TIMELINE, entry, strict=False))
        pair = history["pairs"].get(f"{told['channel'] or ''}:{told['target_id'] or ''}")
        found.append(Step(told, pair["target"] if pair else None, _since(told["at"], history["event_at"])))
    return found


def _since(at: str, event_at: int) -> int | None:
    try:
        return round(datetime.fromisoformat(at).timestamp() * 1000) - event_at
    except (ValueError, OverflowError):
        return None


def table_of(kept: Kept) -> dict[str, Any]:
    """A table as programs get it."""
    layout = kept.layout
    return {
        "name": layout.name, "role": kept.role, "prefix": say(layout.prefix).replace("%7C", "|"),
        "holds": layout.holds, "key": [part.name for part in layout.parts],
        "partitions": {"open": kept.open, "of": kept.of},
    }  # fmt: skip


def lag(roles: Iterable[Role]) -> dict[str, Any]:
    """The tasks as programs get them."""
    return {
        "roles": [
            {
                "role": role.name,
                "partitions": {"open": open_numbers(role), "of": role.of},
                "lag": role.lag,
                "tasks": [_task(number) for number in role.numbers],
            }
            for role in roles
        ]
    }


def open_numbers(role: Role) -> int:
    """How many of a role's tasks are at work here."""
    return sum(number.state is TaskState.RUNNING for number in role.numbers)


def _task(number: Number) -> dict[str, Any]:
    return {
        "partition": number.number,
        "state": number.state,
        "epoch": number.epoch,
        "busy_since": None if number.busy_since is None else rfc3339(int(number.busy_since * 1000)),
        "calls": number.calls,
        "lag": number.lag,
        "positions": [{**position._asdict(), "lag": position.lag} for position in number.positions],
    }


def value(found: Any) -> str:
    """A row's value on one line, as short as JSON has it; a text stands for itself."""
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def whole_value(found: Any) -> str:
    """A row's value on as many lines as it needs."""
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, indent=2)
