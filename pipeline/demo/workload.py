"""A run of shop events from a seed, with what must come of each of them."""

import random
from collections import Counter
from dataclasses import dataclass, field, replace

import orjson

from schemas.ids import notification_id
from schemas.kinds import Channel, Reason, State
from schemas.status import rfc3339

SOURCE = "https://shop.example"
SHARE_OF_DUPLICATES = 0.03
CAP = 3
SOON_SECONDS = 5
_ITEMS = ("Brass bell", "Tuning fork", "Oak stand", "Rope, 12 m", "Glockenspiel", "Clapper", "Beeswax")


@dataclass(frozen=True)
class Sent:
    """One record for `events`; `lane` is "" or "-express"."""

    key: bytes
    value: bytes
    lane: str = ""
    #: the notification that comes of it, where a repeat of it is a duplicate
    notification: str | None = None


@dataclass(frozen=True)
class Expected:
    """What must come of one pair: the states that count as right, and a reason where one is told."""

    states: frozenset[State]
    reason: str | None = None


DELIVERED = Expected(frozenset({State.SENT, State.DELIVERED}))


@dataclass
class Workload:
    """Records to send, users to know, and the prediction."""

    users: dict[str, bytes] = field(default_factory=dict)
    preferences: dict[str, bytes] = field(default_factory=dict)
    events: list[Sent] = field(default_factory=list)
    #: (notification id, channel) -> what must come of it
    pairs: dict[tuple[str, str], Expected] = field(default_factory=dict)
    #: a user's notification ids
    of_user: dict[str, list[str]] = field(default_factory=dict)
    #: notification ids that fail as a whole, events that nobody wants, ids that came twice, poison
    failed: set[str] = field(default_factory=set)
    ignored: set[str] = field(default_factory=set)
    duplicates: Counter[str] = field(default_factory=Counter)
    poison: list[bytes] = field(default_factory=list)
    #: pair -> the moment before which it must not be sent, in ms
    not_before: dict[tuple[str, str], int] = field(default_factory=dict)
    #: pairs that wait for something, so that the time they take says nothing
    delayed: set[tuple[str, str]] = field(default_factory=set)
    #: notification ids that go into a digest, each into one
    gathered: set[str] = field(default_factory=set)


class Shop:
    """Makes up users and events. The same seed makes the same run."""

    def __init__(self, seed: int, run: str, webhook_url: str, now: int) -> None:
        """`now`, in ms since the epoch: what is scheduled is so for soon after it."""
        self.random, self.run, self.webhook_url, self.now = random.Random(seed), run, webhook_url, now
        self.load = Workload()
        self.capped: Counter[str] = Counter()
        self.gone: set[str] = set()

    def make(self, events: int) -> Workload:
        """A workload of that many events."""
        for n in range(max(20, min(400, events // 5))):
            self._user(n)
        users = [user for user in self.load.users if not user.startswith("capped")]
        makers = [self._order, self._shipment, self._reset, self._newsletter, self._unwanted, self._poison,
                  self._stranger, self._broken, self._capped, self._reminder, self._review, self._gift,
                  self._parcel]  # fmt: skip
        weights = [40, 20, 8, 11, 3, 2, 2, 1, 3, 3, 3, 2, 2]
        for n in range(events):
            # each kind once at the start, so that even a small run holds every outcome
            maker = makers[n] if n < len(makers) else self.random.choices(makers, weights)[0]
            if (n == len(makers) or self.random.random() < SHARE_OF_DUPLICATES) and self._repeat():
                continue
            maker(n, self.random.choice(users))
        return self.load

    # -- users

    def _user(self, n: int) -> None:
        kind = "capped" if n % 20 == 7 else "plain"
        user = f"{kind}-{n:04d}"
        told: dict[str, object] = {
            "user_id": user, "email": f"{user}@example.com", "phone": f"+1555{n:07d}",
            "webhook_url": f"{self.webhook_url}/hooks/{user}", "attributes": {"name": f"Customer {n}"},
        }  # fmt: skip
        wants: dict[str, object] = {"user_id": user}
        if n % 20 == 1:
            wants["channels"] = {"sms": False}
        if n % 20 == 2:
            wants["categories"] = {"marketing": {"email": False}}
        if n % 20 == 3:
            del told["phone"]
        if n % 20 == 4:
            told["webhook_url"] = f"{self.webhook_url}/gone/{user}"
            self.gone.add(user)
        if kind == "capped":
            wants["frequency_limit"] = CAP
        self.load.users[user] = orjson.dumps(told)
        if len(wants) > 1:
            self.load.preferences[user] = orjson.dumps(wants)

    def _wants(self, user: str) -> dict[str, object]:
        return orjson.loads(self.load.preferences.get(user, b"{}"))  # type: ignore[no-any-return]

    # -- events

    def _send(self, n: int, user: str, event_type: str, data: dict[str, object], lane: str = "") -> str:
        event_id = f"{self.run}-{n}"
        event = {
            "specversion": "1.0",
            "id": event_id,
            "source": SOURCE,
            "type": event_type,
            "datacontenttype": "application/json",
            "data": {"customer": {"id": user, "name": user.title()}, **data},
        }
        notification = notification_id(user, SOURCE, event_id, _WORKFLOWS.get(event_type, ""))
        self.load.events.append(Sent(user.encode(), orjson.dumps(event), lane, notification))
        return event_id

    def _expect(self, event_id: str, workflow: str, user: str, category: str, channels: tuple[Channel, ...],
                mandatory: bool = False) -> None:  # fmt: skip
        notification = notification_id(user, SOURCE, event_id, workflow)
        self.load.of_user.setdefault(user, []).append(notification)
        wants, told = self._wants(user), orjson.loads(self.load.users[user])
        off: object = wants.get("channels", {})
        category_off: object = wants.get("categories", {})
        for channel in channels:
            expected = DELIVERED
            if channel is Channel.SMS and "phone" not in told:
                expected = _suppressed(Reason.NO_ADDRESS)
            elif not mandatory and isinstance(off, dict) and off.get(channel) is False:
                expected = _suppressed(Reason.CHANNEL_OPTED_OUT)
            elif not mandatory and isinstance(category_off, dict) and category in category_off:
                expected = _suppressed(Reason.CATEGORY_OPTED_OUT)
            elif channel is Channel.WEBHOOK and user in self.gone:
                expected = Expected(frozenset({State.FAILED}), Reason.REFUSED)
            self.load.pairs[notification, channel] = expected

    def _order(self, n: int, user: str) -> None:
        event = self._send(n, user, "shop.order.confirmed", self._an_order(n))
        self._expect(event, "order-confirmed", user, "orders", (Channel.EMAIL, Channel.WEB, Channel.WEBHOOK))

    def _an_order(self, n: int) -> dict[str, object]:
        items = [
            {"name": self.random.choice(_ITEMS), "quantity": self.random.randint(1, 4), "price": "19.00"}
            for _ in range(self.random.randint(1, 4))
        ]
        return {
            "order": {"id": f"C-{n:06d}", "total": f"{19 * len(items)}.00", "currency": "EUR", "items": items}
        }

    def _shipment(self, n: int, user: str) -> None:
        data = self._an_order(n) | {
            "shipment": {"carrier": "Hermes", "tracking_url": f"https://track.example/{n}"}
        }
        event = self._send(n, user, "shop.order.shipped", data)
        self._expect(event, "order-shipped", user, "shipping", (Channel.EMAIL, Channel.SMS, Channel.WEB))

    def _reset(self, n: int, user: str) -> None:
        data: dict[str, object] = {"reset": {"url": f"https://shop.example/reset/{n}", "minutes": 30}}
        event = self._send(n, user, "shop.account.password_reset_requested", data, "-express")
        self._expect(event, "password-reset", user, "security", (Channel.EMAIL,), mandatory=True)

    def _newsletter(self, n: int, user: str) -> None:
        data: dict[str, object] = {"issue": {"title": f"Ring the changes, no. {n}", "url": "https://shop.example/news",
                                             "teaser": "New bells for the season."}}  # fmt: skip
        event = self._send(n, user, "shop.newsletter", data)
        self._expect(event, "newsletter", user, "marketing", (Channel.EMAIL,))

    def _capped(self, n: int, _: str) -> None:
        user = self.random.choice([user for user in self.load.users if user.startswith("capped")])
        event = self._send(n, user, "shop.order.confirmed", self._an_order(n))
        self.capped[user] += 1
        self._expect(event, "order-confirmed", user, "orders", (Channel.EMAIL, Channel.WEB, Channel.WEBHOOK))
        if self.capped[user] > CAP:
            notification = notification_id(user, SOURCE, event, "order-confirmed")
            for channel in (Channel.EMAIL, Channel.WEB, Channel.WEBHOOK):
                self.load.pairs[notification, channel] = _suppressed(Reason.DAILY_CAP)

    def _stranger(self, n: int, _: str) -> None:
        user = f"stranger-{n}"
        event = self._send(n, user, "shop.newsletter", {"issue": {"title": "-", "url": "-", "teaser": "-"}})
        notification = notification_id(user, SOURCE, event, "newsletter")
        self.load.pairs[notification, Channel.EMAIL] = _suppressed(Reason.UNKNOWN_USER)

    def _broken(self, n: int, user: str) -> None:
        event = self._send(n, user, "shop.order.confirmed", {"order": {}})
        notification = notification_id(user, SOURCE, event, "order-confirmed")
        self.load.of_user.setdefault(user, []).append(notification)
        self.load.failed.add(notification)

    def _reminder(self, n: int, user: str) -> None:
        event_id, due = f"{self.run}-{n}", self.now + self.random.randint(1, SOON_SECONDS) * 1000
        asked = {
            "event_type": "shop.cart.left", "user_id": user, "source": SOURCE, "idempotency_key": event_id,
            "variables": {"cart": {"url": f"https://shop.example/cart/{n}"}}, "scheduled_at": rfc3339(due),
        }  # fmt: skip
        notification = notification_id(user, SOURCE, event_id, "cart-reminder")
        self.load.events.append(Sent(user.encode(), orjson.dumps(asked), "", notification))
        self._expect(event_id, "cart-reminder", user, "carts", (Channel.EMAIL,))
        self.load.not_before[notification, Channel.EMAIL] = due
        self.load.delayed.add((notification, Channel.EMAIL))

    def _review(self, n: int, user: str) -> None:
        review: dict[str, object] = {
            "review": {"product": self.random.choice(_ITEMS), "stars": self.random.randint(1, 5)}
        }
        event = self._send(n, user, "shop.review.received", review)
        notification = notification_id(user, SOURCE, event, "reviews")
        self.load.gathered.add(notification)
        self.load.of_user.setdefault(user, []).append(notification)

    def _gift(self, n: int, user: str) -> None:
        event = self._send(n, user, "shop.gift.received", {"gift": {"from": f"Friend {n}"}})
        self._expect(event, "gift", user, "gifts", (Channel.EMAIL,))
        notification = notification_id(user, SOURCE, event, "gift")
        self.load.pairs[notification, Channel.PUSH] = _suppressed(Reason.NO_ADDRESS)  # nobody has a device

    def _parcel(self, n: int, user: str) -> None:
        event = self._send(n, user, "shop.parcel.waiting", {"parcel": {"place": f"Locker {n}"}})
        self._expect(event, "parcel", user, "shipping", (Channel.WEB, Channel.EMAIL))
        self.load.delayed.add((notification_id(user, SOURCE, event, "parcel"), Channel.EMAIL))

    def _unwanted(self, n: int, user: str) -> None:
        event = self._send(n, user, "shop.cart.viewed", {"cart": n})
        self.load.events[-1] = replace(self.load.events[-1], notification=None)
        self.load.ignored.add(notification_id(f"{SOURCE}|{event}", SOURCE, event, ""))

    def _poison(self, n: int, user: str) -> None:
        value = self.random.choice(
            (
                b"\xff\xfe not JSON %d",
                b'{"specversion": "1.0", "id": %d}',
                b'{"event_type": "x", "user_id": [%d]}',
                b'{"specversion": "1.0", "id": "%d", "source": "s", "type": "\\ud800"}',
                b"[%d]",
            )
        )
        value %= (n,)
        self.load.events.append(Sent(user.encode(), value))
        self.load.poison.append(value)

    def _repeat(self) -> bool:
        """Sends an earlier event once more, as it was; says whether it found one."""
        for _ in range(20):
            if not self.load.events:
                return False
            sent = self.random.choice(self.load.events)
            if sent.notification is None or sent.notification in self.load.failed:
                continue
            self.load.events.append(sent)
            self.load.duplicates[sent.notification] += 1
            return True
        return False


_WORKFLOWS = {
    "shop.order.confirmed": "order-confirmed",
    "shop.order.shipped": "order-shipped",
    "shop.account.password_reset_requested": "password-reset",
    "shop.newsletter": "newsletter",
    "shop.review.received": "reviews",
    "shop.gift.received": "gift",
    "shop.parcel.waiting": "parcel",
}


def _suppressed(reason: Reason) -> Expected:
    return Expected(frozenset({State.SUPPRESSED}), reason)
