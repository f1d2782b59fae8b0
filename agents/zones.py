"""The user's own clock: their day, and when their quiet hours end, through every change of it."""

from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

QUARTER = 900_000
"""Milliseconds. No zone's offset changes but at a quarter of an hour of UTC, since 1972."""
_MINUTE = timedelta(minutes=1)
_DAY = timedelta(days=1)


@lru_cache(maxsize=1_024)
def zone(name: str) -> ZoneInfo:
    """The zone of an IANA name, UTC for what is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return ZoneInfo("UTC")


def local_day(name: str, at: int) -> int:
    """The day in a zone at a moment (ms since the epoch), as days since 1970-01-01."""
    return at // 86_400_000 if name == "UTC" else _local_day(name, at // QUARTER)


@lru_cache(maxsize=65_536)
def _local_day(name: str, quarter: int) -> int:
    return datetime.fromtimestamp(quarter * QUARTER / 1000, zone(name)).toordinal() - 719_163


def quiet_until(start: str, end: str, name: str, at: int) -> int | None:
    """The moment at which the quiet hours end that `at` lies in, both in ms since the epoch; else None.

    `start` and `end` are HH:MM on the wall of a zone; the end is not quiet any more, and from an hour to the
    same hour there are none. Where a clock is set forward over the end, the end is that moment.
    """
    return _quiet_until(time.fromisoformat(start), time.fromisoformat(end), name, at)


def is_quiet(start: time, end: time, wall: time) -> bool:
    """Whether a wall clock shows a quiet time."""
    if start <= end:
        return start <= wall < end
    return wall >= start or wall < end


def _quiet_until(start: time, end: time, name: str, at: int) -> int | None:
    here = zone(name)
    now = datetime.fromtimestamp(at // 1000, UTC)
    wall = now.astimezone(here)
    if not is_quiet(start, end, wall.time()):
        return None
    for days in (0, 1, 2):
        day = wall.date() + days * _DAY
        ends = {_instant(datetime.combine(day, end, here).replace(fold=fold)) for fold in (0, 1)}
        for moment in sorted(ends):
            if moment > now and not is_quiet(start, end, moment.astimezone(here).time()):
                return int(moment.timestamp()) * 1000
    return None


def _instant(local: datetime) -> datetime:
    """The moment at which a wall clock shows a time, or passes over it."""
    found = local.astimezone(UTC)
    here = local.tzinfo
    if found.astimezone(here).replace(tzinfo=None, fold=0) == local.replace(tzinfo=None, fold=0):
        return found
    low, high = sorted(local.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    while high - low > _MINUTE:  # the offset changes between the two
        middle = low + (high - low) / 2
        middle = middle.replace(second=0, microsecond=0)
        if middle <= low:
            break
        if middle.astimezone(here).utcoffset() == low.astimezone(here).utcoffset():
            low = middle
        else:
            high = middle
    return high
