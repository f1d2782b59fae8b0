"""A ledger counts what came, knows its rate, and knows it again from its file."""

import asyncio
import hashlib
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.simulator.ledger import NEWEST, Counts, Entry, Ledger, Note


def note(key: str, *, effect: bool = True, fault: str = "") -> Note:
    return Note(key, f"to {key}", b"body", effect, fault)


def entry(request: int, at: int) -> Entry:
    return Entry(request, request, at, "webhook", "k", "/x", "", True, "", "")


async def test_a_line_torn_by_a_kill_was_never_answered(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    first = Ledger(path)
    await first.add("webhook", 1, [note("a")])
    await first.close()
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    second = Ledger(path)
    assert second.of("webhook").requests == {"a": 1}
    assert second.of("webhook").body_hashes == {"a": {hashlib.sha256(b"body").hexdigest()}}
    await second.add("webhook", 2, [note("b")])
    await second.close()
    assert [orjson.loads(line)["key"] for line in path.read_bytes().splitlines()] == ["a", "b"]


async def test_a_ledger_that_is_opened_again_knows_what_it_knew(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "ledger")
    await first.add("sms", 1000, [note("a"), note("b", effect=False, fault="21610")])
    await first.add("sms", 1500, [note("a")])
    await first.add("mail", 9000, [note("a")])
    await first.close()
    second = Ledger(tmp_path / "ledger")
    await second.close()
    assert (second.seq, second.request) == (4, 3)
    for kind in ("sms", "mail"):
        assert vars(second.of(kind)) == vars(first.of(kind))
    sms = second.of("sms")
    assert (sms.arrivals, sms.targets, sms.took_effect, sms.several) == (2, 3, 2, 1)
    assert (sms.requests, sms.effects) == ({"a": 2, "b": 1}, {"a": 2, "b": 0})
    assert sms.faults == {"21610": 1}
    assert second.of("mail").effects == {"a": 1}


def test_another_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("remember\nthe milk")
    with pytest.raises(ValueError, match="not a simulator's ledger"):
        Ledger(path)
    assert path.read_text() == "remember\nthe milk"


async def test_who_goes_away_while_it_is_written_takes_nobody_along(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    adds = [asyncio.create_task(ledger.add("webhook", n, [note(f"k{n}")])) for n in range(20)]
    await asyncio.sleep(0)
    adds[3].cancel()
    found = await asyncio.gather(*adds, return_exceptions=True)
    await ledger.close()
    assert [n for n, one in enumerate(found) if isinstance(one, BaseException)] == [3]
    assert len((tmp_path / "ledger").read_bytes().splitlines()) == 20


async def test_a_disk_that_is_full_is_told_to_each_who_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path / "ledger")

    def full(_: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ledger, "_write", full)
    found = await asyncio.gather(
        *[ledger.add("webhook", n, [note("k")]) for n in range(3)], return_exceptions=True
    )
    await ledger.close()
    assert [type(one) for one in found] == [OSError] * 3


async def test_the_newest_are_bounded_and_the_counts_whole() -> None:
    ledger = Ledger()
    for n in range(NEWEST + 50):
        await ledger.add("webhook", n, [note(f"k{n}")])
    assert len(ledger.newest) == NEWEST
    assert ledger.newest[-1].entry.key == f"k{NEWEST + 49}"
    assert ledger.of("webhook").took_effect == NEWEST + 50


async def test_a_batch_is_one_request_of_many_targets() -> None:
    ledger = Ledger()
    for at in (0, 999, 1000):
        await ledger.add("push", at, [note(f"{at} {n}") for n in range(500)])
    counts = ledger.of("push")
    assert (counts.arrivals, counts.targets, counts.most_in_a_second()) == (3, 1500, 2)


@given(st.lists(st.integers(0, 400), max_size=60))
def test_the_most_in_a_second_is_that_of_the_fullest_second(gaps: list[int]) -> None:
    counts, at, moments = Counts(), 0, []
    for n, gap in enumerate(gaps, 1):
        at += gap
        moments.append(at)
        counts.count(entry(n, at))
    expected = max((sum(m <= other < m + 1000 for other in moments) for m in moments), default=0)
    assert counts.most_in_a_second() == expected
