"""What a table stands on: rows by key, as a unit of work has left them."""

from collections.abc import Iterator
from typing import Protocol


class Readable(Protocol):
    """Rows that are only looked at."""

    def get(self, key: bytes) -> bytes | None: ...


class Rows(Readable, Protocol):
    """Reads its own writes. Keys begin with a letter that names the table."""

    def put(self, key: bytes, value: bytes) -> None: ...
    def delete(self, key: bytes) -> None: ...
    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]: ...


class PagedRows(Rows, Protocol):
    """Rows of which some can be read without the rest."""

    def page(self, prefix: bytes, after: bytes, limit: int) -> Iterator[tuple[bytes, bytes]]: ...
