"""Receiving: a verified callback becomes reports on `contents` and signals to core, before it is answered."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence

from agents import topics
from agents.report import sending
from agents.sending import Send
from pipeline.metrics import Metrics
from pipeline.receipts.receipt import TOLERANCE, Callback, Forged, Receipt, Stale, Unclear, Wish, Word, told
from pipeline.receipts.vendors import Calling
from schemas.ids import phone_id
from schemas.kinds import Channel, Priority, Reason, State
from schemas.notification import LIFT, SUPPRESS, Signal
from schemas.report import NotOurs, Report, referred

MOST_TOKENS = 20_000
MOST_ID = 200

Sender = Callable[[Sequence[Send]], Awaitable[None]]
"""Returns when the broker has them. Raises BrokerAway."""


class Unknown(Exception):
    """No provider that calls back has this name."""


class Receiving:
    """Takes the callbacks of the providers that are believed, by name."""

    def __init__(self, calling: Mapping[str, Calling], send: Sender, metrics: Metrics) -> None:
        self._calling, self._send, self._metrics = calling, send, metrics
        self._seen = Seen()

    async def take(self, name: str, callback: Callback) -> int:
        """The status to answer with, once the broker has what was told.

        Raises Unknown, Forged, Stale, Unclear, Later or BrokerAway.
        """
        of = self._calling.get(name)
        if of is None:
            raise Unknown(name)
        try:
            await of.vendor.verify(callback)
            words = of.vendor.read(callback)
            token = of.vendor.once(callback)
        except (Forged, Unclear) as error:
            self._count(name, "stale" if isinstance(error, Stale) else type(error).__name__.lower())
            raise
        if token is not None and not self._seen.begin(f"{name} {token}", callback.now):
            self._count(name, "repeated")
            return of.vendor.status
        try:
            await of.vendor.acknowledge(callback)
            if sends := [send for word in words for send in self._sends(name, of.channel, word)]:
                await self._send(sends)
        except BaseException:
            if token is not None:
                self._seen.forget(f"{name} {token}")  # so that it counts when it is sent again
            raise
        return of.vendor.status

    def _sends(self, name: str, channel: Channel, word: Word) -> Sequence[Send]:
        if isinstance(word, Wish):
            self._count(name, "stop" if word.stop else "start")
            return [of_wish(word)]
        try:
            found = of_receipt(word, name, channel)
        except NotOurs:
            self._count(name, "not_ours")
            return []
        self._count(name, word.state)
        return [found]

    def _count(self, name: str, outcome: str) -> None:
        self._metrics.receipts.labels(name, outcome).inc()


def of_receipt(receipt: Receipt, provider: str, channel: Channel) -> Send:
    """The report of a receipt. Raises NotOurs."""
    notification, target, step = referred(receipt.reference)
    id = receipt.provider_message_id
    return sending(
        Report(
            notification_id=notification, channel=channel, target_id=target, step=step, state=receipt.state,
            reason=Reason.UNDELIVERED if receipt.state is State.FAILED else None, at=receipt.at,
            provider=provider, provider_message_id=id[:MOST_ID] if id else None, detail=told(receipt),
        )
    )  # fmt: skip


def of_wish(wish: Wish) -> Send:
    """The word to every partition of core, for nobody knows whose number it is."""
    signal = Signal(
        kind=SUPPRESS if wish.stop else LIFT, id="", user_id="", channel=Channel.SMS,
        target_id=phone_id(wish.phone), reason=State.UNSUBSCRIBED,
    )  # fmt: skip
    return Send(topics.NOTIFICATION_LANES[Priority.HIGH], b"", signal.to_json(), everywhere=True)


class Seen:
    """Which requests have come, for as long as a copy of one would pass; at the most so many."""

    def __init__(self, most: int = MOST_TOKENS) -> None:
        self._tokens: OrderedDict[str, float] = OrderedDict()
        self._most = most

    def begin(self, token: str, now: float) -> bool:
        """Whether it is the first of its kind."""
        while self._tokens and next(iter(self._tokens.values())) < now - 2 * TOLERANCE:
            self._tokens.popitem(last=False)
        if token in self._tokens:
            return False
        self._tokens[token] = now
        if len(self._tokens) > self._most:
            self._tokens.popitem(last=False)
        return True

    def forget(self, token: str) -> None:
        """Lets it count when it comes again."""
        self._tokens.pop(token, None)
