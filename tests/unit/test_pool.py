"""A channel's providers: who is called, how often, and who is left alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from agents import deliver
from pipeline.pool import Offer, Pool
from pipeline.pool.breaker import FIRST_PAUSE, MOST_ASKED, MOST_PAUSE, THRESHOLD
from pipeline.pool.bucket import Bucket
from pipeline.pool.hosts import KEPT, Hosts
from pipeline.pool.member import HORIZON_SECONDS
from schemas import outcome
from schemas.message import Message
from schemas.outcome import Outcome
from tests.journeys.samples import a_message

FAILED = outcome.deferred("HTTP 503", fault="provider")
NO_ANSWER = outcome.doubtful("no answer", fault="provider")
THROTTLED = outcome.deferred("HTTP 429", 7.0, fault="provider")
GOOD = [
    outcome.sent("p"),
    outcome.refused("no such number", "21211", "target"),
    outcome.deferred("greylisted", code="450", fault="target"),
]


class Fake:
    """A provider that is never called; who is chosen is all that counts."""

    honours_keys = False

    def __init__(self, name: str, *, parallel: int = 100, platforms: str = "") -> None:
        self.name, self.kind, self.parallel = name, "fake", parallel
        self.platforms = frozenset(platforms.split()) if platforms else None

    async def send(self, message: Message, key: str) -> Outcome:
        raise NotImplementedError

    async def close(self) -> None:
        """Holds nothing."""


class Scene:
    """A pool under a clock that stands until it is set."""

    def __init__(
        self,
        *providers: Fake,
        limits: Mapping[str, float] | None = None,
        countries: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.now = 1_000.0
        self.pool = Pool(
            providers or [Fake("main"), Fake("backup")], limits, countries,
            lambda number: number[:3], lambda: self.now,
        )  # fmt: skip
        self.pool.set_share(1.0)

    def offer(self, **fields: Any) -> Offer:
        return Offer(self.pool, a_message(**fields))

    def choose(self, after: str | None = None, only: str | None = None) -> str | float | None:
        return self.offer().choose(after, only)

    def call(self, answer: Outcome, **fields: Any) -> bool:
        """One call from beginning to end; says whether it counted."""
        offer = self.offer(**fields)
        assert isinstance(offer.choose(), str)
        return offer.end(answer)


# -- the breaker


@pytest.mark.parametrize(("answer", "counted"), [(FAILED, 1), (NO_ANSWER, THRESHOLD - 1)])
def test_five_failures_in_a_row_leave_a_provider_alone(answer: Outcome, counted: int) -> None:
    scene = Scene(Fake("main"))
    found = [scene.call(answer) for _ in range(THRESHOLD)]
    assert found == [True] * counted + [False] * (THRESHOLD - counted)
    assert scene.pool.room == 0
    assert scene.choose() == FIRST_PAUSE
    assert scene.pool.ready_in == FIRST_PAUSE


@pytest.mark.parametrize("good", GOOD)
def test_an_answer_that_is_not_the_providers_fault_begins_the_row_anew(good: Outcome) -> None:
    scene = Scene(Fake("main"))
    for _ in range(3):
        for _ in range(THRESHOLD - 1):
            scene.call(FAILED)
        scene.call(good)
    assert scene.choose() == "main"


def test_a_message_that_alone_brings_a_provider_to_fail_uses_up_its_attempts() -> None:
    scene = Scene(Fake("main"))
    for _ in range(deliver.MAX_ATTEMPTS):
        assert scene.call(FAILED) is True
        scene.call(GOOD[0])


def test_a_message_outlives_an_outage_that_is_not_known_for_one_yet() -> None:
    scene = Scene()
    counted = [scene.call(FAILED) for _ in range(2 * THRESHOLD)]
    assert scene.pool.room == 0
    assert sum(counted) < deliver.MAX_ATTEMPTS


def test_one_probe_goes_out_and_its_success_lets_all_others_follow() -> None:
    scene = Scene(Fake("main"))
    for _ in range(THRESHOLD):
        scene.call(FAILED)
    scene.now += FIRST_PAUSE
    assert scene.pool.room == 1
    probe = scene.offer()
    assert probe.choose() == "main"
    assert scene.pool.room == 0
    assert isinstance(scene.choose(), float)
    probe.end(outcome.sent("p"))
    assert scene.pool.room == 100


def test_each_probe_that_fails_doubles_the_pause_up_to_a_bound_and_counts_for_nobody() -> None:
    scene, pauses = Scene(Fake("main")), []
    for _ in range(THRESHOLD):
        scene.call(FAILED)
    for _ in range(6):
        scene.now += scene.pool.ready_in
        assert scene.call(NO_ANSWER) is False
        pauses.append(scene.pool.ready_in)
    assert pauses == [2.0, 4.0, 8.0, MOST_PAUSE, MOST_PAUSE, MOST_PAUSE]


def test_what_was_under_way_when_it_opened_neither_prolongs_the_pause_nor_counts() -> None:
    scene = Scene(Fake("main"))
    under_way = [scene.offer() for _ in range(20)]
    for offer in under_way:
        offer.choose()
    counted = [offer.end(NO_ANSWER) for offer in under_way]
    assert counted == [True] * (THRESHOLD - 1) + [False] * 16
    assert scene.pool.ready_in == FIRST_PAUSE


def test_a_probe_that_is_not_made_leaves_room_for_another() -> None:
    scene = Scene(Fake("main"))
    for _ in range(THRESHOLD):
        scene.call(FAILED)
    scene.now += FIRST_PAUSE
    probe = scene.offer()
    probe.choose()
    probe.release()
    probe.release()
    assert scene.choose() == "main"


def test_a_request_that_several_shared_is_one_failure_but_each_of_them_may_be_the_probe() -> None:
    scene = Scene(Fake("main"))
    for request in range(THRESHOLD):
        shared = structs.replace(NO_ANSWER, request=request)
        assert not scene.pool.members["main"].is_away
        under_way = [scene.offer() for _ in range(10)]
        for offer in under_way:
            offer.choose()
        for offer in under_way[:-1]:
            offer.end(shared)
    scene.now += FIRST_PAUSE
    probe = scene.offer()
    assert probe.choose() == "main"
    under_way[-1].end(shared)
    assert scene.pool.ready_in == FIRST_PAUSE, "the probe is still under way"
    probe.end(shared)
    assert scene.pool.ready_in == 2 * FIRST_PAUSE


def test_one_of_a_shared_request_that_asks_for_time_gets_it() -> None:
    scene = Scene(Fake("main"))
    first, second = scene.offer(), scene.offer()
    first.choose(), second.choose()
    first.end(structs.replace(FAILED, request=1))
    second.end(structs.replace(THROTTLED, request=1))
    assert scene.pool.ready_in == 7.0


def test_a_provider_that_asks_for_time_gets_it_and_the_message_loses_no_attempt() -> None:
    scene = Scene(Fake("main"))
    late = scene.offer()
    late.choose()
    assert scene.call(THROTTLED) is False
    late.end(outcome.sent("p"))
    assert scene.pool.ready_in == 7.0
    scene.now += 7.0
    assert scene.pool.room == 1
    assert scene.call(outcome.sent("p"))
    assert scene.pool.room == 100
    scene.call(outcome.deferred("HTTP 503", 1e9, fault="provider"))
    assert scene.pool.ready_in == MOST_ASKED


def test_who_asks_for_nothing_again_and_again_is_left_alone_longer_and_longer() -> None:
    scene, pauses = Scene(Fake("main")), []
    for _ in range(9):
        assert scene.call(outcome.deferred("HTTP 503", 0.0, fault="provider")) is False
        pauses.append(scene.pool.ready_in)
        scene.now += scene.pool.ready_in
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, MOST_ASKED, MOST_ASKED, MOST_ASKED]


def test_what_was_refused_without_a_call_says_nothing_of_the_provider() -> None:
    scene = Scene(Fake("main"))
    for _ in range(THRESHOLD):
        scene.call(outcome.refused("no telephone number", fault="target"))
        scene.call(NO_ANSWER)
    assert scene.pool.room == 0
    scene.now += FIRST_PAUSE
    scene.call(outcome.deferred("attachments: away", 30.0))
    assert scene.pool.room == 1, "still to be probed"


def test_what_has_to_wait_comes_at_the_pace_of_its_provider_and_no_more_is_taken_than_it_can_serve() -> None:
    scene = Scene(Fake("slow"), limits={"slow": 10.0})
    waits = [scene.choose() for _ in range(30)]
    assert all(isinstance(wait, float) for wait in waits)
    assert waits == sorted(waits)  # type: ignore[type-var]
    assert 2.5 <= waits[-1] <= 4.0  # type: ignore[operator]
    assert not scene.offer().is_ready
    scene.now += 5.0
    assert scene.offer().is_ready
    while (wait := scene.offer().choose()) is not None and (isinstance(wait, str) or wait <= HORIZON_SECONDS):
        pass
    assert scene.pool.room == 0, "too many wait already"


def test_a_targets_failures_leave_nobody_alone() -> None:
    scene = Scene(Fake("hooks"))
    assert all(scene.call(outcome.doubtful("no answer", fault="target")) for _ in range(3 * THRESHOLD))
    assert scene.choose() == "hooks"


# -- the choice


def test_the_first_of_the_order_is_called_while_it_can_be() -> None:
    scene = Scene()
    assert [scene.choose() for _ in range(3)] == ["main"] * 3
    for _ in range(THRESHOLD):
        scene.call(FAILED)
    assert scene.choose() == "backup"


def test_who_is_only_busy_or_at_its_limit_is_waited_for() -> None:
    busy = Scene(Fake("main", parallel=1), Fake("backup"))
    assert busy.choose() == "main"
    assert busy.pool.room == 0
    assert isinstance(busy.choose(), float)
    limited = Scene(Fake("main"), Fake("backup"), limits={"main": 10.0})
    assert limited.pool.room == 0
    assert limited.pool.ready_in > 0, "a backup that is ready is not asked, so it does not count"
    assert isinstance(limited.choose(), float)
    for _ in range(THRESHOLD):
        limited.now += 1.0
        limited.call(FAILED)
    assert limited.pool.room == 100
    assert limited.choose() == "backup"


def test_after_a_failure_those_behind_it_come_first_and_then_it_begins_anew() -> None:
    scene = Scene(Fake("a"), Fake("b"), Fake("c"))
    assert [scene.choose(after=name) for name in "abc"] == ["b", "c", "a"]
    assert scene.choose(after="gone") == "a"
    assert [name for name in ("a", "b", "c", "gone") if scene.offer().goes_elsewhere(name)] == ["a", "b"]


def test_only_one_may_be_asked_for_and_nobody_else_steps_in() -> None:
    scene = Scene()
    assert scene.choose(only="backup") == "backup"
    for _ in range(THRESHOLD):
        scene.call(FAILED)
    assert scene.choose(only="main") == FIRST_PAUSE
    assert scene.choose(only="gone") is None


def test_the_platform_of_a_token_chooses() -> None:
    kinds = {"apple": "ios", "google": "android ios", "browsers": "web"}
    scene = Scene(*[Fake(name, platforms=platforms) for name, platforms in kinds.items()])
    chosen = [scene.offer(platform=one).choose() for one in ("ios", "android", "web")]
    assert chosen == ["apple", "google", "browsers"]
    assert scene.offer(platform="watch").choose() is None


def test_a_country_has_an_order_of_its_own() -> None:
    scene = Scene(countries={"+49": ["backup", "main"], "+33": ["backup"]})
    chosen = [scene.offer(target=number).choose() for number in ("+4915", "+3361", "+1555")]
    assert chosen == ["backup", "backup", "main"]


def test_no_more_calls_are_under_way_than_a_provider_makes_at_once() -> None:
    scene = Scene(Fake("main", parallel=2))
    first = scene.offer()
    assert (first.choose(), scene.choose()) == ("main", "main")
    assert scene.pool.room == 0
    assert isinstance(scene.choose(), float)
    first.end(outcome.sent())
    assert scene.choose() == "main"


# -- hosts


class Hooks(Fake):
    """A provider of many hosts."""

    per_host = 4

    def host(self, message: Message) -> str | None:
        return message.target or None


def _fill(scene: Scene, host: str) -> list[Offer]:
    offers = [scene.offer(target=host) for _ in range(Hooks.per_host)]
    assert [offer.choose() for offer in offers] == ["hooks"] * Hooks.per_host
    return offers


def test_what_is_under_way_to_one_host_leaves_room_for_the_others() -> None:
    scene = Scene(Hooks("hooks"))
    hanging = _fill(scene, "hangs")
    late = scene.offer(target="hangs")
    assert isinstance(late.choose(), float)
    assert not late.is_ready
    assert scene.pool.room == 100 - Hooks.per_host
    assert [scene.offer(target="quick").choose() for _ in range(Hooks.per_host)] == ["hooks"] * Hooks.per_host
    assert scene.offer(target="").choose() == "hooks"
    hanging[0].release()
    assert late.is_ready
    assert late.choose() == "hooks"
    late.end(NO_ANSWER)
    assert scene.choose() == "hooks"


def test_what_waits_for_a_host_that_hangs_soon_waits_as_rows_and_at_its_pace() -> None:
    scene = Scene(Hooks("hooks"))
    hanging = _fill(scene, "hangs")
    early = [scene.offer(target="hangs") for _ in range(10)]
    assert all(0 < turn < 1 for offer in early if isinstance(turn := offer.choose(), float))
    scene.now += 10.0
    assert all(offer.is_ready for offer in early), "to be told how long it really takes"
    turns = [offer.choose() for offer in early]
    assert turns == pytest.approx([0.05 + n * 10.0 / Hooks.per_host for n in range(10)])
    for offer in hanging:
        offer.end(outcome.doubtful("no answer", fault="target"))
    hanging = _fill(scene, "hangs")
    assert scene.offer(target="hangs").choose() == pytest.approx(0.05 + 10 * 10.0 / Hooks.per_host)
    for _ in range(1_000):
        far = scene.offer(target="hangs").choose()
    assert far == HORIZON_SECONDS
    assert scene.pool.room > 0, "others are taken all the same"


def _called(hosts: Hosts, calls: int, lasts: float, at: float = 0.0) -> None:
    for n in range(calls):
        hosts.begin("host", n, at, 1)
        hosts.end("host", n, at + lasts)


def _fit(hosts: Hosts, now: float, part: int = 1) -> int:
    """How many calls of one partition may begin, of a hundred."""
    for n in range(100):
        if not hosts.has_room("host", part, now):
            return n
        hosts.begin("host", object(), now, part)
    return 100


def _hosts() -> Hosts:
    found = Hosts(64)
    found.most_a_part = 32
    return found


def test_a_host_of_which_nothing_is_known_takes_half_of_what_one_partition_calls() -> None:
    hosts = _hosts()
    assert _fit(hosts, 0.0) == 32
    assert _fit(hosts, 0.0, part=2) == 32
    assert _fit(hosts, 0.0, part=3) == 0
    assert not hosts.is_slow("host", 0.9)
    assert hosts.is_slow("host", 1.1)


def test_a_host_that_answers_takes_what_there_is_and_what_waits_for_it_waits_in_kafka() -> None:
    hosts = _hosts()
    _called(hosts, 1, 0.1)
    assert _fit(hosts, 1.0) == 100


def test_a_host_that_begins_to_hang_takes_no_more() -> None:
    hosts = _hosts()
    _called(hosts, 1, 0.1)
    assert _fit(hosts, 1.0) == 100
    assert _fit(hosts, 2.1) == 0
    assert hosts.is_slow("host", 2.1)


def test_a_call_that_hangs_among_many_makes_no_host_slow() -> None:
    hosts = _hosts()
    _called(hosts, 20, 0.1)
    _called(hosts, 1, 10.0)
    hosts.begin("host", "hangs", 0.0, 1)
    assert not hosts.is_slow("host", 10.0)
    assert _fit(hosts, 10.0) == 100


def test_a_host_that_is_well_again_takes_what_there_is() -> None:
    hosts = _hosts()
    _called(hosts, 64, 10.0)
    assert _fit(hosts, 10.0) == 32
    hosts = _hosts()
    _called(hosts, 64, 10.0)
    _called(hosts, 64, 0.1, at=10.0)
    assert _fit(hosts, 20.0) == 100


def test_hosts_that_nobody_calls_are_forgotten() -> None:
    hosts = Hosts(1)
    for n in range(10 * KEPT):
        hosts.begin(f"host{n}", n, 0.0, 0)
        if n != 5:
            hosts.end(f"host{n}", n, 1.0)
    assert len(hosts._hosts) <= KEPT
    assert not hosts.has_room("host5", 0, 0.0)


# -- the bucket


@given(
    limit=st.floats(2.0, 500.0),
    share=st.sampled_from([1.0, 0.5, 1 / 3, 0.25]),
    steps=st.lists(st.floats(0.0, 0.4), min_size=10, max_size=60),
)
def test_no_second_sees_more_calls_than_the_share_of_the_limit(
    limit: float, share: float, steps: list[float]
) -> None:
    bucket, now, begun = Bucket(limit), 50.0, list[float]()
    bucket.set_share(share, now)
    for step in steps:
        now += step
        while bucket.room(now) >= 1:
            bucket.take(now)
            begun.append(now)
    for at in begun:
        within = sum(at <= other < at + 1.0 for other in begun)
        assert within <= max(limit * share, 1.5) + 1e-6


def test_a_bucket_gives_nearly_all_of_its_share() -> None:
    bucket, now, begun = Bucket(80.0), 0.0, 0
    bucket.set_share(1.0, now)
    while now < 10.0:
        now += bucket.ready_in(now) or 0.001
        while bucket.room(now) >= 1:
            bucket.take(now)
            begun += 1
    assert 720 <= begun <= 800


def test_a_new_share_begins_empty() -> None:
    bucket = Bucket(80.0)
    bucket.set_share(0.5, 0.0)
    assert bucket.room(9.0) >= 1
    bucket.set_share(1.0, 9.0)
    assert bucket.room(9.0) == 0


def test_without_a_share_nothing_is_called() -> None:
    scene = Scene(Fake("main"), limits={"main": 80.0})
    scene.pool.set_share(0.0)
    scene.now += 100.0
    assert scene.pool.room == 0
    assert scene.pool.ready_in > 1_000
    assert scene.choose() == MOST_ASKED


def test_without_a_limit_there_is_none() -> None:
    scene = Scene(Fake("main"))
    scene.pool.set_share(0.0)
    assert scene.pool.room == 100


def test_a_pool_is_what_the_deciding_stage_asks_for() -> None:
    offer: deliver.Providers = Scene().offer()
    assert offer.honours_keys("main") is False


def test_how_long_a_key_is_known_is_the_providers_to_say() -> None:
    daily = Fake("daily")
    daily.key_window = 86_400.0  # type: ignore[attr-defined]
    offer = Scene(daily, Fake("blind")).offer()
    assert [offer.key_window(name) for name in ("daily", "blind", "gone")] == [86_400.0, None, None]
