"""The demo's workload and its oracle: the mix, what devices that are gone come to, and who was told twice."""

from collections import Counter

import orjson
import pytest

from pipeline.demo import oracle
from pipeline.demo.oracle import Outcomes
from pipeline.demo.vendors import KINDS, told
from pipeline.demo.workload import BOUNCED, DELIVERED, REFUSED, Shop, Workload
from schemas.kinds import Channel, Reason, State
from schemas.notification import EventRef
from schemas.status import Status
from tests.journeys.memory import NOON

PAIR = ("n-1", "push")
MIX = {"email": 40, "push": 35, "sms": 15, "web": 10}


def a_load(events: int, seed: int = 1, push_url: str | None = "http://push") -> Workload:
    return Shop(seed, "run", "http://hooks", NOON, push_url).make(events)


def a_status(state: State, target: str | None = "t-1", attempt: int | None = 1, **fields: object) -> Status:
    return Status(
        notification_id=PAIR[0], user_id="u-1", channel=Channel.PUSH, target_id=target, state=state,
        attempt=attempt, at="", event_at=NOON, event=EventRef(source="s", id="e", type="t"),
        **fields,  # type: ignore[arg-type]
    )  # fmt: skip


def after(*statuses: Status) -> Outcomes:
    seen = Outcomes()
    for status in statuses:
        seen.tell(status, NOON + 5)
    return seen


# -- the workload


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_is_delivered_is_of_the_mix(seed: int) -> None:
    load = a_load(4_000, seed)
    found = Counter(channel for (_, channel), expected in load.pairs.items() if expected is DELIVERED)
    of_mix = sum(found[channel] for channel in MIX)
    assert {name: round(100 * found[name] / of_mix) for name in MIX} == pytest.approx(MIX, abs=2.5)
    assert 0 < found["chat"] + found["webhook"] < of_mix / 10


def test_a_small_run_holds_every_outcome() -> None:
    load = a_load(50)
    ends = {(channel, expected.reason) for (_, channel), expected in load.pairs.items()}
    assert {channel for channel, _ in ends} == set(Channel)
    assert {("push", Reason.REFUSED), ("push", Reason.NO_ADDRESS), ("email", Reason.UNKNOWN_USER)} <= ends
    assert BOUNCED in load.pairs.values()
    assert all((load.failed, load.ignored, load.duplicates, load.poison, load.gathered, load.not_before))


def test_the_same_seed_makes_the_same_run() -> None:
    assert a_load(300) == a_load(300)
    assert a_load(300).pairs != a_load(300, seed=2).pairs


def test_a_push_that_only_finds_devices_that_are_gone_falls_back_to_mail_once() -> None:
    load = a_load(2_000)
    refused = [id for (id, channel), found in load.pairs.items() if channel == "push" and found is REFUSED]
    assert refused
    assert all(load.pairs[id, Channel.EMAIL] is DELIVERED for id in refused)
    pushed = Counter(
        user for user, ids in load.of_user.items() for id in ids if (id, Channel.PUSH) in load.pairs
    )
    for (user, _), device in load.devices.items():
        if orjson.loads(device)["token"].startswith("dead-"):
            assert pushed[user] <= 1, "a second push could find the device dropped, or not yet"


def test_without_simulated_vendors_nothing_is_refused_but_by_the_webhooks() -> None:
    load = a_load(2_000, push_url=None)
    refused = {channel for (_, channel), found in load.pairs.items() if found in (REFUSED, BOUNCED)}
    assert refused == {"webhook"}
    assert {orjson.loads(device)["platform"] for device in load.devices.values()} == {"ios", "android"}


# -- what came


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 2, 0)])
def test_a_pair_is_as_far_as_its_farthest_target(order: tuple[int, ...]) -> None:
    statuses = [
        a_status(State.SENT, "t-1"), a_status(State.FAILED, "t-2", reason=Reason.REFUSED),
        a_status(State.SENT, "t-3"),
    ]  # fmt: skip
    assert after(*[statuses[n] for n in order]).states[PAIR] is State.SENT


def test_a_pair_has_failed_when_all_its_targets_have() -> None:
    seen = after(*[a_status(State.FAILED, target, reason=Reason.REFUSED) for target in ("t-1", "t-2")])
    assert (seen.states[PAIR], seen.reasons[PAIR]) == (State.FAILED, Reason.REFUSED)


@pytest.mark.parametrize("state", [State.QUEUED, State.RETRYING, State.UNKNOWN])
def test_one_target_that_is_under_way_or_in_doubt_speaks_for_the_pair(state: State) -> None:
    assert after(a_status(State.SENT, "t-1"), a_status(state, "t-2")).states[PAIR] is state


def test_what_waited_without_a_target_is_told_by_its_targets_from_then_on() -> None:
    waited = a_status(State.SCHEDULED, None, None)
    assert after(waited).states[PAIR] is State.SCHEDULED
    assert after(waited, a_status(State.QUEUED, attempt=None)).states[PAIR] is State.QUEUED


def test_a_receipt_of_what_was_sent_counts_whichever_came_first() -> None:
    sent = a_status(State.SENT)
    receipt = a_status(State.FAILED, attempt=None, reason=Reason.UNDELIVERED)
    assert after(sent, receipt).states[PAIR] is after(receipt, sent).states[PAIR] is State.FAILED


def test_a_target_that_was_told_twice_counts_but_for_a_doubt() -> None:
    load = Workload(pairs={PAIR: DELIVERED})
    effects = {(*PAIR, "t-1"): 1, (*PAIR, "t-2"): 1, (*PAIR, "t-3"): 1}
    sure, doubtful = after(a_status(State.SENT)), after(a_status(State.UNKNOWN), a_status(State.SENT))
    assert oracle.figures(load, sure, effects, 1)["sent_twice"] == 0, "three devices are three targets"
    twice = effects | {(*PAIR, "t-2"): 2}
    assert oracle.figures(load, sure, twice, 1)["sent_twice"] == 1
    assert oracle.figures(load, doubtful, twice, 1)["sent_twice"] == 0


def test_what_is_delivered_is_counted_by_channel() -> None:
    figures = oracle.figures(Workload(pairs={PAIR: DELIVERED}), after(a_status(State.SENT)), {}, 1)
    assert figures["by_channel"]["push"] == figures["delivered"] == sum(figures["by_channel"].values()) == 1


# -- the vendors


@pytest.mark.parametrize("key", ["n-1.t-1", "n-1.t-1.fallback-1", "n-1.t-1.escalate-0.x"])
def test_a_key_tells_notification_and_target_whatever_the_step(key: str) -> None:
    assert told(key, Channel.SMS) == ("n-1", "sms", "t-1")


def test_each_channel_but_the_inbox_has_a_simulated_vendor() -> None:
    assert set(KINDS.values()) == set(Channel) - {Channel.WEB}
