"""The providers of this process as they do now: who is called, who is left alone, and for how long."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from pipeline.pool import Pool
from pipeline.pool.member import Member
from schemas.kinds import Channel

State = Literal["closed", "open", "probing", "waiting"]


class ProviderState(NamedTuple):
    """One provider. `open`: its breaker is, after failures in a row; `waiting`: it asked for a pause.

    `seconds`: until a call may begin; `per_second`: this worker's share of the limit, None without one.
    """

    channel: Channel
    name: str
    kind: str
    state: State
    failures: int
    seconds: float
    under_way: int
    per_second: float | None


def states(pools: Mapping[Channel, Pool]) -> list[ProviderState]:
    """Every provider of this process, a channel's in the order of failover."""
    return [_state(channel, member) for channel, pool in pools.items() for member in pool.members.values()]


def _state(channel: Channel, member: Member) -> ProviderState:
    breaker, bucket = member.breaker, member.bucket
    seconds = breaker.ready_in(member.clock())
    state: State = "closed"
    if breaker.is_open:
        state = "probing" if breaker.probing else "waiting" if breaker.asked else "open"
    per_second = None if bucket.per_second is None else round(bucket.per_second * bucket.share, 3)
    return ProviderState(
        channel, member.name, member.provider.kind, state, breaker.failures, round(seconds, 3),
        member.under_way, per_second,
    )  # fmt: skip
