"""Which kinds can be simulated: how each speaks, and over which transport."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipeline.simulator.apns import Apns
from pipeline.simulator.fcm import Fcm
from pipeline.simulator.server import HttpListener
from pipeline.simulator.server_h2 import H2Listener
from pipeline.simulator.smtp import MailServer
from pipeline.simulator.smtp_server import SmtpListener
from pipeline.simulator.transport import Transport
from pipeline.simulator.vendor import Maker
from pipeline.simulator.webhook import WebhookReceiver
from pipeline.simulator.webpush import PushService


class Kind(NamedTuple):
    """One kind; `listen` is another transport where the vendor is not spoken to over HTTP/1.1."""

    make: Maker
    listen: Transport = HttpListener
    secrets: Sequence[str] = ()
    """The names of the secrets that its maker reads; the command line takes no others."""


KINDS: Mapping[str, Kind] = {
    "apns": Kind(Apns, H2Listener, ("key", "key_id", "team_id", "topic")),
    "fcm": Kind(Fcm, secrets=("service_account",)),
    "smtp": Kind(MailServer, SmtpListener, ("username", "password")),
    "webhook": Kind(WebhookReceiver, secrets=("secret",)),
    "webpush": Kind(PushService, secrets=("vapid_private_key",)),
}
