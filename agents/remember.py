"""Remember: reads `delivery-status` and `contents`, folds them into history and counts."""

from pydantic import ValidationError

from schemas.event import Unreadable, first_problem
from schemas.message import Contents
from schemas.status import Status
from tables import history
from tables.rows import Rows


def remember_status(value: bytes | None, at: int, rows: Rows) -> Status | None:
    """Folds a status, of the broker's time `at` in ms; returns it where it changed anything.

    Raises Unreadable.
    """
    try:
        status = Status.model_validate_json(value or b"")
    except ValidationError as error:
        raise Unreadable(first_problem(error)) from None
    return status if history.tell(rows, status, at) else None


def remember_contents(value: bytes | None, rows: Rows) -> None:
    """Keeps rendered content. Raises Unreadable."""
    try:
        contents = Contents.model_validate_json(value or b"")
    except ValidationError as error:
        raise Unreadable(first_problem(error)) from None
    history.keep_contents(rows, contents)
