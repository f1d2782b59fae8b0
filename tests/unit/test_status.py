"""Times as the public stream shows them, whatever a producer stamped on its record."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.status import rfc3339


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_790_000_000_010, "2026-09-21T14:13:20.010Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (253_402_300_800_000, "9999-12-31T23:59:59.999Z"),
        (2**63 - 1, "9999-12-31T23:59:59.999Z"),
        (-1, "1970-01-01T00:00:00.000Z"),
        (-(2**63), "1970-01-01T00:00:00.000Z"),
    ],
)
def test_every_broker_time_can_be_shown(milliseconds: int, shown: str) -> None:
    assert rfc3339(milliseconds) == shown


@given(st.integers(0, 253_402_300_799_999))
def test_no_millisecond_is_lost(milliseconds: int) -> None:
    since = datetime.fromisoformat(rfc3339(milliseconds)) - datetime(1970, 1, 1, tzinfo=UTC)
    assert since.total_seconds() * 1000 == pytest.approx(milliseconds, abs=0.5)
    assert (since.microseconds // 1000) == milliseconds % 1000


@given(st.integers(0, 2**42), st.integers(0, 2**42))
def test_their_order_as_text_is_their_order_in_time(one: int, other: int) -> None:
    assert (rfc3339(one) < rfc3339(other)) == (one < other)
