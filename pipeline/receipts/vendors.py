"""Which kinds of providers call back, and what of their settings it takes to believe them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pydantic import SecretStr

from pipeline.receipts.fetching import fetch as fetched
from pipeline.receipts.mailgun import Mailgun
from pipeline.receipts.receipt import Vendor
from pipeline.receipts.resend import Resend
from pipeline.receipts.sendgrid import SendGrid
from pipeline.receipts.ses import SES, Fetch
from pipeline.receipts.twilio import Twilio
from pipeline.receipts.vonage import Vonage
from pipeline.settings import Settings, SettingsError
from schemas.kinds import Channel


class Kind(NamedTuple):
    """The setting without which nothing of the kind is believed, and what makes a vendor of settings."""

    needs: str
    make: Callable[[Callable[[str], str], Fetch], Vendor]


KINDS: Mapping[str, Kind] = {
    "sendgrid": Kind("webhook_public_key", lambda told, _: SendGrid(told("webhook_public_key"))),
    "ses": Kind("topic_arn", lambda told, fetch: SES(told("topic_arn"), fetch)),
    "mailgun": Kind("webhook_signing_key", lambda told, _: Mailgun(told("webhook_signing_key"))),
    "resend": Kind("webhook_secret", lambda told, _: Resend(told("webhook_secret"))),
    "twilio": Kind("auth_token", lambda told, _: Twilio(told("auth_token"))),
    "vonage": Kind(
        "signature_secret",
        lambda told, _: Vonage(told("signature_secret"), told("signature_method") or "sha256"),  # type: ignore[arg-type]  # the setting has no other values
    ),
}


class Calling(NamedTuple):
    """A provider that calls back, and the channel that it is of."""

    channel: Channel
    vendor: Vendor


def calling(settings: Settings, fetch: Fetch = fetched) -> dict[str, Calling]:
    """The providers that are believed, by name: those whose settings hold what it takes.

    Raises SettingsError where two have the same name, or a key is none.
    """
    found: dict[str, Calling] = {}
    for channel, of_channel in settings.channels.items():
        for name, provider in of_channel.providers.items():
            kind = KINDS.get(provider.kind)
            if kind is None or not _told(provider, kind.needs):
                continue
            place = f"channels.{channel}.providers.{name}"
            if name in found:
                raise SettingsError(f"{place}: another provider that calls back has this name")
            try:
                vendor = kind.make(lambda field, of=provider: _told(of, field), fetch)  # type: ignore[misc]
            except ValueError as error:
                raise SettingsError(f"{place}.{kind.needs}: {error}") from None
            found[name] = Calling(channel, vendor)
    return found


def _told(provider: Any, field: str) -> str:
    """A setting of a provider in plain text, empty where its kind has none or it is not set."""
    value = getattr(provider, field, None)
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value or "")
