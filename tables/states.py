"""How a message's state may move: a total function over every pair."""

from schemas.kinds import State

_RANK = {
    State.ACCEPTED: 0,
    State.SCHEDULED: 1,
    State.QUEUED: 2,
    State.SENDING: 3,
    State.RETRYING: 3,
    State.UNKNOWN: 4,
    State.SENT: 5,
    State.DELIVERED: 6,
    State.OPENED: 7,
    State.CLICKED: 8,
}
"""What is farther on; a later report of something earlier only fills the timeline."""

_ENDS = {
    State.IGNORED,
    State.DUPLICATE,
    State.SUPPRESSED,
    State.DIGESTED,
    State.EXPIRED,
    State.CANCELLED,
    State.TOO_OLD,
}
"""Ends without a call; only a new decision opens them."""

_AFTER_SENT = {State.BOUNCED: 0, State.UNSUBSCRIBED: 1, State.COMPLAINED: 2}
"""What a receiver reports of something that was sent, whatever was seen of it before; the higher stays."""


def advance(
    state: State | None, reported: State, *, newer_attempt: bool = False, undelivered: bool = False
) -> State:
    """The state after a report. Total: repeats and impossible orders leave the state as it is.

    `newer_attempt`: the report is of an attempt, or a decision, later than any reported before; only
    such a one opens what has failed. `undelivered`: the failure is what became of something that was sent.
    """
    if state is None or state == reported:
        return reported
    if state in _AFTER_SENT:
        return reported if _AFTER_SENT.get(reported, -1) > _AFTER_SENT[state] else state
    if reported in _AFTER_SENT:
        return reported
    if state is State.FAILED:
        return reported if newer_attempt or _RANK.get(reported, -1) >= _RANK[State.DELIVERED] else state
    if state is State.DIGESTED and reported is State.CANCELLED:
        return reported  # taken out of the digest again
    if state in _ENDS:
        return reported if newer_attempt and reported in _RANK else state
    if reported is State.FAILED or reported in _ENDS:
        bound = State.DELIVERED if undelivered and reported is State.FAILED else State.SENT
        return reported if _RANK[state] < _RANK[bound] else state
    return reported if _RANK[reported] > _RANK[state] else state
