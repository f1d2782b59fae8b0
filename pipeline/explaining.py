"""Explaining: finds what stories are told of, over HTTP where a process answers, else on Kafka."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import httpx
import orjson
from aiokafka import TopicPartition

from agents import letters, topics
from agents.catalogue import Catalogue
from pipeline import dead_letters
from pipeline.engine.store import epoch_of
from pipeline.foresight import catalogue_of, records_of
from pipeline.replay import reading
from pipeline.settings import Settings
from pipeline.topics import changelog, partitions
from pipeline.web import story
from pipeline.web.story import Asked, Beside, Explanation, Story
from schemas.ids import hash_in, partition_of
from schemas.kinds import Doubt, State
from tables import history
from tables.history import History

HTTP_SECONDS = 5.0
LETTERS_SECONDS = 20.0
NEWEST = 2_000
"""Dead letters that are looked through, of each partition."""
MOST_LETTERS = 20
MOST_HISTORIES = 5_000
_UNFINISHED = (State.QUEUED, State.SENDING, State.RETRYING, State.FAILED)

Tell = Callable[[str], None]


# -- over HTTP


def address(settings: Settings) -> str:
    """Where a process of ours answers, as the settings have it."""
    host, public = settings.web.host, settings.web.public_url.rstrip("/")
    here = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return public or f"http://{here}:{settings.web.port}"


class NoAnswer(Exception):
    """No process answered as it should; the message says what came."""


def over_http(settings: Settings, method: str, path: str, **params: str | None) -> Any:
    """What a running process answers. Raises NoAnswer, also where no token is set to ask it with."""
    if settings.operator_token is None:
        raise NoAnswer("operator_token is not set")
    token = settings.operator_token.get_secret_value()
    try:
        answer = httpx.request(
            method, f"{address(settings)}/api/v1/{path}", timeout=HTTP_SECONDS,
            params={name: value for name, value in params.items() if value is not None},
            headers={"authorization": f"Bearer {token}"},
        )  # fmt: skip
        if answer.is_success:
            return answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise NoAnswer(f"{address(settings)}: {type(error).__name__}") from None
    raise NoAnswer(f"{address(settings)}: {answer.status_code}")


def ask(settings: Settings, asked: Asked) -> Explanation:
    """The explanation of a running process. Raises NoAnswer, also where it sees but a part."""
    event = None if asked.id is not None else asked.event
    source = None if asked.id is not None else asked.source
    told = over_http(
        settings, "GET", "explain", id=asked.id, source=source, event_id=event, user_id=asked.user
    )
    try:
        if not told["whole"]:
            raise NoAnswer("it holds but a part of status")
        stories = [Story(**{**one, "sentences": tuple(one["sentences"])}) for one in told["stories"]]
        return Explanation(told["found"], tuple(told["sentences"]), tuple(stories))
    except (KeyError, TypeError):
        raise NoAnswer("another version answers") from None


# -- on Kafka


async def read(settings: Settings, asked: Asked, tell: Tell) -> Explanation:
    """The explanation from the changelog of status and the dead letters, wherever its stores are.

    `tell` gets lines of progress.
    """
    found = await histories(settings, asked, tell)
    digests = {digest for one in found for digest in story.digests_of(one)}
    by_id: dict[str, History] = {}
    if digests:
        wanted = _Wanted({history.key(one) for one in digests})
        numbers = {_partition(settings, one) for one in digests}
        by_id = {one["id"]: one for one in await _rows(settings, numbers, wanted, tell)}
    letters_found = await about(settings, asked, found, LETTERS_SECONDS)
    beside = Beside(doubts(await catalogue_of(settings)), by_id, letters_found.found, letters_found.searched)
    return story.explain(asked, found, beside)


async def histories(settings: Settings, asked: Asked, tell: Tell) -> list[History]:
    """The histories of a notification or of an event, from the changelog of status."""
    if asked.id is not None:
        wanted, numbers = _Wanted({history.key(asked.id)}), {_partition(settings, asked.id)}
    else:
        wanted = _Wanted(event=(asked.source, asked.event))
        numbers = set(range(partitions(settings, "status")))
    return await _rows(settings, numbers, wanted, tell)


def _partition(settings: Settings, id: str) -> int:
    return partition_of(hash_in(id), partitions(settings, "status"))


class _Wanted:
    """Which rows are looked for: those of some keys, or histories of one event."""

    def __init__(self, keys: set[bytes] | None = None, event: tuple[str, str] | None = None) -> None:
        self.keys, self.event = keys, event
        self._part = orjson.dumps(event[1]) if event is not None else b""

    def takes(self, key: bytes, value: bytes) -> bool:
        """Whether a row is one of them."""
        if self.keys is not None:
            return key in self.keys
        if not key.startswith(history.NOTIFICATIONS) or self._part not in value:
            return False
        event = orjson.loads(value)["event"]
        return bool(event) and (event["source"], event["id"]) == self.event


async def _rows(settings: Settings, numbers: set[int], wanted: _Wanted, tell: Tell) -> list[History]:
    """The latest of each wanted row in some partitions; a zombie's rows count for nothing."""
    name = settings.kafka.topic_prefix + changelog("status")
    parts = [TopicPartition(name, number) for number in sorted(numbers)]
    async with reading(settings, parts) as consumer:
        first, ends = await consumer.beginning_offsets(parts), await consumer.end_offsets(parts)
    bounds = {part: (first[part], ends[part]) for part in parts}
    epochs: dict[int, int] = {}
    found: dict[bytes, bytes] = {}
    async for record in records_of(settings, bounds, "looking up", tell):
        if (epoch := epoch_of(record)) < epochs.get(record.partition, 0):
            continue
        epochs[record.partition] = epoch
        if record.value is None:
            found.pop(record.key, None)
        elif wanted.takes(record.key, record.value):
            found[record.key] = record.value
    return [orjson.loads(value) for value in islice(found.values(), MOST_HISTORIES)]


# -- beside histories


def doubts(catalogue: Catalogue) -> Mapping[str, Doubt]:
    """The policy of each workflow for calls of which nobody knows whether they got through."""
    return {name: workflow.doubt for name, workflow in catalogue.workflows.items()}


class Found(NamedTuple):
    """Summaries of dead letters; `searched` is None where nothing was looked for, else: to the end?"""

    found: Sequence[dict[str, Any]] = ()
    searched: bool | None = None


async def about(settings: Settings, asked: Asked, known: Sequence[History], seconds: float) -> Found:
    """The dead letters of what is asked for, as far as they are found in that time.

    They are looked for only where they may explain something: nothing is known, or something is not sent.
    """
    meant = story.meant(asked, known)
    wanted = topics_of(asked, meant, came=bool(known))
    if not wanted:
        return Found()
    ids = [one["id"] for one in meant[: story.MOST_STORIES]]
    if asked.id is not None:
        ids = [asked.id]
    event = None if asked.id is not None else (asked.source, asked.event)
    names = [settings.kafka.topic_prefix + topic for topic in wanted]
    found: list[dict[str, Any]] = []
    seen: Counter[tuple[str, int]] = Counter()
    try:
        async with asyncio.timeout(seconds):
            async for letter in dead_letters.read(settings, names, newest=NEWEST):
                seen[letter.topic, letter.partition] += 1
                if len(found) < MOST_LETTERS and (
                    any(letters.is_of(letter, notification=one) for one in ids)
                    or letters.is_of(letter, event=event, user=asked.user)
                ):
                    found.append(letters.summary(letter))
    except TimeoutError:
        return Found(found, False)
    return Found(found, all(count < NEWEST for count in seen.values()))


def topics_of(asked: Asked, meant: Sequence[History], *, came: bool) -> list[str]:
    """The topics of dead letters that may tell more of it; none where nothing is amiss.

    `came`: something is known of the event that is asked for, be it for others.
    """
    if not meant:
        if asked.id is not None:
            return [topics.DEAD_NOTIFICATIONS, topics.DEAD_STATUS, *topics.DEAD_MESSAGES.values()]
        return [topics.DEAD_NOTIFICATIONS] if came else [topics.DEAD_EVENTS, topics.DEAD_NOTIFICATIONS]
    pairs = [pair for one in meant for pair in one["pairs"].values()]
    unfinished = {pair["channel"] for pair in pairs if pair["state"] in _UNFINISHED}
    found = [topic for channel, topic in topics.DEAD_MESSAGES.items() if channel in unfinished]
    if any(pair["state"] == State.SCHEDULED for pair in pairs):  # what goes on when its time has come
        found.append(topics.DEAD_NOTIFICATIONS)
    return found
