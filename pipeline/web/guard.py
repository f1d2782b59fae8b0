"""What stands before every page: the host asked for, sign-in, sizes, and the headers that browsers obey."""

import logging
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from pipeline.web import problem
from pipeline.web.session import Sessions

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_BYTES = 64 << 10
URL_BYTES = 16 << 10
FAILED = "Something failed here; the log says what.\n"
LIMITER_SAYS = b"Content Too Large"
LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
SIGN_IN = "/console/sign-in"
MACHINES = frozenset({"/healthz", "/readyz", "/metrics"})
"""For probes and scrapers, which ask by any name; nothing there is about a person."""
PUBLIC = MACHINES | {"/", "/openapi.json", SIGN_IN}
STATIC = "/static/"
OF_OTHERS = ("/callbacks/", "/unsubscribe/", "/t/")
"""What providers and readers ask for: each request there proves itself, by a signature or a token of ours."""

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
FRAME_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'"
)
"""For what was written to be mailed: it may show itself to our own page, and do nothing."""
HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-store",
}


class Guard:
    """Lets through what may pass. Whatever is not public needs sign-in, routes unknown to it included.

    `refuse(request)` makes the answer to those who are not signed in.
    """

    def __init__(
        self,
        app: App,
        *,
        sessions: Sessions,
        refuse: Callable[[Request], Response],
        hosts: Collection[str] = (),
    ) -> None:
        self.app, self.sessions, self.refuse = app, sessions, refuse
        self.hosts = LOCAL | {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        begun = replaced = False

        async def with_headers(message: Message) -> None:
            nonlocal begun, replaced
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                if _is_of_the_limiter(scope, message["status"], headers):
                    replaced = True
                    await problem.too_large(scope)(scope, receive, with_headers)
                    return
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            elif replaced and message.get("body") == LIMITER_SAYS:
                return
            await send(message)

        try:
            await (self._stop(scope) or self.app)(scope, receive, with_headers)
        except Exception:
            log.exception("%s failed", scope.get("route") or "a page")
            if not begun:
                await PlainTextResponse(FAILED, 500)(scope, receive, with_headers)

    def _stop(self, scope: Scope) -> Response | None:
        """The answer to what may not pass."""
        headers, path = Headers(scope=scope), scope["path"]
        if path not in MACHINES and _host(headers.get("host", "")) not in self.hosts:
            return PlainTextResponse("This host is not served here. See web.public_url.\n", 421)
        if len(scope["query_string"]) + len(path) > URL_BYTES:
            return PlainTextResponse("The address is too long.\n", 414)
        if path.startswith(OF_OTHERS):
            return None
        if scope["method"] not in ("GET", "HEAD") and _from_elsewhere(headers):
            return PlainTextResponse("A page of another site sent this.\n", 403)
        if path in PUBLIC or path.startswith(STATIC):
            return None
        return self._sign_in(scope, headers)

    def _sign_in(self, scope: Scope, headers: Headers) -> Response | None:
        path: str = scope["path"]
        if path.startswith("/console") and scope["method"] == "GET":
            asked = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            if (token := dict(asked).get("token")) is not None and self.sessions.is_token(token):
                rest = urlencode([(name, value) for name, value in asked if name != "token"])
                clean = scope.get("raw_path", path.encode()).decode("latin-1").partition("?")[0]
                return self.sessions.begin(clean + (f"?{rest}" if rest else ""))
        return None if self._is_signed_in(headers) else self.refuse(Request(scope))

    def _is_signed_in(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        token = token.strip().encode("latin-1").decode("utf-8", "replace")
        if scheme.lower() == "bearer" and self.sessions.is_token(token):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self.sessions.cookie)
        except CookieError:
            return False
        return cookie is not None and self.sessions.is_open(cookie.value)


def _is_of_the_limiter(scope: Scope, status: int, headers: Headers) -> bool:
    """Whether the framework refuses a body: it does so past all handlers, in plain text."""
    plain = headers.get("content-type", "").startswith("text/plain")
    return status == 413 and plain and not scope["path"].startswith("/console")


def _host(header: str) -> str:
    """The host of a Host header, without port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def _from_elsewhere(headers: Headers) -> bool:
    """Whether a browser says that a page of another origin sent this.

    Over plain http to another machine none says `sec-fetch-site`, and as our pages tell no referrer, their
    forms come from the origin "null" there: the token in each form speaks for those.
    """
    if (site := headers.get("sec-fetch-site")) is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin", "null")
    return origin != "null" and origin.partition("://")[2].lower() != headers.get("host", "").lower()
