"""Calls to URLs that users named: never to an address of our own network, decided on the one dialled."""

import functools
import socket
from contextvars import ContextVar
from typing import Any

import aiohttp
import httpx

from pipeline.providers.addresses import is_public
from pipeline.providers.http import Answer, HttpClient, NotAnswered, NotSent


class BadUrl(ValueError):
    """A target that is not an http or https URL."""


class BlockedAddress(OSError):
    """An address that is not of the public internet."""


class Blocked(NotSent):
    """Nothing was sent: the URL leads to an address that is not of the public internet."""


_blocked: ContextVar[list[bool]] = ContextVar("addresses that were blocked")


def _public_socket(info: Any) -> socket.socket:
    """The socket for an address that is about to be dialled, literal or resolved. Raises BlockedAddress."""
    family, kind, protocol, _, address = info
    if not is_public(address[0]):
        _blocked.get().append(True)
        raise BlockedAddress("blocked address")
    return socket.socket(family, kind, protocol)


class GuardedClient:
    """A pool of connections to the public internet; with `allow_internal` to anywhere."""

    def __init__(self, *, allow_internal: bool, resolver: aiohttp.abc.AbstractResolver | None = None) -> None:
        guard = None if allow_internal else _public_socket
        self._client = HttpClient(socket_factory=guard, resolver=resolver)

    async def exchange(
        self, request: httpx.Request, seconds: float, body_seconds: float | None = None
    ) -> Answer:
        """As HttpClient's; raises Blocked as well. No redirect is followed."""
        blocked: list[bool] = []
        _blocked.set(blocked)
        try:
            return await self._client.exchange(request, seconds, body_seconds)
        except NotAnswered:
            raise
        except NotSent as error:
            if blocked:
                raise Blocked(error.cause) from error
            raise

    async def close(self) -> None:
        """Lets the connections go."""
        await self._client.close()


@functools.lru_cache(maxsize=4096)
def parsed(target: str) -> httpx.URL:
    """The URL of a target. Raises BadUrl and httpx.InvalidURL."""
    url = httpx.URL(target)
    if url.scheme not in {"http", "https"} or not url.host:
        raise BadUrl
    return url
