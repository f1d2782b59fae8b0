"""Dead letters and replays for programs: `/api/v1/dlq`, `/api/v1/replay`."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, field_validator

from agents.letters import DEAD, whole
from agents.narrow import Narrowing
from pipeline.dead_letters import DeadLetterError, UnknownProvider
from pipeline.foresight import Forecast
from pipeline.narrowed import MOST_GENERATION, Narrowed
from pipeline.narrowed import MOST_NAMED as MOST_NARROWED
from pipeline.replay import READS, Misused
from pipeline.replay import Asked as AskedFor
from pipeline.replays import Request
from pipeline.web import letters as of_letters
from pipeline.web.letters import (
    MOST_CODES,
    MOST_NAMED,
    MOST_REDRIVEN,
    BadCursor,
    Filter,
    Redriven,
    listed,
)  # fmt: skip
from pipeline.web.problem import Wrong, described
from pipeline.web.repairs import Repairs
from pipeline.web.replays import blamed
from schemas.dead_letter import MAX_CODE, MAX_PROVIDER
from schemas.event import MAX_NAME, Text, UserText, milliseconds
from schemas.times import Time

MOST = 500
REPLAY_BYTES = 2 << 20
"""The body of a replay, in proportion to what it may name: some 200 bytes for each."""
CURSOR = 12 << 10
NAME = 300
CHOOSING = ("topic", "reason", "provider", "code")
"""The fields by which letters are chosen; one is needed."""


class Event(BaseModel):
    """The upstream event that a letter is, as far as it can be read; addresses in it are masked."""

    source: str
    id: str


class DeadLetter(BaseModel):
    """A dead letter, without its bytes and without addresses. `letter` is its name.

    `at` is when it came to its topic, `failed_at` the time of the record that failed, `source` its place.
    `provider` is the one that was called last, `code` what the vendor calls what befell it.
    """

    letter: str
    topic: str
    partition: int
    offset: int
    at: str
    failed_at: str
    reason: str
    error: str
    attempts: str
    provider: str | None
    code: str | None
    source: str | None
    notification_id: str | None
    event: Event | None


class DeadLetters(BaseModel):
    """Dead letters, the newest first. `next_cursor` asks for those behind; null: there are none.

    A page may hold fewer letters than its limit, or none, and still have a cursor: what it reads is bounded.
    `held` says how many there are on each topic that holds any, whatever was asked for.
    """

    letters: list[DeadLetter]
    next_cursor: str | None
    held: dict[str, int]


class WholeLetter(DeadLetter):
    """A dead letter with its headers and its bytes, addresses and all."""

    headers: list[tuple[str, str]]
    key: str | None
    value: str | None
    value_base64: str | None


class Asked(BaseModel):
    """The body of a request; fields that are not known are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Code = Annotated[str, Field(min_length=1, max_length=MAX_CODE)]
Codes = Annotated[
    list[Code],
    BeforeValidator(
        lambda given: [given] if isinstance(given, str) else given, json_schema_input_type=Code | list[Code]
    ),
    Field(min_length=1, max_length=MOST_CODES),
]


class RedriveRequest(Asked):
    """Letters by their names, or those of a topic, a reason, a provider, a code of its vendor's (one or
    several, which may end in `*`), or of all that are given; `since` and `until` narrow these.

    `to_provider` is to send them now: it sends nothing that another provider has sent or may have sent.

    After `limit` letters, or some 20 s, it stops: `next_cursor` of the answer, given back with the same
    fields, goes on.
    """

    letters: list[Annotated[str, Field(max_length=NAME)]] | None = Field(
        None, min_length=1, max_length=MOST_NAMED
    )
    topic: str | None = Field(None, max_length=NAME)
    reason: str | None = Field(None, min_length=1, max_length=NAME)
    provider: str | None = Field(None, min_length=1, max_length=MAX_PROVIDER)
    code: Codes | None = None
    to_provider: str | None = Field(None, min_length=1, max_length=MAX_PROVIDER)
    since: Time | None = None
    until: Time | None = None
    limit: int = Field(MOST_REDRIVEN, ge=1, le=MOST_REDRIVEN)
    cursor: str | None = Field(None, max_length=CURSOR)
    dry_run: StrictBool = False


class NotRedriven(BaseModel):
    """A letter that stays where it is."""

    letter: str
    why: str


class RedriveAnswer(BaseModel):
    """How many letters went back (or would). `failures` counts the others, `failed` names the first."""

    dry_run: bool
    redriven: int
    failures: int
    failed: list[NotRedriven]
    next_cursor: str | None


class EventNamed(Asked):
    """An upstream event by its identity."""

    source: Text
    id: Text


OneOrMore = Annotated[
    list[EventNamed],
    BeforeValidator(
        lambda given: [given] if isinstance(given, dict) else given,
        json_schema_input_type=EventNamed | list[EventNamed],
    ),
    Field(min_length=1, max_length=MOST_NARROWED),
]


class ReplayRequest(Asked):
    """A group, or one partition of a topic, that is to begin anew: a dry run, unless `dry_run` is false.

    `to`: earliest, latest, a time (RFC 3339), or an offset of the partition. Narrowed by `event` (one or
    several), `ids`, `users` or `reasons` (several of one kind are alternatives, several kinds must agree) the
    group stays where it is, and only what is chosen of what it has read comes up again; `to` is from where,
    and earliest where it is left out. What was sent stays sent, but with `resend`: that sends the chosen ones
    anew, each once by its `generation`, however often it is asked for. Give the one that the dry run answers,
    or any that was not used before; where none is given each request is another.

    All lists together may name 10,000, and the body has at most 2 MiB: some 200 bytes for each.
    """

    group: str | None = Field(None, json_schema_extra={"enum": [*READS, None]})
    topic: str | None = Field(None, max_length=NAME)
    partition: int | None = Field(None, ge=0, le=1_000_000)
    to: str | None = Field(None, min_length=1, max_length=64, pattern=r"^[ -~]+$")
    event: OneOrMore | None = None
    ids: list[Text] | None = Field(None, min_length=1, max_length=MOST_NARROWED)
    users: list[UserText] | None = Field(None, min_length=1, max_length=MOST_NARROWED)
    reasons: list[Annotated[str, Field(min_length=1, max_length=MAX_NAME)]] | None = Field(
        None, min_length=1, max_length=MOST_NARROWED
    )
    resend: StrictBool = False
    generation: int | None = Field(None, json_schema_extra={"minimum": 1, "maximum": MOST_GENERATION})
    dry_run: StrictBool = True

    @field_validator("group")
    @classmethod
    def _is_ours(cls, group: str | None) -> str | None:
        if group is not None and group not in READS:
            raise ValueError(f"no such group; there are {', '.join(READS)}")
        return group

    @property
    def narrowing(self) -> Narrowing:
        """What it is narrowed to."""
        return Narrowing(
            frozenset((event.source, event.id) for event in self.event or ()),
            *(frozenset(some or ()) for some in (self.ids, self.users, self.reasons)),
        )


class Place(BaseModel):
    """Where a partition would begin: at `to` of `end`. `committed` is null where the group has not begun."""

    topic: str
    partition: int
    committed: int | None
    to: int
    end: int


class Replayed(BaseModel):
    """A replay: offsets that would be read `again`, and those that would be passed over (`left_out`)."""

    model_config = ConfigDict(extra="allow")

    group: str
    again: int
    left_out: int
    partitions: list[Place]


class ReplayForeseen(Replayed):
    """What would come of it. Nothing was asked of the group.

    Of the notifications or messages that were looked at: *nothing* would be sent for those that were decided
    or called already; those that failed are tried *afresh*, *new* ones are those that were never decided, and
    *doubtful* a call that nobody saw end. `too_many` were only counted.
    """

    dry_run: Literal[True]
    looked_at: int
    nothing: int
    afresh: int
    new: int
    doubtful: int
    afresh_because: dict[str, int]
    too_old: int
    new_of: dict[str, int]
    ignored: int
    unreadable: int
    too_many: int


class Range(BaseModel):
    """The part of a partition that was chosen from."""

    model_config = ConfigDict(serialize_by_alias=True)

    topic: str
    partition: int
    from_: int = Field(alias="from")
    to: int


class ReplayNarrowed(BaseModel):
    """What was chosen of what a group has read, and what came of it, or would: no group is moved.

    Of the `chosen`, `again` come up again, in so many `copies`; of these `nothing` to `too_old` tell what was
    known before, as for a dry run of the whole. `expired` ones are not copied. With `resend` those that are
    sent `anew` go out as `generation`, and none of those that went out by it before.
    """

    dry_run: bool
    request_id: str | None
    group: str
    partitions: list[Range]
    chosen: int
    nothing: int
    afresh: int
    new: int
    doubtful: int
    too_old: int
    afresh_because: dict[str, int]
    new_of: dict[str, int]
    expired: int
    again: int
    copies: int
    generation: int | None = None
    anew: int | None = None
    unreadable: int


class ReplayAsked(Replayed):
    """The group is asked: its members drain, go to these places and work on."""

    dry_run: Literal[False]
    request_id: str


_ANSWERS: dict[int | str, dict[str, Any]] = {
    401: described("Not signed in"),
    422: described("A field cannot be used; `errors` names it"),
    503: described("No broker answers, or it takes too long; `detail` says which"),
}


def router(repairs: Repairs) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/api/v1", responses=_ANSWERS)
    _add_letters(routes, repairs.letters)
    _add_replay(routes, repairs)
    return routes


def _add_letters(routes: APIRouter, letters: of_letters.Letters) -> None:
    @routes.get("/dlq")
    async def dead_letters(
        topic: Annotated[str | None, Query(max_length=NAME, description="such as dlq-email")] = None,
        reason: Annotated[str | None, Query(min_length=1, max_length=NAME)] = None,
        provider: Annotated[
            str | None, Query(min_length=1, max_length=MAX_PROVIDER, description="that was called last")
        ] = None,
        code: Annotated[
            list[Code] | None,
            Query(
                max_length=MOST_CODES,
                description="of the vendor's, such as 550 or `HTTP 4*`; several are alternatives",
            ),
        ] = None,
        since: Annotated[Time | None, Query(description="came at this time or later")] = None,
        until: Annotated[Time | None, Query(description="came before this time")] = None,
        limit: Annotated[int, Query(ge=1, le=MOST)] = 50,
        cursor: Annotated[
            str | None, Query(max_length=CURSOR, description="`next_cursor` of the page before")
        ] = None,
    ) -> DeadLetters:
        """Dead letters, the newest first, without their bytes and without addresses."""
        wanted = Filter(topic, reason, _ms(since), _ms(until), provider, tuple(code or ()))
        try:
            page = await letters.page(wanted, limit, cursor)
        except KeyError:
            raise _no_topic(topic) from None
        except BadCursor as error:
            raise Wrong(422, str(error), "cursor") from None
        return DeadLetters(
            letters=[DeadLetter.model_validate(one) for one in page.letters], next_cursor=page.cursor,
            held=dict(page.held),
        )  # fmt: skip

    @routes.get("/dlq/{letter}", responses={404: described("There is no such letter")})
    async def dead_letter(letter: str) -> WholeLetter:
        """One letter with its headers and the original bytes, addresses and all."""
        try:
            found = await letters.letter(letter)
        except KeyError:
            raise Wrong(404, "that is no name of a letter: they are like dlq-email-0-17") from None
        except DeadLetterError as error:
            raise Wrong(404, str(error)) from None
        return WholeLetter.model_validate({**listed(found), **whole(found)})

    @routes.post("/dlq/redrive")
    async def redrive(asked: RedriveRequest) -> RedriveAnswer:
        """Puts letters back on the topics that they came from. What was sent is not sent again."""
        if asked.letters is not None:
            given = asked.model_fields_set - {"letters", "dry_run", "to_provider"}
            if given:
                raise Wrong(422, "letters stands alone, or with dry_run and to_provider", *sorted(given))
            return _answer(await _named(letters, asked, asked.letters))
        if all(getattr(asked, name) is None for name in CHOOSING):
            told = "say which: letters, or a topic, a reason, a provider or a code"
            raise Wrong(422, told, "letters", *CHOOSING)
        wanted = Filter(
            asked.topic, asked.reason, _ms(asked.since), _ms(asked.until), asked.provider,
            tuple(asked.code or ()),
        )  # fmt: skip
        try:
            found = await letters.redrive(
                wanted, dry_run=asked.dry_run, limit=asked.limit, cursor=asked.cursor,
                to_provider=asked.to_provider,
            )  # fmt: skip
        except KeyError:
            raise _no_topic(asked.topic) from None
        except UnknownProvider as error:
            raise Wrong(422, str(error), "to_provider") from None
        except BadCursor as error:
            raise Wrong(422, str(error), "cursor") from None
        return _answer(found)


async def _named(letters: of_letters.Letters, asked: RedriveRequest, names: list[str]) -> Redriven:
    try:
        return await letters.redrive_named(names, dry_run=asked.dry_run, to_provider=asked.to_provider)
    except UnknownProvider as error:
        raise Wrong(422, str(error), "to_provider") from None
    except KeyError as error:
        fields = [f"letters.{n}" for n, name in enumerate(names) if name == error.args[0]]
        raise Wrong(422, "no name of a letter: they are like dlq-email-0-17", *fields) from None


def _add_replay(routes: APIRouter, repairs: Repairs) -> None:
    replays = repairs.replays

    @routes.post(
        "/replay",
        max_body_size=REPLAY_BYTES,
        responses={
            413: described(f"The body is larger than {REPLAY_BYTES} bytes"),
            202: {
                "model": ReplayAsked | ReplayNarrowed,
                "description": "The group is asked to begin there, or what was chosen is copied for it",
            },
        },
    )
    async def replay(
        asked: ReplayRequest, response: Response
    ) -> ReplayForeseen | ReplayAsked | ReplayNarrowed:
        """Lets a group begin anew at another place, or brings up again what is chosen of what it has read.
        What was sent stays sent, unless it is resent. A dry run by default."""
        if (asked.group is None) == (asked.topic is None):
            raise Wrong(422, "give group, or topic and partition", "group", "topic")
        if (asked.topic is None) != (asked.partition is None):
            raise Wrong(422, "topic and partition go together", "topic", "partition")
        request = Request(
            asked.group, asked.topic, asked.partition, asked.to, asked.narrowing, asked.resend,
            asked.generation, asked.dry_run,
        )  # fmt: skip
        try:
            resolved = await replays.resolve(request)
            if asked.dry_run:
                foreseen = await replays.foresee(resolved)
                return _narrowed(foreseen) or ReplayForeseen.model_validate(foreseen.figures)
            done = await replays.do(resolved)
        except Misused as error:
            raise _blamed(asked, error) from None
        response.status_code = 202
        return _narrowed(done) or ReplayAsked.model_validate({"dry_run": False, **done.figures})


def _narrowed(found: Forecast | AskedFor | Narrowed) -> ReplayNarrowed | None:
    return ReplayNarrowed.model_validate(found.figures) if isinstance(found, Narrowed) else None


def _blamed(asked: ReplayRequest, error: Misused) -> Wrong:
    """What is wrong, with the fields of the request that are to blame, to the item of a list."""
    fields, detail, value = blamed(error)
    listed: dict[str, list[str] | None] = {"ids": asked.ids, "reasons": asked.reasons}
    at = [
        f"{field}.{some.index(value)}" if value is not None and (some := listed.get(field)) and value in some
        else field
        for field in fields
    ]  # fmt: skip
    return Wrong(422, detail, *at)


def _ms(moment: datetime | None) -> int | None:
    at = milliseconds(moment)
    return None if at is None else max(0, at)


def _no_topic(topic: str | None) -> Wrong:
    return Wrong(422, f"{topic}: no topic of dead letters; there are {', '.join(DEAD)}", "topic")


def _answer(found: Redriven) -> RedriveAnswer:
    return RedriveAnswer(
        dry_run=found.dry_run, redriven=found.redriven, failures=found.failures, next_cursor=found.cursor,
        failed=[NotRedriven(letter=one.letter, why=one.why or "") for one in found.failed],
    )  # fmt: skip
