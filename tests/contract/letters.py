"""What the tests of the vendors of e-mail share: many readers of the same words, and a store of files."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

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


class _WithFiles(Message, frozen=True, kw_only=True):
    """A message that names files."""

    attachments: tuple[str, ...] | None = None


class Files:
    """A store with one file, that knows whether somebody holds it."""

    def __init__(self) -> None:
        self.data = bytes(range(256)) * 3
        self.is_free = False

    def on(self, plain: Message) -> Message:
        """The message with the file attached."""
        fields: dict[str, Any] = {name: getattr(plain, name) for name in plain.__struct_fields__}
        return _WithFiles(**fields | {"attachments": ("f1",)})

    @contextlib.asynccontextmanager
    async def held(self, message: Message) -> AsyncIterator[Sequence[File]]:
        self.is_free = False
        yield [File("Rechnung.pdf", "application/pdf", self.data)]
        self.is_free = True
