"""Dead letters and replays for people: `/console/dlq`, `/console/replay`; what changes anything is a form."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, quote

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from agents import letters as of_letters
from agents.letters import DEAD, Letter
from pipeline.dead_letters import DeadLetterError
from pipeline.replay import READS, Misused, Plan
from pipeline.web.apart import Away
from pipeline.web.console import PAGE, Pages, with_query
from pipeline.web.letters import BadCursor, Filter, Redriven, listed, says
from pipeline.web.repairs import Repairs
from pipeline.web.replays import blamed, packed, unpacked
from pipeline.web.session import Sessions
from schemas.event import milliseconds

MOST_FIELDS = 20
SHOWN_CHARS = 20_000
SHOWN_FAILED = 20
_DONE, _ASK, _ASKED = "redriven", "replay", "replay asked"


class Unasked(Exception):
    """A form that is not of this session, or too old; the message says which."""


class Form:
    """What a form of ours came with: one text a field."""

    def __init__(self, fields: dict[str, list[str]]) -> None:
        self._fields = fields

    def text(self, name: str) -> str:
        """A field without the blanks around it; empty where there is none."""
        return self._fields.get(name, [""])[0].strip()


def letter_url(letter: str) -> str:
    """The page of a dead letter."""
    return f"/console/dlq/{quote(letter, safe='')}"


def router(repairs: Repairs, pages: Pages, sessions: Sessions) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/console", include_in_schema=False, default_response_class=HTMLResponse)
    pages.add_filters(letter_url=letter_url)
    _add_letters(routes, repairs, pages, sessions)
    _add_replay(routes, repairs, pages, sessions)
    return routes


async def form(request: Request, sessions: Sessions) -> Form:
    """What was sent. Raises Unasked where it is not a form that this session was shown."""
    try:
        fields = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=MOST_FIELDS)
    except ValueError:
        raise Unasked("it has too many fields") from None
    found = Form(fields)
    if not sessions.is_form_token(session_of(request, sessions), found.text("form_token")):
        raise Unasked("it is not of this session")
    return found


def session_of(request: Request, sessions: Sessions) -> str:
    """The session that a request is of; empty for those who bring the token itself."""
    return request.cookies.get(sessions.cookie, "")


def refused(pages: Pages, error: Unasked) -> Response:
    """The page for a form that was not taken."""
    return pages.missing("That form was not taken", f"Nothing was done: {error}. Open its page again.", 403)


def _add_letters(routes: APIRouter, repairs: Repairs, pages: Pages, sessions: Sessions) -> None:
    letters = repairs.letters

    @routes.get("/dlq")
    async def dead_letters(
        request: Request,
        topic: str = "",
        reason: str = "",
        since: str = "",
        until: str = "",
        cursor: str = "",
        done: str = "",
    ) -> Response:
        asked = {"topic": topic, "reason": reason, "since": since, "until": until}
        wanted, wrong = read_filter(asked)
        page = None
        if not wrong:
            try:
                page = await letters.page(wanted, PAGE, cursor or None)
            except KeyError:
                wrong = {"topic": "There is no such topic of dead letters."}
            except BadCursor:
                return pages.missing("No such page", "The address is not one that this list gave.", 422)
        return pages.page(
            "dlq", 422 if wrong else 200, page=page, counts=await letters.counts(), asked=asked, wrong=wrong,
            cursor=cursor, topics=DEAD, done=sessions.unseal(_DONE, done) if done else None,
            form_token=sessions.form_token(session_of(request, sessions)),
        )  # fmt: skip

    @routes.get("/dlq/{name}")
    async def dead_letter(request: Request, name: str, done: str = "") -> Response:
        try:
            found = await letters.letter(name)
        except KeyError:
            return pages.missing("No such letter", f"“{name}” is no name of a dead letter.")
        except DeadLetterError as error:
            return pages.missing("No such letter", f"{error}. It was deleted, or longer ago than it is kept.")
        return pages.page(
            "letter", told=listed(found), says=says(found.told("reason")), parts=_parts(found),
            done=sessions.unseal(_DONE, done) if done else None,
            form_token=sessions.form_token(session_of(request, sessions)),
        )  # fmt: skip

    @routes.post("/dlq/redrive")
    async def redrive(request: Request) -> Response:
        """One letter goes back at once; those of a filter are counted first, and then asked for."""
        try:
            sent = await form(request, sessions)
        except Unasked as error:
            return refused(pages, error)
        asked = {name: sent.text(name) for name in ("topic", "reason", "since", "until")}
        wanted, wrong = read_filter(asked)
        letter, cursor = sent.text("letter"), sent.text("cursor")
        if wrong or not (letter or wanted.topic or wanted.reason):
            return pages.missing("That cannot be asked", "Say which: those of a topic, or of a reason.", 422)
        try:
            if letter:
                done = await letters.redrive_named([letter], dry_run=False)
            elif not cursor:
                cursor = await letters.resolve(wanted) or ""
                found = await letters.redrive(wanted, dry_run=True, cursor=cursor) if cursor else None
                return pages.page(
                    "redrive", found=found, asked=asked, cursor=cursor, most=SHOWN_FAILED,
                    form_token=sessions.form_token(session_of(request, sessions)),
                )  # fmt: skip
            else:
                done = await letters.redrive(wanted, dry_run=False, cursor=cursor)
        except (KeyError, BadCursor):
            return pages.missing("That cannot be asked", "There is no such letter, topic or place.", 422)
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
    """What a form of filters means, and what is wrong with it by field. A time without a zone is UTC."""
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
    return Filter(asked["topic"] or None, asked["reason"] or None, times["since"], times["until"]), wrong


def _add_replay(routes: APIRouter, repairs: Repairs, pages: Pages, sessions: Sessions) -> None:
    replays = repairs.replays

    def page(request: Request, status: int = 200, **fields: Any) -> Response:
        known: dict[str, Any] = {
            "group": "core", "to": "", "wrong": None, "plan": None, "figures": None, "sealed": None,
            "asked": None, "late": None, **fields,
        }  # fmt: skip
        token = sessions.form_token(session_of(request, sessions))
        moved = [span for span in known["plan"].spans if span.to != span.now] if known["plan"] else []
        return pages.page("replay", status, groups=tuple(READS), moved=moved, form_token=token, **known)

    @routes.get("/replay")
    async def replay(request: Request, asked: str = "") -> Response:
        return page(request, asked=sessions.unseal(_ASKED, asked) if asked else None)

    @routes.post("/replay")
    async def foresee(request: Request) -> Response:
        """The dry run; its page carries what it resolved to."""
        try:
            sent = await form(request, sessions)
        except Unasked as error:
            return refused(pages, error)
        group, to = sent.text("group"), sent.text("to")
        if group not in READS:
            return page(request, 422, to=to, wrong=("group", "There is no such group."))
        try:
            if len(to) > 64 or not (to.isascii() and to.isprintable() and to):
                raise Misused("--to: earliest, latest or a time such as 2026-01-31T12:00:00Z")
            plan = await replays.resolve(replays.of_group(group, to))
        except Misused as error:
            return page(request, 422, group=group, to=to, wrong=blamed(error))
        sealed = sessions.seal(_ASK, packed(plan))
        try:
            figures = (await replays.foresee(plan)).figures
        except Away as error:
            return page(request, 503, group=group, to=to, plan=plan, sealed=sealed, late=str(error))
        return page(request, group=group, to=to, plan=plan, sealed=sealed, figures=figures)

    @routes.post("/replay/ask")
    async def ask(request: Request) -> Response:
        """What was foreseen, asked for."""
        try:
            sent = await form(request, sessions)
            found = sessions.unseal(_ASK, sent.text("plan"))
            if found is None:
                raise Unasked("its dry run is too old")
        except Unasked as error:
            return refused(pages, error)
        done = await replays.ask(unpacked(found))
        note = {"id": done.id, "group": done.plan.group, **_sums(done.plan)}
        return RedirectResponse(with_query("/console/replay", asked=sessions.seal(_ASKED, note)), 303)


def _sums(plan: Plan) -> dict[str, int]:
    return {"again": plan.again, "left_out": plan.left_out}
