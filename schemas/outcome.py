"""What a provider answers, in our words."""

from schemas.base import Record


class Outcome(Record, frozen=True, kw_only=True):
    """How a call ended: sent, delivered, refused (permanent), deferred (surely not sent), doubtful."""

    kind: str
    provider_message_id: str | None = None
    reason: str | None = None
    code: str | None = None
    retry_after: float | None = None


def sent(provider_message_id: str | None = None) -> Outcome:
    """The provider took it over."""
    return Outcome(kind="sent", provider_message_id=provider_message_id)


def delivered(provider_message_id: str | None = None) -> Outcome:
    """It is where the user finds it."""
    return Outcome(kind="delivered", provider_message_id=provider_message_id)


def refused(reason: str) -> Outcome:
    """It will never be taken: permanent."""
    return Outcome(kind="refused", reason=reason)


def deferred(reason: str, retry_after: float | None = None) -> Outcome:
    """It was surely not sent and may be tried again, after `retry_after` seconds if the provider said so."""
    return Outcome(kind="deferred", reason=reason, retry_after=retry_after)


def doubtful(reason: str) -> Outcome:
    """It may or may not have been sent."""
    return Outcome(kind="doubtful", reason=reason)
