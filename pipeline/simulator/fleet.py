"""Several simulated providers in one process, with one ledger and one page."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from pipeline.simulator.callbacks import Callbacks
from pipeline.simulator.ledger import Ledger
from pipeline.simulator.page import Page
from pipeline.simulator.server import HttpListener
from pipeline.simulator.simulator import Simulator
from pipeline.simulator.transport import ASIDE, HOST, Act
from pipeline.simulator.vendor import Answer, Request


class Fleet:
    """A simulator of each kind, on ports that count up from `port`, and their page on `page_port`; 0: any.

    The page has a port of its own because a provider may be down, or no HTTP. Raises as `Simulator` does, and
    ValueError for callbacks that are no URL.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        *,
        port: int = 0,
        page_port: int = 0,
        ledger: Path | None = None,
        faults: Mapping[str, Sequence[str]] | None = None,
        secrets: Mapping[str, Mapping[str, str]] | None = None,
        seed: int = 0,
        callbacks: str | None = None,
    ) -> None:
        self.ledger = Ledger(ledger)
        self.callbacks = Callbacks(callbacks) if callbacks else None
        self.page_port = page_port
        self.simulators = {
            kind: Simulator(
                kind, port=port + n if port else 0, ledger=self.ledger, seed=seed + n, aside=self._aside,
                faults=(faults or {}).get(kind, ()), secrets=(secrets or {}).get(kind),
                callbacks=self.callbacks,
            )
            for n, kind in enumerate(kinds)
        }  # fmt: skip
        self._page = Page(list(self.simulators.values()), self.ledger, self.callbacks)
        self._page_server = HttpListener(self, self._aside)
        self._stack = contextlib.AsyncExitStack()

    @property
    def page_url(self) -> str:
        """Where the page is, once it was started."""
        return f"http://{HOST}:{self.page_port}{ASIDE}"

    def base_urls(self) -> dict[str, str]:
        """Where each kind is, once it was started."""
        return {kind: one.base_url for kind, one in self.simulators.items()}

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.ledger.close)
            if self.callbacks is not None:
                await self.callbacks.start()
                stack.push_async_callback(self.callbacks.stop)
            for one in self.simulators.values():
                await stack.enter_async_context(one)
            self.page_port = await self._page_server.open(self.page_port)
            stack.push_async_callback(self._page_server.close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _aside(self, request: Request) -> Answer:
        return await self._page(request)

    async def play(self, request: Request) -> Answer | Act:
        """On the page's own port nothing is simulated: the way to the page."""
        return Answer(302 if request.path == "/" else 404, {"location": ASIDE})
