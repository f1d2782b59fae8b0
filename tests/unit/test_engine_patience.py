"""A stage that raises: how much of it is dead-lettered before the stage counts as broken."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.catalogue import Catalogue
from pipeline.app import Roles
from pipeline.engine.marker import Deadly
from pipeline.engine.outbox import RecordTooLarge
from pipeline.engine.patience import MOST_IN_A_ROW, Patience, broken
from pipeline.engine.unit import Unit
from pipeline.metrics import Metrics
from pipeline.settings import given as settings_of
from schemas.event import Unreadable

MOST = 3


class Malformed(Exception):
    """What the stage says of a record."""


PATIENCE = Patience.with_errors([Malformed])._replace(most=MOST)
ERRORS = {b"malformed": Malformed, b"deadly": Deadly, b"large": RecordTooLarge, b"bug": KeyError}


def decide(record: bytes, unit: Unit) -> None:
    unit.outbox.add("out", record, record)
    unit.put(b"row", record)
    if record in ERRORS:
        raise ERRORS[record]("of a record")


def reject(record: bytes, error: Exception, unit: Unit) -> None:
    unit.outbox.add("dlq", record, record)


def run(records: list[bytes], raised: int = 0) -> Unit:
    db: Any = {}
    unit = Unit("in", 0, records, db, {"out": 1, "dlq": 1}, patience=PATIENCE, raised=raised)
    unit.run(decide, reject)
    return unit


def sent(unit: Unit) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {"out": [], "dlq": []}
    for batch in unit.outbox.take():
        found[batch.topic] += [value for _, value, _ in batch.records if value is not None]
    return found


def test_beyond_the_limit_nothing_is_rejected_and_what_came_before_stands() -> None:
    unit = run([b"good", *[b"bug"] * MOST, b"bug", b"good2"])
    assert (unit.left, unit.raised) == (2, MOST)
    assert isinstance(unit.broken, KeyError)
    assert sent(unit) == {"out": [b"good"], "dlq": [b"bug"] * MOST}
    assert unit.rejected == ["KeyError"] * MOST


def test_what_a_stage_says_of_records_is_rejected_without_limit_and_counts_for_nothing() -> None:
    flood = [b"malformed", b"large", b"deadly"] * 40
    unit = run([b"bug", *flood, b"bug"])
    assert (unit.broken, unit.left, unit.raised) == (None, 0, 2)
    assert sent(unit)["dlq"] == [b"bug", *flood, b"bug"]


def test_a_flood_of_malformed_records_does_not_hide_a_broken_stage() -> None:
    unit = run([b"malformed", b"bug"] * 10)
    assert unit.left == 20 - 2 * MOST - 1


def test_the_count_goes_on_from_unit_to_unit() -> None:
    unit = run([b"bug"] * 2)
    assert unit.raised == 2
    unit = run([b"bug"] * 2, raised=unit.raised)
    assert (unit.raised, unit.left) == (MOST, 1)
    unit = run([b"bug"] * 2, raised=unit.raised)
    assert (unit.left, sent(unit)) == (2, {"out": [], "dlq": []})


@pytest.mark.parametrize("records", [[b"good"], [b"good", b"malformed"], [b"bug", b"good"]])
def test_a_record_that_is_decided_well_begins_the_count_anew(records: list[bytes]) -> None:
    assert run(records, raised=MOST - 1).raised == 0


def test_a_unit_without_records_forgets_nothing() -> None:
    assert run([], raised=2).raised == 2


@given(st.lists(st.lists(st.sampled_from([b"good", b"bug", b"malformed"]), max_size=9), max_size=9))
def test_however_records_are_cut_into_units_the_same_are_decided(units: list[list[bytes]]) -> None:
    whole = run([record for unit in units for record in unit])
    raised, found = 0, {"out": list[bytes](), "dlq": list[bytes]()}
    for records in units:
        unit = run(records, raised)
        raised = unit.raised
        for topic, values in sent(unit).items():
            found[topic] += values
        if unit.broken is not None:
            break
    assert found == sent(whole)
    assert raised == whole.raised


def test_what_is_told_names_stage_limit_place_and_line_and_nothing_of_the_record() -> None:
    unit = run([b"bug"], raised=MOST)
    assert unit.broken is not None
    told = str(broken("plan", MOST, "notifications-3-17", unit.broken))
    assert told.startswith(
        "stage plan raised on 3 records in a row and raises on notifications-3-17 (KeyError at "
    )
    assert "test_engine_patience.py:" in told
    assert "of a record" not in told
    assert "Mend the stage" in told
    assert "\n" not in told


def test_the_limit_is_as_documented() -> None:
    assert Patience().most == MOST_IN_A_ROW == 20


@pytest.mark.parametrize("role", ["core", "email", "status"])
def test_what_cannot_be_read_blames_no_stage_of_a_role(role: str) -> None:
    app = Roles(settings_of(), Catalogue(), Metrics()).build(role)
    assert app.patience.after(MOST_IN_A_ROW, Unreadable("no JSON")) == MOST_IN_A_ROW
    assert app.patience.after(MOST_IN_A_ROW, ValueError("no JSON")) is None
    assert set(app.stages) == set(app.reads)
