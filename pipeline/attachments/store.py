"""What a store of attachments is to the rest of us, and what all of them have in common."""

import secrets
import time
from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple, Protocol

from schemas import attachment
from schemas.attachment import DAY, TOKEN_BYTES, AttachmentId

PAGE = 500
"""Attachments that one sweep looks at."""


class Attachment(NamedTuple):
    """A file as it goes out."""

    name: str
    content_type: str
    data: bytes


class Missing(Exception):
    """There is no such attachment, or none any more."""


class Damaged(Exception):
    """What is stored under an id is not what was put there."""


class Unreachable(Exception):
    """The store does not answer, or not so that it can be used; the message says how, without secrets."""


class Swept(NamedTuple):
    """What a sweep did; `after` is where the next one goes on, empty when it was the last page."""

    deleted: int
    after: str


class Store(Protocol):
    """Keeps attachments. What is put under an id never changes, and no id is ever given twice.

    `max_bytes`: the most that one attachment may have.
    """

    max_bytes: int

    async def put(self, name: str, content_type: str, data: bytes) -> str:
        """Stores a file for good and gives it an id. Raises Unreachable."""

    async def get(self, id: str) -> Attachment:
        """The file of an id, whatever text that is. Raises Missing, Damaged, Unreachable."""

    async def sweep(self, now: float, after: str = "") -> Swept:
        """Deletes what is kept no longer, of at most PAGE behind `after`. Raises Unreachable."""

    async def close(self) -> None:
        """Lets connections go."""


class Terms:
    """How much is taken and how long it is kept.

    For `keep_days` an attachment may be asked for, counted to the end of a day; for `slack_days` more it
    stays, because what is sent late may be tried again.
    """

    def __init__(
        self,
        max_bytes: int,
        keep_days: float,
        slack_days: float,
        *,
        clock: Callable[[], float] = time.time,
        token: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.max_bytes, self.keep_days, self.slack_days = max_bytes, keep_days, slack_days
        self._clock, self._token = clock, token

    def new_id(self, data: bytes) -> str:
        """An id for something that is stored now. Raises ValueError for what has no fitting size."""
        if not 0 < len(data) <= self.max_bytes:
            raise ValueError(f"{len(data)} bytes; an attachment has from 1 to {self.max_bytes}")
        last_day = int((self._clock() + self.keep_days * DAY) // DAY)
        return attachment.compose(self._token(TOKEN_BYTES), len(data), last_day)

    def is_over(self, id: AttachmentId, now: float) -> bool:
        """Whether it is kept no longer."""
        return now >= (id.last_day + 1 + self.slack_days) * DAY


def checked(id: str) -> AttachmentId:
    """An id that may become a path or a key. Raises Missing for any other text, without repeating it."""
    found = attachment.read(id)
    if found is None:
        raise Missing("not the id of an attachment")
    return found


def digest(name: str, content_type: str, data: bytes) -> str:
    """By which a damaged file is known."""
    found = blake2b(f"{name}\0{content_type}\0".encode(), digest_size=20)
    found.update(data)
    return found.hexdigest()


def whole(id: AttachmentId, found: Attachment, digested: str) -> Attachment:
    """What was read, if it is what was put. Raises Damaged."""
    if len(found.data) != id.size or digest(*found) != digested:
        raise Damaged(id.text)
    return found
