"""The chart of the last hour: bars in plain numbers, for a template to write as SVG."""

from typing import NamedTuple

from pipeline.web.shown import SERIES, Bar, top
from schemas.status import rfc3339

WIDTH, HEIGHT = 1168, 220
LEFT, BELOW = 36, 24
GAP = 2


class Piece(NamedTuple):
    """One series in one minute."""

    series: str
    x: float
    y: float
    width: float
    height: float


class Column(NamedTuple):
    """One minute: its pieces from below, what it says in words, and where it stands."""

    minute: int
    pieces: tuple[Piece, ...]
    says: str
    x: float
    width: float


class Line(NamedTuple):
    """A line of the scale."""

    y: float
    value: int


class Label(NamedTuple):
    """A time below."""

    x: float
    text: str


class Chart(NamedTuple):
    """Everything that there is to draw."""

    width: int
    height: int
    left: int
    floor: float
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    labels: tuple[Label, ...]
    now: int
    total: int


def draw(bars: list[Bar]) -> Chart:
    """The chart of these minutes, the last of which is now."""
    end = top(max((bar.total for bar in bars), default=0))
    floor, step = HEIGHT - BELOW, (WIDTH - LEFT) / max(1, len(bars))
    scale = (floor - 8) / end
    columns, labels = [], []
    for n, bar in enumerate(bars):
        x, y, pieces = LEFT + n * step, float(floor), []
        for name, count in zip(SERIES, bar.counts, strict=True):
            height = round(count * scale, 2)
            y -= height
            pieces.append(Piece(name, round(x + GAP / 2, 2), round(y, 2), round(step - GAP, 2), height))
        said = [f"{count:,} {name}" for name, count in zip(SERIES, bar.counts, strict=True) if count]
        began = rfc3339(bar.minute * 60_000)[11:16]
        says = f"{began}  {', '.join(said) or 'nothing'}"
        columns.append(Column(bar.minute, tuple(pieces), says, round(x, 2), round(step, 2)))
        if bar.minute % 10 == 0 and 0 < n < len(bars) - 1:
            labels.append(Label(round(x + step / 2, 2), began))
    lines = tuple(Line(round(floor - value * scale, 2), value) for value in (end // 2, end))
    now = bars[-1].total if bars else 0
    return Chart(
        WIDTH, HEIGHT, LEFT, floor, tuple(columns), lines, tuple(labels), now, sum(bar.total for bar in bars)
    )
