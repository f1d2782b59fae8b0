"""What the tests of the vendors of e-mail share: many readers of the same words, and a store of files."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from schemas.message import Message
from tests.contract.peers import message


def everybody(count: int) -> list[Message]:
    """Messages with the same words to different addresses."""
    return [message(f"reader{n}@example.com", user_id=f"u{n}") for n in range(count)]


class File(NamedTuple):
    """A file as a store gives it."""

    name: str
    content_type: str
    data: bytes


class Files:
    """A store with one file, that knows whether somebody holds it."""

    def __init__(self) -> None:
        self.data = bytes(range(256)) * 3
        self.is_free = False

    def on(self, plain: Message) -> Message:
        """The message with the file attached."""
        return replace(plain, attachments=("f1",))

    @contextlib.asynccontextmanager
    async def held(self, message: Message) -> AsyncIterator[Sequence[File]]:
        self.is_free = False
        yield [File("Rechnung.pdf", "application/pdf", self.data)]
        self.is_free = True
