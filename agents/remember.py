"""Remember: reads `delivery-status` and `contents`, folds them into history, counts and broadcasts."""

from collections.abc import Callable

import msgspec

from agents import topics
from agents.sending import Send
from schemas.base import RecordUnreadable, problem
from schemas.broadcast import Progress
from schemas.event import Unreadable
from schemas.ids import user_hash
from schemas.kinds import Channel, Priority, State
from schemas.message import Contents
from schemas.notification import SEEN, SUPPRESS, Signal
from schemas.report import Report
from schemas.status import Status, milliseconds
from tables import broadcasts, history
from tables.rows import Rows


def remember_status(value: bytes | None, at: int, rows: Rows) -> tuple[Status, bool]:
    """Folds a status, of the broker's time `at` in ms; returns it, and whether it changed anything.

    Raises Unreadable.
    """
    try:
        status = Status.from_json(value)
    except RecordUnreadable as error:
        raise Unreadable(str(error)) from None
    return status, history.tell(rows, status, at)


_SEEN = (State.OPENED, State.CLICKED)
_UNWANTED = (State.BOUNCED, State.COMPLAINED, State.UNSUBSCRIBED)
SIGNALLED = frozenset((*_SEEN, *_UNWANTED))
"""The states that core may be to hear of."""


def signals(status: Status, rows: Rows) -> list[Send]:
    """What core is to hear of a status: that it was seen, or that an address is not to be used any more.

    It is said again when the status comes again: a repeat changes nothing there.
    """
    if status.state in _UNWANTED and status.channel is not None and status.target_id is not None:
        signal = Signal(
            kind=SUPPRESS, id=status.notification_id, user_id=status.user_id, channel=status.channel,
            target_id=status.target_id, reason=status.state, category=_scope(status),
            at=milliseconds(status.at),
        )  # fmt: skip
    elif status.state in _SEEN and history.awaits_seen(rows, status.notification_id):
        signal = Signal(kind=SEEN, id=status.notification_id, user_id=status.user_id)
    else:
        return []
    key = status.user_id.encode()
    return [Send(topics.NOTIFICATION_LANES[Priority.HIGH], key, signal.to_json(), user_hash(status.user_id))]


def _scope(status: Status) -> str | None:
    """The one category that an address is suppressed for, if it is one: who unsubscribes from a mailing wants
    their receipts all the same; who answers STOP wants nothing from us."""
    of_category = status.state is State.UNSUBSCRIBED and status.channel is Channel.EMAIL
    return status.category if of_category else None


_read: Callable[[bytes], Contents | Progress | Report] = msgspec.json.Decoder(
    Contents | Progress | Report
).decode


def remember_contents(value: bytes | None, rows: Rows) -> Report | None:
    """Keeps rendered content, or how far a broadcast is; a report is handed back. Raises Unreadable."""
    try:
        found = _read(value or b"")
    except (ValueError, RecursionError) as error:
        raise Unreadable(problem(error)) from None
    if isinstance(found, Progress):
        broadcasts.tell(rows, found)
    elif isinstance(found, Report):
        return found
    else:
        history.keep_contents(rows, found)
    return None
