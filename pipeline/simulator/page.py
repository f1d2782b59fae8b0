"""What is said of simulators over HTTP: a page to look at, the ledger and the counts as JSON, the faults."""

import functools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import jinja2
import orjson

from pipeline import __version__
from pipeline.simulator.callbacks import Callbacks
from pipeline.simulator.faults import FLAP, BadFault
from pipeline.simulator.ledger import NEWEST, Ledger, Recent
from pipeline.simulator.transport import ASIDE
from pipeline.simulator.vendor import Answer, Request, in_json

if TYPE_CHECKING:
    from pipeline.simulator.simulator import Simulator

BODY_BYTES = 64 << 10
LOCAL = frozenset({"127.0.0.1", "localhost", "[::1]"})
_HERE = Path(__file__).parent
_CONSOLE = _HERE.parent / "web" / "static"
FILES: Mapping[str, tuple[Path, str]] = {
    "console.css": (_CONSOLE / "console.css", "text/css; charset=utf-8"),
    "bell.svg": (_CONSOLE / "bell.svg", "image/svg+xml"),
    "page.css": (_HERE / "page.css", "text/css; charset=utf-8"),
    "page.js": (_HERE / "page.js", "text/javascript; charset=utf-8"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class _Refused(Exception):
    """What was asked for cannot be done."""

    def __init__(self, status: int, field: str, why: str) -> None:
        super().__init__(why)
        self.status, self.field = status, field


class Page:
    """Answers the paths below `/_simulator/`. For this machine's own pages and tools: there is no sign-in."""

    def __init__(
        self, simulators: Sequence["Simulator"], ledger: Ledger, callbacks: Callbacks | None = None
    ) -> None:
        self._simulators = {one.kind: one for one in simulators}
        self._ledger, self._callbacks = ledger, callbacks

    async def __call__(self, request: Request) -> Answer:
        """The answer; one that says no, in JSON, for what is not there or from another site."""
        try:
            _from_here(request)
            found = await self._answer(request)
        except _Refused as refused:
            found = in_json(refused.status, {"error": str(refused), "field": refused.field})
        return found._replace(headers={**HEADERS, **found.headers})

    async def _answer(self, request: Request) -> Answer:
        name = request.path.removeprefix(ASIDE)
        if request.method == "GET" and name in FILES:
            path, kind = FILES[name]
            return Answer(200, {"content-type": kind}, _file(path))
        routes: Mapping[tuple[str, str], Callable[[Request], Awaitable[Answer]]] = {
            ("GET", ""): self._page,
            ("GET", "ledger"): self._entries,
            ("GET", "counts"): self._counts,
            ("GET", "faults"): self._faults,
            ("PUT", "faults"): self._put,
            ("POST", "faults"): self._post,
        }
        route = routes.get((request.method, name))
        if route is None:
            known = any(name == path for _, path in routes)
            raise _Refused(405 if known else 404, "", "no such method here" if known else "no such page")
        if len(request.body) > BODY_BYTES:
            raise _Refused(413, "", f"longer than {BODY_BYTES} bytes")
        return await route(request)

    def _asked(self, request: Request) -> tuple[str, int]:
        """The kind, or "" for all, and how many."""
        try:
            asked = request.asked()
            kind, limit = asked.get("kind", ""), int(asked.get("limit", str(NEWEST)))
        except ValueError:
            raise _Refused(422, "limit", "not a number") from None
        if kind:
            self._simulator(kind)
        return kind, max(1, min(limit, NEWEST))

    def _newest(self, kind: str, limit: int) -> list[Recent]:
        return [one for one in reversed(self._ledger.newest) if not kind or one.entry.kind == kind][:limit]

    async def _entries(self, request: Request) -> Answer:
        found = self._newest(*self._asked(request))
        told = [{**one.entry._asdict(), "words": one.words, "answer": one.answer} for one in found]
        return in_json(200, {"entries": told})

    async def _counts(self, request: Request) -> Answer:
        return in_json(200, self._figures())

    def _figures(self) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        for kind, one in self._simulators.items():
            counts = one.counts
            figures[kind] = {
                "base_url": one.base_url, "up": one.is_open, "faults": one.faults.words,
                "requests": counts.arrivals, "targets": counts.targets, "keys": len(counts.requests),
                "effects": counts.took_effect, "keys_with_several_effects": counts.several,
                "wrong": dict(counts.wrong), "most_in_a_second": counts.most_in_a_second(),
                "struck": dict(counts.faults),
            }  # fmt: skip
        return figures

    async def _faults(self, request: Request) -> Answer:
        return in_json(200, {kind: one.faults.words for kind, one in self._simulators.items()})

    async def _put(self, request: Request) -> Answer:
        """Faults by kind, as JSON: all of them are put in force, or none."""
        try:
            given = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            raise _Refused(400, "", "not JSON") from None
        if not isinstance(given, dict):
            raise _Refused(422, "", "not an object of kinds")
        for kind, words in given.items():
            if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
                raise _Refused(422, kind, "not a list of words")
            self._check(kind, words)
        for kind, words in given.items():
            await self._simulators[kind].set_faults(words)
        return await self._faults(request)

    async def _post(self, request: Request) -> Answer:
        """A form: a kind, and its faults, one a line."""
        try:
            form = request.form()
        except ValueError:
            raise _Refused(400, "", "not a form") from None
        kind, words = form.get("kind", ""), form.get("faults", "").splitlines()
        words = [word.strip() for word in words if word.strip()]
        try:
            self._check(kind, words)
        except _Refused as refused:
            return self._shown(422, kind=kind, wrong=str(refused), given=words)
        await self._simulators[kind].set_faults(words)
        return Answer(303, {"location": f"{ASIDE}?{urlencode({'kind': kind})}"})

    def _check(self, kind: str, words: Sequence[str]) -> None:
        try:
            self._simulator(kind).faults.check(words)
        except BadFault as bad:
            raise _Refused(422, kind, str(bad)) from None

    def _simulator(self, kind: str) -> "Simulator":
        try:
            return self._simulators[kind]
        except KeyError:
            raise _Refused(422, "kind", f"no such kind; there are {', '.join(self._simulators)}") from None

    async def _page(self, request: Request) -> Answer:
        kind, limit = self._asked(request)
        return self._shown(200, kind=kind, limit=limit)

    def _shown(
        self, status: int, *, kind: str, limit: int = NEWEST, wrong: str = "", given: Sequence[str] = ()
    ) -> Answer:
        chosen = self._simulators.get(kind) or next(iter(self._simulators.values()))
        told = _templates().get_template("page.html").render(
            figures=self._figures(), kind=kind, chosen=chosen, wrong=wrong, version=__version__,
            words=given if wrong else chosen.faults.words, known=sorted({*chosen.faults.known, FLAP}),
            rules=chosen.vendor.rules, callbacks=self._callbacks,
            rows=self._newest(kind, limit), time_of=_clock, now=time.time_ns() // 1_000_000,
        )  # fmt: skip
        return Answer(status, {"content-type": "text/html; charset=utf-8"}, told.encode())


def _from_here(request: Request) -> None:
    """Raises for a host that is not this machine (a name that was bound anew), and for other sites' pages."""
    if request.headers.get("host", "").rpartition(":")[0] not in LOCAL:
        raise _Refused(421, "", "ask for 127.0.0.1 or localhost")
    if request.method != "GET":
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        ours = origin in (None, f"http://{request.headers['host']}")
        if site not in ("same-origin", "none") if site is not None else not ours:
            raise _Refused(403, "", "a page of another site sent this")


def _clock(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]


@functools.cache
def _file(path: Path) -> bytes:
    return path.read_bytes()


@functools.cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
