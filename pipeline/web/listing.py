"""Notifications of a user or of an event, narrowed, and page by page."""

from collections.abc import Iterator
from typing import NamedTuple

from pipeline.web import shown
from pipeline.web.views import Desk
from schemas.kinds import Channel, State
from tables.history import History

MOST_LOOKED_AT = 1_000
"""Histories that one page looks at, whatever it finds."""


class BadCursor(ValueError):
    """What was given is no cursor of what is asked for."""


class Sought(NamedTuple):
    """Whose notifications, or of which event (`source`, `event`), or both; times in ms since the epoch.

    With a channel the state is that of the channel, else that of the notification: as both are shown.
    """

    user_id: str | None = None
    source: str | None = None
    event: str | None = None
    channel: Channel | None = None
    state: State | None = None
    since: int | None = None
    until: int | None = None

    def takes_in(self, history: History) -> bool:
        """Whether it is one of those that are sought, of those of the user or the event."""
        if self.since is not None and history["event_at"] < self.since:
            return False
        if self.until is not None and history["event_at"] >= self.until:
            return False
        if self.channel is None:
            return self.state is None or shown.whole(history) == self.state
        found = shown.of_channel(history, self.channel)
        return found is not None and self.state in (None, found)


class Listed(NamedTuple):
    """One page. `cursor` asks for those behind; None: there are none."""

    histories: list[History]
    cursor: str | None


def page(desk: Desk, sought: Sought, limit: int, cursor: str | None = None) -> Listed:
    """At most `limit` of those that are sought; it may be fewer, or none, where more are behind the cursor.

    Raises BadCursor, NotHeld.
    """
    after = None if cursor is None else _place(desk, sought, cursor)
    found: list[History] = []
    last = None
    for looked, history in enumerate(_all(desk, sought, after)):
        if sought.user_id is not None and sought.since is not None and history["event_at"] < sought.since:
            break  # a user's are newest first
        if looked == MOST_LOOKED_AT:
            return Listed(found, last)
        if sought.takes_in(history):
            if len(found) == limit:
                return Listed(found, found[-1]["id"])
            found.append(history)
        last = history["id"]
    return Listed(found, None)


def _all(desk: Desk, sought: Sought, after: History | None) -> Iterator[History]:
    if sought.source is not None and sought.event is not None:
        return desk.each_of_event(sought.source, sought.event, sought.user_id, after)
    return desk.each_of_user(sought.user_id or "", after, sought.until)


def _place(desk: Desk, sought: Sought, cursor: str) -> History:
    """The history that a cursor names, if it is of the same user and event."""
    try:
        found = desk.notification(cursor)
    except ValueError:
        found = None
    if found is None or sought.user_id not in (None, found["user_id"]):
        raise BadCursor("not a cursor of what is asked for")
    event = found["event"]
    if not event or (sought.source is not None and (event["source"], event["id"]) != sought[1:3]):
        raise BadCursor("not a cursor of what is asked for")
    return found
