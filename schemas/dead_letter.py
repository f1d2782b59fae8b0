"""The headers of a dead letter: why, where from, when, how often, by whom. The value is the original."""

from collections.abc import Sequence

from schemas.kinds import Reason
from schemas.status import rfc3339

MAX_ERROR = 500
MAX_PROVIDER = 100
MAX_CODE = 60
PROVIDER = "provider"
CODE = "code"
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
    *,
    provider: str | None = None,
    code: str | None = None,
) -> list[tuple[str, bytes]]:
    """The DLQ headers of CONTRACT, section 2; `at` is the broker's time of the record in milliseconds.

    It is the record's time and not today's, so that a redelivery writes the same letter. `original` are
    the record's own headers. `provider` is the one that was called last and `code` the vendor's; what there
    is none of has no header.
    """
    by = ((PROVIDER, provider, MAX_PROVIDER), (CODE, code, MAX_CODE))
    return [
        ("reason", reason.encode()),
        ("error", _clean(error, MAX_ERROR)),
        ("source-topic", topic.encode()),
        ("source-partition", b"%d" % partition),
        ("source-offset", b"%d" % offset),
        ("failed-at", rfc3339(at).encode()),
        ("attempts", b"%d" % attempts),
        *((name, _clean(told, most)) for name, told, most in by if told),
        *((ORIGINAL + name, value or b"") for name, value in original),
    ]


def by(headers: Sequence[tuple[str, bytes | None]]) -> tuple[str | None, str | None]:
    """The provider and the vendor's code that the headers of a letter tell of; None where they tell none."""
    found = dict(headers)
    return _read(found.get(PROVIDER), MAX_PROVIDER), _read(found.get(CODE), MAX_CODE)


def _read(value: bytes | None, most: int) -> str | None:
    return _clean((value or b"").decode("utf-8", "replace"), most).decode() or None


def _clean(text: str, most: int) -> bytes:
    told = "".join(c if c.isprintable() else "�" for c in text[:most])
    return told.encode("utf-8", "replace")
