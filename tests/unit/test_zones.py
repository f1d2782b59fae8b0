"""Zones: quiet hours end on the user's own wall, once, through both changes of every clock."""

from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.zones import is_quiet, local_day, quiet_until, zone

ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Kolkata",
    "Asia/Kathmandu", "Pacific/Apia", "Africa/Casablanca", "America/St_Johns",
]  # fmt: skip
BEGIN, END = 1_577_836_800, 1_956_528_000
"""2020 to 2031."""
moments = st.integers(BEGIN, END).map(lambda seconds: seconds * 1000)
walls = st.times().map(lambda t: f"{t.hour:02d}:{t.minute:02d}")


def wall(name: str, at: int) -> time:
    return datetime.fromtimestamp(at / 1000, zone(name)).time()


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1000


@given(name=st.sampled_from(ZONES), start=walls, end=walls, at=moments)
def test_quiet_hours_end_where_the_wall_is_quiet_no_more_and_not_before(
    name: str, start: str, end: str, at: int
) -> None:
    begins, ends = time.fromisoformat(start), time.fromisoformat(end)
    until = quiet_until(start, end, name, at)
    if not is_quiet(begins, ends, wall(name, at)):
        assert until is None
        return
    assert until is not None and at < until <= at + 26 * 3_600_000
    assert not is_quiet(begins, ends, wall(name, until))
    for minute in range(at // 60_000 * 60_000 + 60_000, until, 60_000):
        assert is_quiet(begins, ends, wall(name, minute))


@pytest.mark.parametrize(
    ("at", "until"),
    [
        ("2026-03-28T23:30:00+01:00", "2026-03-29T07:00:00+02:00"),  # a night of an hour less
        ("2026-10-24T23:30:00+02:00", "2026-10-25T07:00:00+01:00"),  # of an hour more
        ("2026-07-01T06:59:59+02:00", "2026-07-01T07:00:00+02:00"),
        ("2026-07-01T07:00:00+02:00", None),
        ("2026-07-01T21:59:59+02:00", None),
        ("2026-07-01T22:00:00+02:00", "2026-07-02T07:00:00+02:00"),
    ],
)
def test_a_night_in_berlin(at: str, until: str | None) -> None:
    assert quiet_until("22:00", "07:00", "Europe/Berlin", ms(at)) == (ms(until) if until else None)


def test_where_the_clock_is_set_forward_over_the_end_the_end_is_that_moment() -> None:
    until = quiet_until("22:00", "02:30", "Europe/Berlin", ms("2026-03-29T01:00:00+01:00"))
    assert until == ms("2026-03-29T03:00:00+02:00")


def test_where_the_clock_is_set_back_over_the_end_the_first_of_the_two_counts() -> None:
    until = quiet_until("22:00", "02:30", "Europe/Berlin", ms("2026-10-25T01:00:00+02:00"))
    assert until == ms("2026-10-25T02:30:00+02:00")
    again = quiet_until("22:00", "02:30", "Europe/Berlin", ms("2026-10-25T02:10:00+01:00"))
    assert again == ms("2026-10-25T02:30:00+01:00")


def test_from_an_hour_to_the_same_there_are_none() -> None:
    assert quiet_until("08:00", "08:00", "UTC", ms("2026-01-01T08:00:00+00:00")) is None


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd", "Europe/Berlin\0", "x" * 500])
def test_what_is_no_zone_is_utc(name: str) -> None:
    assert zone(name).key == "UTC"


@given(name=st.sampled_from(ZONES), at=moments)
def test_a_day_is_the_one_on_the_users_calendar(name: str, at: int) -> None:
    local = datetime.fromtimestamp(at / 1000, zone(name))
    expected = (local.date() - datetime(1970, 1, 1, tzinfo=UTC).date()) // timedelta(days=1)
    assert local_day(name, at) == expected
