"""The headers of a dead letter: why, where from, when, how often. The value is the original."""

from collections.abc import Sequence

from schemas.kinds import Reason
from schemas.status import rfc3339

MAX_ERROR = 500
ORIGINAL = "original-"
"""Before the names of the headers that the record itself came with: a binary CloudEvent is half headers."""


def headers(
    reason: Reason,
    error: str,
    topic: str,
    partition: int,
    offset: int,
    at: int,
    attempts: int = 0,
    original: Sequence[tuple[str, bytes | None]] = (),
) -> list[tuple[str, bytes]]:
    """The DLQ headers of CONTRACT, section 2; `at` is the broker's time of the record in milliseconds.

    It is the record's time and not today's, so that a redelivery writes the same letter. `original` are
    the record's own headers.
    """
    clean = "".join(c if c.isprintable() else "�" for c in error)[:MAX_ERROR]
    return [
        ("reason", reason.encode()),
        ("error", clean.encode("utf-8", "replace")),
        ("source-topic", topic.encode()),
        ("source-partition", b"%d" % partition),
        ("source-offset", b"%d" % offset),
        ("failed-at", rfc3339(at).encode()),
        ("attempts", b"%d" % attempts),
        *((ORIGINAL + name, value or b"") for name, value in original),
    ]
