"""Whatever is killed between a decision and its outputs, or comes down twice: told once, never early."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agents import broadcast, plan, signals
from agents.catalogue import Catalogue
from agents.gather import MAX_ITEM_BYTES
from agents.plan import Policy, Work
from agents.sending import Send
from schemas.ids import notification_id
from schemas.notification import FanOut, Signal
from schemas.status import rfc3339
from tables import waits
from tables.claims import Origin
from tests.journeys.memory import NOON, Pipeline
from tests.journeys.samples import a_template, a_workflow, request

MINUTE, HOUR = 60_000, 3_600_000
LIST = a_template(name="list", email={"subject": "s", "text": "{{ items | map(attribute='n') | join(' ') }}"})
ONE = a_template(email={"subject": "s", "text": "{{ n }}"}, sms={"text": "{{ n }}"})


class Shaky(Pipeline):
    """Core dies as it is told: `fates`: of each record, whether what it sends is lost or sent twice."""

    def __init__(self, *given: Any, fates: Sequence[str], **named: Any) -> None:
        super().__init__(*given, **named)
        self.fates = list(fates)

    def _plan(self, send: Send, origin: Origin) -> Sequence[Send]:
        fate = self.fates.pop() if self.fates else ""
        self.unit += 1
        sends = self._decided(send, origin, self.unit - 1)
        if fate == "lost":  # the changelog has it, nobody else: it comes again, above the mark
            self.unit += 1
            before = dict(self.core)
            again = self._decided(send, origin, 0)
            assert [s.value for s in again] == [s.value for s in sends]
            assert self.core == before
            return again
        if fate == "twice":
            self.unit += 1
            return [*sends, *self._decided(send, origin, 0)]
        return sends

    def _decided(self, send: Send, origin: Origin, mark: int) -> Sequence[Send]:
        found = plan.read(send.value)
        work = Work(self.core, self.unit, mark, self.catalogue, policy=self.policy)
        if isinstance(found, Signal):
            return signals.hear(found, origin, work)
        due = dict(send.headers or []).get("due")
        if due is not None and mark:
            assert int(due) <= origin.at, "it came early"
        moment = None if due is None else int(due)
        if isinstance(found, FanOut):
            return broadcast.fan_out(found, origin, work, moment)
        return plan.plan(found, origin, work, moment)


fates = st.lists(st.sampled_from(["", "lost", "twice"]), max_size=60)


def shaky(fates: Sequence[str], **workflow: Any) -> Shaky:
    catalogue = Catalogue([a_workflow(channels=["email"], **workflow)], [ONE, LIST])
    found = Shaky(catalogue, fates=fates, policy=Policy(grace=MINUTE))
    found.user("u-1", email="ada@example.com", phone="+15550100")
    return found


def ask(found: Pipeline, n: int, more: str = "", **fields: Any) -> None:
    found.event(request(idempotency_key=f"k-{n}", variables={"n": n, "more": more}, **fields))


def named(n: int) -> str:
    return notification_id("u-1", "carillon", f"k-{n}", "order-confirmed")


def texts(found: Pipeline) -> list[str]:
    """The words of every effect, each once: a receiver with keys drops what comes again."""
    return list({key: message.text for key, message in found.provider.calls}.values())


@given(
    fates=fates,
    steps=st.lists(
        st.sampled_from(["item", "large", "same second", "a minute", "an hour", "again"]), max_size=30
    ),
    flush_at=st.integers(2, 5),
)
def test_a_digest_neither_drops_nor_repeats_an_item(
    fates: list[str], steps: list[str], flush_at: int
) -> None:
    found = shaky(fates, digest={"window": 600, "flush_at": flush_at, "template": "list"})
    count = 0
    for step in steps:
        if step in ("item", "same second", "large"):
            ask(found, count, more="x" * MAX_ITEM_BYTES * (step == "large"))
            count += 1
            if step == "same second":
                found.now -= 1
        elif step == "again" and count:
            ask(found, count - 1)
        else:
            found.pass_time(MINUTE if step == "a minute" else HOUR)
    found.pass_time(HOUR)
    told = [int(n) for text in texts(found) for n in text.split()]
    assert sorted(told) == list(range(count))
    assert all(len(text.split()) <= flush_at for text in texts(found))
    assert not list(found.core.scan(waits.PREFIX)) and not list(found.core.scan(b"j|"))


@given(
    fates=fates,
    notifications=st.lists(
        st.tuples(st.integers(-10, 200), st.booleans(), st.sampled_from(["", "cancel", "cancel first"])),
        max_size=12,
    ),
)
def test_what_waits_fires_once_and_never_early(
    fates: list[str], notifications: list[tuple[int, bool, str]]
) -> None:
    found = shaky(fates)
    expected = []
    for n, (minutes, again, cancel) in enumerate(notifications):
        due = rfc3339(NOON + minutes * MINUTE)
        stop = Signal(kind="cancel", id=named(n), user_id="u-1")
        waited = NOON + minutes * MINUTE > found.now + 2
        if cancel == "cancel first":
            found.signal(stop)
        ask(found, n, scheduled_at=due)
        if again:
            ask(found, n, scheduled_at=due)
        if cancel == "cancel":
            found.signal(stop)
        if not cancel or (cancel == "cancel" and not waited):
            expected.append(str(n))
    found.pass_time(300 * MINUTE)
    assert sorted(texts(found), key=int) == expected
    assert not list(found.core.scan(waits.PREFIX)) and not list(found.core.scan(waits.BY_ID))


@given(fates=fates, asked=st.lists(st.integers(0, 6), max_size=20), limit=st.integers(0, 4))
def test_a_cap_lets_exactly_as_many_through_however_often_they_come_down(
    fates: list[str], asked: list[int], limit: int
) -> None:
    found = shaky(fates)
    found.preferences("u-1", frequency_limit=limit)
    for n in asked:
        ask(found, n)
    assert len(texts(found)) == min(limit, len(set(asked)))
    assert texts(found) == [str(n) for n in dict.fromkeys(asked)][:limit]


@given(fates=fates, seen=st.booleans(), again=st.booleans())
def test_an_escalation_goes_out_once_where_it_was_not_seen(fates: list[str], seen: bool, again: bool) -> None:
    found = shaky(fates, escalate=[{"after": 60, "channels": ["sms"]}])
    ask(found, 1)
    if again:
        ask(found, 1)
    if seen:
        found.signal(Signal(kind="seen", id=named(1), user_id="u-1"))
    found.pass_time(HOUR)
    assert len(texts(found)) == (1 if seen else 2)
