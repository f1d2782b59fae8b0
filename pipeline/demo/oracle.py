"""Compares what came out with what had to: sets, not differences."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.demo.workload import Workload
from schemas.kinds import Channel, Reason, State
from schemas.status import Status
from tables.states import advance

_TOOK_EFFECT = {State.SENT, State.DELIVERED}
_ENDED = {*_TOOK_EFFECT, State.SUPPRESSED, State.UNKNOWN}
_UNDER_WAY = (State.QUEUED, State.SENDING, State.RETRYING)
_FARTHEST = (State.CLICKED, State.OPENED, State.DELIVERED, State.SENT)


@dataclass
class Outcomes:
    """What `delivery-status` and the dead letters said so far."""

    states: dict[tuple[str, str], State] = field(default_factory=dict)
    attempts: dict[tuple[str, str, str], int] = field(default_factory=dict)
    reasons: dict[tuple[str, str], str | None] = field(default_factory=dict)
    #: what is known of each target of a pair; "" is of the pair itself, before or without any
    each: dict[tuple[str, str], dict[str, tuple[State, str | None]]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    whole: dict[str, State] = field(default_factory=dict)
    duplicates: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    doubts: set[tuple[str, str]] = field(default_factory=set)
    latencies: dict[tuple[str, str], int] = field(default_factory=dict)
    #: when a pair first took effect, by the broker's time in ms
    took_effect: dict[tuple[str, str], int] = field(default_factory=dict)
    #: the digests that a notification went into
    digests: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    dead_events: Counter[bytes] = field(default_factory=Counter)
    dead_messages: set[tuple[str, str]] = field(default_factory=set)
    decided_at: list[int] = field(default_factory=list)

    def tell(self, status: Status, at: int) -> None:
        """Notes a status of the broker's time `at` in ms."""
        if status.state is State.DUPLICATE:
            self.duplicates[status.notification_id].add(status.detail or "")
            return
        if status.channel is None:
            self.whole[status.notification_id] = status.state
            if status.state is State.DIGESTED:
                self.digests[status.notification_id].add(status.detail or "")
            return
        pair = (status.notification_id, str(status.channel))
        self._move(pair, status)
        self.states[pair], self.reasons[pair] = folded(self.each[pair])
        if status.state is State.UNKNOWN:
            self.doubts.add(pair)
        if status.state in _TOOK_EFFECT and pair not in self.latencies:
            self.latencies[pair] = at - status.event_at
            self.took_effect[pair] = at
            self.decided_at.append(at)

    def _move(self, pair: tuple[str, str], status: Status) -> None:
        """Moves the state of the one target that a status is of."""
        target, attempt = status.target_id or "", status.attempt or 0
        before, why = self.each[pair].get(target, (None, None))
        so_far = self.attempts.get((*pair, target), 0)
        undelivered = status.state is State.FAILED and status.reason == Reason.UNDELIVERED
        # a receipt may be quicker than the status of the attempt that it is of
        is_newer = attempt > so_far and why != Reason.UNDELIVERED
        after = advance(before, status.state, newer_attempt=is_newer, undelivered=undelivered)
        self.attempts[*pair, target] = max(attempt, so_far)
        if after != before:
            self.each[pair][target] = (after, status.reason)


def folded(targets: Mapping[str, tuple[State, str | None]]) -> tuple[State, str | None]:
    """What came of a pair, with the reason: it is under way while one of its targets is, in doubt where one
    is, and otherwise as far as that which came the farthest."""
    of_targets = [found for target, found in targets.items() if target] or list(targets.values())
    for state in (*_UNDER_WAY, State.UNKNOWN, *_FARTHEST):
        for found in of_targets:
            if found[0] is state:
                return found
    return of_targets[0]


def problems(load: Workload, seen: Outcomes) -> list[str]:
    """What came out otherwise than predicted, each as a line."""
    found = []
    for pair, expected in load.pairs.items():
        state = seen.states.get(pair)
        if state is None:
            found.append(f"{pair[0]} {pair[1]}: no outcome, expected {_names(expected.states)}")
        elif state not in expected.states:
            found.append(
                f"{pair[0]} {pair[1]}: {state} ({seen.reasons[pair]}), expected {_names(expected.states)}"
            )
        elif expected.reason is not None and seen.reasons[pair] != expected.reason:
            found.append(f"{pair[0]} {pair[1]}: {seen.reasons[pair]}, expected {expected.reason}")
    found += [f"{n}: not failed" for n in load.failed if seen.whole.get(n) is not State.FAILED]
    found += [f"{n}: not ignored" for n in load.ignored if seen.whole.get(n) is not State.IGNORED]
    for notification, times in load.duplicates.items():
        if len(seen.duplicates.get(notification, ())) != times:
            found.append(
                f"{notification}: {len(seen.duplicates.get(notification, ()))} duplicates, expected {times}"
            )
    found += [
        f"poison not dead-lettered: {value[:40]!r}" for value in load.poison if value not in seen.dead_events
    ]
    found += _gathered(load, seen)
    found += [
        f"{pair[0]} {pair[1]}: {due - seen.took_effect[pair]} ms too early"
        for pair, due in load.not_before.items()
        if seen.took_effect.get(pair, due) < due
    ]
    digests = {digest for into in seen.digests.values() for digest in into}
    found += [
        f"{pair[0]} {pair[1]}: nobody asked for it"
        for pair in seen.states
        if pair not in load.pairs and pair[0] not in digests
    ]
    return found


def _gathered(load: Workload, seen: Outcomes) -> list[str]:
    """Each item is in one digest, and each digest came to an end."""
    found = []
    for notification in load.gathered:
        into = seen.digests.get(notification, set())
        if len(into) != 1:
            found.append(f"{notification}: in {len(into)} digests")
        for digest in into:
            ends = [state for pair, state in seen.states.items() if pair[0] == digest]
            if not ends or not all(state in _ENDED for state in ends):
                found.append(f"{digest}: a digest with {_names(frozenset(ends)) or 'no outcome'}")
    return found


def _names(states: frozenset[State]) -> str:
    return " or ".join(sorted(states))


def figures(
    load: Workload, seen: Outcomes, effects: Mapping[tuple[str, str, str], int], events: int
) -> dict[str, Any]:
    """The demo's JSON. `effects`: how often each target of a pair was told at a sink."""
    delivered = Counter(pair[1] for pair in load.pairs if seen.states.get(pair) in _TOOK_EFFECT)
    twice = {told[:2] for told, count in effects.items() if count > 1} - seen.doubts
    prompt = load.pairs.keys() - load.delayed
    took = sorted(ms for pair, ms in seen.latencies.items() if pair in prompt)
    spread = (max(seen.decided_at) - min(seen.decided_at)) / 1000 if len(seen.decided_at) > 1 else 0.0
    poison = sum(value in seen.dead_events for value in load.poison)
    return {
        "events": events,
        "pairs": len(load.pairs),
        "delivered": delivered.total(),
        "suppressed": sum(state is State.SUPPRESSED for state in seen.states.values()),
        "duplicates_dropped": sum(len(places) for places in seen.duplicates.values()),
        "dead_lettered": poison + len(seen.dead_messages),
        "ignored": sum(state is State.IGNORED for state in seen.whole.values()),
        "digested": sum(notification in seen.digests for notification in load.gathered),
        "failed": sum(state is State.FAILED for state in seen.whole.values()),
        "unknown": sum(state is State.UNKNOWN for state in seen.states.values()),
        "lost": sum(pair not in seen.states for pair in load.pairs),
        "sent_twice": len(twice),
        "p50_ms": took[len(took) // 2] if took else 0,
        "p99_ms": took[int(len(took) * 0.99)] if took else 0,
        "per_second": round(len(seen.decided_at) / spread) if spread else 0,
        "by_channel": {str(channel): delivered[channel] for channel in Channel},
    }
