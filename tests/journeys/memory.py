"""The pipeline in memory: rows in a dict, topics as lists, a provider that notes what it is given."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import orjson

from agents import broadcast, deliver, intake, know, plan, redrive, remember, report, signals, stops, topics
from agents.catalogue import Catalogue
from agents.letters import Letter
from agents.plan import Policy, Work
from agents.sending import Send
from schemas import outcome
from schemas.event import Unreadable
from schemas.message import Message, Stop
from schemas.notification import FanOut, Signal
from schemas.outcome import Outcome
from tables import waits
from tables.claims import Origin

NOON = 1_790_000_000_000
"""The broker's time in milliseconds: some day in 2026."""


class MemoryRows(dict[bytes, bytes]):
    """Rows in a dict."""

    def put(self, key: bytes, value: bytes) -> None:
        self[key] = value

    def delete(self, key: bytes) -> None:
        self.pop(key, None)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        yield from sorted((key, value) for key, value in self.items() if key.startswith(prefix))

    def page(self, prefix: bytes, after: bytes, limit: int) -> Iterator[tuple[bytes, bytes]]:
        return islice(((key, value) for key, value in self.scan(prefix) if key > after), limit)


class NotingProvider:
    """Answers every call with `answer`, and keeps what it was asked to send."""

    name = kind = "noting"

    def __init__(self, answer: Outcome | None = None, *, honours_keys: bool = False) -> None:
        self.answer, self.honours_keys = answer or outcome.sent("p-1"), honours_keys
        self.calls: list[tuple[str, Message]] = []
        #: what is answered for a target, where it is not `answer`
        self.answers: dict[str, Outcome] = {}

    def send(self, message: Message, key: str) -> Outcome:
        self.calls.append((key, message))
        return self.answers.get(message.target, self.answer)


class One:
    """The only provider, always ready."""

    def __init__(self, name: str, honours_keys: bool) -> None:
        self.name, self.keys = name, honours_keys

    def honours_keys(self, provider: str) -> bool:
        return self.keys and provider == self.name

    def settles_after(self, provider: str) -> float:
        return 0.0

    def key_window(self, provider: str) -> float | None:
        return None

    def choose(self, after: str | None = None, only: str | None = None) -> str | float | None:
        return self.name if only in {None, self.name} else None


class Pipeline:
    """Core, delivery and status over one partition each; every record is a unit of its own."""

    def __init__(
        self, catalogue: Catalogue, provider: NotingProvider | None = None, policy: Policy | None = None
    ) -> None:
        self.catalogue, self.provider = catalogue, provider or NotingProvider()
        self.core, self.status = MemoryRows(), MemoryRows()
        self.delivery: defaultdict[str, MemoryRows] = defaultdict(MemoryRows)
        #: what the channels have not read yet, while they are paused
        self.waiting: list[tuple[Send, Origin]] = []
        self.is_paused = False
        self.topics: defaultdict[str, list[Send]] = defaultdict(list)
        self.places: dict[tuple[str, int], Origin] = {}
        self.unit, self.now = 0, NOON
        self.policy = policy or Policy()
        #: the providers that a redrive may name
        self.others: dict[str, NotingProvider] = {}

    def user(self, user_id: str, **fields: Any) -> None:
        value = orjson.dumps({"user_id": user_id, **fields})
        self._know(topics.USERS, user_id.encode(), value)

    def preferences(self, user_id: str, **fields: Any) -> list[Send]:
        value = orjson.dumps({"user_id": user_id, **fields})
        return self._know(topics.PREFERENCES, user_id.encode(), value)

    def erase(self, user_id: str) -> list[Send]:
        return self._know(topics.USERS, user_id.encode(), None)

    def _know(self, topic: str, key: bytes, value: bytes | None) -> list[Send]:
        """Tells core of a person, and follows what that stops."""
        return list(self._follow(know.know(topic, key, value, self.now, self.core)))

    def device(self, user_id: str, token: str, platform: str = "android") -> None:
        value = orjson.dumps({"user_id": user_id, "token": token, "platform": platform})
        key = f"{user_id}\0{token}".encode()
        self._know(topics.DEVICES, key, value)

    def send(self, send: Send) -> list[Send]:
        """Puts a record on its topic and follows it; returns everything that was sent on the way."""
        return list(self._follow([send]))[1:]

    def replay(self, topic: str) -> None:
        """Reads all records of a topic again, as they stand there."""
        for offset, send in enumerate(list(self.topics[topic])):
            origin = self.places[topic, offset]
            handled = self._plan if topic.startswith(topics.NOTIFICATIONS) else self._take_in
            list(self._follow(handled(send, origin)))

    def event(self, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> list[Send]:
        """Takes an event in, follows it to its end, and returns everything that was sent on the way."""
        return list(self._follow([Send(topics.EVENTS, b"", value, headers=list(headers))]))[1:]

    def signal(self, signal: Signal) -> list[Send]:
        """Tells core something, follows it to its end, and returns everything that was sent on the way."""
        send = Send(topics.NOTIFICATIONS, signal.user_id.encode(), signal.to_json())
        return list(self._follow([send]))[1:]

    def pass_time(self, milliseconds: int) -> list[Send]:
        """Lets time pass: what falls due comes up at its moment. Returns all that was sent."""
        end, sent = self.now + milliseconds, []
        while True:
            rows = list(self.core.scan(waits.PREFIX))
            if not rows or (due := waits.due_of(rows[0][0])) > end:
                break
            self.now = max(self.now, due)
            [(_, _, wait)] = waits.read(rows[:1])
            headers = [*wait.headers, ("due", b"%d" % due)]
            sent += list(self._follow([Send(wait.topic, wait.key, wait.value, headers=headers)]))[1:]
        self.now = max(self.now, end)
        return sent

    def letter(self, topic: str, offset: int = -1) -> Letter:
        """A dead letter, the last one unless told otherwise."""
        offset %= len(self.topics[topic])
        send = self.topics[topic][offset]
        return Letter(topic, topic, 0, offset, self.now, send.key, send.value, send.headers or [])

    def redrive(self, letter: Letter, to: str | None = None) -> list[Send]:
        """Puts a dead letter back, for a provider if one is named, follows it to its end, and returns
        everything that was sent on the way."""
        known = {letter.told("source-topic"): 1}
        record = redrive.back(letter, known, None if to is None else redrive.To(to, (letter.plain,)))
        first = Send(record.topic, record.key or b"", record.value, headers=record.headers)
        return list(self._follow([first]))[1:]

    def _follow(self, sends: Iterable[Send]) -> Iterator[Send]:
        for send in sends:
            origin = self._place(send.topic)
            self.topics[send.topic].append(send)
            yield send
            if send.topic.startswith(topics.NOTIFICATIONS):
                yield from self._follow(self._plan(send, origin))
            elif send.topic.startswith(topics.EVENTS):
                yield from self._follow(self._take_in(send, origin))
            elif send.topic == topics.CONTENTS:
                found = remember.remember_contents(send.value, self.status)
                if found is not None:
                    self.unit += 1
                    yield from self._follow(report.hear(found, origin, self.status, self.unit, self.unit - 1))
            elif send.topic == topics.DELIVERY_STATUS:
                status, _ = remember.remember_status(send.value, self.now, self.status)
                yield from self._follow(remember.signals(status, self.status))
                self.unit += 1
                yield from self._follow(report.catch_up(status, self.status, self.unit, self.unit - 1))
            elif "-notifications" in send.topic:
                if self.is_paused:
                    self.waiting.append((send, origin))
                else:
                    yield from self._follow(self._deliver(send, origin))

    def _take_in(self, send: Send, origin: Origin) -> Sequence[Send]:
        headers = send.headers or []
        try:
            return intake.take_in(send.value, headers, origin, self.catalogue)
        except Unreadable as error:
            return [intake.dead(send.value, send.key, error, origin, topics.DEAD_EVENTS, headers)]

    def _plan(self, send: Send, origin: Origin) -> Sequence[Send]:
        self.unit += 1
        found = plan.read(send.value)
        work = Work(self.core, self.unit, self.unit - 1, self.catalogue, policy=self.policy)
        if isinstance(found, Signal):
            return signals.hear(found, origin, work)
        due = dict(send.headers or []).get("due")
        moment = None if due is None else int(due)
        if isinstance(found, FanOut):
            return broadcast.fan_out(found, origin, work, moment)
        return plan.plan(found, origin, work, moment)

    def _deliver(self, send: Send, origin: Origin) -> Iterator[Send]:
        parcel = deliver.receive(send.value, origin, send.headers or [])
        if isinstance(parcel, Stop):
            yield from stops.hear(parcel, self.delivery[_channel(send)])
            return
        rows = self.delivery[_channel(send)]
        provider = self.others.get(parcel.provider or "", self.provider)
        wait: float | None = 0.0
        while wait is not None:
            one = One(provider.name, provider.honours_keys)
            admitted = deliver.admit(parcel, rows, self.now, one)
            yield from admitted.sends
            if admitted.attempt is None:
                return
            answer = provider.send(parcel.message, parcel.key)
            sends, wait = deliver.settle(
                parcel, admitted.attempt, answer, rows, self.now,
                honours_keys=provider.honours_keys, jitter=0.5,
            )  # fmt: skip
            yield from sends

    def resume(self) -> list[Send]:
        """Lets the channels read what waits, express first and there what ranks first."""
        self.is_paused, waiting, self.waiting = False, self.waiting, []
        waiting.sort(key=lambda one: (not one[0].topic.endswith(topics.EXPRESS), not one[0].headers))
        return [send for one, origin in waiting for send in self._follow(self._deliver(one, origin))]

    def deliver_again(self, channel: str) -> list[Send]:
        """Lets a channel read all of its topics once more, and follows what comes of it."""
        found: list[Send] = []
        for topic in (f"{channel}-notifications{topics.EXPRESS}", f"{channel}-notifications"):
            for offset, send in enumerate(list(self.topics[topic])):
                found += self._follow(self._deliver(send, self.places[topic, offset]))
        return found

    def _place(self, topic: str) -> Origin:
        self.now += 1
        origin = Origin(topic, 0, len(self.topics[topic]), self.now)
        self.places[topic, origin.offset] = origin
        return origin


def _channel(send: Send) -> str:
    """The channel whose topic a record is on."""
    return send.topic.partition("-")[0]
