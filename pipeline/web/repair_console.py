"""Dead letters and replays for people: `/console/dlq`, `/console/replay`; what changes anything is a form."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from agents import letters as of_letters
from agents import topics
from agents.letters import DEAD, Letter
from agents.narrow import Narrowing
from pipeline import replays
from pipeline.dead_letters import DeadLetterError, UnknownProvider
from pipeline.narrowed import MOST_GENERATION, Narrowed
from pipeline.replay import MAX_DIGITS, READS, Asked, Misused
from pipeline.replays import Resolved
from pipeline.web.apart import Away
from pipeline.web.console import PAGE, Pages, with_query
from pipeline.web.forms import Unasked, form
from pipeline.web.letters import MOST_CODES, BadCursor, Filter, Redriven, listed, says
from pipeline.web.repairs import Repairs
from pipeline.web.replays import Blame, blamed, packed, unpacked
from pipeline.web.session import Sessions
from schemas.event import milliseconds

SHOWN_CHARS = 20_000
SHOWN_FAILED = 20
MOST_TO = 64
MOST_SEALED = 48 << 10
"""Of a dry run in a form, which as a whole may have BODY_BYTES."""
FILTERS = ("topic", "reason", "provider", "code", "since", "until")
LABELS = {
    "group": "Group", "to": "Begin at", "source": "Source of the event", "event": "Id of the event",
    "ids": "Notifications", "users": "Users", "reasons": "Reasons", "resend": "Send them anew",
    "generation": "Generation",
}  # fmt: skip
"""The fields of the form of replays."""
TYPED = tuple(LABELS)
FILLED = frozenset(TYPED) - {"resend", "generation"}
"""What an address may fill in."""
NARROWED = ("event", "ids", "users", "reasons")
_DONE, _ASK, _ASKED = "redriven", "replay resolved", "replay asked"


def letter_url(letter: str) -> str:
    """The page of a dead letter."""
    return f"/console/dlq/{quote(letter, safe='')}"


def replay_url(letter: Letter, told: Mapping[str, Any]) -> str | None:
    """The form of replays for what a letter is about, as `listed` tells it; None where it names nothing.

    Of a channel's letter it is that channel which would call again.
    """
    channel = next((str(name) for name, topic in topics.DEAD_MESSAGES.items() if topic == letter.plain), "")
    if id_ := told["notification_id"]:
        return with_query("/console/replay", group=channel, ids=id_)
    if event := told["event"]:
        return with_query("/console/replay", group=channel, source=event["source"], event=event["id"])
    return None


def router(repairs: Repairs, pages: Pages, sessions: Sessions) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/console", include_in_schema=False, default_response_class=HTMLResponse)
    pages.add_filters(letter_url=letter_url)
    _add_letters(routes, repairs, pages, sessions)
    _add_replay(routes, repairs, pages, sessions)
    return routes


def _add_letters(routes: APIRouter, repairs: Repairs, pages: Pages, sessions: Sessions) -> None:
    letters = repairs.letters

    def known(topic: str) -> list[str]:
        """The providers of a topic's channel, or of all; none of what is no topic."""
        try:
            return letters.providers(topic or None)
        except KeyError:
            return []

    @routes.get("/dlq")
    async def dead_letters(
        request: Request,
        topic: str = "",
        reason: str = "",
        provider: str = "",
        code: str = "",
        since: str = "",
        until: str = "",
        cursor: str = "",
        done: str = "",
    ) -> Response:
        asked = {
            "topic": topic, "reason": reason, "provider": provider, "code": code, "since": since,
            "until": until,
        }  # fmt: skip
        wanted, wrong = read_filter(asked)
        page = None
        if not wrong:
            try:
                page = await letters.page(wanted, PAGE, cursor or None)
            except KeyError:
                wrong = {"topic": "There is no such topic of dead letters."}
            except BadCursor:
                return pages.missing(
                    request, "No such page", "The address is not one that this list gave.", 422
                )
        return pages.page(
            request, "dlq", 422 if wrong else 200, page=page, counts=await letters.counts(), asked=asked,
            wrong=wrong, cursor=cursor, topics=DEAD, providers=known(topic),
            done=sessions.unseal(_DONE, done) if done else None,
        )  # fmt: skip

    @routes.get("/dlq/{name}")
    async def dead_letter(request: Request, name: str, done: str = "") -> Response:
        try:
            found = await letters.letter(name)
        except KeyError:
            return pages.missing(request, "No such letter", f"“{name}” is no name of a dead letter.")
        except DeadLetterError as error:
            return pages.missing(
                request, "No such letter", f"{error}. It was deleted, or longer ago than it is kept."
            )
        told = listed(found)
        return pages.page(
            request, "letter", told=told, says=says(found.told("reason")), parts=_parts(found),
            replay_url=replay_url(found, told), providers=letters.providers(found.topic),
            done=sessions.unseal(_DONE, done) if done else None,
        )  # fmt: skip

    @routes.post("/dlq/redrive")
    async def redrive(request: Request) -> Response:
        """One letter goes back at once; those of a filter are counted first, and then asked for."""
        try:
            sent = await form(request, sessions)
        except Unasked as error:
            return pages.refused(request, error)
        asked = {name: sent.text(name) for name in FILTERS}
        wanted, wrong = read_filter(asked)
        letter, cursor, to = sent.text("letter"), sent.text("cursor"), sent.text("to_provider") or None
        if wrong or not (letter or wanted.topic or wanted.said.asks):
            which = "Say which: those of a topic, a reason, a provider or a code."
            return pages.missing(request, "That cannot be asked", which, 422)
        try:
            if letter:
                done = await letters.redrive_named([letter], dry_run=False, to_provider=to)
            elif not cursor:
                cursor = await letters.resolve(wanted) or ""
                found = (
                    await letters.redrive(wanted, dry_run=True, cursor=cursor, to_provider=to)
                    if cursor
                    else None
                )
                return pages.page(
                    request, "redrive", found=found, asked=asked, cursor=cursor, most=SHOWN_FAILED, to=to
                )
            else:
                done = await letters.redrive(wanted, dry_run=False, cursor=cursor, to_provider=to)
        except UnknownProvider as error:
            return pages.missing(request, "That cannot be asked", f"{error}.", 422)
        except (KeyError, BadCursor):
            return pages.missing(
                request, "That cannot be asked", "There is no such letter, topic or place.", 422
            )
        back = letter_url(letter) if letter else "/console/dlq"
        fields = {} if letter else asked
        note = sessions.seal(_DONE, _note(done))
        return RedirectResponse(with_query(back, **fields, done=note), 303)


def _note(done: Redriven) -> dict[str, Any]:
    failed = done.failed[0] if done.failed else None
    return {
        "redriven": done.redriven, "failures": done.failures, "left": done.cursor is not None,
        "letter": failed.letter if failed else None, "why": (failed.why or "")[:500] if failed else None,
    }  # fmt: skip


def _parts(letter: Letter) -> dict[str, Any]:
    """A letter's headers, key and bytes as a page shows them: each as text that gives no orders, cut off."""

    def shown(value: bytes | None) -> str | None:
        return None if value is None else of_letters.escaped(of_letters.text(value[:SHOWN_CHARS]))

    value = letter.value
    return {
        "headers": [(of_letters.escaped(name), shown(told or b"")) for name, told in letter.headers],
        "key": shown(letter.key), "value": shown(value), "size": len(value or b""),
        "left_out": max(0, len(value or b"") - SHOWN_CHARS),
    }  # fmt: skip


def read_filter(asked: dict[str, str]) -> tuple[Filter, dict[str, str]]:
    """What a form of filters means, and what is wrong with it by field. A time without a zone is UTC; several
    codes stand with commas between."""
    times, wrong = dict[str, int | None](), dict[str, str]()
    for name in ("since", "until"):
        times[name] = None
        if asked[name]:
            try:
                moment = datetime.fromisoformat(asked[name])
                at = milliseconds(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
                times[name] = max(0, at or 0)
            except (ValueError, OverflowError):
                wrong[name] = "Not a time such as 2026-01-31 12:00."
    codes = tuple(one.strip() for one in asked["code"].split(",") if one.strip())
    if len(codes) > MOST_CODES:
        wrong["code"] = f"More than {MOST_CODES}."
    found = Filter(
        asked["topic"] or None, asked["reason"] or None, times["since"], times["until"],
        asked["provider"] or None, codes[:MOST_CODES],
    )  # fmt: skip
    return found, wrong


def read_request(typed: Mapping[str, str]) -> replays.Request:
    """The replay that a form asks for; ids, users and reasons are one a line. Raises Misused."""
    group, to, generation = typed["group"], typed["to"], typed["generation"]
    if group not in READS:
        raise Misused("--group: there is no such group")
    if len(to) > MOST_TO or not (to.isascii() and to.isprintable()):
        raise Misused("--to: earliest, latest or a time such as 2026-01-31T12:00:00Z")
    if bool(typed["source"]) != bool(typed["event"]):
        raise Misused("--event: its source and its id go together")
    if generation and not (generation.isascii() and generation.isdigit() and len(generation) <= MAX_DIGITS):
        raise Misused(f"--generation: a number from 1 to {MOST_GENERATION}")
    narrowing = Narrowing(
        frozenset([(typed["source"], typed["event"])] if typed["event"] else ()),
        *(
            frozenset(line.strip() for line in typed[name].split("\n") if line.strip())
            for name in ("ids", "users", "reasons")
        ),
    )
    return replays.Request(
        group, to=to or None, narrowing=narrowing, resend=bool(typed["resend"]),
        generation=int(generation) if generation else None, dry_run=True,
    )  # fmt: skip


def said(error: Misused) -> Blame:
    """What a page says of a request that makes no sense: with the line that is to blame."""
    fields, detail, value = blamed(error)
    listed = value is not None and fields[0] in ("ids", "reasons")
    return Blame(fields, f"{value}: {detail}" if listed else detail, value)


def _add_replay(routes: APIRouter, repairs: Repairs, pages: Pages, sessions: Sessions) -> None:
    desk = repairs.replays

    def page(request: Request, typed: Mapping[str, str], status: int = 200, **fields: Any) -> Response:
        known: dict[str, Any] = {
            "wrong": None, "resolved": None, "figures": None, "sealed": None, "asked": None, "late": None,
            **fields,
        }  # fmt: skip
        found = known["resolved"]
        moved = [span for span in found.plan.spans if span.to != span.now] if found else []
        return pages.page(
            request, "replay", status, typed=typed, labels=LABELS, groups=tuple(READS), moved=moved, **known,
        )  # fmt: skip

    @routes.get("/replay")
    async def replay(request: Request, asked: str = "") -> Response:
        """The form; an address may fill in what it narrows to, and nothing is done before it is sent."""
        given = request.query_params
        typed = {name: given.get(name, "") if name in FILLED else "" for name in TYPED}
        typed["group"] = typed["group"] if typed["group"] in READS else "core"
        return page(request, typed, asked=sessions.unseal(_ASKED, asked) if asked else None)

    @routes.post("/replay")
    async def foresee(request: Request) -> Response:
        """The dry run; its page carries what it resolved to."""
        try:
            sent = await form(request, sessions)
        except Unasked as error:
            return pages.refused(request, error)
        typed = {name: sent.text(name) for name in TYPED}
        try:
            resolved = await desk.resolve(read_request(typed))
            sealed = sessions.seal(_ASK, packed(resolved))
            if len(sealed) > MOST_SEALED:
                return page(request, typed, 422, wrong=_too_much(resolved))
            try:
                found = await desk.foresee(resolved)
            except Away as error:
                return page(request, typed, 503, resolved=resolved, sealed=sealed, late=str(error))
        except Misused as error:
            return page(request, typed, 422, wrong=said(error))
        return page(request, typed, resolved=resolved, sealed=sealed, figures=found.figures)

    @routes.post("/replay/ask")
    async def ask(request: Request) -> Response:
        """What was foreseen, done; sent twice, it sends nothing twice."""
        try:
            sent = await form(request, sessions)
            found = sessions.unseal(_ASK, sent.text("plan"))
            if found is None:
                raise Unasked("its dry run is too old")
        except Unasked as error:
            return pages.refused(request, error)
        try:
            done = await desk.do(unpacked(found))
        except Misused as error:
            return pages.missing(request, "That cannot be asked", f"{said(error).detail}.", 422)
        note = sessions.seal(_ASKED, _note_of(done))
        return RedirectResponse(with_query("/console/replay", asked=note), 303)


def _note_of(done: Asked | Narrowed) -> dict[str, Any]:
    if isinstance(done, Narrowed):
        told: dict[str, Any] = {
            "id": done.request, "chosen": done.chosen, "given": done.again, "copies": done.copies,
            "generation": done.generation,
        }  # fmt: skip
    else:
        told = {"id": done.id, "again": done.plan.again, "left_out": done.plan.left_out}
    return {"group": done.plan.group, "role": done.plan.role, **told}


def _too_much(resolved: Resolved) -> Blame:
    given = [field for field, some in zip(NARROWED, resolved.narrowing, strict=True) if some]
    if not given:
        return Blame(("group",), "it has more partitions than a form carries; use `carillon replay`")
    return Blame(tuple(given), "more than a form carries; choose fewer at a time, or use `carillon replay`")
