"""A run of shop events from a seed, with what must come of each of them."""

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from hashlib import sha256

import orjson

from pipeline.simulator.webpush import subscription
from schemas.ids import notification_id
from schemas.kinds import Channel, Reason, State
from schemas.status import rfc3339

SOURCE = "https://shop.example"
SHARE_OF_DUPLICATES = 0.03
CAP = 3
SOON_SECONDS = 5
UNDELIVERABLE = "+15005550020"
"""The number whose messages the simulated vendors take, and then report as undelivered."""
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
REFUSED = Expected(frozenset({State.FAILED}), Reason.REFUSED)
BOUNCED = Expected(frozenset({State.BOUNCED}))


@dataclass
class Workload:
    """Records to send, users to know, and the prediction."""

    users: dict[str, bytes] = field(default_factory=dict)
    preferences: dict[str, bytes] = field(default_factory=dict)
    #: (user, token) -> the device
    devices: dict[tuple[str, str], bytes] = field(default_factory=dict)
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

    def __init__(self, seed: int, run: str, webhook_url: str, now: int, push_url: str | None = None) -> None:
        """`now`, in ms since the epoch: what is scheduled is so for soon after it.

        `push_url`: of a simulated push service, beside which the other vendors are simulated too. Without one
        nobody has a browser, and whoever takes push and SMS refuses nothing.
        """
        self.random, self.run, self.webhook_url, self.now = random.Random(seed), run, webhook_url, now
        self.push_url = push_url
        self.load = Workload()
        self.capped: Counter[str] = Counter()
        self.gone: set[str] = set()
        #: users none of whose devices is there any more
        self.lost: set[str] = set()
        #: users who have just one push coming: it finds a device that is gone
        self.once: list[str] = []

    def make(self, events: int) -> Workload:
        """A workload of that many events."""
        for n in range(max(20, min(400, events // 5))):
            self._user(n)
        users = [user for user in self.load.users if user.startswith("plain")]
        makers = {
            self._order: 17, self._shipment: 16, self._reset: 4, self._newsletter: 4, self._gift: 4,
            self._code: 5, self._answer: 10, self._invoice: 5, self._unwanted: 3, self._poison: 2,
            self._stranger: 2, self._broken: 1, self._capped: 4, self._reminder: 2, self._review: 3,
            self._parcel: 3,
        }  # fmt: skip
        kinds, weights = list(makers), list(makers.values())
        for n in range(events):
            # each kind once at the start, so that even a small run holds every outcome
            maker = kinds[n] if n < len(kinds) else self.random.choices(kinds, weights)[0]
            if (n == len(kinds) or self.random.random() < SHARE_OF_DUPLICATES) and self._repeat():
                continue
            maker(n, self.random.choice(users))
        return self.load

    # -- users

    def _user(self, n: int) -> None:
        kind = {7: "capped", 8: "lost", 9: "lost", 14: "moved"}.get(n % 20, "plain")
        user = f"{kind}-{n:04d}"
        told: dict[str, object] = {
            "user_id": user, "email": f"{user}@example.com", "slack": f"C{n:08d}",
            "phone": f"+447700900{n % 1000:03d}" if n % 4 == 2 else f"+1555{n:07d}",
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
        if n % 20 == 5:
            wants["channels"] = {"push": False}
        if kind == "moved":
            told["phone"] = UNDELIVERABLE
        if kind == "capped":
            wants["frequency_limit"] = CAP
        self.load.users[user] = orjson.dumps(told)
        if len(wants) > 1:
            self.load.preferences[user] = orjson.dumps(wants)
        self._devices(n, user, kind)

    def _devices(self, n: int, user: str, kind: str) -> None:
        """None, one or three; a device that is gone is an Android phone."""
        gone = kind == "lost"
        if n % 20 == 6:
            return
        if gone:
            self.once.append(user)
        if gone and n % 20 == 8:
            self.lost.add(user)
            platforms: tuple[str, ...] = ("android",)
        elif gone or n % 20 == 0:
            platforms = ("ios", "android", "web")
        else:
            platforms = (("ios", "android", "web")[n % 3],)
        for platform in platforms:
            self._device(user, platform, gone=gone and platform == "android")

    def _device(self, user: str, platform: str, *, gone: bool) -> None:
        token, keys = f"{'dead' if gone else 'fcm'}-{sha256(user.encode()).hexdigest()}", {}
        if platform == "ios":
            token = f"a0{sha256(user.encode()).hexdigest()[2:]}"
        elif platform == "web":
            if self.push_url is None:
                platform = "android"
            else:
                made = subscription(self.push_url, user)
                token, keys = made["endpoint"], made["keys"]
        device = {"user_id": user, "token": token, "platform": platform, "keys": keys}
        self.load.devices[user, token] = orjson.dumps(device)

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
        devices = any(owner == user for owner, _ in self.load.devices)
        for channel in channels:
            expected = DELIVERED
            if (channel is Channel.SMS and "phone" not in told) or (channel is Channel.PUSH and not devices):
                expected = _suppressed(Reason.NO_ADDRESS)
            elif not mandatory and isinstance(off, dict) and off.get(channel) is False:
                expected = _suppressed(Reason.CHANNEL_OPTED_OUT)
            elif not mandatory and isinstance(category_off, dict) and category in category_off:
                expected = _suppressed(Reason.CATEGORY_OPTED_OUT)
            else:
                expected = self._comes_of(channel, user, told)
            self.load.pairs[notification, channel] = expected

    def _comes_of(self, channel: Channel, user: str, told: dict[str, object]) -> Expected:
        """What comes of a message that goes out."""
        if channel is Channel.WEBHOOK and user in self.gone:
            return REFUSED
        if self.push_url is None:
            return DELIVERED
        if channel is Channel.PUSH and user in self.lost:
            return REFUSED
        if channel is Channel.SMS and told["phone"] == UNDELIVERABLE:
            return BOUNCED
        return DELIVERED

    def _order(self, n: int, user: str) -> None:
        event = self._send(n, user, "shop.order.confirmed", self._an_order(n))
        self._expect(event, "order-confirmed", user, "orders", (Channel.EMAIL, Channel.PUSH))

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
        self._expect(event, "order-shipped", user, "shipping", (Channel.EMAIL, Channel.SMS, Channel.PUSH))

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
        self._expect(event, "order-confirmed", user, "orders", (Channel.EMAIL, Channel.PUSH))
        if self.capped[user] > CAP:
            notification = notification_id(user, SOURCE, event, "order-confirmed")
            for channel in (Channel.EMAIL, Channel.PUSH):
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
        user = self.once.pop(0) if self.once else user
        event = self._send(n, user, "shop.gift.received", {"gift": {"from": f"Friend {n}"}})
        self._expect(event, "gift", user, "gifts", (Channel.PUSH,))
        notification = notification_id(user, SOURCE, event, "gift")
        if (came := self.load.pairs[notification, Channel.PUSH]) is not DELIVERED:
            self.load.pairs[notification, Channel.EMAIL] = DELIVERED
            if came is REFUSED:
                self.load.delayed.add((notification, Channel.EMAIL))

    def _code(self, n: int, user: str) -> None:
        if n % 5 == 0:
            user = self.random.choice([user for user in self.load.users if user.startswith("moved")])
        data: dict[str, object] = {"code": {"digits": f"{self.random.randrange(10**6):06d}", "minutes": 5}}
        event = self._send(n, user, "shop.account.code_requested", data, "-express")
        self._expect(event, "sign-in-code", user, "security", (Channel.SMS,), mandatory=True)

    def _answer(self, n: int, user: str) -> None:
        data: dict[str, object] = {
            "question": {"product": self.random.choice(_ITEMS), "url": f"https://shop.example/questions/{n}"}
        }
        event = self._send(n, user, "shop.question.answered", data)
        self._expect(event, "question-answered", user, "questions", (Channel.WEB, Channel.PUSH))

    def _invoice(self, n: int, user: str) -> None:
        event = self._send(n, user, "shop.invoice.issued", self._an_order(n))
        self._expect(event, "invoice", user, "invoices", (Channel.WEBHOOK, Channel.CHAT))

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
    "shop.account.code_requested": "sign-in-code",
    "shop.question.answered": "question-answered",
    "shop.invoice.issued": "invoice",
}


def _suppressed(reason: Reason) -> Expected:
    return Expected(frozenset({State.SUPPRESSED}), reason)
