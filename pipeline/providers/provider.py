"""What every provider is to the rest of us, and what can be set for each."""

from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from pydantic import Field, SecretStr

from pipeline.attachments import Attached
from pipeline.sections import Section, SettingsError
from schemas.message import Message
from schemas.outcome import Outcome


class ProviderSettings(Section):
    """One provider of a channel. Each kind has a model of its own, with what it needs besides."""

    kind: str
    timeout: float = Field(10.0, gt=0, le=60, description="seconds, in all, for one call")
    limit_per_second: float | None = Field(
        None, gt=0, le=1_000_000, description="the vendor's limit; none: calls are not slowed down"
    )
    headroom: float = Field(
        0.8, gt=0, le=1, description="the share of limit_per_second that all workers together use"
    )

    @property
    def longest(self) -> float:
        """Seconds that a message may take at the provider, with all that is asked of it."""
        return self.timeout


class HttpSettings(ProviderSettings):
    """A provider that is called over HTTP."""

    base_url: str | None = Field(None, description="stands for the vendor's own address")


class Place(NamedTuple):
    """Where a provider finds itself: the project's files, the address at which vendors reach us, and what to
    fetch attachments with."""

    state_dir: Path
    public_url: str = ""
    attachments: Attached | None = None


class Provider(Protocol):
    """Sends one message to one target.

    `name` is the operator's, `kind` the vendor's; `honours_keys` says that a second call with the same
    key has no second effect; `parallel` is how many calls it makes at once.
    """

    name: str
    kind: str
    honours_keys: bool
    parallel: int

    @property
    def platforms(self) -> frozenset[str] | None:
        """Of which devices it can reach; None: it does not ask."""

    async def send(self, message: Message, key: str) -> Outcome:
        """Makes the call, within the provider's own total deadline. Never raises: doubt is an outcome."""

    async def close(self) -> None:
        """Lets connections go."""


@runtime_checkable
class Queryable(Protocol):
    """A provider that can be asked what became of a call whose end nobody saw."""

    @property
    def ask_after(self) -> float | None:
        """Seconds after a call from which on its answer can be trusted; None: it is not to be asked."""

    async def find(self, message: Message, key: str) -> Outcome | None:
        """Sent, where the vendor has it; None where it surely has not; else doubtful. Never raises."""


@runtime_checkable
class Forgetful(Protocol):
    """A provider of which it is known how long it remembers a key.

    `key_window` is in seconds from the first call with it; None: no end is known, as of every other provider.
    """

    key_window: float | None


@runtime_checkable
class ManyHosts(Protocol):
    """A provider that calls hosts which others name: none of them is to take all of its calls.

    `per_host` is how many it makes to one host at once.
    """

    per_host: int

    def host(self, message: Message) -> str | None:
        """Whom a call for a message goes to; None: to nobody. Never raises."""


def needed(name: str, settings: ProviderSettings, field: str) -> str:
    """The text or secret of a setting that a kind cannot do without. Raises SettingsError."""
    value = getattr(settings, field)
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not text:
        told = type(settings).model_fields[field].alias or field
        raise SettingsError(f"providers.{name}.{told}: {settings.kind} needs it")
    return str(text)
