"""What a provider answers, in our words."""

from typing import Literal, NamedTuple

from schemas.base import Record

Fault = Literal["message", "target", "provider"]
"""Whose fault it is. A provider's counts for its circuit breaker."""


class Outcome(Record, frozen=True, kw_only=True):
    """How a call ended: sent, delivered, refused (permanent), deferred (surely not sent), doubtful.

    `code` is the vendor's own. `dead_since`: the target is dead for good, since then (ms; 0: not said).
    `request`: the number, at its provider, of the request that failed where several messages shared it.
    """

    kind: str
    provider_message_id: str | None = None
    reason: str | None = None
    code: str | None = None
    retry_after: float | None = None
    fault: Fault | None = None
    dead_since: int | None = None
    request: int | None = None


class Meaning(NamedTuple):
    """What a vendor's code means: the kind of outcome, whose fault it is, and in words why."""

    kind: Literal["sent", "delivered", "refused", "deferred", "doubtful"]
    fault: Fault | None
    words: str
    dead: bool = False
    """The target will never be good again."""
    throttles: bool = False
    """The provider wants fewer calls."""

    def outcome(
        self,
        code: str,
        detail: str = "",
        *,
        retry_after: float | None = None,
        dead_since: int = 0,
        provider_message_id: str | None = None,
    ) -> Outcome:
        """The outcome of a call that was answered with a code of this meaning."""
        if self.kind in {"sent", "delivered"}:
            return Outcome(kind=self.kind, provider_message_id=provider_message_id)
        if retry_after is None and self.throttles:
            retry_after = THROTTLED_SECONDS
        return Outcome(
            kind=self.kind, provider_message_id=provider_message_id,
            reason=f"{code}: {detail or self.words}"[:REASON], retry_after=retry_after, code=code[:CODE],
            fault=self.fault, dead_since=dead_since if self.dead else None,
        )  # fmt: skip


THROTTLED_SECONDS = 1.0
"""How long a provider that wants fewer calls is left alone, where it does not say for how long."""
REASON, CODE = 200, 60
"""The most characters of a reason, and of a code."""


def sent(provider_message_id: str | None = None) -> Outcome:
    """The provider took it over."""
    return Outcome(kind="sent", provider_message_id=provider_message_id)


def delivered(provider_message_id: str | None = None) -> Outcome:
    """It is where the user finds it."""
    return Outcome(kind="delivered", provider_message_id=provider_message_id)


def refused(reason: str, code: str | None = None, fault: Fault | None = "message") -> Outcome:
    """It will never be taken: permanent."""
    return Outcome(kind="refused", reason=reason, code=code, fault=fault)


def deferred(
    reason: str, retry_after: float | None = None, code: str | None = None, fault: Fault | None = None
) -> Outcome:
    """It was surely not sent and may be tried again, after `retry_after` seconds if the provider said so."""
    return Outcome(kind="deferred", reason=reason, retry_after=retry_after, code=code, fault=fault)


def doubtful(reason: str, code: str | None = None, fault: Fault | None = None) -> Outcome:
    """It may or may not have been sent."""
    return Outcome(kind="doubtful", reason=reason, code=code, fault=fault)
