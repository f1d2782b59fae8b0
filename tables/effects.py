"""The effect ledger: attempts, durable before the call, their results, and reopenings; all written once."""

from typing import NamedTuple

import msgspec

from schemas.base import encode
from schemas.ids import packed
from tables.rows import Rows

ATTEMPTS = b"a|"
RESULTS = b"r|"
REOPENINGS = b"o|"
MOST_ATTEMPTS = 1_000
MOST_REOPENINGS = 100
"""Of one effect; so that its attempts stay below their own bound."""
DOUBTFUL = ("doubtful", "cut_off")
"""The results after which nobody knows whether it was sent."""
UNSENT = ("refused", "deferred")
"""The results that are surely without effect."""


class Attempt(NamedTuple):
    """A call about to be made: its key, the hash of its bytes, to whom, when (ms, worker's clock)."""

    n: int
    key: str
    hashed: str
    provider: str
    at: int


class Result(NamedTuple):
    """How a call ended: an outcome's kind (schemas/outcome.py), or `cut_off` for one that no one saw end.

    `code` is the vendor's own; `tried`: how many attempts count, up to it and since the effect was opened
    last (None: all of them). `dead_since`: the target is dead for good since then (ms; 0: not said).
    """

    n: int
    kind: str
    at: int
    provider: str
    provider_message_id: str | None = None
    reason: str | None = None
    code: str | None = None
    tried: int | None = None
    dead_since: int | None = None


class Reopening(NamedTuple):
    """The k-th time that a failed effect was opened again: by which letter, when it came as which record
    (`place`), the attempt `n` that it had failed with, from which attempts count anew, and the `provider`
    that these are to be made by (None: as any)."""

    k: int
    redrive: str
    n: int
    place: str
    provider: str | None = None


def effect(notification: str, step: str, target_id: str) -> bytes:
    """The name of an effect: one target of one step of one notification; without target, of the step."""
    return packed(notification) + step.encode() + b"|" + target_id.encode() + b"|"


def of_notification(rows: Rows, notification: str) -> list[bytes]:
    """The effects of a notification that were ever attempted."""
    found = rows.scan(ATTEMPTS + packed(notification))
    return [key[len(ATTEMPTS) : -1] for key, _ in found if key.endswith(b"|1")]


def target_of(effect: bytes) -> str:
    """The target id in the name of an effect."""
    return effect[:-1].rpartition(b"|")[2].decode()


def attempt(rows: Rows, effect: bytes, n: int) -> Attempt | None:
    """The attempt n, or None."""
    row = rows.get(ATTEMPTS + effect + b"%d" % n)
    return Attempt(n, *msgspec.json.decode(row)) if row is not None else None


def result(rows: Rows, effect: bytes, n: int) -> Result | None:
    """The result of attempt n, or None."""
    row = rows.get(RESULTS + effect + b"%d" % n)
    return Result(n, *msgspec.json.decode(row)) if row is not None else None


def put_attempt(rows: Rows, effect: bytes, made: Attempt) -> None:
    """Writes an attempt."""
    rows.put(ATTEMPTS + effect + b"%d" % made.n, encode(made[1:]))


def put_result(rows: Rows, effect: bytes, ended: Result) -> None:
    """Writes a result."""
    told = list(ended[1:])
    while len(told) > 5 and told[-1] is None:  # a row from before there were codes stays it
        told.pop()
    rows.put(RESULTS + effect + b"%d" % ended.n, encode(told))


def last_attempt(rows: Rows, effect: bytes) -> Attempt | None:
    """The latest attempt, or None."""
    found = None
    for n in range(1, MOST_ATTEMPTS):
        following = attempt(rows, effect, n)
        if following is None:
            break
        found = following
    return found


def in_doubt_elsewhere(rows: Rows, effect: bytes, provider: str) -> bool:
    """Whether another provider may have sent it: an attempt by it that nobody saw end, or that left a doubt.

    Its own attempts are not asked for: by its key a provider may still know them.
    """
    for n in range(1, MOST_ATTEMPTS):
        if (made := attempt(rows, effect, n)) is None:
            break
        if made.provider != provider:
            ended = result(rows, effect, n)
            if ended is None or ended.kind in DOUBTFUL:
                return True
    return False


def in_doubt_since(rows: Rows, effect: bytes, provider: str) -> int | None:
    """When the first call to a provider was that may have sent it (ms); None: none of them may have."""
    for n in range(1, MOST_ATTEMPTS):
        if (made := attempt(rows, effect, n)) is None:
            break
        if made.provider == provider:
            ended = result(rows, effect, n)
            if ended is None or ended.kind in DOUBTFUL:
                return made.at
    return None


def reopening(rows: Rows, effect: bytes, k: int) -> Reopening | None:
    """The reopening k, or None."""
    row = rows.get(REOPENINGS + effect + b"%d" % k)
    return Reopening(k, *msgspec.json.decode(row)) if row is not None else None


def reopenings(rows: Rows, effect: bytes) -> list[Reopening]:
    """Every reopening of an effect, in order."""
    found: list[Reopening] = []
    for k in range(1, MOST_REOPENINGS + 1):
        if (made := reopening(rows, effect, k)) is None:
            break
        found.append(made)
    return found


def put_reopening(rows: Rows, effect: bytes, made: Reopening) -> None:
    """Writes a reopening."""
    told = made[1:] if made.provider is not None else made[1:-1]
    rows.put(REOPENINGS + effect + b"%d" % made.k, encode(told))


def counted_from(rows: Rows, effect: bytes) -> int:
    """The attempt after which attempts count: 0, or that which the effect was last opened again after."""
    found = reopenings(rows, effect)
    return found[-1].n if found else 0


def asked_provider(rows: Rows, effect: bytes) -> str | None:
    """The provider that an effect was last opened again for: its retries are for it too. None: any."""
    found = reopenings(rows, effect)
    return found[-1].provider if found else None


def forget(rows: Rows, key: bytes, value: bytes, oldest: int) -> None:
    """Removes an effect whole, once the last that was written of it is from before `oldest`.

    `key` is of an attempt; the first one stands for all, as who looks for the last counts from it.
    """
    if not key.endswith(b"|1") or Attempt(1, *msgspec.json.decode(value)).at >= oldest:
        return
    effect = key[len(ATTEMPTS) : -1]
    last = last_attempt(rows, effect)
    if last is None or last.at >= oldest:
        return
    ended = result(rows, effect, last.n)
    if ended is not None and ended.at >= oldest:
        return
    for n in range(1, last.n + 1):
        rows.delete(ATTEMPTS + effect + b"%d" % n)
        if rows.get(RESULTS + effect + b"%d" % n) is not None:
            rows.delete(RESULTS + effect + b"%d" % n)
    for made in reopenings(rows, effect):
        rows.delete(REOPENINGS + effect + b"%d" % made.k)
