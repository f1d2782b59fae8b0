"""What a transport needs of the simulator, and the simulator of a transport."""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Protocol

from pipeline.simulator.vendor import Answer, Request, Vendor

HOST = "127.0.0.1"
ASIDE = "/_simulator/"
"""Where what is no vendor's business is asked for."""
BODY_BYTES = 48 << 20
"""The most that is read of a request: SES, the most generous, takes 40 MB."""


class Act(StrEnum):
    """What a transport does instead of answering."""

    RESET = "reset_after_body"
    HANG = "hang"
    GARBAGE = "garbage"
    CLOSE = "close"


GARBAGE = b"\x00\xff\x15\x80 this is no answer\r\n\r\n"
"""What is written for Act.GARBAGE: nothing that any of the protocols can read."""


class Hears(Protocol):
    """Something that decides what is to be done with requests."""

    async def play(self, request: Request) -> Answer | Act:
        """What is to be done with a request; returns when it is to be done, with the ledger on the disk."""


class Player(Hears, Protocol):
    """The part that decides, whatever the transport: it hears, writes down, and chooses the fault."""

    vendor: Vendor

    def connected(self) -> str:
        """The fault that strikes a connection which was just made, or ""."""

    def steered(self, to: str) -> str:
        """The vendor's code that refuses this address whatever is sent there, or ""."""


class Listener(Protocol):
    """A server on loopback."""

    async def open(self, port: int) -> int:
        """Listens; returns the port, which is any free one for 0. Raises OSError. May follow `close`."""

    async def close(self) -> None:
        """Listens no more and drops each connection: who connects now is refused. May be repeated."""


class Transport(Protocol):
    """Makes a listener that gives each request to `player.play` and does what that says.

    `aside` answers paths below `/_simulator/`, which are no business of the vendor's; a transport without
    HTTP ignores it.
    """

    scheme: str
    faults: frozenset[str]
    """The names of the faults, beyond vendors' own, that it can do."""

    def __call__(self, player: Player, aside: "Aside") -> Listener: ...


Aside = Callable[[Request], Awaitable[Answer]]
