"""History: one row a notification, folded from its statuses and contents; counts that move with it."""

from collections.abc import Iterator
from typing import Any, NotRequired, TypedDict

import msgspec
import orjson

from schemas.ids import packed, user_hash
from schemas.kinds import Reason, State
from schemas.message import Contents
from schemas.status import STEP, Status, rfc3339
from tables.rows import Rows
from tables.states import advance

NOTIFICATIONS = b"n|"
BY_USER = b"h|"
BY_EVENT = b"e|"
COUNTS = b"g|"
MINUTES = b"m|"
VARIANTS = b"v|"
LATENCIES = b"l|"
MOST_TIMELINE = 200
MOST_WHY = 200
BUCKETS_MS = (10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 60_000, 600_000)
_MOVED = (State.SENT, State.DELIVERED)


class Pair(TypedDict):
    """One target of one channel."""

    channel: str
    target: str | None
    state: str
    reason: str | None
    attempt: int
    provider: str | None
    provider_message_id: str | None
    at: str


class History(TypedDict):
    """The whole story of a notification. `pairs` are by channel and target id."""

    id: str
    user_id: str
    event: dict[str, str]
    event_at: int
    workflow: str | None
    category: str | None
    priority: str | None
    pairs: dict[str, Pair]
    timeline: list[list[Any]]
    why: list[dict[str, str]]
    content: dict[str, Any]
    duplicates: int
    left_out: int
    awaits_seen: NotRequired[bool]
    variant: NotRequired[str]


def key(notification: str) -> bytes:
    """The row key of a notification's history."""
    return NOTIFICATIONS + packed(notification)


def find(rows: Rows, notification: str) -> History | None:
    """The history of a notification, or None."""
    row = rows.get(key(notification))
    return None if row is None else orjson.loads(row)


def of_user(rows: Rows, user_id: str, most: int) -> Iterator[History]:
    """The histories of a user, the newest first, `most` of them."""
    prefix = BY_USER + user_id.encode() + b"\0"
    for index, (at, _) in enumerate(rows.scan(prefix)):
        if index >= most:
            return
        row = rows.get(NOTIFICATIONS + at[len(prefix) + 8 :])
        if row is not None:
            yield orjson.loads(row)


def of_event(rows: Rows, source: str, event: str, user_id: str | None = None) -> Iterator[History]:
    """The histories of an upstream event, in the order of their ids; of one user alone, if that is named."""
    prefix = event_key(source, event)
    if user_id is not None:
        prefix += user_hash(user_id).to_bytes(4)  # ids begin with it
    for found, _ in rows.scan(prefix):
        row = rows.get(NOTIFICATIONS + found[-16:])
        if row is not None and ((history := orjson.loads(row))["user_id"] == user_id or user_id is None):
            yield history


def event_key(source: str, event: str) -> bytes:
    """What the index keys of an upstream event begin with; the packed id of a notification follows."""
    return BY_EVENT + source.encode() + b"\0" + event.encode() + b"\0"


def _begin(rows: Rows, status: Status) -> History:
    """A fresh row with its two indexes: by user, newest first, and by event."""
    newest_first = (2**63 - status.event_at).to_bytes(8)
    rows.put(BY_USER + status.user_id.encode() + b"\0" + newest_first + packed(status.notification_id), b"")
    rows.put(event_key(status.event.source, status.event.id) + packed(status.notification_id), b"")
    return {
        "id": status.notification_id,
        "user_id": status.user_id,
        "event": {"source": status.event.source, "id": status.event.id, "type": status.event.type},
        "event_at": status.event_at,
        "workflow": None,
        "category": None,
        "priority": None,
        "pairs": {},
        "timeline": [],
        "why": [],
        "content": {},
        "duplicates": 0,
        "left_out": 0,
    }


def tell(rows: Rows, status: Status, at: int) -> bool:
    """Folds a status into its notification's history; `at` is its broker time in ms.

    Says whether anything changed: a repeat changes nothing, and counts nothing.
    """
    row_key = key(status.notification_id)
    before = rows.get(row_key)
    history: History | None = None if before is None else orjson.loads(before)
    if history is None or not history["event"]:
        content = history["content"] if history else {}
        history = _begin(rows, status)
        history["content"] = content
    entry = [
        status.at, status.channel, status.target_id, status.state, status.reason, status.provider,
        status.attempt, status.detail,
    ]  # fmt: skip
    if entry in history["timeline"]:
        return False
    full = len(history["timeline"]) >= MOST_TIMELINE
    if full:
        history["left_out"] = 1  # not how many: what is not kept cannot be told from its repeat
    else:
        history["timeline"].append(entry)
        history["timeline"].sort(key=lambda e: e[0])
    for name in ("workflow", "category", "priority"):
        if (told := getattr(status, name)) is not None:
            history[name] = told
    if status.variant is not None and "variant" not in history:
        history["variant"] = status.variant
        for pair in history["pairs"].values():  # what came before its variant was known
            _count_variant(rows, history, pair["channel"], pair["state"], 1)
    if status.awaits_seen:
        history["awaits_seen"] = True
    if status.why:
        told = [{"rule": v.rule, "saw": v.saw or "", "verdict": v.verdict} for v in status.why]
        goes_on = any(verdict["rule"] == STEP for verdict in told)
        history["why"] = (history["why"] + told)[:MOST_WHY] if goes_on else told
    if status.state is not State.DUPLICATE:
        _move(rows, history, status, at)
    elif not full:
        history["duplicates"] += 1
        _count(rows, COUNTS + b"|duplicate", 1)
    row = orjson.dumps(history)
    rows.put(row_key, row)
    return row != before


_CHANGES_NOTHING = (Reason.CANCEL_ASKED, Reason.CANCELLED_TOO_LATE)
WHOLE = ":"
"""The pair of a notification that has no channel (yet): ignored, or failed before it had any."""


def _move(rows: Rows, history: History, status: Status, at: int) -> None:
    name = f"{status.channel or ''}:{status.target_id or ''}"
    pairs = history["pairs"]
    if status.state is State.CANCELLED and status.reason in _CHANGES_NOTHING:
        return  # somebody asked for it; what came of that is told of each target
    if name != WHOLE and (failed := pairs.pop(WHOLE, None)) is not None:
        _count(rows, COUNTS + b"|" + failed["state"].encode(), -1)  # mended: it has been decided afresh
        if "variant" in history:
            _count_variant(rows, history, "", failed["state"], -1)
    elif name == WHOLE and pairs and WHOLE not in pairs:
        return  # mended before this was heard
    of_channel = f"{status.channel or ''}:"
    if status.state is State.TOO_OLD and name == of_channel and any(p.startswith(of_channel) for p in pairs):
        return  # it is known what came of it; who decides has forgotten it
    pair = pairs.get(name)
    before = State(pair["state"]) if pair else None
    attempt = status.attempt or 0
    undelivered = status.state is State.FAILED and status.reason == Reason.UNDELIVERED
    if pair is not None and undelivered:
        if pair["provider"] not in (None, status.provider):
            return  # another provider has been asked since
    elif pair is not None and status.state is State.FAILED and attempt < pair["attempt"]:
        return  # a later attempt is under way, or has ended
    is_newer = pair is None or attempt > pair["attempt"] or (name == WHOLE and status.at > pair["at"])
    if pair is not None and pair["reason"] == Reason.UNDELIVERED and pair["provider"] == status.provider:
        is_newer = False  # it is this attempt that came to nothing: the receipt was quicker than its status
    after = advance(before, status.state, newer_attempt=is_newer, undelivered=undelivered)
    if pair is None or after != before or (after == status.state and attempt > pair["attempt"]):
        history["pairs"][name] = {
            "channel": status.channel or "",
            "target": status.target,
            "state": after,
            "reason": status.reason,
            "attempt": max(attempt, pair["attempt"] if pair else 0),
            "provider": status.provider or (pair["provider"] if pair else None),
            "provider_message_id": status.provider_message_id
            or (pair["provider_message_id"] if pair else None),
            "at": status.at,
        }
    if after == before:
        return
    if "variant" in history:
        if before is not None:
            _count_variant(rows, history, status.channel or "", before, -1)
        _count_variant(rows, history, status.channel or "", after, 1)
    channel = (status.channel or "").encode()
    if before is not None:
        _count(rows, COUNTS + channel + b"|" + before.encode(), -1)
    _count(rows, COUNTS + channel + b"|" + after.encode(), 1)
    _count(rows, b"%s%010d|%s|%s" % (MINUTES, at // 60_000, channel, after.encode()), 1)
    if after in _MOVED and before not in _MOVED:
        took = at - status.event_at
        bucket = next((b for b in BUCKETS_MS if took <= b), -1)
        _count(rows, b"%s%s|%d" % (LATENCIES, channel, bucket), 1)


def _count_variant(rows: Rows, history: History, channel: str, state: str, by: int) -> None:
    key = VARIANTS + "\0".join((history["workflow"] or "", history["variant"], channel, state)).encode()
    _count(rows, key, by)


def _count(rows: Rows, key: bytes, by: int) -> None:
    rows.put(key, b"%d" % (int(rows.get(key) or 0) + by))


def awaits_seen(rows: Rows, notification: str) -> bool:
    """Whether somebody is to hear when a notification was seen."""
    history = find(rows, notification)
    return history is not None and history.get("awaits_seen", False)


def keep_contents(rows: Rows, contents: Contents) -> None:
    """Keeps the rendered content beside the history; it may come before the first status."""
    history = find(rows, contents.notification_id)
    if history is None:
        history = {
            "id": contents.notification_id, "user_id": contents.user_id, "event": {}, "event_at": 0,
            "workflow": None, "category": None, "priority": None, "pairs": {}, "timeline": [], "why": [],
            "content": {}, "duplicates": 0, "left_out": 0,
        }  # fmt: skip
    told = msgspec.to_builtins(contents.channels)
    if history["content"] != told:
        history["content"] = told
        rows.put(key(contents.notification_id), orjson.dumps(history))


def counts(rows: Rows) -> dict[tuple[str, str], int]:
    """How many pairs of (channel, state) there are now in this partition."""
    found = {}
    for row, value in rows.scan(COUNTS):
        channel, _, state = row.removeprefix(COUNTS).decode().partition("|")
        found[channel, state] = int(value)
    return found


def latencies(rows: Rows) -> dict[tuple[str, int], int]:
    """How many first sends took at most so many milliseconds (-1: more), by channel."""
    found = {}
    for row, value in rows.scan(LATENCIES):
        channel, _, bucket = row.removeprefix(LATENCIES).decode().partition("|")
        found[channel, int(bucket)] = int(value)
    return found


def variants(rows: Rows) -> dict[tuple[str, str, str, str], int]:
    """How many pairs of (workflow, variant, channel, state) there are now in this partition."""
    found = {}
    for row, value in rows.scan(VARIANTS):
        workflow, variant, channel, state = row.removeprefix(VARIANTS).decode().split("\0")
        found[workflow, variant, channel, state] = int(value)
    return found


def minutes(rows: Rows, since: int) -> dict[tuple[int, str, str], int]:
    """How often a pair came to a state, by minute since the epoch, channel and state."""
    found = {}
    for row, value in rows.scan(MINUTES):
        minute, channel, state = row.removeprefix(MINUTES).decode().split("|")
        if int(minute) >= since:
            found[int(minute), channel, state] = int(value)
    return found


def forget(rows: Rows, key: bytes, value: bytes, oldest: int) -> None:
    """Removes a history with its indexes and its part of the counts, if nothing was told since `oldest`.

    `key` is of the index by user, which tells the time of the event.
    """
    if 2**63 - int.from_bytes(key[-24:-16]) >= oldest:
        return
    id_ = key[-16:]
    row = rows.get(NOTIFICATIONS + id_)
    if row is not None:
        history: History = orjson.loads(row)
        if history["timeline"] and history["timeline"][-1][0] >= rfc3339(oldest):
            return
        for pair in history["pairs"].values():
            _count(rows, COUNTS + pair["channel"].encode() + b"|" + pair["state"].encode(), -1)
            if "variant" in history:
                _count_variant(rows, history, pair["channel"], pair["state"], -1)
        if history["duplicates"]:
            _count(rows, COUNTS + b"|duplicate", -history["duplicates"])
        rows.delete(NOTIFICATIONS + id_)
        if event := history["event"]:
            rows.delete(event_key(event["source"], event["id"]) + id_)
    rows.delete(key)


def forget_minute(rows: Rows, key: bytes, value: bytes, oldest: int) -> None:
    """Removes a count of a minute that ended before `oldest`."""
    if (int(key[len(MINUTES) :][:10]) + 1) * 60_000 <= oldest:
        rows.delete(key)
