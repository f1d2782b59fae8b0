"""Replay: what would come of records that are read again, by what is remembered of them. Sends nothing."""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from agents import deliver, intake, plan, topics
from agents.catalogue import Catalogue
from schemas.notification import FanOut, Notification, Signal
from tables.claims import Claim, Origin
from tables.effects import Result


class Prospect(StrEnum):
    """What would come of one notification, or of one message."""

    NOTHING = "nothing"
    AFRESH = "afresh"
    NEW = "new"
    DOUBTFUL = "doubtful"
    TOO_OLD = "too_old"


class Foreseen(NamedTuple):
    """A prospect, and for one that is decided afresh why it failed before."""

    prospect: Prospect
    reason: str = ""


NOTHING, NEW = Foreseen(Prospect.NOTHING), Foreseen(Prospect.NEW)


def foresee(claim: Claim | None) -> Foreseen:
    """What planning would do with a step of that claim: what failed and can be mended is decided again."""
    if claim is None:
        return NEW
    return Foreseen(Prospect.AFRESH, claim.failure or "") if claim.mendable else NOTHING


def foresee_call(
    attempted: int, result: Result | None, counted_from: int = 0, *, opened: bool = False
) -> Foreseen:
    """What delivery would do with a message: the number of its last attempt (0: none), that one's result, and
    the attempt from which they count.

    In doubt is a call that nobody saw end; the provider's key settles it, else the policy of its workflow.
    `opened`: as a narrowed replay copies it, which opens what has failed.
    """
    if not attempted:
        return NEW
    if result is None or result.kind in ("cut_off", "doubtful"):
        return Foreseen(Prospect.DOUBTFUL)
    retried = result.kind == "deferred" and not deliver.is_used_up(result, counted_from)
    if retried or (opened and result.kind in deliver.FAILURES):
        return Foreseen(Prospect.AFRESH, result.reason or result.kind)
    return NOTHING


def notifications(
    value: bytes | None, headers: Sequence[tuple[str, bytes]], origin: Origin, catalogue: Catalogue
) -> list[Notification | FanOut]:
    """What intake would make of an `events` record with the workflows of now; none for what nobody wants.

    Raises Unreadable.
    """
    sends = intake.take_in(value, headers, origin, catalogue)
    found = [plan.read(send.value) for send in sends if send.topic != topics.DELIVERY_STATUS]
    return [one for one in found if not isinstance(one, Signal)]
