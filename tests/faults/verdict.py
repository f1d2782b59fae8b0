"""The oracle of the fault loops: sets and ledgers, nothing that the workers say of themselves alone."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import orjson

from agents import plan, stops
from pipeline.demo.oracle import Outcomes, problems
from pipeline.demo.workload import Workload
from schemas.kinds import Doubt, State
from schemas.message import Stop
from schemas.notification import PLAN, Notification
from schemas.status import Status

Pair = tuple[str, str]
Partition = tuple[str, int]
Place = tuple[str, int, int]
"""Topic, partition and offset."""
CUT_OFF_WINDOW_MS = 20_000
_GONE_OUT = {State.SENT, State.DELIVERED}
_CALLED = {State.SENT, State.DELIVERED, State.FAILED, State.UNKNOWN, State.QUEUED, State.RETRYING}


@dataclass(frozen=True)
class Acked:
    """What a group had committed when it was told to begin anew, and where its outputs ended after that."""

    committed: Mapping[Partition, int]
    ends: Mapping[Partition, int]

    def too_soon(self, cause: Place, came: Place) -> bool:
        """Whether what was acked came out only later: then it would be lost but for the rewind."""
        topic, partition, offset = cause
        return offset < self.committed.get((topic, partition), 0) and came[2] >= self.ends[came[:2]]


@dataclass
class Evidence:
    """Everything that was seen from outside."""

    outcomes: Outcomes = field(default_factory=Outcomes)
    states: dict[Pair, set[State]] = field(default_factory=lambda: defaultdict(set))
    forms: dict[tuple[str, str, str], Counter[bytes]] = field(default_factory=lambda: defaultdict(Counter))
    #: what core had queued and the channel's last gate stopped: that is one outcome
    stopped: set[Pair] = field(default_factory=set)
    doubt: dict[Pair, Doubt] = field(default_factory=dict)
    #: (pair, attempt's time in ms) of each doubt that was recorded
    unknowns: set[tuple[Pair, str]] = field(default_factory=set)
    kills: list[int] = field(default_factory=list)
    rewinds: list[Acked] = field(default_factory=list)
    #: by notification, the first record of it on its topic, and the event that this is of
    notified: dict[str, tuple[Place, Place]] = field(default_factory=dict)
    #: the first status of each notification; the first message of a pair, the first status after its call
    decided: dict[str, Place] = field(default_factory=dict)
    queued: dict[Pair, Place] = field(default_factory=dict)
    called: dict[Pair, Place] = field(default_factory=dict)

    def notification(self, value: bytes, place: Place) -> None:
        """Notes a record of a topic of notifications."""
        notification = plan.read(value)
        if not isinstance(notification, Notification) or notification.step != PLAN:
            return
        topic, partition, offset = notification.position.rsplit("-", 2)
        self.notified.setdefault(notification.id, ((topic, int(partition), int(offset)), place))

    def status(self, status: Status, at: int, place: Place) -> None:
        """Notes a record of delivery-status."""
        self.outcomes.tell(status, at)
        if status.state is State.DUPLICATE:
            return
        self.decided.setdefault(status.notification_id, place)
        if status.channel is None:
            return
        pair = (status.notification_id, str(status.channel))
        by_gate = status.state is State.SUPPRESSED and status.target_id is not None
        if by_gate or status.state not in (State.QUEUED, State.SUPPRESSED):
            self.called.setdefault(pair, place)
        if by_gate:
            self.stopped.add(pair)
        else:
            self.states[pair].add(status.state)
        if status.state is State.UNKNOWN:
            self.unknowns.add((pair, status.at))

    def message(self, value: bytes, place: Place) -> None:
        """Notes a record of a channel topic."""
        message = stops.read(value)
        if isinstance(message, Stop):
            return
        pair = (message.id, str(message.channel))
        self.queued.setdefault(pair, place)
        self.forms[*pair, message.target_id][value] += 1
        self.doubt[pair] = message.doubt

    def acked_too_soon(self) -> list[str]:
        """What a rewind has mended: it had been acked, and nothing had come of it."""
        ways = [(f"{n}: its notification", event, came) for n, (event, came) in self.notified.items()]
        ways += [
            (f"{n}: its decision", record, self.decided[n])
            for n, (_, record) in self.notified.items()
            if n in self.decided
        ]
        ways += [
            (f"{pair}: its outcome", message, self.called[pair])
            for pair, message in self.queued.items()
            if pair in self.called
        ]
        return [
            f"{what} came by a rewind alone"
            for what, cause, came in ways
            if any(rewind.too_soon(cause, came) for rewind in self.rewinds)
        ]


@dataclass(frozen=True)
class Ledger:
    """What a sink in another process wrote down, by pair."""

    requests: Counter[Pair]
    effects: Counter[Pair]

    @classmethod
    def read(cls, file: Path, channel: str) -> "Ledger":
        """Reads the sink's JSON lines; a key begins with the notification's id."""
        requests: Counter[Pair] = Counter()
        effects: Counter[Pair] = Counter()
        for line in file.read_bytes().splitlines() if file.exists() else ():
            entry = orjson.loads(line)
            pair = (str(entry["key"]).split(".")[0], channel)
            requests[pair] += 1
            effects[pair] += bool(entry["effect"])
        return cls(requests, effects)


def judge(
    load: Workload, seen: Evidence, webhooks: Ledger, mails: Ledger, undecided: Iterable[str]
) -> tuple[dict[str, int], list[str]]:
    """The figures and everything that is wrong. `undecided` users may be told or not, but one of both."""
    free = {n for user in undecided for n in load.of_user.get(user, ())}
    free_pairs = {pair for pair in load.pairs if pair[0] in free}
    strict = Workload(
        pairs={pair: expected for pair, expected in load.pairs.items() if pair not in free_pairs},
        failed=load.failed - free,
        ignored=load.ignored,
        duplicates=load.duplicates,
        poison=load.poison,
        not_before=load.not_before,
        gathered=load.gathered - free,
    )
    wrong = []
    for line in problems(strict, _without(seen.outcomes, free)):
        # a blind provider under at_most_once may end in doubt: that is counted apart
        if ": unknown (" not in line:
            wrong.append(line)
    too_soon = seen.acked_too_soon()
    wrong += too_soon
    # whoever was told nothing at first, by their own wish, has nothing to be told again
    owed = load.pairs.keys() - (load.delayed & free_pairs)
    lost = sum(pair not in seen.outcomes.states for pair in owed) + len(too_soon)
    two_outcomes = [
        pair for pair, states in seen.states.items() if State.SUPPRESSED in states and states & _CALLED
    ]
    two_outcomes += [pair for pair in seen.stopped if seen.states[pair] & _GONE_OUT]
    wrong += [
        f"{pair}: told two outcomes: {sorted(seen.states[pair])}{', stopped' if pair in seen.stopped else ''}"
        for pair in two_outcomes
    ]
    drifted = [form for form, values in seen.forms.items() if len(values) > 1]
    wrong += [f"{form}: {len(seen.forms[form])} byte forms" for form in drifted]
    twice = [pair for pair, count in webhooks.effects.items() if count > 1]
    wrong += [f"{pair}: {webhooks.effects[pair]} effects at the keyed sink" for pair in twice]
    doubted = Counter(pair for pair, _ in seen.unknowns)
    for pair, count in mails.effects.items():
        allowed = 1 + (doubted[pair] if seen.doubt.get(pair) is Doubt.AT_LEAST_ONCE else 0)
        if count > allowed:
            twice.append(pair)
            wrong.append(f"{pair}: {count} mails, {doubted[pair]} doubts, {seen.doubt.get(pair)}")
    for ledger, channel in ((webhooks, "webhook"), (mails, "email")):
        for pair, state in seen.outcomes.states.items():
            if pair[1] == channel and state is State.SENT and not ledger.effects[pair]:
                wrong.append(f"{pair}: said to be sent, but no effect")
    unexplained = [
        (pair, at)
        for pair, at in seen.unknowns
        if not any(0 <= kill - _ms(at) <= CUT_OFF_WINDOW_MS for kill in seen.kills)
    ]
    wrong += [f"{pair}: doubt of {at} without a kill" for pair, at in unexplained]
    return {
        "lost": lost,
        "sent_twice": len(twice),
        "requests": webhooks.requests.total() + mails.requests.total(),
        "effects": webhooks.effects.total() + mails.effects.total(),
        "unknown": len(seen.unknowns),
        "unknown_unexplained": len(unexplained),
        "redelivered": sum(values.total() - 1 for values in seen.forms.values()),
        "two_outcomes": len(two_outcomes),
        "two_forms": len(drifted),
    }, wrong


def _without(seen: Outcomes, free: set[str]) -> Outcomes:
    return Outcomes(
        states={p: s for p, s in seen.states.items() if p[0] not in free},
        attempts=seen.attempts,
        reasons=seen.reasons,
        whole=seen.whole,
        duplicates=seen.duplicates,
        dead_events=seen.dead_events,
        dead_messages=seen.dead_messages,
        took_effect=seen.took_effect,
        digests=seen.digests,
    )


def _ms(at: str) -> int:
    return int(datetime.fromisoformat(at).timestamp() * 1000)
