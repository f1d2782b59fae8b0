"""The development outbox: one row a key, bounded, readable while it is written."""

import asyncio
import contextlib
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.providers import outbox
from pipeline.providers.outbox import Counts, Outbox, counts, get, read
from schemas.kinds import Channel, Doubt, Priority
from schemas.message import Message
from schemas.notification import EventRef


def message(n: int = 1, **fields: Any) -> Message:
    given: dict[str, Any] = {
        "step": "plan",
        "id": f"{n:08x}-0000-8000-8000-000000000000",
        "user_id": f"u{n}",
        "channel": Channel.EMAIL,
        "target": f"kim{n}@example.com",
        "target_id": "t1",
        "subject": f"Order {n}",
        "text": f"Your order {n} has shipped.",
        "html": "<p>Your order has shipped.</p>",
        "event": EventRef(source="shop", id=f"e{n}", type="order.shipped"),
        "event_at": 1,
        "at": 1_760_000_000_000 + n,
        "category": "orders",
        "priority": Priority.NORMAL,
        "doubt": Doubt.AT_LEAST_ONCE,
    }
    return Message(**(given | fields))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / outbox.FILE


@pytest.fixture
async def box(path: Path) -> AsyncIterator[Outbox]:
    found = Outbox("dev", path, timeout=10)
    yield found
    await found.close()


async def test_an_answered_send_can_be_read_by_anybody(box: Outbox, path: Path) -> None:
    outcome = await box.send(message(), "k1")
    assert (outcome.kind, outcome.provider_message_id) == ("delivered", "outbox:1")
    (stored,) = read(path)
    assert stored == get(path, "k1")
    sent = message()
    assert (stored.seq, stored.key, stored.provider, stored.channel) == (1, "k1", "dev", "email")
    assert (stored.target, stored.subject, stored.text) == (sent.target, sent.subject, sent.text)
    assert (stored.html, stored.category, stored.priority) == (sent.html, "orders", "normal")
    assert (stored.notification_id, stored.user_id, stored.at) == (sent.id, "u1", sent.at)


async def test_a_second_call_with_a_key_has_no_second_effect(box: Outbox, path: Path) -> None:
    first = await box.send(message(), "k1")
    assert await box.send(message(2), "k1") == first
    assert await asyncio.gather(*[box.send(message(3), "k1") for _ in range(10)]) == [first] * 10
    (stored,) = read(path)
    assert stored.text == message().text
    assert stored.requests == 12
    assert counts(path) == Counts(requests=12, effects=1)


async def test_calls_that_come_together_each_get_their_own_row(box: Outbox, path: Path) -> None:
    outcomes = await asyncio.gather(*[box.send(message(n), f"k{n}") for n in range(2_500)])
    assert [o.provider_message_id for o in outcomes] == [f"outbox:{n}" for n in range(1, 2_501)]
    assert counts(path) == Counts(2_500, 2_500)


async def test_the_newest_are_kept_and_older_keys_are_still_known(path: Path) -> None:
    box = Outbox("dev", path, timeout=10, rows=10, keys=50)
    for n in range(30):
        await box.send(message(n), f"k{n}")
    assert [stored.key for stored in read(path)] == [f"k{n}" for n in range(29, 19, -1)]
    assert get(path, "k0") is None
    assert (await box.send(message(0), "k0")).provider_message_id == "outbox:1"
    assert counts(path) == Counts(31, 30)
    await asyncio.gather(*[box.send(message(n), f"k{n}") for n in range(30, 500)])
    await box.close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM messages").fetchone() == (10,)
        assert database.execute("SELECT count(*) FROM keys").fetchone() == (50,)


async def test_reading_goes_back_page_by_page(box: Outbox, path: Path) -> None:
    await asyncio.gather(*[box.send(message(n), f"k{n}") for n in range(1, 8)])
    pages, before = [], None
    while page := read(path, limit=3, before=before):
        pages.append([stored.seq for stored in page])
        before = page[-1].seq
    assert pages == [[7, 6, 5], [4, 3, 2], [1]]


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("kim2@", [2]), ("u3", [3]), ("ORDER 1", [1]), ("shipped", [3, 2, 1]), ("k2", [2]), ("absent", []),
        ("%", []), ("_", []), ("!", []), ("'; DROP TABLE keys; --", []), ("", [3, 2, 1]),
    ],
)  # fmt: skip
async def test_a_search_finds_what_it_says_and_nothing_by_accident(
    search: str, found: list[int], box: Outbox, path: Path
) -> None:
    for n in (1, 2, 3):
        await box.send(message(n), f"k{n}")
    assert [stored.seq for stored in read(path, search=search)] == found


async def test_a_percent_sign_is_one(box: Outbox, path: Path) -> None:
    await box.send(message(1, text="20% off!"), "k1")
    await box.send(message(2, text="20 off", subject=None), "k2")
    assert [stored.seq for stored in read(path, search="0% off!")] == [1]


def test_where_nothing_was_sent_there_is_nothing_to_read(path: Path) -> None:
    assert (read(path), get(path, "k"), counts(path)) == ([], None, Counts(0, 0))
    assert not path.exists()


def test_what_has_no_tables_yet_is_empty(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    assert (read(path), get(path, "k"), counts(path)) == ([], None, Counts(0, 0))


async def test_it_is_for_this_user_alone(box: Outbox, path: Path) -> None:
    await box.send(message(), "k1")
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert path.name in modes
    assert set(modes.values()) == {0o600}


async def test_several_outboxes_share_a_file(path: Path) -> None:
    boxes = [Outbox(name, path, timeout=10) for name in ("email", "sms")]
    await asyncio.gather(*[box.send(message(n), f"k{n}") for n in range(300) for box in boxes])
    for box in boxes:
        await box.close()
    assert counts(path) == Counts(requests=600, effects=300)
    assert {stored.requests for stored in read(path, limit=1_000)} == {2}


async def test_other_processes_read_while_it_is_written(box: Outbox, path: Path) -> None:
    await box.send(message(0), "k0")
    script = (
        "import sys; from pathlib import Path; from pipeline.providers import outbox\n"
        "seen = 0\n"
        "while seen < 2000: seen = outbox.counts(Path(sys.argv[1])).effects; outbox.read(Path(sys.argv[1]))\n"
        "print(seen)"
    )
    reader = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(path), stdout=asyncio.subprocess.PIPE
    )
    try:
        for start in range(1, 2_000, 100):
            outcomes = await asyncio.gather(
                *[box.send(message(n), f"k{n}") for n in range(start, start + 100)]
            )
            assert {outcome.kind for outcome in outcomes} == {"delivered"}
        out, _ = await asyncio.wait_for(reader.communicate(), 60)
    finally:
        if reader.returncode is None:
            reader.kill()
            await reader.wait()
    assert int(out) >= 2_000


async def test_what_was_stored_is_known_to_the_next_process(path: Path) -> None:
    for _ in range(2):
        box = Outbox("dev", path, timeout=10)
        assert (await box.send(message(), "k1")).provider_message_id == "outbox:1"
        await box.close()
    assert counts(path) == Counts(2, 1)


async def test_a_cancelled_send_leaves_the_others_alone(box: Outbox, path: Path) -> None:
    calls = [asyncio.create_task(box.send(message(n), f"k{n}")) for n in range(5)]
    await asyncio.sleep(0)
    calls[2].cancel()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(one).__name__ for one in done] == [
        "Outcome",
        "Outcome",
        "CancelledError",
        "Outcome",
        "Outcome",
    ]
    assert (await box.send(message(2), "k2")).kind == "delivered"
    assert counts(path).effects == 5


async def test_a_full_disk_sends_nothing_and_heals(box: Outbox, path: Path) -> None:
    await box.send(message(1), "k1")
    database = box._database
    assert database is not None
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages}")
    outcome = await box.send(message(2, text="x" * 100_000), "k2")
    assert (outcome.kind, outcome.reason) == ("deferred", "outbox: OperationalError")
    assert counts(path) == Counts(1, 1)
    database.execute("PRAGMA max_page_count = 1000000")
    assert (await box.send(message(2), "k2")).kind == "delivered"
