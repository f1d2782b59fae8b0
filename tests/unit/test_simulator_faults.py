"""Words choose faults, and a fault strikes when its conditions hold."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.simulator.faults import BadFault, Faults, Strike, parse

KNOWN = frozenset({"latency", "down", "throttled", "server_error", "hang", "550 5.1.1", "banner_refused"})


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def faults(*words: str, seed: int = 1, clock: Callable[[], float] | None = None) -> Faults:
    found = Faults(KNOWN, seed, clock or Clock())
    found.set(words)
    return found


def names(found: Faults, count: int) -> list[str]:
    return [found.strike(f"key {n}", again=False).name for n in range(count)]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("hang", {"name": "hang"}),
        ("throttled:0.1", {"name": "throttled", "share": 0.1}),
        ("server_error:first=5", {"name": "server_error", "first": 5}),
        ("latency=0.2", {"name": "latency", "latency": (0.2, 0.2)}),
        ("latency=0.1-0.5:every=3", {"name": "latency", "latency": (0.1, 0.5), "every": 3}),
        ("flap=5/10", {"name": "down", "flap": (5.0, 10.0)}),
        ("down:for=60", {"name": "down", "lasting": 60.0}),
        (" 550 5.1.1 : 0.5 , taken=0.25 ", {"name": "550 5.1.1", "share": 0.5, "taken": 0.25}),
        ("throttled:retry_after=2.5,keys=10", {"name": "throttled", "retry_after": 2.5, "keys": 10}),
    ],
)
def test_a_word_chooses_a_fault(word: str, expected: dict[str, object]) -> None:
    found = parse(word, KNOWN)._asdict()
    assert {name: found[name] for name in expected} == expected
    assert found["word"] == word.strip()


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("", "no such fault"),
        ("nothing", "no such fault"),
        ("429", "no such fault"),
        ("hang=3", "takes no value"),
        ("latency", "nothing is no number"),
        ("latency=-1", "no number from 0"),
        ("latency=nan", "no number from 0"),
        ("latency=inf", "no number from 0"),
        ("latency=2-1", "the smaller one"),
        ("latency=1e9", "no number from 0"),
        ("flap=5", "seconds up and seconds down"),
        ("flap=0/0", "seconds up and seconds down"),
        ("hang:2", "2 is no number from 0 to 1"),
        ("hang:first=0", "no number from 1"),
        ("hang:first=x", "no number from 1"),
        ("hang:first=٣", "no number from 1"),
        ("hang:sometimes=3", "no such condition as sometimes"),
        ("hang:taken=2", "no number from 0 to 1"),
        ("x" * 201, "longer than 200"),
    ],
)
def test_another_word_is_told_what_is_wrong(word: str, why: str) -> None:
    with pytest.raises(BadFault, match=why):
        parse(word, KNOWN)


@given(st.text(max_size=60))
def test_no_word_does_worse_than_be_refused(word: str) -> None:
    try:
        found = parse(word, KNOWN)
    except BadFault:
        return
    assert found.name in KNOWN


def test_a_bad_word_leaves_in_force_what_was() -> None:
    found = faults("hang")
    with pytest.raises(BadFault):
        found.set(["throttled", "nothing"])
    assert found.words == ["hang"]
    assert found.strike("a", again=False).name == "hang"


def test_more_faults_than_fifty_are_refused() -> None:
    with pytest.raises(BadFault, match="more than 50"):
        faults(*["hang"] * 51)


def test_the_first_so_many_are_struck() -> None:
    assert names(faults("hang:first=2"), 5) == ["hang", "hang", "", "", ""]


def test_each_nth_is_struck() -> None:
    assert names(faults("hang:every=3"), 7) == ["", "", "hang", "", "", "hang", ""]


def test_the_first_fault_that_strikes_is_the_one() -> None:
    assert names(faults("hang:every=2", "throttled"), 4) == ["throttled", "hang", "throttled", "hang"]


def test_a_share_is_struck_and_the_seed_decides_which() -> None:
    one, same, other = (names(faults("hang:0.3", seed=seed), 1000) for seed in (1, 1, 2))
    assert one == same != other
    assert 250 < one.count("hang") < 350


def test_of_some_keys_only_the_first_request_is_struck() -> None:
    found = faults("server_error:keys=10")
    keys = [f"key {n}" for n in range(1000)]
    struck = [key for key in keys if found.strike(key, again=False).name]
    assert 50 < len(struck) < 150
    assert not any(found.strike(key, again=True).name for key in keys)
    assert [key for key in keys if found.strike(key, again=False).name] == struck


def test_latencies_add_up_and_hide_no_fault() -> None:
    found = faults("latency=0.25", "latency=0.5", "throttled:retry_after=7,taken=0.5")
    assert found.strike("a", again=False) == Strike("throttled", 0.75, 7.0, 0.5)


def test_a_range_of_latency_is_drawn_from() -> None:
    found = faults("latency=0.1-0.2")
    drawn = {found.strike("a", again=False).seconds for _ in range(50)}
    assert len(drawn) > 40
    assert all(0.1 <= seconds <= 0.2 for seconds in drawn)


def test_a_fault_ends_and_flaps() -> None:
    clock = Clock()
    found = faults("hang:for=10", "throttled:flap=2/3", clock=clock)
    seen = []
    for _ in range(15):
        seen.append(found.strike("a", again=False).name)
        clock.now += 1
    assert seen == ["hang"] * 10 + ["", "", "throttled", "throttled", "throttled"]


def test_down_is_no_answer_but_a_state_that_ends_or_flaps() -> None:
    clock = Clock()
    found = faults("flap=2/3", clock=clock)
    assert found.strike("a", again=False) == Strike()
    seen = []
    for _ in range(10):
        seen.append((found.is_down(), found.turns_in()))
        clock.now += 1
    assert seen[:5] == [(False, 2), (False, 1), (True, 3), (True, 2), (True, 1)]
    assert seen[5:] == seen[:5]
    found.set(["down:for=4"])
    assert (found.is_down(), found.turns_in()) == (True, 4)
    clock.now += 4
    assert (found.is_down(), found.turns_in()) == (False, None)
    found.set(["down"])
    assert (found.is_down(), found.turns_in()) == (True, None)


def test_what_strikes_at_the_banner_strikes_no_request() -> None:
    found = faults("banner_refused:first=1")
    assert names(found, 3) == ["", "", ""]
    assert [found.greet() for _ in range(3)] == ["banner_refused", "", ""]
