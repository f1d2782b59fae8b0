"""The kinds of providers that the loops on deliveries call: one row a kind."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pipeline.simulator.registry import KINDS as SIMULATED
from schemas.kinds import Channel


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
    secrets: Sequence[str] = ()
    platform: str | None = None


def _smtp(url: str) -> dict[str, Any]:
    return {"kind": "smtp", "host": "127.0.0.1", "port": urlsplit(url).port}


ALL = (
    Kind(
        "webhook", Can.KEYED, Channel.WEBHOOK, lambda url: {"kind": "webhook", "allow_internal": True},
        lambda url, name: f"{url}/hooks/{name}", lambda url, name: f"{url}/gone/{name}",
    ),
    Kind(
        "smtp", Can.BLIND, Channel.EMAIL, _smtp,
        lambda url, name: f"{name}@example.com", lambda url, name: f"dead@{name}.example.com",
    ),
)  # fmt: skip
KINDS = {kind.name: kind for kind in ALL if kind.name in SIMULATED}
