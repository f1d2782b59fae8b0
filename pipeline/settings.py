"""Settings: `carillon.toml`, overruled by CARILLON_… variables; unknown ones are refused with the nearest name."""

import difflib
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from platformdirs import user_data_path
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from schemas.kinds import Channel

ENV_PREFIX = "CARILLON_"
#: read by other parts of the process, not settings
_OTHER_VARIABLES = {"CARILLON_FAILPOINT", "CARILLON_FAILPOINT_LOG"}


class SettingsError(Exception):
    """A setting that cannot be used; the message names it and what to do."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Kafka(_Section):
    """Where the broker is and how this process speaks to it."""

    bootstrap_servers: str = Field(
        "", description="host:port,…; empty: KAFKA_BOOTSTRAP_SERVERS, else the embedded broker"
    )
    topic_prefix: str = Field("", pattern=r"^[A-Za-z0-9._-]*$", description="stands before every topic and group")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_username: str = ""
    sasl_password: SecretStr = SecretStr("")
    sasl_password_file: Path | None = None
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    session_timeout: float = Field(10.0, ge=1, le=300, description="seconds until a silent worker's work is given away")
    partitions: dict[str, int] = Field(
        default_factory=dict, description="partitions of a role's topics (core, status, email, sms, …), for new set-ups"
    )
    replication_factor: int = Field(1, ge=1, description="of the topics that we create")


class Web(_Section):
    """The HTTP side: operator pages, metrics, health."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535, description="0: any free one")
    public_url: str = ""


class ProviderSettings(_Section):
    """One provider of a channel. Which fields count depends on its `kind`."""

    kind: Literal["outbox", "smtp", "webhook", "inbox"]
    base_url: str | None = Field(None, description="stands for the vendor's own address (HTTP kinds)")
    host: str = Field("127.0.0.1", description="smtp")
    port: int = Field(25, ge=1, le=65535, description="smtp")
    username: str | None = Field(None, description="smtp")
    password: SecretStr | None = Field(None, description="smtp")
    password_file: Path | None = None
    sender: str = Field("Carillon <carillon@localhost>", alias="from", description="smtp: the From address")
    signing_secret: SecretStr | None = Field(None, description="webhook: whsec_… (Standard Webhooks)")
    signing_secret_file: Path | None = None
    allow_internal: bool = Field(False, description="webhook: also call loopback and private addresses")
    timeout: float = Field(10.0, gt=0, le=60, description="seconds, in all, for one call")

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class ChannelSettings(_Section):
    """How a channel is delivered."""

    order: tuple[str, ...] = Field((), description="providers, the first one first; empty: as they stand")
    providers: dict[str, ProviderSettings] = Field(default_factory=dict)
    window: Annotated[int, Field(ge=1, le=1000)] = Field(64, description="calls side by side, a partition")

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in self.order:
            if name not in self.providers:
                raise ValueError(f"order: there is no provider {name!r}; there are {sorted(self.providers)}")
        return self


def _development_channels() -> dict[Channel, ChannelSettings]:
    def only(kind: str) -> ChannelSettings:
        return ChannelSettings.model_validate({"providers": {kind: {"kind": kind}}})

    return {
        Channel.EMAIL: only("outbox"),
        Channel.SMS: only("outbox"),
        Channel.WEB: only("inbox"),
        Channel.WEBHOOK: only("webhook"),
    }


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, toml_file=None
    )

    state_dir: Path = Field(
        default_factory=lambda: user_data_path("carillon", appauthor=False) / "state",
        description="RocksDB; may be lost: it is restored from Kafka",
    )
    workflows_dir: Path = Field(Path("workflows"), description="rules that `carillon run` publishes first")
    templates_dir: Path = Field(Path("templates"), description="templates that `carillon run` publishes first")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    operator_token: SecretStr | None = Field(None, description="for the operator pages; made and printed if not set")
    kafka: Kafka = Field(default_factory=lambda: Kafka())  # type: ignore[call-arg]
    web: Web = Field(default_factory=lambda: Web())  # type: ignore[call-arg]
    channels: dict[Channel, ChannelSettings] = Field(default_factory=_development_channels)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        return env_settings, init_settings


def load(path: Path | None = None, overrides: dict[str, Any] | None = None) -> Settings:
    """Reads the file (`carillon.toml` here if there is one), the environment, and the files of secrets.

    Raises SettingsError, which names the setting.
    """
    file = path or Path("carillon.toml")
    given: dict[str, Any] = {}
    if file.exists():
        try:
            given = tomllib.loads(file.read_text())
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{file}: {error}") from None
    elif path is not None:
        raise SettingsError(f"{file}: no such file")
    given = _merged(given, overrides or {})
    _refuse_unknown_variables()
    try:
        found = Settings(**given)
    except ValidationError as error:
        raise SettingsError(_told(error)) from None
    return _with_secrets(found)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    found = dict(below)
    for name, value in above.items():
        old = found.get(name)
        found[name] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return found


def _refuse_unknown_variables() -> None:
    known = {name.upper() for name in Settings.model_fields}
    for variable in os.environ:
        if variable.startswith(ENV_PREFIX) and variable not in _OTHER_VARIABLES:
            name = variable.removeprefix(ENV_PREFIX).split("__")[0].upper()
            if name not in known:
                raise SettingsError(f"{variable}: no such setting{_nearest(name.lower(), Settings.model_fields)}")


def _nearest(name: str, known: Any) -> str:
    found = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {found[0]}?" if found else ""


def _told(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    path = [str(part) for part in first["loc"]]
    name = ".".join(path)
    if first["type"] == "extra_forbidden":
        model: Any = Settings
        for part in path[:-1]:
            fields = getattr(model, "model_fields", None)
            field = fields.get(part) if fields else None
            model = field.annotation if field is not None else _SECTIONS.get(part, model)
        return f"{name}: no such setting{_nearest(path[-1], getattr(model, 'model_fields', {}))}"
    return f"{name}: {first['msg']}"


_SECTIONS: dict[str, Any] = {"providers": ProviderSettings} | {str(c): ChannelSettings for c in Channel}


def _with_secrets(settings: Settings) -> Settings:
    """Reads `…_file` secrets into their fields."""

    def filled(section: Any) -> Any:
        changes: dict[str, Any] = {}
        for name in type(section).model_fields:
            value = getattr(section, name)
            if name.endswith("_file") and value is not None and name.removesuffix("_file") in type(section).model_fields:
                try:
                    changes[name.removesuffix("_file")] = SecretStr(Path(value).read_text().strip())
                except OSError as error:
                    raise SettingsError(f"{name}: {error}") from None
            elif isinstance(value, BaseModel):
                changes[name] = filled(value)
            elif isinstance(value, dict) and any(isinstance(v, BaseModel) for v in value.values()):
                changes[name] = {k: filled(v) for k, v in value.items()}
        return section.model_copy(update=changes) if changes else section

    found: Settings = filled(settings)
    return found


def bootstrap_servers(settings: Settings) -> str:
    """The broker to use: the setting, else KAFKA_BOOTSTRAP_SERVERS, else "" (embed one)."""
    return settings.kafka.bootstrap_servers or os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "")
