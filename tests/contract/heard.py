"""What a peer heard: requests over HTTP, read as far as a test asks."""

import asyncio
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from typing import NamedTuple

from tests.contract.peers import Peer, Script

NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


class Heard(NamedTuple):
    """One request; names of headers in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes


def heard(head: bytes, body: bytes) -> Heard:
    """A request, of its head and its body."""
    line, *rest = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in rest if one)}
    return Heard(line, headers, body)


def taken(peer: Peer, n: int = 0) -> Heard:
    """The n-th request of a peer."""
    return heard(peer.heard[n], peer.bodies[n])


def receiver(into: asyncio.Queue[Heard]) -> Script:
    """Answers each request 204, and puts it `into` a queue."""

    async def serve(peer: Peer, reader: Reader, writer: Writer) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            found = heard(head, b"")
            body = await reader.readexactly(int(found.headers.get("content-length", 0)))
            writer.write(NO_CONTENT)
            await writer.drain()
            into.put_nowait(found._replace(body=body))

    return serve
