"""One simulated provider: what it decides about each request, and its life as a server."""

import asyncio
import contextlib
import fnmatch
import functools
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Self

from pipeline.simulator.callbacks import Callbacks
from pipeline.simulator.faults import DOWN, LATENCY, Fault, Faults, Strike, parse
from pipeline.simulator.ledger import Ledger, Note
from pipeline.simulator.page import Page
from pipeline.simulator.registry import KINDS
from pipeline.simulator.transport import HOST, Act, Aside
from pipeline.simulator.vendor import (
    ANSWERS,
    DELIVERED,
    THROTTLED,
    Answer,
    Heard,
    Remembers,
    Request,
    Rule,
    Taken,
    Vendor,
    Wrong,
)

log = logging.getLogger(__name__)

NONSENSE = Answer(200, {"content-type": "application/json"}, b'{"\xff\x00": [1, ')
OVERSIZE_BYTES = 8 << 20
RETRY_SECONDS = 0.5
_ACTS = frozenset(Act)
_STEERED = 10_000


class Simulator:
    """A provider of one kind on loopback: `async with Simulator("webhook") as provider: provider.base_url`.

    `ledger` is a file, or a ledger that several share; `faults` are words (docs/simulator.md), and what is
    drawn is drawn from `seed`; `callbacks` are the owner's to start and stop. Raises KeyError for an unknown
    kind, BadFault for an unknown fault, OSError and ValueError for a ledger that cannot be used.
    """

    def __init__(
        self,
        kind: str,
        *,
        port: int = 0,
        ledger: Path | Ledger | None = None,
        faults: Sequence[str] = (),
        secrets: Mapping[str, str] | None = None,
        seed: int = 0,
        aside: Aside | None = None,
        callbacks: Callbacks | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        known = KINDS[kind]
        self.kind, self.port = kind, port
        self.vendor: Vendor = known.make(secrets or {}, clock)
        self.faults = Faults(faults_of(kind), seed, time.monotonic)
        self.faults.set(faults)
        self.ledger = ledger if isinstance(ledger, Ledger) else Ledger(ledger)
        self._shares_ledger = isinstance(ledger, Ledger)
        self.counts = self.ledger.of(kind)
        self.requests, self.effects = self.counts.requests, self.counts.effects
        self.body_hashes = self.counts.body_hashes
        self._steering = _Steering(self.vendor.rules, self.faults.known, self.vendor.codes)
        self._scheme = known.listen.scheme
        self._listener = known.listen(self, aside or Page([self], self.ledger, callbacks))
        self._clock, self._callbacks = clock, callbacks
        self.is_open = False
        self._changed, self._turning = asyncio.Event(), asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def base_url(self) -> str:
        """Where it is, once it was started."""
        return f"{self._scheme}://{HOST}:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listens; `port` then says where. Raises OSError."""
        self.port = await self._listener.open(self.port)
        self.is_open = True
        await self._turn()
        self._keeper = asyncio.create_task(self._keep(), name=f"simulator {self.kind}")

    async def stop(self) -> None:
        """Listens no more, drops its connections, closes a ledger of its own. May be repeated."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
        self.is_open = False
        await self._listener.close()
        if not self._shares_ledger:
            await self.ledger.close()

    async def set_faults(self, words: Sequence[str]) -> None:
        """Puts these faults in force instead; returns when a listener is closed or open as they say.

        Raises BadFault, and then changes nothing.
        """
        self.faults.set(words)
        self._changed.set()
        if self._keeper is not None:
            await self._turn()

    async def _keep(self) -> None:
        """Closes the listener while the provider is down, and opens it afterwards."""
        while True:
            self._changed.clear()
            seconds = self.faults.turns_in()
            try:
                await self._turn()
            except OSError as error:  # somebody else took the port meanwhile
                log.warning("%s cannot come up again: %s", self.kind, error)
                seconds = RETRY_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()

    async def _turn(self) -> None:
        async with self._turning:
            if self.faults.is_down() != self.is_open:
                return
            if self.is_open:
                await self._listener.close()
            else:
                await self._listener.open(self.port)
            self.is_open = not self.is_open

    def connected(self) -> str:
        """The fault that strikes a connection which was just made, or ""."""
        if name := self.faults.greet():
            self.counts.faults[name] += 1
        return name

    def steered(self, to: str) -> str:
        """The vendor's code that refuses this address whatever is sent there, or ""."""
        rule = self._steering.rule(to)
        return rule.does if rule is not None and rule.does in self.vendor.codes else ""

    async def play(self, request: Request) -> Answer | Act:
        """What is to be done with a request; returns when it is to be done, with the ledger on the disk."""
        try:
            heard = self.vendor.hear(request)
        except Wrong as wrong:
            self.counts.wrong[wrong.why] += 1
            return wrong.answer
        if not heard:
            return self.vendor.accept(request, (), ())
        strike = self._strike(heard)
        taken, notes = self._judge(heard, strike)
        added = await self.ledger.add(self.kind, int(self._clock() * 1000), notes)
        if isinstance(self.vendor, Remembers):
            for found, note in zip(taken, notes, strict=True):
                if note.effect:
                    self.vendor.remember(request, found)
        if self._callbacks is not None:
            self._call_back(self._callbacks, request, heard, taken, notes)
        told = "nobody waited"
        try:
            if strike.seconds:
                await asyncio.sleep(strike.seconds)
            answer = self._answer(request, heard, taken, strike)
            told = answer.replace("_", " ") if isinstance(answer, Act) else str(answer.status)
        finally:
            for one in added:
                one.answer = told
        return answer

    def _strike(self, heard: Sequence[Heard]) -> Strike:
        """What strikes the request as a whole: by its addresses first, then by the faults in force."""
        again = any(one.key in self.requests for one in heard)
        struck = self.faults.strike(heard[0].key, again=again)
        for one in heard:
            if (fault := self._steering.fault(one.to)) is not None:
                seconds = struck.seconds + self.faults.random.uniform(*fault.latency)
                name = "" if fault.name == LATENCY else fault.name
                struck = Strike(name or struck.name, seconds, fault.retry_after, fault.taken)
        return struck

    def _judge(self, heard: Sequence[Heard], strike: Strike) -> tuple[list[Taken], list[Note]]:
        """What becomes of each target, and what is written down of it."""
        share = strike.taken
        if share is None:
            share = 0.0 if strike.name in ANSWERS or strike.name in self.vendor.codes else 1.0
        is_taken = not strike.name or share >= 1 or self.faults.random.random() < share
        taken, notes = [], []
        seen: set[str] = set()  # a batch may hold one key twice
        for n, one in enumerate(heard, 1):
            code = strike.name if strike.name in self.vendor.codes else self.steered(one.to)
            known = self.vendor.keyed and one.key and (one.key in seen or self.effects[one.key] > 0)
            seen.add(one.key)
            found = Taken("", code) if code else Taken(self.vendor.id(self.ledger.seq + n))
            effect = is_taken and not code and not known
            taken.append(found)
            struck = code or strike.name
            notes.append(
                Note(one.key, one.to, one.body, effect, struck, found.id if effect else "", one.words)
            )
        return taken, notes

    def _call_back(
        self,
        callbacks: Callbacks,
        request: Request,
        heard: Sequence[Heard],
        taken: Sequence[Taken],
        notes: Sequence[Note],
    ) -> None:
        """Tells what becomes of the targets that took effect, whether or not their sender hears an answer."""
        for one, found, note in zip(heard, taken, notes, strict=True):
            rule = self._steering.rule(one.to)
            for what in (rule.receipts if rule is not None else (DELIVERED,)) if note.effect else ():
                for callback in self.vendor.receipts(request, one, found, what):
                    callbacks.put(self.kind, callback)

    def _answer(
        self, request: Request, heard: Sequence[Heard], taken: Sequence[Taken], strike: Strike
    ) -> Answer | Act:
        name = strike.name
        if name in _ACTS:
            return Act(name)
        if name == "nonsense":
            return NONSENSE
        if name == "oversize":
            return Answer(200, NONSENSE.headers, b" " * OVERSIZE_BYTES)
        if name not in ANSWERS:
            return self.vendor.accept(request, heard, taken)
        answer = self.vendor.fault(name, request, heard)
        if name == THROTTLED and strike.retry_after is not None:
            answer = answer._replace(headers={**answer.headers, "retry-after": f"{strike.retry_after:g}"})
        return answer


class _Steering:
    """A vendor's rules, by address."""

    def __init__(self, rules: Sequence[Rule], known: Collection[str], codes: Collection[str]) -> None:
        """Raises BadFault for a rule that says neither a code nor a fault."""
        self._rules = [
            (rule, parse(rule.does, known) if rule.does and rule.does not in codes else None)
            for rule in rules
        ]
        self._found = functools.lru_cache(_STEERED)(self._find)

    def _find(self, to: str) -> tuple[Rule, Fault | None] | None:
        to = to.lower()
        return next((one for one in self._rules if fnmatch.fnmatchcase(to, one[0].to.lower())), None)

    def rule(self, to: str) -> Rule | None:
        """The first rule that this address meets."""
        found = self._found(to)
        return found[0] if found else None

    def fault(self, to: str) -> Fault | None:
        """The fault that the address brings upon the whole request."""
        found = self._found(to)
        return found[1] if found else None


def faults_of(kind: str) -> set[str]:
    """The names of the faults that a kind knows. Raises KeyError for an unknown one."""
    known = KINDS[kind]
    return {LATENCY, DOWN, *known.listen.faults, *known.make({}, time.time).codes}
