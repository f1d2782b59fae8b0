"""Which kinds can be simulated: how each speaks, and over which transport."""

from collections.abc import Mapping
from typing import NamedTuple

from pipeline.simulator.server import HttpListener
from pipeline.simulator.transport import Transport
from pipeline.simulator.vendor import Maker
from pipeline.simulator.webhook import WebhookReceiver


class Kind(NamedTuple):
    """One kind; `listen` is another transport where the vendor is not spoken to over HTTP/1.1."""

    make: Maker
    listen: Transport = HttpListener


KINDS: Mapping[str, Kind] = {
    "webhook": Kind(WebhookReceiver),
}
