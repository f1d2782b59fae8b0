"""What operators ask and order over `/api/v1`: explanations, cancelling, templates and workflows."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from pydantic import BaseModel, ConfigDict, Field

from agents.render import TemplateBroken
from agents.versions import VersionGone
from pipeline import explaining
from pipeline.web import story, wording
from pipeline.web.operations import Operations, Unreachable
from pipeline.web.problem import MEDIA_TYPE, Problem, Wrong
from pipeline.web.story import Asked, Beside
from pipeline.web.tasks import Tasks
from pipeline.web.views import Desk, NotHeld
from pipeline.web.wording import NoSuchTemplate, Wanted
from schemas.ids import hash_in, user_hash
from schemas.notification import EventRef
from schemas.template import Template
from schemas.workflow import Workflow
from tables.history import History


class Story(BaseModel):
    """What became of one notification, in sentences; the first is the answer."""

    notification_id: str
    user_id: str
    state: str | None
    sentences: list[str]


class Explanation(BaseModel):
    """Why. `sentences` are of the whole; `whole`: every partition of status that may know of it was asked."""

    found: bool
    sentences: list[str]
    stories: list[Story]
    whole: bool


class Accepted(BaseModel):
    """The broker has the request; the notification's timeline tells whether it came in time."""

    notification_id: str


class TemplateName(BaseModel):
    """A template, its current version and those that are kept."""

    name: str
    current: int
    versions: list[int]


class Templates(BaseModel):
    """All templates, by name."""

    templates: list[TemplateName]


class Workflows(BaseModel):
    """All workflows, by name."""

    workflows: list[Workflow]


class PreviewOf(BaseModel):
    """Which version to fill (null: the current one), and with what; of which locale and variant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int | None = Field(default=None, ge=1)
    variables: dict[str, Any] = {}
    locale: str | None = None
    variant: str | None = None


class Content(BaseModel):
    """What would be sent on a channel."""

    subject: str | None = None
    text: str
    html: str | None = None


class Previewed(BaseModel):
    """What each channel would say, or the problem with it."""

    name: str
    version: int
    content: dict[str, Content]
    problems: dict[str, str]


class RollbackTo(BaseModel):
    """The version that is to be current."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = Field(ge=1)


def _problem(says: str) -> dict[str, Any]:
    return {"description": says, "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}


_ANSWERS: dict[int | str, dict[str, Any]] = {
    401: _problem("Not signed in"),
    422: _problem("A parameter cannot be used; `errors` names it"),
    503: _problem("Another process holds it, or the broker is away"),
}
_NO_TEMPLATE: dict[int | str, dict[str, Any]] = {404: _problem("There is no such template")}
_NO_WORKFLOW: dict[int | str, dict[str, Any]] = {404: _problem("There is no such workflow")}


def router(desk: Desk, tasks: Tasks, operations: Operations) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/api/v1", responses=_ANSWERS)

    @routes.get("/explain")
    async def explain(
        id: Annotated[str | None, Query(min_length=1, description="of a notification")] = None,
        source: Annotated[str | None, Query(min_length=1)] = None,
        event_id: Annotated[str | None, Query(min_length=1)] = None,
        user_id: Annotated[str | None, Query(min_length=1, description="with source and event_id")] = None,
    ) -> Explanation:
        """Why somebody was told, or was not: by a notification's id, or by an event's source and id."""
        if (id is None) == (source is None and event_id is None):
            raise Wrong(422, "ask by id, or by source and event_id", "id", "source", "event_id")
        if id is None and source is None:
            raise Wrong(422, "event_id goes with source", "source")
        if id is None and event_id is None:
            raise Wrong(422, "source goes with event_id", "event_id")
        if id is not None and user_id is not None:
            raise Wrong(422, "user_id goes with source and event_id", "user_id")
        asked = Asked(id, source or "", event_id or "", user_id)
        histories, whole = _histories(desk, asked)
        letters, behind = await asyncio.gather(
            operations.letters(asked, histories),
            _behind(tasks, is_asked=not story.meant(asked, histories)),
        )
        doubts = explaining.doubts(operations.catalogue)
        digests = digests_of(desk, histories)
        beside = Beside(doubts, digests, letters.found, letters.searched, behind, whole)
        told = story.explain(asked, histories, beside)
        stories = [Story(**{**one._asdict(), "sentences": list(one.sentences)}) for one in told.stories]
        return Explanation(found=told.found, sentences=list(told.sentences), stories=stories, whole=whole)

    @routes.delete("/notifications/{notification_id}", status_code=202)
    async def cancel(
        notification_id: str,
        user_id: Annotated[str | None, Query(min_length=1, description="where it is not known here")] = None,
    ) -> Accepted:
        """Cancels what has not been sent of a notification; its timeline tells whether it was in time."""
        try:
            hashed = hash_in(notification_id)
        except ValueError:
            raise Wrong(422, "not a notification id", "notification_id") from None
        if user_id is not None and user_hash(user_id) != hashed:
            raise Wrong(422, "that notification is not of this user", "user_id")
        try:
            known = desk.notification(notification_id)
        except NotHeld:
            known = None
        user = user_id or (known["user_id"] if known else "")
        event = EventRef(**known["event"]) if known and known["event"] else None
        try:
            await operations.cancel(notification_id, user, event)
        except Unreachable as error:
            raise Wrong(503, str(error)) from None
        return Accepted(notification_id=notification_id)

    _add_rules(routes, operations)
    return routes


def _add_rules(routes: APIRouter, operations: Operations) -> None:
    catalogue = operations.catalogue

    @routes.get("/workflows")
    async def workflows() -> Workflows:
        """The workflows in force."""
        return Workflows(workflows=[one for _, one in sorted(catalogue.workflows.items())])

    @routes.get("/workflows/{name}", responses=_NO_WORKFLOW)
    async def workflow(name: str) -> Workflow:
        """One workflow."""
        found = catalogue.workflows.get(name)
        if found is None:
            raise Wrong(404, f"there is no workflow {name}")
        return found

    @routes.get("/templates")
    async def templates() -> Templates:
        """The templates in force."""
        return Templates(templates=[_named(one) for _, one in sorted(catalogue.templates.items())])

    @routes.get("/templates/{name}", responses=_NO_TEMPLATE)
    async def template(name: str) -> Template:
        """One template with its versions."""
        return _template(operations, name)

    @routes.post("/templates/{name}/preview", responses=_NO_TEMPLATE)
    async def preview(name: str, wanted: Annotated[PreviewOf, Body()]) -> Previewed:
        """What a version would say with these variables; sends nothing."""
        _check_texts(dict(wanted))
        try:
            found = await wording.preview(_template(operations, name), Wanted(**dict(wanted)))
        except VersionGone as error:
            raise Wrong(422, str(error), "version") from None
        content = {
            str(channel): Content(subject=one.subject, text=one.text, html=one.html)
            for channel, one in found.content.items()
        }
        problems = {str(channel): problem for channel, problem in found.problems.items()}
        return Previewed(name=name, version=found.version, content=content, problems=problems)

    @routes.post("/templates/{name}/rollback", responses=_NO_TEMPLATE)
    async def rollback(name: str, to: Annotated[RollbackTo, Body()]) -> TemplateName:
        """Makes a version that is kept the current one; each process takes it over as it hears of it."""
        try:
            following = wording.rolled_back(_template(operations, name), to.version)
            await operations.publish(following)
        except (VersionGone, TemplateBroken) as error:
            raise Wrong(422, str(error), "version") from None
        except Unreachable as error:
            raise Wrong(503, str(error)) from None
        return _named(following)


_Path = tuple["_Path", str] | None
"""The names that lead to a value, the last one first; paths share what they have in common."""


def _check_texts(given: dict[str, Any]) -> None:
    """Raises Wrong for a text that UTF-8 cannot hold, and names its field: JSON may hold such."""
    waiting: list[tuple[_Path, Any]] = [(None, given)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, str) and not _is_text(value):
            raise Wrong(422, f"{_said(path)}: holds half of a character (a lone surrogate)", _said(path))
        if isinstance(value, dict):
            if not all(map(_is_text, value)):
                told = f"{_said(path)}: a name in it holds half of a character (a lone surrogate)"
                raise Wrong(422, told, _said(path))
            waiting += [((path, name), one) for name, one in value.items()]
        elif isinstance(value, list):
            waiting += [((path, str(n)), one) for n, one in enumerate(value)]


def _said(path: _Path) -> str:
    names: list[str] = []
    while path is not None:
        path, name = path
        names.append(name)
    return ".".join(reversed(names))


def _is_text(text: str) -> bool:
    return not any("\ud800" <= one <= "\udfff" for one in text)


def _named(template: Template) -> TemplateName:
    return TemplateName(name=template.name, current=template.current, versions=sorted(template.versions))


def _template(operations: Operations, name: str) -> Template:
    try:
        return wording.template_of(operations.catalogue, name)
    except NoSuchTemplate as error:
        raise Wrong(404, str(error)) from None


def _histories(desk: Desk, asked: Asked) -> tuple[list[History], bool]:
    """What is remembered of what is asked, and whether nobody else can know more."""
    try:
        if asked.id is not None:
            found = desk.notification(asked.id)
            return ([] if found is None else [found]), True
        rows, of = desk.held()
        return desk.of_event(asked.source, asked.event, explaining.MOST_HISTORIES), len(rows) == of
    except ValueError:
        raise Wrong(422, "not a notification id", "id") from None
    except NotHeld as error:
        raise Wrong(503, str(error)) from None


def digests_of(desk: Desk, histories: list[History]) -> dict[str, History]:
    """The digests that notifications went into, as far as they can be read here."""
    found: dict[str, History] = {}
    for history in histories[: story.MOST_STORIES]:
        for digest in story.digests_of(history):
            try:
                told = desk.notification(digest)
            except (ValueError, NotHeld):
                continue
            if told is not None:
                found[digest] = told
    return found


async def _behind(tasks: Tasks, *, is_asked: bool) -> int | None:
    """How many records core has not come to in this process; None: not known, or not asked."""
    if not is_asked:
        return None
    positions = [
        position
        for role in await tasks.roles()
        if role.name == "core"
        for number in role.numbers
        for position in number.positions
    ]
    if not positions or any(position.end is None for position in positions):
        return None
    return sum(max(0, (position.end or 0) - (position.done or 0)) for position in positions)
