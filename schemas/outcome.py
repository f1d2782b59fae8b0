"""What a provider answers, in our words."""

from schemas.base import Frozen


class Outcome(Frozen):
    """How a call ended: sent, delivered, refused (permanent), deferred (surely not sent), doubtful."""

    kind: str
    provider_message_id: str | None = None
    reason: str | None = None
    retry_after: float | None = None


def sent(provider_message_id: str | None = None) -> Outcome:
    """The provider took it over."""
    return Outcome.of(kind="sent", provider_message_id=provider_message_id, reason=None, retry_after=None)


def delivered(provider_message_id: str | None = None) -> Outcome:
    """It is where the user finds it."""
    return Outcome.of(
        kind="delivered", provider_message_id=provider_message_id, reason=None, retry_after=None
    )


def refused(reason: str) -> Outcome:
    """It will never be taken: permanent."""
    return Outcome.of(kind="refused", provider_message_id=None, reason=reason, retry_after=None)


def deferred(reason: str, retry_after: float | None = None) -> Outcome:
    """It was surely not sent and may be tried again, after `retry_after` seconds if the provider said so."""
    return Outcome.of(kind="deferred", provider_message_id=None, reason=reason, retry_after=retry_after)


def doubtful(reason: str) -> Outcome:
    """It may or may not have been sent."""
    return Outcome.of(kind="doubtful", provider_message_id=None, reason=reason, retry_after=None)
