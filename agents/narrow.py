"""Narrow: which notifications or messages of a range are chosen, and the headers of the copies made for them.

A copy stands where its record stood, with its key and its bytes. Pure: reads and copies are the pipeline's.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from agents import redrive
from schemas.dead_letter import PROVIDER
from schemas.kinds import Reason
from schemas.notification import EventRef
from tables.claims import Claim, Origin
from tables.effects import Result

NEVER_CLAIMED = frozenset(
    (
        Reason.NO_WORKFLOW, Reason.NO_RECIPIENT, Reason.ALREADY_PLANNED, Reason.REFUSED, Reason.NO_PROVIDER,
        Reason.RETRIES_EXHAUSTED, Reason.CALL_CUT_OFF, Reason.UNREADABLE, Reason.TOO_LARGE,
        Reason.NOT_SUPPORTED, Reason.RAISED, Reason.DEADLY,
    )
)  # fmt: skip
"""Reasons that no claim gives: of events that made no notification, and of channels."""


class Narrowing(NamedTuple):
    """What is chosen: those of one kind are alternatives, and every kind that is given must agree."""

    events: frozenset[tuple[str, str]] = frozenset()
    ids: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()

    @property
    def given(self) -> int:
        """How many things it names; 0: it narrows nothing."""
        return sum(map(len, self))

    def wants(self, notification: str, user_id: str, event: EventRef) -> bool:
        """Whether one is chosen, as far as it does not depend on what is remembered of it."""
        return (
            (not self.ids or notification in self.ids)
            and (not self.users or user_id in self.users)
            and (not self.events or (event.source, event.id) in self.events)
        )


def reasons_of(claim: Claim) -> set[str]:
    """Why a notification failed, was kept from a channel, or put off."""
    found = {pinned.reason for pinned in claim.pinned if pinned.reason is not None}
    if claim.failure is not None:
        found.add(claim.failure.partition(":")[0])
    if claim.instead is not None:
        found.add(claim.instead.reason)
    return found


def reasons_of_call(result: Result) -> set[str]:
    """Why a call came to what it came to: its kind, the provider's words, and the reason of its letter."""
    found = {result.kind}
    if result.reason is not None:
        found.add(result.reason)
    if (told := _TOLD.get(result.kind)) is not None:
        found.add(told)
    return found


_TOLD = {
    "refused": Reason.REFUSED,
    "deferred": Reason.RETRIES_EXHAUSTED,
    "cut_off": Reason.CALL_CUT_OFF,
}


def of_event(
    headers: redrive.Headers, here: Origin, request: str, generation: int = 0
) -> list[tuple[str, bytes]]:
    """The headers of a copy of an `events` record that is for everybody, in a generation (0: its own).

    Raises Unreadable.
    """
    meant = redrive.intent(headers, here)
    own = [header for header in headers if header[0] not in redrive.OURS]
    found = [*own, *redrive.marked(redrive.REPLAY, request, meant.first)]
    if generation:
        return [*found, (redrive.GENERATION, b"%d" % generation)]
    if meant.generation:  # it was sent anew before: it keeps that age
        anew = (redrive.GENERATION, b"%d" % meant.generation), (redrive.ANEW, b"%d" % meant.at)
        return [*found, *anew]
    return found


def for_some(headers: Sequence[tuple[str, bytes]], ids: Sequence[str]) -> Iterator[list[tuple[str, bytes]]]:
    """The headers of the copies that are for these notifications alone: one, or several of many."""
    for begin in range(0, len(ids), redrive.MOST_ONLY):
        yield [*headers, (redrive.ONLY, ",".join(ids[begin : begin + redrive.MOST_ONLY]).encode())]


def of_message(headers: redrive.Headers, here: Origin, request: str) -> list[tuple[str, bytes]]:
    """The headers of a copy of a message; by the request's name what has failed is opened again, once."""
    own = [header for header in headers if header[0] not in (*redrive.OURS, PROVIDER)]
    return [*own, *redrive.marked(redrive.REPLAY, request, redrive.origin(headers, here))]
