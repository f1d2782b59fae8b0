"""Rules: what stands for and against telling a user on each channel, by what is known of them."""

from collections.abc import Container, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from agents.zones import local_day, quiet_until, zone
from schemas.ids import phone_id, target_id
from schemas.kinds import Channel, Priority, Reason
from schemas.notification import Addresses, Notification
from tables import caps, people, suppressed
from tables.claims import DEFAULT, Device, Note, Pinned
from tables.people import Person, Wishes
from tables.rows import Rows


class Known(NamedTuple):
    """What is known of a recipient; `user` is None where there is none of that id."""

    user: Person | None
    wishes: Wishes
    suppressed: dict[str, tuple[str | None, int]]

    @property
    def zone(self) -> str:
        """The user's zone; UTC where they name none that there is."""
        return zone(self.user.timezone).key if self.user is not None else DEFAULT.zone

    @property
    def locale(self) -> str:
        return self.user.locale if self.user is not None else DEFAULT.locale


def known(rows: Rows, user_id: str) -> Known:
    """All that the rules ask for."""
    return Known(
        people.user(rows, user_id), people.preferences(rows, user_id), suppressed.of_user(rows, user_id)
    )


def each(
    channels: Iterable[Channel], notification: Notification, of: Known, rows: Rows,
    words: Container[Channel] | None,
) -> list[Pinned]:  # fmt: skip
    """The outcome of each channel: its targets, or the first rule against it.

    `words` are the channels that the template speaks on, None where the words came with the request.
    """
    found: list[Pinned] = []
    for channel in channels:
        against = _opted_out(channel, notification, of.wishes)
        targets = _targets(channel, notification, of.user, rows)
        if not targets:
            found.append(Pinned(channel, None, Reason.NO_ADDRESS))
        elif against is not None:
            found.append(against)
        elif words is not None and channel not in words:
            found.append(Pinned(channel, None, Reason.NO_TEMPLATE_FOR_CHANNEL))
        elif notification.mandatory or (not of.suppressed and channel is not Channel.SMS):
            found += targets
        else:
            found += _not_suppressed(channel, targets, notification, of, rows)
    return found


def _opted_out(channel: Channel, notification: Notification, wishes: Wishes) -> Pinned | None:
    """What stands against a channel by the user's own wish. Mandatory ones pass."""
    if notification.mandatory:
        return None
    if not wishes.channels.get(channel, True):
        return Pinned(channel, None, Reason.CHANNEL_OPTED_OUT, f"channels.{channel}: false")
    if wishes.categories:
        by_category = wishes.categories.get(notification.category)
        if by_category is not None and not by_category.get(channel, True):
            saw = f"categories.{notification.category}.{channel}: false"
            return Pinned(channel, None, Reason.CATEGORY_OPTED_OUT, saw)
    return None


def _not_suppressed(
    channel: Channel, targets: list[Pinned], notification: Notification, of: Known, rows: Rows
) -> list[Pinned]:
    number = None
    if channel is Channel.SMS:
        number = suppressed.of_number(rows, phone_id(targets[0].target or ""))
    reasons = [
        suppressed.against(of.suppressed, channel, target_id(one.target or ""), notification.category, number)
        for one in targets
    ]
    free = [one for one, reason in zip(targets, reasons, strict=True) if reason is None]
    if free:
        return free
    reason = next(reason for reason in reasons if reason is not None)
    return [Pinned(channel, None, Reason.ADDRESS_SUPPRESSED, reason)]


def _targets(channel: Channel, notification: Notification, user: Person | None, rows: Rows) -> list[Pinned]:
    """Where the user is reached on a channel: the contact's address before the user's own; every device."""
    if channel is Channel.PUSH:
        return [
            Pinned(channel, one.token, device=Device(one.platform, one.keys))
            for one in people.devices(rows, notification.user_id)
        ]
    target = address(channel, notification.user_id, user, notification.contact)
    return [] if target is None else [Pinned(channel, target)]


def address(channel: Channel, user_id: str, user: Person | None, contact: Addresses | None) -> str | None:
    """Where the user is reached on a channel that has one address a user."""
    if channel is Channel.WEB:
        return user_id
    field = _FIELDS[channel]
    if contact is not None and (found := getattr(contact, field)):
        return str(found)
    return getattr(user, field) if user is not None else None


_FIELDS = {
    Channel.EMAIL: "email",
    Channel.SMS: "phone",
    Channel.CHAT: "slack",
    Channel.WEBHOOK: "webhook_url",
}


# -- of the whole notification


def quiet(notification: Notification, of: Known, now: int) -> tuple[int | None, Note | None]:
    """When the user's quiet hours end, if it is to wait for that; and what the rule saw. Critical passes."""
    hours = of.wishes.quiet_hours
    if hours is None:
        return None, None
    until = quiet_until(hours.start, hours.end, of.zone, now)
    if until is None:
        return None, None
    saw = f"{hours.start} to {hours.end} {of.zone}"
    if notification.priority is Priority.CRITICAL:
        return None, ("quiet_hours", saw, "passes: critical")
    return until, ("quiet_hours", saw, "waits")


class Counter(NamedTuple):
    """A row of caps that this notification is counted in, and how many are in it."""

    row: bytes
    counted: int


AGAINST = "stands against it"


class Capping(NamedTuple):
    """Where to count, the reason against it (None: there is room), and what the rules saw."""

    counters: list[Counter]
    reason: Reason | None
    notes: Sequence[Note]


@lru_cache(maxsize=4_096)
def _note(rule: str, counted: int, limit: int) -> tuple[Note, ...]:
    return ((rule, f"{counted} of {limit}", "passes"),)


def capping(notification: Notification, of: Known, now: int, rows: Rows, category_cap: int | None) -> Capping:
    """The user's limit a day, the category's and the workflow's.

    Critical and mandatory ones pass, and are counted.
    """
    day = local_day(of.zone, now)
    row = caps.key(notification.user_id, day)
    limit = of.wishes.frequency_limit
    if category_cap is None and notification.throttle is None and (counted := caps.count(rows, row)) < limit:
        return Capping([Counter(row, counted)], None, _note("daily_cap", counted, limit))
    asked: list[tuple[str, Reason, bytes, int]] = [("daily_cap", Reason.DAILY_CAP, row, limit)]
    if category_cap is not None:
        row = caps.of_category(notification.user_id, day, notification.category)
        asked.append(("category_cap", Reason.CATEGORY_CAP, row, category_cap))
    if (throttle := notification.throttle) is not None:
        row = caps.of_workflow(notification.user_id, now, throttle.per, notification.workflow)
        asked.append(("throttle", Reason.THROTTLED, row, throttle.limit))
    passes = notification.mandatory or notification.priority is Priority.CRITICAL
    counters, notes, against = [], [], None
    for rule, reason, row, limit in asked:
        counted = caps.count(rows, row)
        counters.append(Counter(row, counted))
        if counted < limit:
            verdict = "passes"
        elif passes:
            verdict = (
                "passes: critical" if notification.priority is Priority.CRITICAL else "passes: mandatory"
            )
        else:
            verdict = AGAINST
            against = against or reason
        notes.append((rule, f"{counted} of {limit}", verdict))
    return Capping(counters, against, notes)
