"""Retry-After: the seconds that an answer asks us to wait (RFC 9110, 10.2.3)."""

from datetime import UTC
from email.utils import parsedate_to_datetime

MOST_SECONDS = 86_400.0


def seconds(value: str | None, now: float) -> float | None:
    """Seconds from `now` (a POSIX time), between 0 and a day; None for what cannot be read."""
    if value is None or len(value) > 100:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MOST_SECONDS)
    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return min(max(date.timestamp() - now, 0.0), MOST_SECONDS)
    except (ValueError, TypeError, OverflowError):  # of no date, and of numbers beyond all dates
        return None
