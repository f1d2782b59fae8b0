"""What can go wrong with the embedded Kafka, as errors whose text is for people.

BrokerUnavailable      there is no Kafka to be had here: it could not be fetched, or its directory is taken
└── BrokerFailed       it was had, but a broker exited or did not answer in time; carries its last log lines
ToolFailed             one of Kafka's own tools ended with an error; carries what it said
"""


class BrokerUnavailable(RuntimeError):
    """The embedded Kafka cannot be used on this machine now; the text says what to do instead."""


class BrokerFailed(BrokerUnavailable):
    """A broker exited, or did not become ready in time; the text ends with its last log lines."""


class ToolFailed(RuntimeError):
    """One of Kafka's own tools ended with an error; the text is the tool's message."""
