"""Settings: where they come from, what is refused and how it is told, and that secrets stay secret."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.providers import smtp
from pipeline.settings import ENV_PREFIX, Settings, SettingsError, bootstrap_servers, given, load
from schemas.kinds import Channel
from tests.meta import pages

SECRET = "hush-4711"
MAIN = '[channels.email.providers.main]\nkind = "smtp"\n'
MAIN_VARIABLE = "CARILLON_CHANNELS__EMAIL__PROVIDERS__MAIN__"
ALL = list(pages.settings())
SECRETS = [setting for setting in ALL if setting.is_secret]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty working directory and no variables of ours; returns the directory."""
    for variable in list(os.environ):
        if variable.upper().startswith(ENV_PREFIX) or variable == "KAFKA_BOOTSTRAP_SERVERS":
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def loaded(toml: str = "") -> Settings:
    """Settings of a carillon.toml with this text."""
    Path("carillon.toml").write_text(toml, encoding="utf-8")
    return load()


def refused(toml: str = "", path: Path | None = None) -> str:
    """What is said of settings that are refused: one line, always."""
    if path is None:
        Path("carillon.toml").write_text(toml, encoding="utf-8")
    with pytest.raises(SettingsError) as error:
        load(path)
    told = str(error.value)
    assert told
    assert "\n" not in told
    return told


def concrete(setting: pages.Setting) -> tuple[str, ...]:
    """The path of a setting in the channel email and its provider main."""
    names = {pages.CHANNEL: "email", pages.NAME: "main"}
    return tuple(names.get(part, part) for part in setting.path)


def find(settings: Settings, path: tuple[str, ...]) -> Any:
    """The value at a path."""
    found: Any = settings
    for part in path:
        found = (
            found[part] if isinstance(found, dict) else getattr(found, "sender" if part == "from" else part)
        )
    return found


# -- where they come from


def test_without_anything_the_development_channels_are_there() -> None:
    kinds = {str(c): [p.kind for p in found.providers.values()] for c, found in load().channels.items()}
    assert kinds == {"email": ["outbox"], "sms": ["outbox"], "web": ["inbox"], "webhook": ["webhook"]}


def test_the_file_of_the_working_directory_is_read() -> None:
    assert loaded('[kafka]\ntopic_prefix = "shop."').kafka.topic_prefix == "shop."


def test_a_named_file_is_read_instead(tmp_path: Path) -> None:
    Path("carillon.toml").write_text('log_level = "debug"')
    other = tmp_path / "other.toml"
    other.write_text('log_level = "error"')
    assert load(other).log_level == "error"


def test_the_environment_wins_over_the_file_and_leaves_the_rest_of_its_section(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CARILLON_KAFKA__TOPIC_PREFIX", "env.")
    monkeypatch.setenv(MAIN_VARIABLE + "HOST", "mail.example.com")
    found = loaded(f'[kafka]\ntopic_prefix = "file."\nsession_timeout = 20\n{MAIN}port = 465\nhost = "x"\n')
    main = found.channels[Channel.EMAIL].providers["main"]
    assert (found.kafka.topic_prefix, found.kafka.session_timeout) == ("env.", 20)
    assert isinstance(main, smtp.Settings)
    assert (main.host, main.port) == ("mail.example.com", 465)


def test_the_command_line_wins_over_the_file() -> None:
    Path("carillon.toml").write_text("[web]\nport = 1\n[kafka]\ntopic_prefix = 'x.'")
    found = load(overrides={"web": {"port": 2}})
    assert (found.web.port, found.kafka.topic_prefix) == (2, "x.")


def test_given_settings_know_neither_file_nor_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("carillon.toml").write_text('log_level = "debug"')
    monkeypatch.setenv("CARILLON_LOG_LEVEL", "error")
    assert given().log_level == "info"


@pytest.mark.parametrize(
    ("toml", "own", "common", "expected"),
    [
        ("", None, None, ""),
        ("", None, "common:1", "common:1"),
        ("", "own:1", "common:1", "own:1"),
        ('[kafka]\nbootstrap_servers = "file:1"', None, "common:1", "file:1"),
        ('[kafka]\nbootstrap_servers = "file:1"', "own:1", "common:1", "own:1"),
    ],
)
def test_the_common_variable_names_the_broker_only_where_no_setting_does(
    monkeypatch: pytest.MonkeyPatch, toml: str, own: str | None, common: str | None, expected: str
) -> None:
    for variable, value in (("CARILLON_KAFKA__BOOTSTRAP_SERVERS", own), ("KAFKA_BOOTSTRAP_SERVERS", common)):
        if value is not None:
            monkeypatch.setenv(variable, value)
    assert bootstrap_servers(loaded(toml)) == expected


@pytest.mark.parametrize(
    ("servers", "wrong"),
    [
        ("a:b", 1), ("127.0.0.1:notaport", 1), ("a:1,b:", 2), ("a:1,b:0", 2), ("a:65536", 1), ("a:-1", 1),
        ("a:1,,b:1", 2), ("a:1,", 2), (" ", 1), (":9092", 1), ("kafka://a:1", 1), ("[::1", 1), ("::1", 1),
        ("[x]:1", 1), ("a b:1", 1), ("a:\u0661", 1), ("a:1\nb:1", 1),
        ("a", None), ("a:1", None), ("a:65535, b-c.example:9092", None), ("[::1]:9092,[::1]", None),
    ],
)  # fmt: skip
def test_where_the_broker_is_must_be_hosts_and_ports(
    monkeypatch: pytest.MonkeyPatch, servers: str, wrong: int | None
) -> None:
    def told(load: Callable[[], Any]) -> str:
        with pytest.raises(SettingsError) as found:
            load()
        return str(found.value)

    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", servers)
    if wrong is None:
        assert bootstrap_servers(given()) == servers
        assert given(kafka={"bootstrap_servers": servers}).kafka.bootstrap_servers == servers
        return
    what = f": number {wrong} is not host:port"
    assert f"KAFKA_BOOTSTRAP_SERVERS{what}" in told(lambda: bootstrap_servers(given()))
    assert f"kafka.bootstrap_servers{what}" in told(lambda: given(kafka={"bootstrap_servers": servers}))
    assert bootstrap_servers(given(kafka={"bootstrap_servers": "a:1"})) == "a:1"


# -- variables


def example(setting: pages.Setting, tmp_path: Path) -> str:
    """A value that a setting takes from a variable, other than its default."""
    words = pages.type_of(setting)
    if "`" in words:
        return words.split("`")[-2]
    if setting.path[0] == "retention":  # in an order among themselves
        return str(setting.field.default + 0.5)
    if setting.path[-1].endswith("_file"):
        (tmp_path / "secret").write_text(SECRET + "\n")
        return str(tmp_path / "secret")
    if "up to 1," in f"{words},":
        return "0.5"
    if setting.path[-1] == "countries":
        return '{"DE": ["main"]}'
    kind = words.partition(",")[0].partition(":")[0]
    return {
        "text": "words", "secret": SECRET, "path": "somewhere", "whole number": "7", "number": "7.5",
        "true or false": "true", "list of names": '["main"]', "table": '{"core": 7}',
    }[kind]  # fmt: skip


@pytest.mark.parametrize("setting", ALL, ids=lambda setting: setting.variable)
def test_every_setting_can_be_set_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: pages.Setting
) -> None:
    path, value = concrete(setting), example(setting, tmp_path)
    monkeypatch.setenv(MAIN_VARIABLE + "KIND", setting.kind or "smtp")
    before = find(load(), path) if path[0] != "categories" else None  # of which there are none
    monkeypatch.setenv(setting.variable.replace("<CHANNEL>", "EMAIL").replace("<NAME>", "MAIN"), value)
    assert path[-1] == "kind" or find(load(), path) != before


@pytest.mark.parametrize("value", ['["second", "main"]', "second,main", " second , main "])
def test_an_order_is_json_or_names_with_commas_between(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    for name in ("MAIN", "SECOND"):
        monkeypatch.setenv(f"CARILLON_CHANNELS__SMS__PROVIDERS__{name}__KIND", "outbox")
    monkeypatch.setenv("CARILLON_CHANNELS__SMS__ORDER", value)
    assert load().channels[Channel.SMS].order == ("second", "main")


def test_a_countrys_order_names_providers_of_the_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAIN", "SECOND"):
        monkeypatch.setenv(f"CARILLON_CHANNELS__SMS__PROVIDERS__{name}__KIND", "outbox")
    variable = "CARILLON_CHANNELS__SMS__COUNTRIES__"
    monkeypatch.setenv(variable + "DE", "second,main")
    assert load().channels[Channel.SMS].countries == {"DE": ("second", "main")}
    monkeypatch.setenv(variable + "FR", "third")
    assert refused() == "channels.sms: countries.FR: 'third' is not among main, second"
    monkeypatch.setenv(variable + "FR", "")
    assert refused() == "channels.sms: countries.FR: nobody is named"
    monkeypatch.delenv(variable + "FR")
    monkeypatch.setenv(variable + "FRANCE", "main")
    assert (
        refused() == "channels.sms: countries: 'FRANCE' is no country; two letters name one, as DE (ISO 3166)"
    )


@pytest.mark.parametrize("value", ["12345678", "true", "null", '["x"]', '{"a": 1}', "1e5"])
def test_a_secret_that_looks_like_json_stays_what_it_is(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(MAIN_VARIABLE + "KIND", "smtp")
    monkeypatch.setenv(MAIN_VARIABLE + "PASSWORD", value)
    main = load().channels[Channel.EMAIL].providers["main"]
    assert isinstance(main, smtp.Settings)
    assert main.password is not None
    assert main.password.get_secret_value() == value


def test_a_section_may_be_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARILLON_KAFKA", '{"topic_prefix": "x."}')
    monkeypatch.setenv("CARILLON_KAFKA__PARTITIONS", '{"core": 3}')
    assert (load().kafka.topic_prefix, load().kafka.partitions) == ("x.", {"core": 3})


@pytest.mark.parametrize("name", ["FAILPOINT", "FAILPOINT_LOG", "MAVEN_REPOSITORY", "SIMULATOR_SECRETS"])
def test_variables_of_other_parts_are_let_through(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(ENV_PREFIX + name, "x")
    load()


# -- what is refused


PROVIDER = "channels.email.providers.main"


@pytest.mark.parametrize(
    ("toml", "name", "near"),
    [
        ("log_levle = 'info'", "log_levle", "log_level"),
        ("[kafak]\nx = 1", "kafak", "kafka"),
        ("[kafka]\nbootstrap = 'x'", "kafka.bootstrap", "kafka.bootstrap_servers"),
        ("[web]\nprot = 1", "web.prot", "web.port"),
        ("[channels.emial]\nwindow = 3", "channels.emial", "channels.email"),
        ("[channels.email]\nwindwo = 3", "channels.email.windwo", "channels.email.window"),
        (MAIN + "hots = 'x'", f"{PROVIDER}.hots", f"{PROVIDER}.host"),
        (f"[{PROVIDER}]\nknid = 'smtp'", f"{PROVIDER}.knid", f"{PROVIDER}.kind"),
        ("zzzz = 1", "zzzz", None),
        ("_env_file = '.env'", "_env_file", None),
        ("_cli_parse_args = true", "_cli_parse_args", None),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest_known_name(
    toml: str, name: str, near: str | None
) -> None:
    assert refused(toml) == f"{name}: no such setting" + (f"; did you mean {near}?" if near else "")


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        ("CARILLON_LOG_LEVLE", "CARILLON_LOG_LEVEL"),
        ("CARILLON_KAFAK__TOPIC_PREFIX", "CARILLON_KAFKA"),
        ("CARILLON_KAFKA__BOOTSTRAP", "CARILLON_KAFKA__BOOTSTRAP_SERVERS"),
        ("CARILLON_KAFKA_BOOTSTRAP_SERVERS", None),
        ("CARILLON_LOG_LEVEL__X", "CARILLON_LOG_LEVEL"),
        ("CARILLON_KAFKA__TOPIC_PREFIX__X", "CARILLON_KAFKA__TOPIC_PREFIX"),
        ("CARILLON_CHANNELS__EMIAL__WINDOW", "CARILLON_CHANNELS__EMAIL"),
        ("CARILLON_CHANNELS__EMAIL__WINDWO", "CARILLON_CHANNELS__EMAIL__WINDOW"),
        (MAIN_VARIABLE + "HOTS", MAIN_VARIABLE + "HOST"),
        ("CARILLON_", None),
        ("carillon_kafak", "CARILLON_KAFKA"),
    ],
)
def test_an_unknown_variable_is_refused_by_its_own_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, near: str | None
) -> None:
    monkeypatch.setenv(variable, "1")
    told = refused(MAIN)
    assert told.startswith(f"{variable}: no such setting")
    assert near is None or told.endswith(f"; did you mean {near}?")


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("[kafka]\nsession_timeout = 'x'", "kafka.session_timeout: "),
        ("[web]\nport = 65536", "web.port: "),
        ("kafka = 3", "kafka: "),
        ("[kafka.partitions]\ncore = 0", "kafka.partitions.core: "),
        ("[kafka.partitions]\ncorr = 3", "kafka.partitions: no such role 'corr'; did you mean core?"),
        (f"[{PROVIDER}]\nhost = 'x'", f"{PROVIDER}.kind: "),
        (f"[{PROVIDER}]\nkind = 'smtpp'", f"{PROVIDER}.kind: "),
        (MAIN + "[channels.email]\norder = ['other']", "channels.email: order: there is no provider 'other'"),
        ("[channels.email]\norder = ['main']", "channels.email: order: there is no provider 'main'"),
        ("[channels.email]\norder = '[main]'", "channels.email.order: not a JSON list"),
        ("[channels.email]\norder = 3", "channels.email.order: "),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused_by_the_name_of_its_setting(toml: str, told: str) -> None:
    assert refused(toml).startswith(told)


@pytest.mark.parametrize("variable", ["CARILLON_KAFKA", "CARILLON_CHANNELS", "CARILLON_KAFKA__PARTITIONS"])
@pytest.mark.parametrize("value", ["words", "", "[1]"])
def test_a_section_that_is_no_json_object_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert refused() == f"{variable}: not a JSON object"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert refused(path=tmp_path / "none.toml") == f"{tmp_path / 'none.toml'}: no such file"
    assert refused(path=tmp_path) == f"{tmp_path}: Is a directory"
    broken = tmp_path / "broken.toml"
    broken.write_text("[kafka")
    assert refused(path=broken).startswith(f"{broken}: ")
    broken.write_bytes(b"log_level = '\xff'")
    assert refused(path=broken).startswith(f"{broken}: ")


# -- secrets


def written(setting: pages.Setting, key: str, value: str) -> str:
    """A file that sets `key` beside a secret, in the provider main where it belongs there."""
    section = ".".join(concrete(setting)[:-1])
    kind = f'kind = "{setting.kind}"\n' if setting.kind else ""
    return (f"[{section}]\n" if section else "") + f'{kind}{key} = "{value}"\n'


@pytest.mark.parametrize("setting", SECRETS, ids=lambda setting: setting.variable)
def test_a_secret_is_read_from_its_file(tmp_path: Path, setting: pages.Setting) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    found = find(loaded(written(setting, f"{setting.path[-1]}_file", str(file))), concrete(setting))
    assert found.get_secret_value() == SECRET


@pytest.mark.parametrize("setting", SECRETS, ids=lambda setting: setting.variable)
def test_a_file_of_a_secret_that_cannot_be_read_is_named_with_its_setting(
    tmp_path: Path, setting: pages.Setting
) -> None:
    file, name = tmp_path / "none", f"{setting.path[-1]}_file"
    where = ".".join((*concrete(setting)[:-1], name))
    toml = written(setting, name, str(file))
    assert refused(toml) == f"{where}: {file}: No such file or directory"
    file.write_bytes(b"\xff\xfe")
    assert refused(toml) == f"{where}: {file}: not UTF-8 text"


@pytest.mark.parametrize("setting", SECRETS, ids=lambda setting: setting.variable)
def test_a_secret_and_its_file_together_are_refused_without_telling_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: pages.Setting
) -> None:
    (tmp_path / "secret").write_text("another")
    variable = setting.variable.replace("<CHANNEL>", "EMAIL").replace("<NAME>", "MAIN")
    monkeypatch.setenv(variable, SECRET)
    told = refused(written(setting, f"{setting.path[-1]}_file", str(tmp_path / "secret")))
    assert f"{setting.path[-1]} is set as well" in told
    assert SECRET not in told


@pytest.mark.parametrize("setting", SECRETS, ids=lambda setting: setting.variable)
def test_a_secret_shows_in_no_representation(setting: pages.Setting) -> None:
    found = loaded(written(setting, setting.path[-1], SECRET))
    assert find(found, concrete(setting)).get_secret_value() == SECRET
    assert SECRET not in f"{found!r} {found} {found.model_dump()} {found.model_dump_json()}"


@pytest.mark.parametrize("setting", SECRETS, ids=lambda setting: setting.variable)
def test_a_secret_shows_in_no_refusal(setting: pages.Setting) -> None:
    toml = written(setting, setting.path[-1], SECRET)
    told = refused(toml.replace(f'"{SECRET}"', f'["{SECRET}"]'))
    assert told.startswith(".".join(concrete(setting)))
    assert SECRET not in told


# -- the model


@pytest.mark.parametrize("setting", ALL, ids=lambda setting: setting.variable)
def test_every_setting_says_what_it_is(setting: pages.Setting) -> None:
    assert setting.field.description


def test_every_secret_may_come_from_a_file() -> None:
    paths = {setting.path for setting in ALL}
    assert SECRETS
    for setting in SECRETS:
        assert (*setting.path[:-1], f"{setting.path[-1]}_file") in paths


# -- how long things are kept


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("sources = 8.5", "sources: must not be more than claims"),
        ("claims = 9", "claims: must be less than attempts"),
        ("attempts = 8", "claims: must be less than attempts"),
        ("statuses = 31", "statuses: must not be more than history"),
        ("history = 13.5", "statuses: must not be more than history"),
        ("claims = 0", "claims: "),
    ],
)
def test_windows_that_let_something_outlive_what_is_remembered_of_it_are_refused(
    toml: str, told: str
) -> None:
    assert refused(f"[retention]\n{toml}").startswith("retention")
    assert told in refused(f"[retention]\n{toml}")


def test_sources_may_be_kept_as_long_as_claims() -> None:
    assert loaded("[retention]\nsources = 8").retention.sources == 8
