"""The marker: a death names its unit, the next one the record, and nothing else is blamed."""

from pathlib import Path

import pytest

from pipeline.engine.marker import MOST_DEATHS, Deadly, Found, Marker


def died(path: Path) -> Marker:
    """The marker as the next process finds it."""
    return Marker(path)


def test_who_ended_well_leaves_no_suspects(tmp_path: Path) -> None:
    marker = Marker(tmp_path / "0")
    marker.unit("in", 5, 9)
    marker.clear()
    assert died(tmp_path / "0").suspects is None


def test_a_death_in_a_unit_makes_its_records_suspects_and_counts_for_none(tmp_path: Path) -> None:
    Marker(tmp_path / "0").unit("in", 5, 9)
    marker = died(tmp_path / "0")
    assert marker.suspects_in("in", 5)
    assert not marker.suspects_in("other", 5)
    assert marker.deaths == 0
    for offset in range(5, 10):
        marker.record("in", 5, 9, offset)
    assert not marker.suspects_in("in", 10)
    assert marker.suspects is None, "they are done"


def test_a_record_is_given_up_after_so_many_deaths_on_it(tmp_path: Path) -> None:
    path = tmp_path / "0"
    Marker(path).unit("in", 5, 9)
    for death in range(MOST_DEATHS):
        marker = died(path)
        assert marker.suspects_in("in", 5)
        assert marker.deaths == death
        marker.record("in", 5, 9, 5)
        marker.record("in", 5, 9, 7)
    marker = died(path)
    assert marker.suspects == Found("in", 5, 9, 7, MOST_DEATHS - 1)
    marker.record("in", 5, 9, 5)
    with pytest.raises(Deadly, match="died 3 times"):
        marker.record("in", 5, 9, 7)
    marker.record("in", 5, 9, 8)


@pytest.mark.parametrize("torn", [b"", b"in 5", b"\xff\xfe", b"in 5 nine -1 0", b"\0" * 600])
def test_what_is_torn_blames_nobody(tmp_path: Path, torn: bytes) -> None:
    (tmp_path / "0").write_bytes(torn)
    assert Marker(tmp_path / "0").suspects is None
