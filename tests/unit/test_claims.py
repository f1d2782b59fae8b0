"""Claims: what was decided once is said again in the same bytes, or not at all, whatever has changed."""

from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from agents import topics
from agents.catalogue import Catalogue
from agents.know import know
from agents.plan import Work, plan
from agents.sending import Send
from schemas.kinds import Channel, State
from tables import caps, claims
from tables.claims import Claim, Instead, Manner, Origin, Pinned
from tests.journeys.memory import NOON, MemoryRows
from tests.journeys.samples import ID, a_notification, a_template, an_origin

ORIGIN = an_origin()
OTHER_EVENT: dict[str, Any] = {"position": "events-0-9"}


class Desk:
    """Core's state, and a way to plan with it."""

    def __init__(self, catalogue: Catalogue | None = None) -> None:
        self.rows = MemoryRows()
        self.catalogue = catalogue or Catalogue(templates=[a_template()])
        self.know(topics.USERS, email="ada@example.com", phone="+15550100")

    def know(self, topic: str, at: int = NOON, **fields: Any) -> None:
        know(topic, b"u-1", orjson.dumps({"user_id": "u-1"} | fields), at, self.rows)

    def plan(
        self, origin: Origin = ORIGIN, number: int = 5, mark: int = 4, oldest: int = 0, **fields: Any
    ) -> Sequence[Send]:
        return plan(
            a_notification(**fields), origin, Work(self.rows, number, mark, self.catalogue, oldest=oldest)
        )

    def change_everything(self) -> None:
        """Another address, an opt-out, a cap, other words, another day's other rules."""
        self.know(topics.USERS, NOON + 1, email="eve@example.com", phone="+15550199")
        self.know(topics.PREFERENCES, NOON + 1, channels={"email": False}, frequency_limit=0)
        self.catalogue.set_template(
            a_template().model_copy(
                update={
                    "current": 2,
                    "versions": {1: a_template().versions[1], 2: a_template("New").versions[1]},
                }
            )
        )


def states(sends: Sequence[Send]) -> list[str]:
    return [orjson.loads(s.value or b"")["state"] for s in sends if s.topic == topics.DELIVERY_STATUS]


def test_a_decision_sends_messages_then_contents_then_statuses() -> None:
    sent = [send.topic for send in Desk().plan()]
    assert sent == [
        "email-notifications", "sms-notifications", "web-notifications", "contents", *["delivery-status"] * 3,
    ]  # fmt: skip


def test_above_the_mark_a_redelivery_says_the_same_in_the_same_bytes_and_changes_nothing() -> None:
    desk = Desk()
    first = desk.plan(number=5, mark=4)
    before = dict(desk.rows)
    assert desk.plan(number=6, mark=4) == first
    assert desk.rows == before


@pytest.mark.parametrize("mark", [5, 6, 1_000])
def test_at_or_below_the_mark_a_redelivery_is_silent(mark: int) -> None:
    desk = Desk()
    desk.plan(number=5, mark=4)
    before = dict(desk.rows)
    assert desk.plan(number=7, mark=mark) == ()
    assert desk.rows == before


def test_what_changed_in_between_does_not_show() -> None:
    desk = Desk()
    first = desk.plan(number=5, mark=4)
    desk.change_everything()
    assert desk.plan(number=6, mark=4) == first


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"channels": {"email": False, "sms": False, "web": False}}, "suppressed"),
        ({"frequency_limit": 0}, "suppressed"),
        ({"categories": {"orders": {"email": False, "sms": False, "web": False}}}, "suppressed"),
    ],
)
def test_a_suppression_is_claimed_too(fields: dict[str, Any], state: str) -> None:
    desk = Desk()
    desk.know(topics.PREFERENCES, NOON, **fields)
    first = desk.plan(number=5, mark=4)
    assert states(first) == [state] * 3
    desk.know(topics.PREFERENCES, NOON + 1)
    assert desk.plan(number=6, mark=4) == first
    assert desk.plan(number=6, mark=5) == ()


def test_an_unknown_user_is_claimed_too() -> None:
    desk = Desk()
    desk.rows.clear()
    first = desk.plan(number=5, mark=4)
    assert states(first) == ["suppressed"] * 3
    desk.know(topics.USERS, email="ada@example.com")
    assert desk.plan(number=6, mark=4) == first


def test_the_same_event_again_at_another_place_is_a_duplicate() -> None:
    desk = Desk()
    desk.plan(number=5, mark=4)
    before = dict(desk.rows)
    again = desk.plan(an_origin(offset=9), number=6, mark=4, **OTHER_EVENT)
    assert states(again) == ["duplicate"]
    told = orjson.loads(again[0].value or b"")
    assert (told["reason"], told["detail"]) == ("already_planned", "events-0-9")
    assert desk.rows == before
    assert desk.plan(an_origin(offset=9), number=7, mark=6, **OTHER_EVENT) == again


@pytest.mark.parametrize("mark", [4, 9])
def test_the_same_event_that_came_down_again_is_nothing(mark: int) -> None:
    """A replay of intake writes the same notification at another offset."""
    desk = Desk()
    desk.plan(number=5, mark=4)
    before = dict(desk.rows)
    assert desk.plan(an_origin(offset=9), number=9, mark=mark) == ()
    assert desk.rows == before


def test_another_step_is_another_claim() -> None:
    desk = Desk()
    desk.plan(number=5, mark=4)
    assert states(desk.plan(an_origin(offset=9), number=6, mark=5, step="resume:1")) == ["queued"] * 3


def test_a_recreated_topic_is_told_from_the_old_one_by_its_time() -> None:
    desk = Desk()
    desk.plan(number=5, mark=4)
    assert states(desk.plan(an_origin(at=NOON + 99_999), number=6, mark=4, **OTHER_EVENT)) == ["duplicate"]


# -- failures that can be mended


def test_a_missing_template_fails_and_is_decided_afresh_when_it_is_there() -> None:
    desk = Desk(Catalogue())
    (failed,) = desk.plan(number=5, mark=4)
    told = orjson.loads(failed.value or b"")
    assert (told["state"], told["reason"], told["detail"]) == ("failed", "unknown_template", "order")
    assert caps.count(desk.rows, caps.key("u-1", ORIGIN.at // caps.DAY)) == 0
    desk.catalogue.set_template(a_template())
    mended = desk.plan(number=9, mark=8)
    assert states(mended) == ["queued"] * 3
    assert desk.plan(number=10, mark=8) == mended
    assert desk.plan(number=10, mark=9) == ()


@pytest.mark.parametrize(
    ("template", "named"),
    [("{{ order.total }}", "total"), ("{{ 1 / 0 }}", "division"), ("{{ 'a' * 9999999 }}", "more")],
)
def test_words_that_cannot_be_filled_fail_as_a_whole_and_can_be_mended(template: str, named: str) -> None:
    desk = Desk(Catalogue(templates=[a_template(template)]))
    (failed,) = desk.plan(number=5, mark=4)
    told = orjson.loads(failed.value or b"")
    assert (told["state"], told["reason"]) == ("failed", "template_failed")
    assert named in told["detail"]
    desk.catalogue.set_template(a_template())
    assert states(desk.plan(number=6, mark=5)) == ["queued"] * 3


def test_what_is_still_broken_is_said_again_only_until_it_is_out() -> None:
    desk = Desk(Catalogue())
    first = desk.plan(number=5, mark=4)
    assert desk.plan(number=6, mark=4) == first  # it may not be out
    assert desk.plan(number=8, mark=7) == ()
    desk.catalogue.set_template(a_template("{{ order.total }}"))
    assert states(desk.plan(number=9, mark=8)) == ["failed"]  # broken in another way


def test_a_message_that_no_topic_takes_fails_and_says_so() -> None:
    desk = Desk(Catalogue(templates=[a_template("{{ '\u2028' * 200000 }}")]))
    (failed,) = desk.plan(number=5, mark=4)
    told = orjson.loads(failed.value or b"")
    assert told["reason"] == "template_failed"
    assert "bytes" in told["detail"]


def test_a_version_that_is_gone_is_not_replaced_by_another() -> None:
    desk = Desk()
    desk.plan(number=5, mark=4)
    newer = a_template().model_copy(update={"current": 2, "versions": {2: a_template("New").versions[1]}})
    desk.catalogue.set_template(newer)
    with pytest.raises(ValueError, match="version 1 of order is gone"):
        desk.plan(number=6, mark=4)


# -- rows


def test_a_claim_comes_back_as_it_was_put() -> None:
    rows = MemoryRows()
    claim = Claim(
        ORIGIN, "events-0-7", 5, 2,
        (Pinned(Channel.EMAIL, "ada@example.com"), Pinned(Channel.SMS, None, "no_address", "saw")),
        "failed: x", Instead(State.SCHEDULED, "quiet_hours", "22:00 to 07:00 UTC", NOON),
        (("daily_cap", "3 of 50", "passes"),), Manner("pt-BR", "America/Sao_Paulo", "b"),
    )  # fmt: skip
    claims.put(rows, claims.key(ID, "plan"), claim)
    assert claims.find(rows, claims.key(ID, "plan")) == claim
    assert claims.find(rows, claims.key(ID, "digest")) is None
    assert len(next(iter(rows))) == 2 + 16 + 4


# -- what is past


def test_a_claim_is_forgotten_when_its_record_is_past_and_not_before() -> None:
    desk = Desk()
    desk.plan()
    desk.plan(an_origin(offset=2, at=ORIGIN.at + 9), step="resume:1")
    left = MemoryRows(desk.rows)
    for key, value in desk.rows.scan(claims.PREFIX):
        claims.forget(left, key, value, ORIGIN.at)
    assert left == desk.rows
    for key, value in desk.rows.scan(claims.PREFIX):
        claims.forget(left, key, value, ORIGIN.at + 1)
    assert [claims.find(left, key) for key, _ in left.scan(claims.PREFIX)] == [
        claims.find(desk.rows, claims.key(ID, "resume:1"))
    ]


def test_a_day_s_count_is_forgotten_once_the_day_is_past() -> None:
    day = NOON // caps.DAY
    rows, today, end = MemoryRows(), caps.key("u|000001", day), (day + 2) * caps.DAY  # everywhere
    caps.raise_by_one(rows, today, 0)
    caps.forget(rows, today, b"1", end - 1)
    assert caps.count(rows, today) == 1
    caps.forget(rows, today, b"1", end)
    assert rows == {}


def test_what_is_older_than_the_claims_and_has_none_is_not_sent() -> None:
    desk = Desk()
    first = desk.plan(oldest=NOON + 1)
    assert states(first) == ["too_old"] * 3
    assert {orjson.loads(s.value or b"")["reason"] for s in first} == {"too_old"}
    assert {send.topic for send in first} == {topics.DELIVERY_STATUS}
    assert desk.plan(oldest=NOON + 1, number=6, mark=4) == first, "above the mark it is said again"
    assert desk.plan(number=6, mark=4) == first, "whatever is old meanwhile: it is claimed"
    assert desk.plan(oldest=NOON + 1, number=6, mark=5) == ()
    assert not list(desk.rows.scan(caps.PREFIX)), "it counts for nothing"


def test_what_is_too_old_needs_no_template() -> None:
    desk = Desk(Catalogue())
    assert states(desk.plan(oldest=NOON + 1)) == ["too_old"] * 3


@pytest.mark.parametrize("oldest", [NOON, NOON - 1, 0, -NOON])
def test_what_is_not_older_than_the_claims_is_sent(oldest: int) -> None:
    assert states(Desk().plan(oldest=oldest)) == ["queued"] * 3


def test_what_was_claimed_is_as_it_was_however_old_it_is() -> None:
    desk = Desk()
    first = desk.plan()
    assert desk.plan(number=6, mark=4, oldest=NOON + 1) == first
    assert desk.plan(number=6, mark=5, oldest=NOON + 1) == ()


def test_a_later_step_is_as_old_as_its_own_record() -> None:
    assert states(Desk().plan(an_origin(at=NOON + 9), step="resume:1", oldest=NOON + 9)) == ["queued"] * 3
    assert states(Desk().plan(an_origin(at=NOON + 8), step="resume:1", oldest=NOON + 9)) == ["too_old"] * 3
