"""Where providers tell what became of a message: `POST /callbacks/{provider_name}`."""

import time
from collections.abc import Callable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pipeline.receipts.line import BrokerAway
from pipeline.receipts.receipt import Callback, Forged, Later, Unclear
from pipeline.receipts.receiving import Receiving, Unknown
from pipeline.web.problem import Wrong, described

BYTES = 2 << 20
"""SendGrid gathers events for half a minute."""
TYPES = frozenset({"", "application/json", "application/x-www-form-urlencoded", "text/plain"})
"""SNS sends its JSON as plain text."""

_ANSWERS = {
    401: described("Its vendor did not sign it, or too long ago"),
    404: described("No provider that calls back has this name"),
    413: described("The body is too large"),
    415: described("The body is of another type"),
    422: described("The body cannot be read"),
    503: described("The broker is away; send it again"),
}


def router(receiving: Receiving, public_url: str = "", clock: Callable[[], float] = time.time) -> APIRouter:
    """The route. `public_url` is that by which vendors call us; without one, as the request says."""
    routes = APIRouter(responses=_ANSWERS)  # type: ignore[arg-type]  # a dict of int keys is one of int | str

    @routes.post("/callbacks/{provider_name}", max_body_size=2 * BYTES, status_code=204)
    async def called_back(request: Request, provider_name: str) -> Response:
        """Takes a receipt; answered when the broker has it."""
        callback = Callback(_url(request, public_url), dict(request.headers), await _body(request), clock())
        if callback.content_type not in TYPES:
            raise Wrong(415, "a form or JSON is taken here")
        try:
            return Response(status_code=await receiving.take(provider_name, callback))
        except Unknown:
            raise Wrong(404, "no provider that calls back has this name") from None
        except Forged as error:
            raise Wrong(401, str(error)) from None
        except Unclear as error:
            raise Wrong(422, str(error)) from None
        except (Later, BrokerAway) as error:
            raise Wrong(503, str(error)) from None

    return routes


async def _body(request: Request) -> bytes:
    """The whole body. Raises Wrong for one that is too large, as far as it was read."""
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > BYTES:
            raise Wrong(413, f"body: at most {BYTES} bytes are taken here", "body")
    return bytes(found)


def _url(request: Request, public_url: str) -> str:
    """The URL as the vendor asked for it, letter by letter: some of them sign it."""
    base = public_url.rstrip("/") or f"{request.url.scheme}://{request.url.netloc}"
    path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    query: bytes = request.scope["query_string"]
    return base + path.decode("latin-1").partition("?")[0] + (f"?{query.decode('latin-1')}" if query else "")
