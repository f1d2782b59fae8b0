"""Attachments in a directory: a file each, whole or not there, readable by this user alone.

Its first line is what else there is to know of it, as JSON; the rest are its bytes. Whoever runs roles on
several machines needs a directory that they share, or the other store.
"""

import asyncio
import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from pipeline.attachments.store import PAGE, Attachment, Damaged, Missing, Swept, Terms, Unreachable
from pipeline.attachments.store import checked as checked_id
from pipeline.attachments.store import digest as digest_of
from pipeline.attachments.store import whole as whole_of
from schemas import attachment
from schemas.attachment import AttachmentId

HEAD_BYTES = 4_096
INCOMING = "incoming"
PART = ".part"
PART_SECONDS = 86_400.0
"""What is being written for longer than that was given up."""
T = TypeVar("T")
_SHARD = re.compile("[0-9a-f]{2}")


class _Head(msgspec.Struct):
    """The first line of a file."""

    name: str
    content_type: str
    digest: str


class LocalStore:
    """Keeps attachments below a directory, which is made when something is put there."""

    def __init__(self, directory: Path, terms: Terms) -> None:
        self.directory, self.max_bytes, self._terms = directory, terms.max_bytes, terms

    async def put(self, name: str, content_type: str, data: bytes) -> str:
        """Stores a file for good and gives it an id. Raises Unreachable, and ValueError for its size."""
        id = self._terms.new_id(data)
        await self._do(lambda: self._put(id, name, content_type, data))
        return id

    async def get(self, id: str) -> Attachment:
        """The file of an id, whatever text that is. Raises Missing, Damaged, Unreachable."""
        found = checked_id(id)
        return await self._do(lambda: self._get(found))

    async def sweep(self, now: float, after: str = "") -> Swept:
        """Deletes what is kept no longer, of at most PAGE behind `after`. Raises Unreachable."""
        return await self._do(lambda: self._sweep(now, after))

    async def close(self) -> None:
        """There is nothing to let go."""

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            raise Unreachable(f"attachments: {error.strerror or type(error).__name__}") from None

    def _path(self, id: str) -> Path:
        return self.directory / id[:2] / id

    def _put(self, id: str, name: str, content_type: str, data: bytes) -> None:
        head = _Head(name, content_type, digest_of(name, content_type, data))
        place = self._path(id)
        incoming = self.directory / INCOMING
        for directory in (self.directory, incoming, place.parent):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = incoming / (id + PART)
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.writelines((msgspec.json.encode(head), b"\n", data))
                file.flush()
                os.fsync(file.fileno())
            part.rename(place)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        for directory in (place.parent, self.directory):
            _sync(directory)

    def _get(self, id: AttachmentId) -> Attachment:
        try:
            # what is no plain file is not opened through a link, nor waited for
            file = os.open(self._path(id.text), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            if not self.directory.is_dir():  # a disk that is not there has lost nothing yet
                raise Unreachable("attachments: the directory is not there") from None
            raise Missing(id.text) from None
        with os.fdopen(file, "rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise Damaged(id.text)
            line = opened.readline(HEAD_BYTES)
            data = opened.read(id.size + 1)
        try:
            head = msgspec.json.decode(line, type=_Head)
        except (ValueError, RecursionError):
            raise Damaged(id.text) from None
        return whole_of(id, Attachment(head.name, head.content_type, data), head.digest)

    def _sweep(self, now: float, after: str) -> Swept:
        if not self.directory.is_dir():
            return Swept(0, "")
        deleted = 0 if after else self._sweep_parts(now)
        looked_at = 0
        for id in self._ids(after):
            if looked_at == PAGE:
                return Swept(deleted, after)
            looked_at, after = looked_at + 1, id.text
            if self._terms.is_over(id, now):
                self._path(id.text).unlink(missing_ok=True)
                deleted += 1
        return Swept(deleted, "")

    def _ids(self, after: str) -> Iterator[AttachmentId]:
        """The ids behind one, in order; what else lies there is left alone."""
        for shard in sorted(one.name for one in self.directory.iterdir() if _SHARD.fullmatch(one.name)):
            if shard < after[:2]:
                continue
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                for name in sorted(one.name for one in (self.directory / shard).iterdir()):
                    id = attachment.read(name)
                    if id is not None and name[:2] == shard and name > after:
                        yield id

    def _sweep_parts(self, now: float) -> int:
        deleted = 0
        with contextlib.suppress(FileNotFoundError):
            for part in sorted((self.directory / INCOMING).iterdir())[:PAGE]:
                if part.suffix == PART and part.lstat().st_mtime + PART_SECONDS <= now:
                    part.unlink(missing_ok=True)
                    deleted += 1
        return deleted


def _sync(directory: Path) -> None:
    """Has the names in a directory outlive a loss of power."""
    file = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
