"""Writes the pages under docs/ that are made from the code: `python -m tests.meta.pages`.

`test_docs.py` fails while one of them is not as the code would have it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from agents import topics as names
from pipeline.metrics import GAUGES, Metrics
from pipeline.providers.registry import KINDS, AnyProvider
from pipeline.settings import ENV_PREFIX, Settings, given
from pipeline.topics import DAYS, ROLES, Topic, all_topics, changelog
from schemas.kinds import Channel

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MADE = "<!-- Made by `python -m tests.meta.pages` from the code; change it there. -->"
CHANNEL, NAME = "<channel>", "<name>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(text: str) -> str:
    """Text as code."""
    return f"`{text}`"


# -- settings


class Setting(NamedTuple):
    """One thing that can be set; channels and providers stand as <channel> and <name> in its path."""

    path: tuple[str, ...]
    field: FieldInfo
    #: which kind of provider it is for
    kind: str = ""

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return ENV_PREFIX + "__".join(self.path).upper()

    @property
    def is_secret(self) -> bool:
        """Whether its value is never printed."""
        return SecretStr in (self.field.annotation, *get_args(self.field.annotation))


def settings(kind: Any = Settings, above: tuple[str, ...] = ()) -> Iterator[Setting]:
    """Every setting, in the order of the code: plain values first, then the sections."""
    fields = {field.alias or name: field for name, field in kind.model_fields.items()}
    for name, field in fields.items():
        if _section(field.annotation) is None and field.annotation != dict[str, AnyProvider]:
            yield Setting((*above, name), field)
    for name, field in fields.items():
        section = _section(field.annotation)
        if section is not None:
            inner, placeholder = section
            yield from settings(inner, (*above, name, *placeholder))
        elif field.annotation == dict[str, AnyProvider]:
            for kind, module in KINDS.items():
                for setting in settings(module.Settings, (*above, name, NAME)):
                    if setting.path[-1] != "kind":
                        yield setting._replace(kind=kind)


def _section(kind: Any) -> tuple[type[BaseModel], tuple[str, ...]] | None:
    """The model of a section, and what stands between its name and its fields."""
    if get_origin(kind) is dict:
        key, value = get_args(kind)
        if isinstance(value, type) and issubclass(value, BaseModel):
            return value, (CHANNEL if key is Channel else NAME,)
    return (kind, ()) if isinstance(kind, type) and issubclass(kind, BaseModel) else None


_TYPES: Mapping[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
    SecretStr: "secret",
    tuple[str, ...]: "list of names",
}


def type_of(setting: Setting) -> str:
    """The type of a setting in words, with its bounds."""
    return _words(setting.field.annotation, setting.field.metadata)


def _words(kind: Any, metadata: Sequence[Any] = ()) -> str:
    if get_origin(kind) is Annotated:
        inner, field = get_args(kind)
        return _words(inner, field.metadata)
    if get_origin(kind) is Literal:
        return " · ".join(code(one) for one in get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    if get_origin(kind) is dict:
        return f"table: {_words(get_args(kind)[1])} by name"
    bounds = [_bound(one) for one in metadata]
    return ", ".join([_TYPES[kind], *filter(None, bounds)])


def _bound(constraint: Any) -> str:
    match constraint:
        case annotated_types.Ge(ge=least):
            return f"from {least}"
        case annotated_types.Gt(gt=least):
            return f"above {least}"
        case annotated_types.Le(le=most):
            return f"up to {most}"
    return ""


def default_of(setting: Setting) -> str:
    """The default of a setting, as it would stand in the file."""
    if setting.path == ("state_dir",):
        return "`carillon/state` in your user data directory"
    if setting.field.is_required():
        return "must be set"
    default = setting.field.get_default(call_default_factory=True)
    if isinstance(default, SecretStr):
        default = default.get_secret_value() or None
    if default is None:
        return "not set"
    if isinstance(default, bool):
        return code(str(default).lower())
    if isinstance(default, tuple | dict):
        assert not default
        return "empty"
    return code(f'"{default}"') if isinstance(default, str | Path) else code(str(default))


CONFIGURATION = """# Configuration

Settings come from `carillon.toml` in the working directory (or the file of `--config`) and from
environment variables; where both name a setting, the environment wins. `carillon config show` prints
what is in force, with secrets masked.

- **Variables**: `CARILLON_` and the setting's path in capitals, with `__` between its parts. The parts
  are read in lower case, so give channels' providers names in lower case. A list is JSON or names
  with commas between (`CARILLON_CHANNELS__SMS__ORDER=main,backup`), a table is JSON.
- **The broker**: `KAFKA_BOOTSTRAP_SERVERS` is read when `kafka.bootstrap_servers` is not set. Where
  neither is, `carillon run` starts the embedded Kafka.
- **Unknown settings** are refused, with the nearest known name; so are misspelt variables.
- **Secrets** may come from files: `password_file` instead of `password`, and so on; setting both is
  refused. They are never printed.
- **Channels**: without any `[channels…]`, those of development are there
  ({development}).
  As soon as one is set, only those that are set exist.

```toml
log_level = "info"

[kafka]
bootstrap_servers = "broker-1:9092,broker-2:9092"
security_protocol = "SASL_SSL"
sasl_mechanism = "SCRAM-SHA-512"
sasl_username = "carillon"
sasl_password_file = "/run/secrets/kafka"

[channels.email]
order = ["main"]

[channels.email.providers.main]
kind = "smtp"
host = "smtp.example.com"
port = 587
from = "Example <hello@example.com>"
```
"""


def configuration() -> str:
    """docs/configuration.md."""
    development = ", ".join(
        f"{channel}: `{provider.kind}`"
        for channel, found in given().channels.items()
        for provider in found.providers.values()
    )
    parts = [MADE, "", CONFIGURATION.format(development=development)]
    sections: dict[tuple[tuple[str, ...], str], list[list[str]]] = {}
    for setting in settings():
        says = setting.field.description or ""
        row = [code(setting.path[-1]), type_of(setting), default_of(setting), code(setting.variable), says]
        sections.setdefault((setting.path[:-1], setting.kind), []).append(row)
    for (path, kind), rows in sections.items():
        title = code(f"[{'.'.join(path)}]") if path else "At the top"
        if kind:
            title += f" of kind {code(kind)}"
        parts += [f"## {title}", "", table(["setting", "type", "default", "variable", "what"], rows), ""]
    return "\n".join(parts)


# -- topics

USER, SOURCE = "user id", "as the source"
WHAT: Mapping[str, tuple[str, str]] = {
    names.EVENTS: ("upstream's choice", "CloudEvents 1.0 JSON, or a request of our own"),
    names.NOTIFICATIONS: (USER, "one recipient, one intent, one step of its way"),
    names.USERS: (USER, "who there is: upserts; a null value erases"),
    names.PREFERENCES: (USER, "what each wants, and how much of it; a null value erases"),
    names.DEVICES: ("user id, NUL, token", "device tokens for push; a null value erases"),
    names.TEMPLATES: ("name", "templates, each whole with its version; every process reads them all"),
    names.WORKFLOWS: ("name", "rules: event type → who, what, where; every process reads them all"),
    names.SEGMENTS: ("name", "groups of users, each with its rule; every process reads them all"),
    names.DELIVERY_STATUS: (USER, "every change of state with its reason: the public stream of outcomes"),
    names.CONTENTS: (
        USER,
        "internal, for status alone: each message's content, what was told of it, how far broadcasts are",
    ),
    names.CONTROL: (
        "group",
        "internal: where the members of a group are to begin anew; every process follows it",
    ),
    names.DEAD_EVENTS: (SOURCE, "events that could not be read or decided"),
    names.DEAD_NOTIFICATIONS: (SOURCE, "notifications that could not be read or decided"),
    names.DEAD_PEOPLE: (SOURCE, "users, preferences and devices that could not be read"),
    names.DEAD_STATUS: (SOURCE, "statuses and contents that could not be read"),
    **{names.MESSAGES[c]: (USER, f"rendered messages for {c}, one a target") for c in Channel},
    **{names.DEAD_MESSAGES[c]: (SOURCE, f"messages that {c} could not deliver or read") for c in Channel},
    **{changelog(role): ("the row's", f"internal: every change of the store of {role}") for role in ROLES},
}

TOPICS = """# Topics

`carillon topics` creates those that do not exist; `carillon run` does so too. Each name comes after
`kafka.topic_prefix`. Partitions are the defaults: `kafka.partitions` sets them, a role at a time, before the
topics exist. All stamp LogAppendTime. A topic on `-express` takes what is critical or of high priority and
goes before its plain one; within a lane critical goes before high and normal before low, as far as a task's
queue reaches, by the header `rank` (`0` first, `2` last, none between). Dead-letter topics hold the
original bytes; the headers `reason`, `error`, `source-topic`, `source-partition`, `source-offset`,
`failed-at` and `attempts` say what befell them, `provider` and `code` (of a message that was tried) who was
called last and what the vendor calls it, and `original-…` what headers they came with. `carillon dlq
redrive` puts them back where they came from, with the headers `redrive` (the letter's place),
`source-topic`, `source-partition`, `source-offset` and `source-time`, by which a record without a key of
its own is still the same one. With `--to-provider` a message has the header `provider` too, the one that is
to send it now; where an attempt by another one may have got through, it does not. A narrowed `carillon
replay` copies what it chose with the same headers, `replay` (the request) in place of `redrive`; copies of
events also have `replay-only` (the notifications that they are for), and with `--resend`
`replay-generation`.

`carillon topics --schemas` prints the JSON Schema of what travels.
"""


def plain(topic: str) -> str:
    """The topic whose express lane this may be."""
    return topic.removesuffix(names.EXPRESS)


def kept(topic: Topic) -> str:
    """How long a topic keeps what, in words."""
    if topic.config["cleanup.policy"] == "compact":
        return "the latest of each key"
    return f"{int(topic.config['retention.ms']) / DAYS:g} days"


def topics() -> str:
    """docs/topics.md."""
    rows = []
    for topic in all_topics(given()):
        key, what = WHAT[plain(topic.name)]
        if topic.name != plain(topic.name):
            what = f"the express lane of {code(plain(topic.name))}"
            if plain(topic.name) in names.MESSAGES.values():
                what += ", and what is to be stopped there"
        rows.append([code(topic.name), str(topic.partitions), kept(topic), key, what])
    return "\n".join([MADE, "", TOPICS, table(["topic", "partitions", "keeps", "key", "what"], rows), ""])


# -- metrics


class Measure(NamedTuple):
    """A metric of ours: the name of its samples without a histogram's endings."""

    name: str
    kind: str
    labels: tuple[str, ...]
    says: str

    @property
    def samples(self) -> tuple[str, ...]:
        """The names that Prometheus stores it under."""
        if self.kind == "histogram":
            return tuple(self.name + ending for ending in ("_bucket", "_sum", "_count"))
        return (self.name,)


def measures() -> list[Measure]:
    """Every metric of ours, in the order of the code."""
    counted = Metrics()
    labels = {
        # the client library tells the labels of a metric only to those who ask it so
        metric._name: metric._labelnames
        for metric in vars(counted).values()
        if isinstance(metric, MetricWrapperBase)
    } | {name: of for name, (_, of) in GAUGES.items()}
    return [
        Measure(
            family.name + ("_total" if family.type == "counter" else ""),
            family.type, tuple(labels[family.name]), family.documentation,
        )
        for family in counted.registry.collect()
        if not family.name.startswith("process_")
    ]  # fmt: skip


METRICS = """# Metrics

Every process serves them at `/metrics` on `web.port`, in Prometheus' text format, together with those of
the process itself (`process_…`). No label names a person. `deploy/prometheus` has alert rules over them,
`deploy/grafana` a dashboard.
"""


def metrics() -> str:
    """docs/metrics.md."""
    rows = [
        [code(one.name), one.kind, ", ".join(map(code, one.labels)) or "none", one.says] for one in measures()
    ]
    return "\n".join([MADE, "", METRICS, table(["metric", "type", "labels", "what"], rows), ""])


# -- providers

_FAULTS = {
    "message": "the message's",
    "target": "the target's",
    "provider": "the provider's",
    None: "nobody's",
}
PROVIDERS = """# Providers

A kind a page: how it is set up, what is mapped to what, what it can promise, and the vendor's codes with
what they mean to us. [Adding one](adding.md) is a file, a line in the registry, recorded answers, a
simulator, and such a page.
"""


def _filled(text: str, name: str, content: str) -> str:
    """Text with what stands between two marks set anew; the second mark is added where it is missing."""
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, mark, after = text.partition(first)
    if not mark:
        raise ValueError(f"there is no line {first}")
    return f"{before}{first}\n{content}\n{last}{after.partition(last)[2] if last in after else after}"


def provider(kind: str) -> str:
    """docs/providers/<kind>.md: its own words, with tables of the code's settings and codes."""
    module = KINDS[kind]
    own = [one for one in settings(module.Settings) if one.path[-1] not in {"kind", "timeout", "headroom"}]
    rows = [[code(one.path[-1]), type_of(one), default_of(one), one.field.description or ""] for one in own]
    codes = [
        [
            code(name), meaning.kind + (", dead" if meaning.dead else ""),
            _FAULTS.get(meaning.fault or "", "nobody's"), meaning.words,
        ]
        for name, meaning in module.CODES.items()
    ]  # fmt: skip
    text = (DOCS / "providers" / f"{kind}.md").read_text(encoding="utf-8")
    text = _filled(text, "settings", table(["setting", "type", "default", "what"], rows))
    heads = ["code", "it is", "the fault is", "because"]
    return _filled(text, "codes", table(heads, codes) if codes else "It has no codes of its own.")


def providers() -> str:
    """docs/providers/README.md."""
    rows = []
    for kind in KINDS:
        lines = (DOCS / "providers" / f"{kind}.md").read_text(encoding="utf-8").split("\n\n")
        rows.append([f"[`{kind}`]({kind}.md)", " ".join(lines[1].split())])
    return "\n".join([MADE, "", PROVIDERS, table(["kind", "what"], rows), ""])


PAGES: Mapping[str, Callable[[], str]] = {
    "configuration.md": configuration,
    "topics.md": topics,
    "metrics.md": metrics,
    "providers/README.md": providers,
    **{f"providers/{kind}.md": partial(provider, kind) for kind in KINDS},
}

if __name__ == "__main__":
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), encoding="utf-8")
        print(f"docs/{name}")
