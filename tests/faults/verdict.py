"""The oracle of the fault loops: sets and ledgers, nothing that the workers say of themselves alone."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import orjson

from pipeline.demo.oracle import Outcomes, problems
from pipeline.demo.workload import Workload
from schemas.kinds import Doubt, State
from schemas.message import Message
from schemas.status import Status

Pair = tuple[str, str]
CUT_OFF_WINDOW_MS = 20_000
_CALLED = {State.SENT, State.DELIVERED, State.FAILED, State.UNKNOWN, State.QUEUED, State.RETRYING}


@dataclass
class Evidence:
    """Everything that was seen from outside."""

    outcomes: Outcomes = field(default_factory=Outcomes)
    states: dict[Pair, set[State]] = field(default_factory=lambda: defaultdict(set))
    forms: dict[tuple[str, str, str], Counter[bytes]] = field(default_factory=lambda: defaultdict(Counter))
    doubt: dict[Pair, Doubt] = field(default_factory=dict)
    #: (pair, attempt's time in ms) of each doubt that was recorded
    unknowns: set[tuple[Pair, str]] = field(default_factory=set)
    kills: list[int] = field(default_factory=list)

    def status(self, status: Status, at: int) -> None:
        """Notes a record of delivery-status."""
        self.outcomes.tell(status, at)
        if status.channel is None or status.state is State.DUPLICATE:
            return
        pair = (status.notification_id, str(status.channel))
        self.states[pair].add(status.state)
        if status.state is State.UNKNOWN:
            self.unknowns.add((pair, status.at))

    def message(self, value: bytes) -> None:
        """Notes a record of a channel topic."""
        message = Message.from_json(value)
        pair = (message.id, str(message.channel))
        self.forms[*pair, message.target_id][value] += 1
        self.doubt[pair] = message.doubt


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
    lost = sum(pair not in seen.outcomes.states for pair in load.pairs)
    two_outcomes = [
        pair for pair, states in seen.states.items() if State.SUPPRESSED in states and states & _CALLED
    ]
    wrong += [f"{pair}: told two outcomes: {sorted(seen.states[pair])}" for pair in two_outcomes]
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
