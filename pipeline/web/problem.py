"""Errors as programs get them: application/problem+json (RFC 9457) that names the field."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.middleware.body_limit import MAX_BODY_SIZE_SCOPE_KEY
from starlette.responses import JSONResponse

MEDIA_TYPE = "application/problem+json"


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str
    detail: str


class Problem(BaseModel):
    """What went wrong; `errors` where fields are to blame."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] | None = None


def described(says: str) -> dict[str, Any]:
    """How the interface describes such an answer."""
    return {"description": says, "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}


class Wrong(Exception):
    """A request that cannot be answered: a status, a sentence, and the fields that are to blame."""

    def __init__(self, status: int, detail: str, *fields: str) -> None:
        super().__init__(detail)
        self.status, self.detail, self.fields = status, detail, fields


def answer(
    status: int, detail: str, fields: Sequence[FieldProblem] = (), headers: dict[str, str] | None = None
) -> JSONResponse:
    """The response."""
    body: dict[str, Any] = {
        "type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail
    }  # fmt: skip
    if fields:
        body["errors"] = [field.model_dump() for field in fields]
    return JSONResponse(body, status, headers, MEDIA_TYPE)


def too_large(scope: Mapping[str, Any]) -> JSONResponse:
    """The response to a body that is larger than its route takes."""
    most = scope.get(MAX_BODY_SIZE_SCOPE_KEY)
    detail = "body: is too large" if most is None else f"body: at most {most} bytes are taken here"
    return answer(413, detail, [FieldProblem(field="body", detail=detail)])


def of_validation(error: RequestValidationError) -> JSONResponse:
    """The response to parameters that FastAPI refused."""
    fields = [_field(found, error.body) for found in error.errors()]
    return answer(422, "; ".join(f"{field.field}: {field.detail}" for field in fields), fields)


def _field(found: Mapping[str, Any], body: Any) -> FieldProblem:
    """What is wrong with one field; what is wrong with the body as a whole is its own."""
    kind, where = found["type"], found["loc"]
    if kind == "json_invalid":
        at = len(body[: where[-1]].encode("utf-8", "surrogatepass"))
        return FieldProblem(field="body", detail=f"not JSON at byte {at}: {found['ctx']['error']}")
    if tuple(where) == ("body",):
        if kind == "missing":
            return FieldProblem(field="body", detail="is empty; a JSON object is needed")
        if isinstance(body, bytes):
            return FieldProblem(field="body", detail="is read with content-type: application/json alone")
        return FieldProblem(field="body", detail="is not a JSON object")
    detail = str(found["ctx"]["error"]) if kind == "value_error" else found["msg"]
    return FieldProblem(field=".".join(str(part) for part in where[1:]), detail=detail)


def of_body(error: BaseException | None) -> JSONResponse:
    """The response to a body that could not be read at all, by what reading it raised."""
    match error:
        case UnicodeDecodeError():
            detail = f"body: not {error.encoding.upper()} at byte {error.start}: {error.reason}"
        case RecursionError():
            detail = "body: lists and objects are nested too deeply"
        case _:
            detail = "body: cannot be read"
    return answer(422, detail, [FieldProblem(field="body", detail=detail.removeprefix("body: "))])


def of_wrong(error: Wrong) -> JSONResponse:
    """The response to a request that a route refused."""
    fields = [FieldProblem(field=field, detail=error.detail) for field in error.fields]
    return answer(error.status, error.detail, fields)
