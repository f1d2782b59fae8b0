"""How rows are said: every table has a layout, and every key leads back to its row."""

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import notification_id
from tables import caps, effects, history, waits
from tables.layout import BY_NAME, LAYOUTS, Layout, say
from tests.browser.roles import HOOK

FOLDER = Path(history.__file__).parent
ID = notification_id("ada", "s", "e", "w")
NOON = 1_790_000_000_000


def test_every_prefix_in_the_code_has_a_layout_and_the_other_way_round() -> None:
    named = {
        prefix.encode()
        for file in FOLDER.glob("*.py")
        for prefix in re.findall(r'^[A-Z_]+(?:: Final)? = b"(\w\|)"', file.read_text(encoding="utf-8"), re.M)
    }
    assert named | {b"\0"} == {layout.prefix for layout in LAYOUTS}
    assert len(BY_NAME) == len(LAYOUTS) == len({layout.prefix for layout in LAYOUTS})


EFFECT = effects.effect(ID, "plan", "0a1b")


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("claims", b"c|" + bytes.fromhex(ID.replace("-", "")) + b"plan", f"{ID}|plan"),
        ("users", b"u|a|b%\xff\xc3\xbc", "a%7Cb%25%FFü"),
        ("devices", b"d|ada\0t-1", "ada|t-1"),
        ("caps", caps.key("a|b", NOON // caps.DAY), "2026-09-21|a%7Cb"),
        ("attempts", b"a|" + EFFECT + b"12", f"{ID}|plan|0a1b|12"),
        ("waits", waits.key(NOON, EFFECT), f"2026-09-21T14:13:20.000Z|{ID}|plan|0a1b"),
        ("waits-by-id", b"x|" + EFFECT, f"{ID}|plan|0a1b"),
        ("histories", history.key(ID), ID),
        (
            "histories-by-user",
            b"h|ada\0" + (2**63 - NOON).to_bytes(8) + bytes.fromhex(ID.replace("-", "")),
            f"ada|2026-09-21T14:13:20.000Z|{ID}",
        ),
        ("histories-by-event", b"e|s\0e\0" + bytes.fromhex(ID.replace("-", "")), f"s|e|{ID}"),
        ("counts", b"g||ignored", "|ignored"),
        ("minutes", b"m|%010d|email|sent" % (NOON // 60_000), "2026-09-21T14:13:00.000Z|email|sent"),
        ("latencies", b"l|email|-1", "email|-1"),
        ("broadcast-cursors", b"q|" + bytes.fromhex(ID.replace("-", "")), ID),
        ("broadcasts", b"s|" + bytes.fromhex(ID.replace("-", "")) + b"11", f"{ID}|11"),
        (
            "broadcasts-by-time",
            b"t|" + (2**63 - NOON).to_bytes(8) + bytes.fromhex(ID.replace("-", "")),
            f"2026-09-21T14:13:20.000Z|{ID}",
        ),
        ("engine", b"\0mark|events", "mark%7Cevents"),
    ],
)
def test_a_key_is_said_readably_and_leads_back(name: str, raw: bytes, said: str) -> None:
    layout = BY_NAME[name]
    assert layout.key(raw) == said
    assert layout.raw(said) == raw


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@given(raw=st.binary(max_size=60))
def test_any_bytes_are_said_and_never_refused(layout: Layout, raw: bytes) -> None:
    assert isinstance(layout.key(layout.prefix + raw), str)
    layout.value(raw)


@given(raw=st.binary(max_size=40))
def test_any_text_leads_back_to_its_bytes(raw: bytes) -> None:
    users = BY_NAME["users"]
    assert users.raw(users.key(b"u|" + raw)) == b"u|" + raw


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@given(text=st.text(max_size=60))
def test_any_text_may_be_asked_for(layout: Layout, text: str) -> None:
    assert layout.raw(text).startswith(layout.prefix)
    try:
        inside, begin, _ = layout.start(text)
    except ValueError:
        return
    assert begin.startswith(inside) and inside.startswith(layout.prefix)


@given(at=st.integers(0, 4_000_000_000_000), cut=st.integers(0, 24))
def test_a_time_stands_behind_the_start_of_whatever_it_begins_with(at: int, cut: int) -> None:
    layout, raw = BY_NAME["waits"], waits.key(at, EFFECT)
    _, begin, together = layout.start(layout.key(raw)[:cut])
    assert begin <= raw and together


@given(user=st.text(max_size=12), cut=st.integers(0, 60))
def test_a_key_stands_behind_the_start_of_whatever_it_begins_with(user: str, cut: int) -> None:
    layout, raw = BY_NAME["caps"], b"k|020717|" + user.encode()
    said = layout.key(raw)
    inside, begin, _ = layout.start(said[:cut])
    assert begin <= raw and raw.startswith(inside)


def test_what_opens_doors_is_not_shown() -> None:
    person = b'\0\0\0\0\0\0\0\1{"user_id":"ada","email":"ada@example.com","webhook_url":"%s"}' % HOOK.encode()
    assert BY_NAME["users"].value(person) == {
        "at": "1970-01-01T00:00:00.001Z",
        "value": {
            "user_id": "ada",
            "email": "ada@example.com",
            "webhook_url": "https://hooks.example/…",
        },
    }
    device = b'\0\0\0\0\0\0\0\1{"token":"t","keys":{"auth":"SECRET"}}'
    assert BY_NAME["devices"].value(device)["value"] == {"token": "t", "keys": {"auth": "•••"}}


def test_where_a_broadcast_is_is_said_with_its_times() -> None:
    progress = {"v": 2, "broadcast": ID, "turn": 3, "stage": "running", "at": NOON, "event_at": NOON}
    row = msgspec.json.encode([4, progress, ["ada"]])
    assert BY_NAME["broadcast-cursors"].value(row) == {
        "n": 4,
        "progress": {**progress, "at": "2026-09-21T14:13:20.000Z", "event_at": "2026-09-21T14:13:20.000Z"},
        "page": ["ada"],
    }


def test_what_was_erased_has_a_time_and_no_value() -> None:
    assert BY_NAME["users"].value(bytes(8)) == {"at": "1970-01-01T00:00:00.000Z", "value": None}


def test_a_value_of_another_form_is_said_as_text() -> None:
    assert BY_NAME["histories"].value(b"\xff{") == say(b"\xff{") == "%FF{"
