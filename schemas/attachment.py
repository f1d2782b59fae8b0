"""Ids of attachments: a random part, and what can be told of one without a look at where it is stored."""

import re
from typing import NamedTuple

DAY = 86_400
MAX_ATTACHMENTS = 10
"""Of one request."""
TOKEN_BYTES = 16
_FORM = re.compile(r"[0-9a-f]{32}-([1-9][0-9]{0,9})-([1-9][0-9]{0,5})")


class AttachmentId(NamedTuple):
    """An id, read: `size` in bytes; `last_day`, in days since 1970, the last for which it may be asked."""

    text: str
    size: int
    last_day: int


def compose(token: bytes, size: int, last_day: int) -> str:
    """The id of what is stored anew; `token` are TOKEN_BYTES that nobody can guess."""
    return f"{token.hex()}-{size}-{last_day}"


def read(text: str) -> AttachmentId | None:
    """What an id tells; None for what is no id. One that was read is safe as the name of a file."""
    found = _FORM.fullmatch(text)
    return None if found is None else AttachmentId(text, int(found[1]), int(found[2]))
