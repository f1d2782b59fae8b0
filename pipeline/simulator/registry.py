"""Which kinds can be simulated: how each speaks, and over which transport."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipeline.simulator.apns import Apns
from pipeline.simulator.fcm import Fcm
from pipeline.simulator.mailgun import Mailgun
from pipeline.simulator.resend import Resend
from pipeline.simulator.sendgrid import SendGrid
from pipeline.simulator.server import HttpListener
from pipeline.simulator.server_h2 import H2Listener
from pipeline.simulator.ses import Ses
from pipeline.simulator.slack import SlackSimulator
from pipeline.simulator.smtp import MailServer
from pipeline.simulator.smtp_server import SmtpListener
from pipeline.simulator.sns import SnsSimulator
from pipeline.simulator.transport import Transport
from pipeline.simulator.twilio import TwilioSimulator
from pipeline.simulator.vendor import Maker
from pipeline.simulator.vonage import VonageSimulator
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
    "slack": Kind(SlackSimulator, secrets=("bot_token",)),
    "mailgun": Kind(Mailgun, secrets=("api_key", "webhook_signing_key")),
    "resend": Kind(Resend, secrets=("api_key", "webhook_secret")),
    "sendgrid": Kind(SendGrid, secrets=("api_key",)),
    "ses": Kind(Ses, secrets=("access_key_id", "secret_access_key", "session_token", "topic_arn")),
    "smtp": Kind(MailServer, SmtpListener, ("username", "password")),
    "sns": Kind(SnsSimulator, secrets=("access_key_id", "secret_access_key", "session_token")),
    "twilio": Kind(TwilioSimulator, secrets=("account_sid", "auth_token", "api_key", "api_secret")),
    "vonage": Kind(VonageSimulator, secrets=("api_key", "api_secret", "signature_secret")),
    "webhook": Kind(WebhookReceiver, secrets=("secret",)),
    "webpush": Kind(PushService, secrets=("vapid_private_key",)),
}
