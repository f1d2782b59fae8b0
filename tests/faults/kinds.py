"""The kinds of providers that the loops on deliveries call: one row a kind."""

import hashlib
from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from schemas.kinds import Channel
from tests.contract.push_scenes import service_account


class Can(StrEnum):
    """What a provider can do about a doubt."""

    KEYED = "keyed"
    """It honours a key."""
    QUERYABLE = "queryable"
    """It knows no key, and tells afterwards what it took."""
    BLIND = "blind"
    """Neither."""


class Kind(NamedTuple):
    """How a kind is set up against its simulator at a URL, and whom to write to there."""

    name: str
    can: Can
    channel: Channel
    settings: Callable[[str], dict[str, Any]]
    good: Callable[[str, str], str]
    """An address that takes it: of a URL and a name."""
    gone: Callable[[str, str], str]
    """One that is refused for good."""
    platform: str | None = None


ASK_AFTER = 1.0
"""Seconds after which events tell what was taken: the simulator's do at once."""


def _smtp(url: str) -> dict[str, Any]:
    return {"kind": "smtp", "host": "127.0.0.1", "port": urlsplit(url).port}


def _mailgun(url: str) -> dict[str, Any]:
    return {
        "kind": "mailgun", "base_url": url, "domain": "example.com", "api_key": "key-simulated",
        "from": "Shop <shop@example.com>", "ask_after": ASK_AFTER,
    }  # fmt: skip


def _fcm(url: str) -> dict[str, Any]:
    return {"kind": "fcm", "base_url": url, "service_account": service_account()}


def _twilio(url: str) -> dict[str, Any]:
    return {
        "kind": "twilio", "base_url": url, "account_sid": "AC" + "0" * 32, "auth_token": "simulated",
        "from": "+15005550006",
    }  # fmt: skip


def _number(url: str, name: str) -> str:
    return f"+4915{int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10**9:09d}"


ALL = (
    Kind(
        "webhook", Can.KEYED, Channel.WEBHOOK, lambda url: {"kind": "webhook", "allow_internal": True},
        lambda url, name: f"{url}/hooks/{name}", lambda url, name: f"{url}/gone/{name}",
    ),
    Kind(
        "mailgun", Can.QUERYABLE, Channel.EMAIL, _mailgun,
        lambda url, name: f"{name}@example.com", lambda url, name: f"invalid@{name}.example.com",
    ),
    Kind(
        "smtp", Can.BLIND, Channel.EMAIL, _smtp,
        lambda url, name: f"{name}@example.com", lambda url, name: f"dead@{name}.example.com",
    ),
    Kind(
        "fcm", Can.BLIND, Channel.PUSH, _fcm,
        lambda url, name: f"device-{name}", lambda url, name: f"dead-{name}", "android",
    ),
    Kind(
        "twilio", Can.BLIND, Channel.SMS, _twilio, _number, lambda url, name: "+15005550001",
    ),
)  # fmt: skip
KINDS = {kind.name: kind for kind in ALL}
