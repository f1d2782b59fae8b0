"""History: the same story in whatever order it is told, and counts that are always those of the pairs."""

from collections import Counter
from itertools import permutations
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.remember import remember_contents, remember_status
from schemas.event import Unreadable
from schemas.kinds import Channel, Reason, State
from schemas.message import ChannelContent, Contents
from schemas.notification import EventRef
from schemas.status import Status, Verdict, rfc3339
from tables import history
from tables.history import MOST_TIMELINE, tell
from tests.journeys.memory import NOON, MemoryRows
from tests.journeys.samples import ID, SOURCE

OTHER_ID = "0783f046-62d8-8879-94d1-92a28321f5e7"


def status(state: State, at: int = 0, channel: str | None = "email", **fields: Any) -> Status:
    """A status `at` milliseconds after noon."""
    given: dict[str, Any] = {
        "notification_id": ID, "user_id": "u-1", "channel": channel, "target_id": "t-1" if channel else None,
        "state": state, "at": rfc3339(NOON + at), "event_at": NOON,
        "event": EventRef(source=SOURCE, id="e-1", type="shop.order.confirmed"),
    }  # fmt: skip
    return Status.from_dict(given | fields)


def shown(rows: MemoryRows, notification: str = ID) -> history.History:
    found = history.find(rows, notification)
    assert found is not None
    return found


def pairs(rows: MemoryRows) -> dict[str, str]:
    return {name: pair["state"] for name, pair in shown(rows)["pairs"].items()}


def recounted(rows: MemoryRows) -> dict[tuple[str, str], int]:
    """The counts, made anew from all histories."""
    found: Counter[tuple[str, str]] = Counter()
    for row, _ in rows.scan(history.NOTIFICATIONS):
        told = history.find(rows, row[len(history.NOTIFICATIONS) :].hex())
        assert told is not None
        found.update((pair["channel"], pair["state"]) for pair in told["pairs"].values())
        found["", "duplicate"] += told["duplicates"]
    return {key: count for key, count in found.items() if count}


def counted(rows: MemoryRows) -> dict[tuple[str, str], int]:
    return {key: count for key, count in history.counts(rows).items() if count}


STORIES: dict[str, tuple[list[Status], dict[str, str]]] = {
    "sent at once": (
        [status(State.QUEUED), status(State.SENT, 5, attempt=1), status(State.DELIVERED, 9, attempt=1)],
        {"email:t-1": "delivered"},
    ),
    "after retries": (
        [status(State.QUEUED), status(State.RETRYING, 5, attempt=1), status(State.RETRYING, 9, attempt=2),
         status(State.SENT, 12, attempt=3)],
        {"email:t-1": "sent"},
    ),
    "in vain": (
        [status(State.QUEUED), status(State.RETRYING, 5, attempt=1), status(State.RETRYING, 9, attempt=2),
         status(State.FAILED, 12, attempt=3)],
        {"email:t-1": "failed"},
    ),
    "in doubt, then sent": (
        [status(State.QUEUED), status(State.UNKNOWN, 5, attempt=1), status(State.SENT, 9, attempt=2)],
        {"email:t-1": "sent"},
    ),
    "redriven after a failure": (
        [status(State.QUEUED), status(State.FAILED, 5, attempt=1), status(State.SENDING, 9, attempt=2),
         status(State.SENT, 12, attempt=2)],
        {"email:t-1": "sent"},
    ),
    "bounced": (
        [status(State.QUEUED), status(State.SENT, 5, attempt=1), status(State.DELIVERED, 6, attempt=1),
         status(State.BOUNCED, 9)],
        {"email:t-1": "bounced"},
    ),
    "expired": (
        [status(State.QUEUED), status(State.RETRYING, 5, attempt=1), status(State.EXPIRED, 9, attempt=1)],
        {"email:t-1": "expired"},
    ),
    "suppressed on one channel": (
        [status(State.QUEUED), status(State.SUPPRESSED, 0, "sms", target_id=None),
         status(State.SENT, 5, attempt=1)],
        {"email:t-1": "sent", "sms:": "suppressed"},
    ),
    "broken, then mended": (
        [status(State.FAILED, 0, None), status(State.QUEUED, 5), status(State.SENT, 9, attempt=1)],
        {"email:t-1": "sent"},
    ),
    "broken": ([status(State.FAILED, 0, None)], {":": "failed"}),
    "called too late": (
        [status(State.QUEUED), status(State.TOO_OLD, 9)], {"email:t-1": "too_old"},
    ),
    "ignored": ([status(State.IGNORED, 0, None)], {":": "ignored"}),
}  # fmt: skip


@pytest.mark.parametrize("reason", [Reason.CANCEL_ASKED, Reason.CANCELLED_TOO_LATE])
@pytest.mark.parametrize("state", [State.DIGESTED, State.QUEUED, State.UNKNOWN, State.SENT, State.FAILED])
def test_that_somebody_asked_to_cancel_or_too_late_is_told_and_changes_no_state(
    state: State, reason: Reason
) -> None:
    for channel in (None, "email"):
        rows = MemoryRows()
        tell(rows, status(state, 0, channel), NOON)
        before = pairs(rows)
        asked = msgspec.structs.replace(status(State.CANCELLED, 5, channel), reason=reason)
        assert tell(rows, asked, NOON + 5)
        assert pairs(rows) == before


@pytest.mark.parametrize("name", STORIES)
def test_a_story_ends_the_same_in_whatever_order_it_is_told(name: str) -> None:
    story, expected = STORIES[name]
    for order in permutations(story):
        rows = MemoryRows()
        for report in order:
            tell(rows, report, NOON + 100)
        assert pairs(rows) == expected, [r.state for r in order]
        assert counted(rows) == recounted(rows), [r.state for r in order]


@pytest.mark.parametrize("name", STORIES)
def test_a_story_that_is_told_again_changes_nothing(name: str) -> None:
    rows, (story, _) = MemoryRows(), STORIES[name]
    for report in story:
        assert tell(rows, report, NOON + 100)
    before = dict(rows)
    for report in (*story, *reversed(story)):
        assert not tell(rows, report, NOON + 999_999)
    assert rows == before


reports = st.builds(
    lambda state, at, channel, attempt, other: status(
        state, at, channel, attempt=attempt, notification_id=OTHER_ID if other else ID
    ),
    st.sampled_from(State), st.integers(0, 5), st.sampled_from(["email", "sms", None]),
    st.sampled_from([None, 1, 2, 3]), st.booleans(),
)  # fmt: skip


@given(st.lists(reports, max_size=25))
def test_the_counts_are_always_those_of_the_pairs(story: list[Status]) -> None:
    rows = MemoryRows()
    for report in story:
        tell(rows, report, NOON + 100)
        assert counted(rows) == recounted(rows)
        assert all(count >= 0 for count in history.counts(rows).values())
    before = dict(rows)
    for report in story:
        assert not tell(rows, report, NOON + 200)
    assert rows == before


def test_a_reset_of_the_group_counts_nothing_twice_however_long_the_story() -> None:
    """More duplicates than a timeline holds: the rest is known to be more, and is not counted each time."""
    rows = MemoryRows()
    story = [status(State.DUPLICATE, n, None, detail=f"events-0-{n}") for n in range(MOST_TIMELINE + 50)]
    story += [status(State.QUEUED, 1_000), status(State.SENT, 1_001, attempt=1)]
    for report in story:
        tell(rows, report, NOON + 2_000)
    assert shown(rows)["left_out"] == 1
    assert shown(rows)["duplicates"] == MOST_TIMELINE
    assert pairs(rows) == {"email:t-1": "sent"}
    before = dict(rows)
    for report in story:
        assert not tell(rows, report, NOON + 3_000)
    assert rows == before
    assert counted(rows) == recounted(rows)


def test_duplicates_are_counted_beside_what_became_of_the_first() -> None:
    rows = MemoryRows()
    tell(rows, status(State.QUEUED), NOON)
    for place in ("events-0-8", "events-0-9", "events-0-9"):
        tell(rows, status(State.DUPLICATE, 5, None, detail=place), NOON)
    assert shown(rows)["duplicates"] == 2
    assert pairs(rows) == {"email:t-1": "queued"}
    assert counted(rows) == {("email", "queued"): 1, ("", "duplicate"): 2}


def test_a_late_failure_of_an_earlier_attempt_ends_nothing() -> None:
    rows = MemoryRows()
    tell(rows, status(State.SENDING, 9, attempt=2), NOON)
    tell(rows, status(State.FAILED, 5, attempt=1), NOON)
    assert pairs(rows) == {"email:t-1": "sending"}


def test_the_timeline_is_in_the_order_of_time() -> None:
    rows = MemoryRows()
    for report in reversed(STORIES["after retries"][0]):
        tell(rows, report, NOON)
    assert [entry[3] for entry in shown(rows)["timeline"]] == ["queued", "retrying", "retrying", "sent"]


def test_what_only_the_decision_knows_stays() -> None:
    rows = MemoryRows()
    why = (Verdict(rule="email", verdict="queued"),)
    tell(rows, status(State.QUEUED, workflow="w", category="c", priority="high", why=why), NOON)
    tell(rows, status(State.SENT, 5, attempt=1, provider="main", provider_message_id="p-1"), NOON)
    found = shown(rows)
    assert (found["workflow"], found["category"], found["priority"]) == ("w", "c", "high")
    assert found["why"] == [{"rule": "email", "saw": "", "verdict": "queued"}]
    assert found["pairs"]["email:t-1"]["provider_message_id"] == "p-1"


CONTENTS = Contents(
    notification_id=ID, user_id="u-1", channels={Channel.EMAIL: ChannelContent(subject="s", text="t")}
)


@pytest.mark.parametrize("first", ["contents", "status"])
def test_contents_may_come_before_or_after_the_statuses(first: str) -> None:
    rows = MemoryRows()
    if first == "contents":
        remember_contents(CONTENTS.to_json(), rows)
    remember_status(status(State.QUEUED).to_json(), NOON, rows)
    remember_contents(CONTENTS.to_json(), rows)
    found = shown(rows)
    assert found["content"] == {"email": {"subject": "s", "text": "t"}}
    assert found["event"]["id"] == "e-1"
    assert [one["id"] for one in history.of_user(rows, "u-1", 5)] == [ID]
    before = dict(rows)
    remember_contents(CONTENTS.to_json(), rows)
    assert rows == before


def test_histories_are_found_by_user_the_newest_first_and_by_event() -> None:
    rows = MemoryRows()
    tell(rows, status(State.QUEUED, event_at=NOON), NOON)
    later: dict[str, Any] = {
        "notification_id": OTHER_ID,
        "event": EventRef(source=SOURCE, id="e-2", type="t"),
        "event_at": NOON + 1,
    }
    tell(rows, status(State.QUEUED, **later), NOON)
    tell(rows, status(State.QUEUED, notification_id=OTHER_ID[:-1] + "0", user_id="u-10"), NOON)
    assert [one["id"] for one in history.of_user(rows, "u-1", 5)] == [OTHER_ID, ID]
    assert [one["id"] for one in history.of_user(rows, "u-1", 1)] == [OTHER_ID]
    assert [one["id"] for one in history.of_event(rows, SOURCE, "e-2")] == [OTHER_ID]
    assert list(history.of_event(rows, SOURCE, "e")) == []
    assert history.find(rows, "892e6f8f-e6aa-8d1e-ba69-99b7fd8bfd47") is None


@pytest.mark.parametrize(
    ("took", "bucket"), [(0, 10), (10, 10), (11, 25), (600_000, 600_000), (600_001, -1), (-5, 10)]
)
def test_the_first_send_is_timed_and_no_other(took: int, bucket: int) -> None:
    rows = MemoryRows()
    tell(rows, status(State.QUEUED), NOON)
    tell(rows, status(State.SENT, 5, attempt=1), NOON + took)
    tell(rows, status(State.DELIVERED, 9, attempt=1), NOON + took + 999)
    assert history.latencies(rows) == {("email", bucket): 1}


def test_minutes_tell_what_came_to_which_state_when() -> None:
    rows = MemoryRows()
    minute = NOON // 60_000
    tell(rows, status(State.QUEUED), minute * 60_000)
    tell(rows, status(State.SENT, 5, attempt=1), (minute + 1) * 60_000)
    tell(rows, status(State.SENT, 5, attempt=1), (minute + 9) * 60_000)
    assert history.minutes(rows, 0) == {(minute, "email", "queued"): 1, (minute + 1, "email", "sent"): 1}
    assert history.minutes(rows, minute + 1) == {(minute + 1, "email", "sent"): 1}


@given(st.none() | st.binary(max_size=60) | st.just(b'{"state": "merry"}'))
def test_what_is_no_status_or_contents_is_refused_with_its_field(value: bytes | None) -> None:
    rows = MemoryRows()
    with pytest.raises(Unreadable, match=": "):
        remember_status(value, NOON, rows)
    with pytest.raises(Unreadable, match=": "):
        remember_contents(value, rows)
    assert rows == {}


# -- what was forgotten by those who decide


def test_what_is_known_is_not_overruled_by_who_has_forgotten_it() -> None:
    rows = MemoryRows()
    for report in STORIES["sent at once"][0]:
        tell(rows, report, NOON + 100)
    assert tell(rows, status(State.TOO_OLD, 20, target_id=None), NOON + 200)
    assert pairs(rows) == {"email:t-1": "delivered"}
    assert shown(rows)["timeline"][-1][3] == "too_old"
    assert counted(rows) == recounted(rows)


def test_what_is_too_old_and_was_never_told_of_is_too_old() -> None:
    rows = MemoryRows()
    tell(rows, status(State.TOO_OLD, 20, target_id=None), NOON + 200)
    assert pairs(rows) == {"email:": "too_old"}


# -- what is past


def forgotten(rows: MemoryRows, oldest: int) -> MemoryRows:
    """What is left after a sweep of all rows."""
    left = MemoryRows(rows)
    for prefix, forget in ((history.BY_USER, history.forget), (history.MINUTES, history.forget_minute)):
        for key, value in list(rows.scan(prefix)):
            forget(left, key, value, oldest)
    return left


def by_prefix(rows: MemoryRows) -> Counter[bytes]:
    return Counter(key[:2] for key in rows)


@pytest.mark.parametrize("name", STORIES)
def test_a_story_goes_whole_and_not_before_its_last_word_is_past(name: str) -> None:
    rows, (story, _) = MemoryRows(), STORIES[name]
    tell(rows, status(State.SENT, 500_000, notification_id=OTHER_ID, event_at=NOON + 500_000), NOON + 500_000)
    other = dict(rows)
    for report in story:
        tell(rows, report, NOON)
    keep_what = Contents(
        notification_id=ID, user_id="u-1", channels={Channel.EMAIL: ChannelContent(text="x")}
    )
    history.keep_contents(rows, keep_what)
    latest = NOON + max(at for at in range(100) if any(report.at == rfc3339(NOON + at) for report in story))
    assert by_prefix(forgotten(rows, latest)) == by_prefix(rows), "its last word is not past"
    left = forgotten(rows, latest + 1)
    assert history.find(left, ID) is None
    assert not [key for key in left if key[-16:].hex() == ID.replace("-", "")]
    assert history.find(left, OTHER_ID) is not None
    assert counted(left) == recounted(left) == {("email", "sent"): 1}
    kept = (history.BY_USER, history.BY_EVENT, history.NOTIFICATIONS)
    assert {k for k in left if k.startswith(kept)} == {k for k in other if k.startswith(kept)}


def test_a_minute_is_forgotten_once_it_is_past_whole() -> None:
    rows = MemoryRows()
    tell(rows, status(State.SENT), NOON)
    (minute,) = {int(key[2:12]) for key, _ in rows.scan(history.MINUTES)}
    assert history.minutes(forgotten(rows, (minute + 1) * 60_000 - 1), 0) == history.minutes(rows, 0) != {}
    assert history.minutes(forgotten(rows, (minute + 1) * 60_000), 0) == {}
