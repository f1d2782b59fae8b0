"""Settings: `carillon.toml`, overruled by CARILLON_… variables.

Unknown ones are refused with the nearest name. `docs/configuration.md` lists them all.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from platformdirs import user_data_path
from pydantic import (
    BaseModel,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from pipeline.providers.registry import KINDS, MODELS, AnyProvider
from pipeline.sections import Section
from pipeline.sections import SettingsError as SettingsError
from schemas.kinds import Channel

ENV_PREFIX = "CARILLON_"
#: read by other parts of the process, not settings
_OTHER_VARIABLES = {
    "CARILLON_FAILPOINT",
    "CARILLON_FAILPOINT_LOG",
    "CARILLON_MAVEN_REPOSITORY",
    "CARILLON_SIMULATOR_SECRETS",
}
_ROLES = ("core", *(str(channel) for channel in Channel), "status")


_server = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[^\s/:\[\]]+)(?::([0-9]{1,5}))?").fullmatch


def _servers(given: str) -> str:
    """What is given, or ValueError for what the Kafka client would stumble over."""
    for n, server in enumerate(given.split(",") if given else (), 1):
        found = _server(server.strip())
        if not found or not 0 < int(found[1] or 1) < 65_536:
            raise ValueError(f"number {n} is not host:port (a port is a number from 1 to 65535)")
    return given


class Kafka(Section):
    """Where the broker is and how this process speaks to it."""

    bootstrap_servers: str = Field(
        "", description="host:port,…; empty: KAFKA_BOOTSTRAP_SERVERS, else the embedded broker"
    )
    topic_prefix: str = Field(
        "", pattern=r"^[A-Za-z0-9._-]*$", description="stands before every topic and group"
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how the broker is spoken to"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="SASL_…: how this process proves who it is"
    )
    sasl_username: str = Field("", description="SASL_…: the user")
    sasl_password: SecretStr = Field(SecretStr(""), description="SASL_…: the password")
    sasl_password_file: Path | None = Field(None, description="a file that holds sasl_password")
    ssl_cafile: Path | None = Field(None, description="SSL: certificates to trust, PEM; none: the system's")
    ssl_certfile: Path | None = Field(None, description="SSL: our own certificate, PEM")
    ssl_keyfile: Path | None = Field(None, description="SSL: the key of ssl_certfile, PEM")
    session_timeout: float = Field(
        10.0, ge=1, le=300, description="seconds until a silent worker's work is given away"
    )
    partitions: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict,
        description="partitions of a role's topics (core, status, email, sms, …), for new set-ups",
    )
    replication_factor: int = Field(1, ge=1, description="of the topics that we create")

    @field_validator("bootstrap_servers")
    @classmethod
    def _addresses(cls, servers: str) -> str:
        return _servers(servers)

    @field_validator("partitions")
    @classmethod
    def _of_roles(cls, partitions: dict[str, int]) -> dict[str, int]:
        for role in partitions:
            if role not in _ROLES:
                raise ValueError(f"no such role {role!r}{_nearest(role, _ROLES)}")
        return partitions


class Web(Section):
    """The HTTP side: operator pages, metrics, health."""

    host: str = Field("127.0.0.1", description="the address to listen on; 0.0.0.0: all of this machine's")
    port: int = Field(8080, ge=0, le=65535, description="0: any free one")
    public_url: str = Field(
        "",
        description="under which people reach the pages; hosts other than its and this machine are refused",
    )
    link_secret: SecretStr | None = Field(
        None, description="signs the links in messages, the same for all processes; made and kept if not set"
    )
    link_secret_file: Path | None = Field(None, description="a file that holds link_secret")


class Retention(Section):
    """For how many days things are kept. Whatever is read again is compared with what is remembered of it."""

    sources: float = Field(
        7, gt=0, description="days that events, notifications and messages stay on topics that are created"
    )
    claims: float = Field(
        8,
        gt=0,
        description="days until it is forgotten what was decided; an older event is not told any more",
    )
    attempts: float = Field(9, gt=0, description="days until calls to providers are forgotten; after claims")
    statuses: float = Field(
        14, gt=0, description="days that delivery-status and contents stay on topics that are created"
    )
    history: float = Field(30, gt=0, description="days until a notification's story is forgotten")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sources > self.claims:
            raise ValueError(
                "sources: must not be more than claims, or events outlive what was decided of them"
            )
        if self.claims >= self.attempts:
            raise ValueError(
                "claims: must be less than attempts, or messages outlive the calls made for them"
            )
        if self.statuses > self.history:
            raise ValueError("statuses: must not be more than history, or statuses outlive what they told")
        return self


def _names_in(order: Any) -> Any:
    if not isinstance(order, str):
        return order
    if order.lstrip().startswith("["):
        try:
            return json.loads(order)
        except ValueError:
            raise ValueError("not a JSON list") from None
    return [name.strip() for name in order.split(",") if name.strip()]


class ChannelSettings(Section):
    """How a channel is delivered."""

    order: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="providers, the first one first; empty: as they stand"
    )
    providers: dict[str, AnyProvider] = Field(
        default_factory=dict, description="by the names that you give them"
    )
    postal_address: str = Field("", description="email: who sends it and where they are, below bulk mail")
    countries: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description='sms: another order for the numbers of a country, such as DE = ["backup"]',
    )
    window: Annotated[int, Field(ge=1, le=1000)] = Field(64, description="calls side by side, a partition")

    @field_validator("order", mode="before")
    @classmethod
    def _listed(cls, order: Any) -> Any:
        """Takes a list; from the environment also JSON, or names with commas between."""
        return _names_in(order)

    @field_validator("countries", mode="before")
    @classmethod
    def _by_country(cls, countries: Any) -> Any:
        """Takes lists as `order` does; the environment writes countries in lower case."""
        if not isinstance(countries, dict):
            return countries
        return {str(country).upper(): _names_in(order) for country, order in countries.items()}

    @model_validator(mode="after")
    def _known(self) -> Self:
        known = self.order or tuple(self.providers)
        for name in self.order:
            if name not in self.providers:
                raise ValueError(
                    f"order: there is no provider {name!r}; there are {', '.join(self.providers) or 'none'}"
                )
        for country, order in self.countries.items():
            if not (len(country) == 2 and country.isascii() and country.isalpha()):
                raise ValueError(
                    f"countries: {country!r} is no country; two letters name one, as DE (ISO 3166)"
                )
            if not order:
                raise ValueError(f"countries.{country}: nobody is named")
            for name in order:
                if name not in known:
                    raise ValueError(
                        f"countries.{country}: {name!r} is not among {', '.join(known) or 'none'}"
                    )
        return self


class Core(Section):
    """How core decides."""

    unknown_user_grace: float = Field(
        60, ge=0, le=86_400, description="seconds that a notification waits for a user who is not known yet"
    )
    broadcast_page: int = Field(
        200, ge=1, le=1_000, description="users that a broadcast looks at in one step, in one partition"
    )
    broadcast_per_second: float = Field(
        2_000, gt=0, description="users that a broadcast tells, all partitions together"
    )


class Category(Section):
    """What holds for all notifications of a category."""

    daily_cap: int | None = Field(
        None,
        ge=1,
        description="at most so many to a user in their day; critical and mandatory ones pass",
    )
    bulk: bool | None = Field(
        None,
        description="its e-mails say how to unsubscribe, and who sends them; not set: those of low priority",
    )
    track: bool = Field(False, description="its e-mails tell when they are opened, and their links followed")


def _development_channels() -> dict[Channel, ChannelSettings]:
    def only(kind: str) -> ChannelSettings:
        return ChannelSettings.model_validate({"providers": {kind: {"kind": kind}}})

    return {
        Channel.EMAIL: only("outbox"),
        Channel.SMS: only("outbox"),
        Channel.WEB: only("inbox"),
        Channel.WEBHOOK: only("webhook"),
    }


class AttachmentSettings(Section):
    """Files that are uploaded to be attached to e-mails, and where they are kept."""

    store: Literal["local", "s3"] = Field("local", description="a directory, or a bucket of S3 or its like")
    directory: Path | None = Field(
        None,
        description="local: where they are, for all machines; none: `attachments` below state_dir",
    )
    bucket: str | None = Field(None, description="s3: the bucket; they are below `attachments/` in it")
    endpoint_url: str | None = Field(None, description="s3: the server; none: Amazon's of the region")
    region: str = Field("us-east-1", description="s3: the bucket's region")
    access_key_id: str | None = Field(
        None, description="s3: to sign with; none: the credentials that the machine gives"
    )
    secret_access_key: SecretStr | None = Field(None, description="s3: of access_key_id")
    secret_access_key_file: Path | None = Field(None, description="s3: a file that holds secret_access_key")
    max_bytes: int = Field(10_000_000, ge=1, le=100_000_000, description="of one attachment")
    max_message_bytes: int = Field(
        15_000_000, ge=1, le=100_000_000, description="of all attachments of a message; a third more travels"
    )
    keep_days: float = Field(
        30,
        gt=0,
        le=3_650,
        description="days for which one may be asked for; it is deleted when retention.attempts are over too",
    )


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
    templates_dir: Path = Field(
        Path("templates"), description="templates that `carillon run` publishes first"
    )
    segments_dir: Path = Field(
        Path("segments"), description="segments that `carillon run` publishes first; it may be missing"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="what is logged, on stderr"
    )
    operator_token: SecretStr | None = Field(
        None, description="for the operator pages; made and printed if not set"
    )
    operator_token_file: Path | None = Field(None, description="a file that holds operator_token")
    kafka: Kafka = Field(default_factory=Kafka)
    web: Web = Field(default_factory=Web)
    core: Core = Field(default_factory=Core)
    categories: dict[str, Category] = Field(default_factory=dict)
    retention: Retention = Field(default_factory=Retention)
    channels: dict[Channel, ChannelSettings] = Field(default_factory=_development_channels)
    attachments: AttachmentSettings = Field(default_factory=AttachmentSettings)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        return env_settings, init_settings


class _Given(Settings):
    """Settings from what is given alone: no file, no environment."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *others: Any,
        **more: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def given(**fields: Any) -> Settings:
    """Settings from these fields alone. Raises SettingsError."""
    try:
        return _with_secrets(_Given(**fields))
    except ValidationError as error:
        raise SettingsError(_told(error)) from None


def load(path: Path | None = None, overrides: dict[str, Any] | None = None) -> Settings:
    """Reads the file (`carillon.toml` here if there is one), the environment, and the files of secrets.

    Raises SettingsError, which names the setting.
    """
    found = _merged(_read(path), overrides or {})
    _refuse_unknown_variables()
    try:
        return _with_secrets(Settings(**found))
    except ValidationError as error:
        raise SettingsError(_told(error)) from None


def _read(path: Path | None) -> dict[str, Any]:
    file = path or Path("carillon.toml")
    if path is None and not file.exists():
        return {}
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{file}: no such file") from None
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or not TOML
        raise SettingsError(f"{file}: {error}") from None
    for name in found:
        if name.startswith("_"):  # pydantic-settings would take some of these for orders to itself
            raise SettingsError(f"{name}: no such setting")
    return found


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    found = dict(below)
    for name, value in above.items():
        old = found.get(name)
        found[name] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return found


def _refuse_unknown_variables() -> None:
    """Names the variable, where pydantic would name the setting, and say nothing of some."""
    for variable, value in os.environ.items():
        if not variable.upper().startswith(ENV_PREFIX) or variable in _OTHER_VARIABLES:
            continue
        kind: Any = Settings
        above = ENV_PREFIX
        for part in variable[len(ENV_PREFIX) :].lower().split("__"):
            known = _names(kind)
            if known is not None and part not in known:
                whole = f"; did you mean {above.removesuffix('__')}?"
                near = _nearest(part, known, above) if known else whole
                raise SettingsError(f"{variable}: no such setting{near}")
            kind, above = _type_of(kind, part), f"{above}{part.upper()}__"
        if _names(kind) != [] and not _is_json_object(value):
            raise SettingsError(f"{variable}: not a JSON object")


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _fields(kind: Any) -> Mapping[str, FieldInfo]:
    return kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else {}


def _names(kind: Any) -> list[str] | None:
    """What can be set in a section of this type: nothing in a plain value; None stands for any name."""
    if get_origin(kind) is dict:
        key = get_args(kind)[0]
        return [str(one) for one in key] if key is Channel else None
    if kind == AnyProvider:
        return sorted({name for model in MODELS for name in _names(model) or ()})
    return [name for own, field in _fields(kind).items() for name in {field.alias or own, own}]


def _type_of(kind: Any, name: str) -> Any:
    """The type of a setting in a section of this type."""
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    if kind == AnyProvider:
        return next((found for model in MODELS if (found := _type_of(model, name)) is not None), None)
    return next((f.annotation for own, f in _fields(kind).items() if name in (own, f.alias)), None)


def _nearest(name: str, known: Iterable[str], above: str = "") -> str:
    found = difflib.get_close_matches(name, list(known), 1)
    if not found:
        return ""
    return f"; did you mean {above}{found[0].upper() if above.startswith(ENV_PREFIX) else found[0]}?"


def _told(error: ValidationError) -> str:
    """One line that names the setting; never its value, which may be a secret."""
    problems = error.errors(include_url=False)
    # A misspelt name is also a missing one: that it is misspelt says more.
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    path = [str(part) for part in first["loc"]]
    kind: Any
    unknown = first["type"] == "extra_forbidden"
    if first["type"] in {"union_tag_not_found", "union_tag_invalid"}:
        strange = [name for name in first["input"] if name not in (_names(AnyProvider) or ())]
        unknown = first["type"] == "union_tag_not_found" and bool(strange)
        path.append(strange[0] if unknown else "kind")
    if path[-1] == "[key]":
        path, unknown = path[:-1], True
    kind, named = Settings, []
    for part in path[:-1]:
        if kind == AnyProvider and part in KINDS:  # pydantic's word, no name
            kind = KINDS[part].Settings
        else:
            kind = _type_of(kind, part)
            named.append(part)
    path = [*named, path[-1]]
    if not unknown:
        told = first["msg"].removeprefix("Value error, ")
        if path[-1] == "kind":
            told = f"one of {', '.join(KINDS)} is needed"
        return f"{'.'.join(path)}: {told}"
    above = "".join(f"{part}." for part in path[:-1])
    return f"{'.'.join(path)}: no such setting{_nearest(path[-1], _names(kind) or (), above)}"


def _with_secrets(settings: Settings) -> Settings:
    """Reads `…_file` secrets into their fields."""

    def filled(section: Any, above: str) -> Any:
        changes: dict[str, Any] = {}
        fields = type(section).model_fields
        for name in fields:
            value, secret = getattr(section, name), name.removesuffix("_file")
            if value is not None and name != secret and secret in fields:
                if getattr(section, secret):
                    raise SettingsError(f"{above}{name}: {secret} is set as well; keep one of them")
                changes[secret] = _secret(value, above + name)
            elif isinstance(value, BaseModel):
                changes[name] = filled(value, f"{above}{name}.")
            elif isinstance(value, dict) and any(isinstance(v, BaseModel) for v in value.values()):
                changes[name] = {k: filled(v, f"{above}{name}.{k}.") for k, v in value.items()}
        return section.model_copy(update=changes) if changes else section

    found: Settings = filled(settings, "")
    return found


def _secret(file: Path, name: str) -> SecretStr:
    try:
        return SecretStr(file.read_text(encoding="utf-8").strip())
    except OSError as error:
        raise SettingsError(f"{name}: {file}: {error.strerror}") from None
    except ValueError:
        raise SettingsError(f"{name}: {file}: not UTF-8 text") from None


def bootstrap_servers(settings: Settings) -> str:
    """The broker to use: the setting, else KAFKA_BOOTSTRAP_SERVERS, else "" (embed one).

    Raises SettingsError.
    """
    if settings.kafka.bootstrap_servers:
        return settings.kafka.bootstrap_servers
    found = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "")
    try:
        return _servers(found)
    except ValueError as error:
        raise SettingsError(f"KAFKA_BOOTSTRAP_SERVERS: {error}") from None
