"""Remember: reads `delivery-status` and `contents`, folds them into history and counts."""

from schemas.base import RecordUnreadable
from schemas.event import Unreadable
from schemas.message import Contents
from schemas.status import Status
from tables import history
from tables.rows import Rows


def remember_status(value: bytes | None, at: int, rows: Rows) -> Status | None:
    """Folds a status, of the broker's time `at` in ms; returns it where it changed anything.

    Raises Unreadable.
    """
    try:
        status = Status.from_json(value)
    except RecordUnreadable as error:
        raise Unreadable(str(error)) from None
    return status if history.tell(rows, status, at) else None


def remember_contents(value: bytes | None, rows: Rows) -> None:
    """Keeps rendered content. Raises Unreadable."""
    try:
        contents = Contents.from_json(value)
    except RecordUnreadable as error:
        raise Unreadable(str(error)) from None
    history.keep_contents(rows, contents)
