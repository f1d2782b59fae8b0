"""The closed sets that a notification speaks in."""

from enum import StrEnum


class Channel(StrEnum):
    """The ways to reach somebody."""

    __hash__ = str.__hash__  # that of Enum is a call into Python

    EMAIL = "email"
    SMS = "sms"
    PUSH = "push"
    WEB = "web"
    CHAT = "chat"
    WEBHOOK = "webhook"


class Priority(StrEnum):
    """How urgent a notification is; critical and high travel in the express lane."""

    __hash__ = str.__hash__  # that of Enum is a call into Python

    CRITICAL = "critical"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @classmethod
    def _missing_(cls, value: object) -> "Priority | None":
        return cls.NORMAL if value == "medium" else None

    @property
    def is_express(self) -> bool:
        return self in _EXPRESS


_EXPRESS = frozenset({Priority.CRITICAL, Priority.HIGH})


class Doubt(StrEnum):
    """What becomes of a call that may or may not have taken effect, where the provider can't tell."""

    AT_LEAST_ONCE = "at_least_once"
    AT_MOST_ONCE = "at_most_once"


class State(StrEnum):
    """Where a message is. `duplicate` and `ignored` are of events that made no message."""

    __hash__ = str.__hash__  # that of Enum is a call into Python

    ACCEPTED = "accepted"
    IGNORED = "ignored"
    DUPLICATE = "duplicate"
    SUPPRESSED = "suppressed"
    SCHEDULED = "scheduled"
    DIGESTED = "digested"
    QUEUED = "queued"
    SENDING = "sending"
    RETRYING = "retrying"
    SENT = "sent"
    DELIVERED = "delivered"
    OPENED = "opened"
    CLICKED = "clicked"
    BOUNCED = "bounced"
    COMPLAINED = "complained"
    UNSUBSCRIBED = "unsubscribed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    TOO_OLD = "too_old"
    UNKNOWN = "unknown"


class Reason(StrEnum):
    """Why a message is where it is, in words that a person understands."""

    __hash__ = str.__hash__  # that of Enum is a call into Python

    NO_WORKFLOW = "no_workflow"
    NO_RECIPIENT = "no_recipient"
    ALREADY_PLANNED = "already_planned"
    UNKNOWN_USER = "unknown_user"
    NO_ADDRESS = "no_address"
    CHANNEL_OPTED_OUT = "channel_opted_out"
    CATEGORY_OPTED_OUT = "category_opted_out"
    ADDRESS_SUPPRESSED = "address_suppressed"
    DAILY_CAP = "daily_cap"
    CATEGORY_CAP = "category_cap"
    THROTTLED = "throttled"
    SCHEDULED = "scheduled"
    QUIET_HOURS = "quiet_hours"
    IN_DIGEST = "in_digest"
    CANCELLED = "cancelled"
    CANCELLED_TOO_LATE = "cancelled_too_late"
    CANCEL_ASKED = "cancel_asked"
    USER_ERASED = "user_erased"
    FALLBACK = "fallback"
    ESCALATED = "escalated"
    EXPIRED = "expired"
    TOO_OLD = "too_old"
    UNKNOWN_TEMPLATE = "unknown_template"
    UNKNOWN_SEGMENT = "unknown_segment"
    TEMPLATE_FAILED = "template_failed"
    INVALID_VARIABLES = "invalid_variables"
    NO_TEMPLATE_FOR_CHANNEL = "no_template_for_channel"
    REFUSED = "refused"
    NO_PROVIDER = "no_provider"
    RETRIES_EXHAUSTED = "retries_exhausted"
    UNDELIVERED = "undelivered"
    CALL_CUT_OFF = "call_cut_off"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too_large"
    NOT_SUPPORTED = "not_supported"
    RAISED = "raised"
    DEADLY = "deadly"
