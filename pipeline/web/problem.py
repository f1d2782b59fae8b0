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
    fields = [
        FieldProblem(field=".".join(str(part) for part in found["loc"][1:]), detail=found["msg"])
        for found in error.errors()
    ]
    return answer(422, "; ".join(f"{field.field}: {field.detail}" for field in fields), fields)


def of_wrong(error: Wrong) -> JSONResponse:
    """The response to a request that a route refused."""
    fields = [FieldProblem(field=field, detail=error.detail) for field in error.fields]
    return answer(error.status, error.detail, fields)
