"""The providers of a channel in their order of failover, and the choice among them for one message."""

import time
from collections.abc import Callable, Mapping, Sequence

from pipeline.pool.member import HORIZON_SECONDS, Member, soonest
from pipeline.providers.provider import Provider
from schemas.kinds import Doubt
from schemas.message import Message
from schemas.outcome import Outcome


class Pool:
    """`limits`: calls a second by provider; `countries`: another order for the numbers of a country."""

    def __init__(
        self,
        providers: Sequence[Provider],
        limits: Mapping[str, float | None] | None = None,
        countries: Mapping[str, Sequence[str]] | None = None,
        country_of: Callable[[str], str | None] = lambda target: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.members = {
            provider.name: Member(provider, (limits or {}).get(provider.name), clock)
            for provider in providers
        }
        self.countries, self.country_of = countries or {}, country_of
        everyone = list(self.members.values())
        platforms = frozenset[str]().union(*[m.provider.platforms or () for m in everyone])
        #: every order in which they are asked
        self.orders = [[self.members[name] for name in order] for order in self.countries.values()]
        self.orders += [[m for m in everyone if m.serves(platform)] for platform in platforms] or [everyone]

    @property
    def parallel(self) -> int:
        """How many calls all of them make at once."""
        return sum(member.provider.parallel for member in self.members.values())

    def set_share(self, share: float) -> None:
        """How much of each provider's limit is this worker's, from 0 to 1."""
        for member in self.members.values():
            member.bucket.set_share(share, member.clock())

    def set_window(self, window: int) -> None:
        """How many calls are made side by side for one partition."""
        for member in self.members.values():
            member.set_window(window)

    @property
    def room(self) -> int:
        """How many calls may begin now; 0 while none of them may be called, or too many wait for one."""
        if any(member.horizon > HORIZON_SECONDS for member in self.members.values()):
            return 0
        return sum(max(0, member.room) for member in self._asked_now())

    @property
    def ready_in(self) -> float:
        """Seconds until one of those may be called who would be; while all are left alone, until any may."""
        return soonest(self._asked_now() or list(self.members.values()))

    def _asked_now(self) -> list[Member]:
        """The first of each order that is not left alone."""
        first = {member.name: member for order in self.orders if (member := _first(order)) is not None}
        return list(first.values())

    def candidates(self, message: Message) -> list[Member]:
        """Who can take a message at all, the first one first."""
        members = list(self.members.values())
        if self.countries:
            order = self.countries.get(self.country_of(message.target) or "")
            if order is not None:
                members = [self.members[name] for name in order]
        if message.platform is None:
            return members
        return [member for member in members if member.serves(message.platform)]

    async def close(self) -> None:
        """Lets every provider's connections go."""
        for member in self.members.values():
            await member.provider.close()


class Offer:
    """One message's view of a pool: agents/deliver.py's Providers. What it chose is begun, until it ends.

    `part` is the number of the partition that it came on.
    """

    __slots__ = ("host", "member", "message", "part", "pool", "probe")

    def __init__(self, pool: Pool, message: Message, part: int = 0) -> None:
        self.pool, self.message, self.part = pool, message, part
        self.member: Member | None = None
        self.host: str | None = None
        self.probe = False

    def honours_keys(self, provider: str) -> bool:
        """Whether a doubt can be settled there, by the key or by asking; False where it is unknown.

        Nobody is asked for a message that may be sent twice: that would only come late.
        """
        member = self.pool.members.get(provider)
        return member is not None and (member.provider.honours_keys or self._asks(member))

    def settles_after(self, provider: str) -> float:
        """Seconds after a call from which on its doubt can be settled there."""
        member = self.pool.members.get(provider)
        if member is None or member.provider.honours_keys or not self._asks(member):
            return 0.0
        return member.ask_after or 0.0

    def key_window(self, provider: str) -> float | None:
        """Seconds after a call for which its key is known there; None: we know of no end."""
        member = self.pool.members.get(provider)
        return member.key_window if member is not None else None

    def _asks(self, member: Member) -> bool:
        return member.ask_after is not None and self.message.doubt is Doubt.AT_MOST_ONCE

    def choose(self, after: str | None = None, only: str | None = None) -> str | float | None:
        """Who is called now; else the seconds until someone may be; None: nobody ever takes such a message.

        `after` has just failed, so that those behind it come first; `only`: no other.
        """
        members = self.pool.candidates(self.message)
        if only is not None:
            members = [member for member in members if member.name == only]
        names = [member.name for member in members]
        if after in names:
            place = names.index(after) + 1
            members = members[place:] + members[:place]
        chosen = _first(members)
        if chosen is not None and chosen.room > 0:
            self.release()
            host = chosen.host(self.message)
            if not chosen.has_room_at(host, self.part):
                return chosen.turn(host)
            self.member, self.host = chosen, host
            self.probe = chosen.begin(host, self, self.part)
            return chosen.name
        waits_for = chosen or min(members, key=lambda member: member.ready_in, default=None)
        return waits_for.turn() if waits_for is not None else None

    @property
    def is_ready(self) -> bool:
        """Whether it is worth asking again who is called for it."""
        first = _first(self.pool.candidates(self.message))
        return first is not None and first.is_worth_asking(self.message, self.part)

    def goes_elsewhere(self, failed: str) -> bool:
        """Whether one behind that which failed may be called at once."""
        members = self.pool.candidates(self.message)
        names = [member.name for member in members]
        if failed not in names:
            return False
        return _first(members[names.index(failed) + 1 :]) is not None

    def release(self) -> None:
        """What was chosen will not be called."""
        if self.member is not None:
            self.member.release(self.host, self, probe=self.probe)
            self.member = None

    def end(self, outcome: Outcome) -> bool:
        """The call has ended; says whether it counts as an attempt."""
        assert self.member is not None
        member, self.member = self.member, None
        return member.end(outcome, self.host, self, probe=self.probe)


def _first(members: Sequence[Member]) -> Member | None:
    """The first that is not left alone: while it is only busy nobody steps in for it."""
    return next((member for member in members if not member.is_away), None)
