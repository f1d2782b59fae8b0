"""The names of what the stages send to, without any prefix."""

from schemas.kinds import Channel, Priority

EVENTS = "events"
NOTIFICATIONS = "notifications"
DELIVERY_STATUS = "delivery-status"
CONTENTS = "contents"
USERS = "users"
PREFERENCES = "preferences"
DEVICES = "devices"
TEMPLATES = "templates"
WORKFLOWS = "workflows"
SEGMENTS = "segments"
CONTROL = "control"
EXPRESS = "-express"

MESSAGES = {channel: f"{channel}-notifications" for channel in Channel}
DEAD_EVENTS = "dlq-events"
DEAD_NOTIFICATIONS = "dlq-notifications"
DEAD_MESSAGES = {channel: f"dlq-{channel}" for channel in Channel}
DEAD_PEOPLE = "dlq-people"
DEAD_STATUS = "dlq-status"

_LANES = {
    name: {priority: name + (EXPRESS if priority.is_express else "") for priority in Priority}
    for name in (EVENTS, NOTIFICATIONS, *MESSAGES.values())
}


NOTIFICATION_LANES = _LANES[NOTIFICATIONS]
MESSAGE_LANES = {
    (channel, priority): _LANES[MESSAGES[channel]][priority] for channel in Channel for priority in Priority
}
"""The channel topic of a lane."""
