"""The demo's providers: simulated vendors, credentials made for the run, and the settings that lead there."""

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pipeline.simulator import sendgrid, slack, twilio, vonage
from pipeline.simulator.fleet import Fleet
from schemas.kinds import Channel

KINDS: Mapping[str, Channel] = {
    "smtp": Channel.EMAIL,
    "sendgrid": Channel.EMAIL,
    "twilio": Channel.SMS,
    "vonage": Channel.SMS,
    "fcm": Channel.PUSH,
    "apns": Channel.PUSH,
    "webpush": Channel.PUSH,
    "slack": Channel.CHAT,
    "webhook": Channel.WEBHOOK,
}
"""Who is simulated, and the channel that each is of."""
FAULTS: Mapping[str, Sequence[str]] = {"smtp": ("throttled:0.1",), "twilio": ("throttled:0.05",)}
"""What those behind them in the order are there for. Who is refused so was surely not sent to."""
SENDER = "The Bell Shop <shop@example.com>"


class Vendors:
    """The simulated ones; `fleet` is the caller's to enter, and `public_url` is where they report to."""

    def __init__(self, seed: int, public_url: str) -> None:
        self._fcm, self._apns, self._vapid = _service_account(), _apns(), _vapid_key()
        self.fleet = Fleet(
            tuple(KINDS),
            faults=FAULTS,
            secrets={
                "fcm": {"service_account": self._fcm},
                "apns": self._apns,
                "webpush": {"vapid_private_key": self._vapid},
            },
            seed=seed,
            callbacks=f"{public_url}/callbacks/{{kind}}",
        )

    def url(self, kind: str) -> str:
        """Where a kind is, once the fleet was entered."""
        return self.fleet.simulators[kind].base_url

    def channels(self) -> dict[str, Any]:
        """The settings of the channels, once the fleet was entered; each vendor is named as its kind.

        British numbers are for the development outbox.
        """
        fields: dict[str, dict[str, Any]] = {
            "sendgrid": {
                "api_key": sendgrid.API_KEY, "from": SENDER, "webhook_public_key": sendgrid.PUBLIC_KEY,
            },
            "twilio": {
                "account_sid": twilio.ACCOUNT_SID, "auth_token": twilio.AUTH_TOKEN, "from": "+15005550006",
            },
            "vonage": {
                "api_key": vonage.API_KEY, "api_secret": vonage.API_SECRET, "from": "BellShop",
                "signature_secret": vonage.SIGNATURE_SECRET,
            },
            "fcm": {"service_account": self._fcm},
            "apns": self._apns,
            "slack": {"bot_token": slack.BOT_TOKEN},
        }  # fmt: skip
        made = {name: {"kind": name, "base_url": self.url(name), **found} for name, found in fields.items()}
        port = self.fleet.simulators["smtp"].port
        made["smtp"] = {"kind": "smtp", "host": "127.0.0.1", "port": port, "from": SENDER}
        made["webpush"] = {
            "kind": "webpush", "vapid_private_key": self._vapid, "subject": "mailto:shop@example.com",
            "allow_internal": True,
        }  # fmt: skip
        made["webhook"] = {"kind": "webhook", "allow_internal": True}
        channels: dict[str, Any] = {
            channel: {"providers": {kind: made[kind] for kind, of in KINDS.items() if of is channel}}
            for channel in (Channel.EMAIL, Channel.SMS, Channel.PUSH, Channel.CHAT, Channel.WEBHOOK)
        }
        channels[Channel.EMAIL]["postal_address"] = "The Bell Shop, 1 Belfry Lane, Exampleton"
        channels[Channel.SMS] |= {"order": ["twilio", "vonage", "outbox"], "countries": {"GB": ["outbox"]}}
        channels[Channel.SMS]["providers"]["outbox"] = {"kind": "outbox"}
        channels[Channel.WEB] = {"providers": {"inbox": {"kind": "inbox"}}}
        return {str(channel): found for channel, found in channels.items()}

    def effects(self) -> Counter[tuple[str, str, str]]:
        """How often each target of a pair was told by a vendor: (notification id, channel, target id)."""
        found: Counter[tuple[str, str, str]] = Counter()
        for kind, simulator in self.fleet.simulators.items():
            for key, count in simulator.effects.items():
                found[told(key, KINDS[kind])] += count
        return found


def told(key: str, channel: str) -> tuple[str, str, str]:
    """Notification, channel and target of an idempotency key, whatever the step."""
    notification, _, rest = key.partition(".")
    return notification, str(channel), rest.partition(".")[0]


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _service_account() -> str:
    key = rsa.generate_private_key(65_537, 2_048)
    return json.dumps(
        {
            "type": "service_account", "project_id": "bell-shop", "private_key_id": "demo",
            "private_key": _pem(key), "client_email": "push@bell-shop.iam.gserviceaccount.com",
            "token_uri": "https://oauth2.googleapis.com/token",
        }
    )  # fmt: skip


def _apns() -> dict[str, str]:
    key = _pem(ec.generate_private_key(ec.SECP256R1()))
    return {"key": key, "key_id": "DEMODEMO01", "team_id": "BELLSHOP01", "topic": "com.example.bellshop"}


def _vapid_key() -> str:
    number = ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value
    return base64.urlsafe_b64encode(number.to_bytes(32)).rstrip(b"=").decode()
