"""Attachments for programs: a file is uploaded once, and requests name it by its id."""

import asyncio
import sys

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request

from pipeline.attachments import Store, Unreachable
from pipeline.attachments.naming import Unfit, content_type, file_name
from pipeline.web.problem import Wrong, described

UPLOADS = 4
"""At once, for each is in memory; others wait their turn unread."""
UPLOAD_SECONDS = 60.0


class Uploaded(BaseModel):
    """An attachment; `attachment_id` is what requests name in `attachments`."""

    attachment_id: str
    name: str
    content_type: str
    size: int


_BODY = {
    "required": True,
    "description": "The file as it is. Content-Type is its type, Content-Disposition has its name.",
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}
_DISPOSITION = {
    "name": "Content-Disposition",
    "in": "header",
    "required": True,
    "description": "`attachment; filename=\"invoice.pdf\"`; beyond ASCII `filename*=UTF-8''…` (RFC 6266)",
    "schema": {"type": "string"},
}


def router(store: Store, *, seconds: float = UPLOAD_SECONDS) -> APIRouter:
    """The routes over a store; an upload may take so many seconds."""
    routes = APIRouter(prefix="/api/v1", responses={401: described("Not signed in")})
    turns = asyncio.Semaphore(UPLOADS)

    @routes.post(
        "/attachments",
        status_code=201,
        openapi_extra={"requestBody": _BODY, "parameters": [_DISPOSITION]},
        responses={
            408: described("It took too long"),
            413: described("It is too large"),
            415: described("Its type cannot be attached"),
            422: described("It has no usable name, or is empty"),
            503: described("The store does not take it now"),
        },
        max_body_size=sys.maxsize,  # bounded below, where the answer names the field
    )
    async def upload(request: Request) -> Uploaded:
        """Stores a file to be attached to e-mails. It never changes; the same file again is another."""
        kind, name = _headers(request)
        try:
            async with asyncio.timeout(seconds), turns:
                data = await _body(request, store.max_bytes)
                id = await store.put(name, kind, data)
        except TimeoutError:
            raise Wrong(408, f"the upload took more than {seconds:g} s", "body") from None
        except Unreachable as error:
            raise Wrong(503, str(error)) from None
        return Uploaded(attachment_id=id, name=name, content_type=kind, size=len(data))

    return routes


def _headers(request: Request) -> tuple[str, str]:
    headers = request.headers
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Wrong(415, "send the file as it is, without a content-encoding", "content_encoding")
    try:
        kind = content_type(headers.get("content-type", ""))
    except Unfit as error:
        raise Wrong(415, f"{error.field}: {error}", error.field) from None
    try:
        return kind, file_name(headers.get("content-disposition", ""))
    except Unfit as error:
        raise Wrong(422, f"{error.field}: {error}", error.field) from None


async def _body(request: Request, most: int) -> bytes:
    """The body, if it has from 1 to `most` bytes; what is too large is not read to its end."""
    told = request.headers.get("content-length", "")
    length = int(told) if told.isascii() and told.isdigit() and len(told) < 20 else 0
    pieces: list[bytes] = []
    try:
        if length <= most:
            length = 0
            async for piece in request.stream():
                length += len(piece)
                if length > most:
                    break
                pieces.append(piece)
    except ClientDisconnect:
        raise Wrong(400, "the upload was cut off", "body") from None
    if length > most:
        raise Wrong(413, f"body: an attachment has at most {most} bytes", "body")
    if not length:
        raise Wrong(422, "body: is empty", "body")
    return b"".join(pieces)
