"""The command line: what there is, and how each command ends where something is wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner, Result

from agents import topics
from pipeline import __version__
from pipeline.cli import main
from pipeline.settings import ENV_PREFIX
from schemas.kinds import Channel
from tests.journeys.samples import ID
from tests.meta import pages

SECRET = "hush-4711"
RULES = Path(__file__).parents[2]
"""Where there are folders of workflows and templates."""
NOBODY = "127.0.0.1:1"
"""No broker answers there."""
CARRIED = [
    topics.EVENTS, topics.NOTIFICATIONS, topics.DELIVERY_STATUS, topics.CONTENTS, topics.USERS,
    topics.PREFERENCES, topics.DEVICES, topics.TEMPLATES, topics.WORKFLOWS, topics.CONTROL,
    *topics.MESSAGES.values(),
]  # fmt: skip


def commands(
    group: click.Command = main, above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command by its words, groups included."""
    yield above, group
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, (*above, name))


COMMANDS = dict(commands())
LEAVES = [words for words, command in COMMANDS.items() if not isinstance(command, click.Group)]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty working directory and no variables of ours."""
    for variable in list(os.environ):
        if variable.upper().startswith(ENV_PREFIX) or variable == "KAFKA_BOOTSTRAP_SERVERS":
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


def run(*words: str) -> Result:
    """Runs a command in this process."""
    return CliRunner().invoke(main, words, prog_name="carillon")


def run_apart(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Runs a command in a process of its own, as people do."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *words],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def spelt(words: tuple[str, ...]) -> str:
    return " ".join(words) or "carillon"


# -- what there is


def test_there_is_what_works_and_nothing_else() -> None:
    assert {spelt(words) for words in LEAVES} == {
        "broker start", "broker stop", "cancel", "config apply", "config export", "config show",
        "demo", "dlq list", "dlq purge", "dlq redrive",
        "dlq show", "doctor", "explain", "replay", "run", "send", "simulate-provider", "topics",
    }  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=spelt)
def test_every_command_answers_help(words: tuple[str, ...]) -> None:
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: {' '.join(('carillon', *words))} ")
    assert COMMANDS[words].help


@pytest.mark.parametrize("words", LEAVES, ids=spelt)
def test_every_option_of_a_command_is_in_its_help(words: tuple[str, ...]) -> None:
    told = run(*words, "--help").stdout
    for parameter in COMMANDS[words].params:
        assert isinstance(parameter, click.Argument) or parameter.opts[0] in told


def test_the_version_is_the_packages() -> None:
    assert run("--version").stdout.strip() == f"carillon, version {__version__}"


# -- wrong use


@pytest.mark.parametrize(
    "words",
    [
        ("nothing",),
        ("config", "nothing"),
        ("send",),
        ("send", "one", "two"),
        ("demo", "--events", "some"),
        ("demo", "--events", "1"),
        ("broker", "start", "--brokers", "2"),
        ("run", "core"),
        ("dlq", "list", "--limit", "0"),
        ("dlq", "show", "dlq-sms", "0"),
        ("dlq", "show", "dlq-sms", "0", "some"),
        ("dlq", "redrive"),
        ("dlq", "redrive", "dlq-sms", "0", "0", "--reason", "refused"),
        ("dlq", "redrive", "dlq-sms", "0", "0", "--code", "550"),
        ("dlq", "redrive", "--to-provider", "outbox"),
        ("dlq", "purge", "--before", "some day"),
        ("dlq", "purge", "--before", "2026-09-21T14:00:00"),
        ("dlq", "purge", "--before", "20260921T140000Z"),
        ("explain",),
        ("explain", "some"),
        ("explain", ID, "--event", "s", "e"),
        ("explain", ID, "--user", "ada"),
        ("cancel",),
        ("cancel", "some"),
        ("cancel", ID, "--user", "somebody-else"),
        ("config", "export"),
        ("config", "apply"),
        ("replay", "--to", "earliest"),
        ("replay", "--group", "core"),
        ("replay", "--group", "nobody", "--to", "earliest"),
        ("replay", "--group", "core", "--topic", "events", "--partition", "0", "--to", "0"),
        ("replay", "--group", "core", "--partition", "0", "--to", "earliest"),
        ("replay", "--group", "core", "--to", "5"),
        ("replay", "--group", "core", "--to", "yesterday"),
        ("replay", "--group", "core", "--to", "2026-01-31T12:00:00"),
        ("replay", "--group", "core", "--to", "1969-12-31T23:59:59Z"),
        ("replay", "--topic", "events", "--to", "0"),
        ("replay", "--group", "core", "--to", "earliest", "--resend"),
        ("replay", "--group", "core", "--user", "u", "--generation", "5"),
        ("replay", "--group", "core", "--user", "u", "--resend", "--generation", "0"),
        ("replay", "--group", "email", "--user", "u", "--resend"),
        ("replay", "--group", "status", "--user", "u"),
        ("replay", "--group", "core", "--id", "none"),
        ("replay", "--group", "core", "--reason", "none"),
        ("replay", "--topic", "dlq-events", "--partition", "0", "--to", "0"),
        ("replay", "--topic", "events", "--partition", "12", "--to", "0"),
        ("replay", "--topic", "events", "--partition", "-1", "--to", "0"),
        *((*words, "--no-such-option") for words in COMMANDS),
    ],
    ids=spelt,
)
def test_wrong_use_ends_with_2_and_says_how_to_use_it(words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert "Usage: carillon" in result.stderr
    assert "Error: " in result.stderr
    assert not result.stdout


@pytest.mark.parametrize("words", [(), ("config",), ("broker",)], ids=spelt)
def test_a_group_alone_shows_its_commands_and_ends_with_2(words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert "Commands:" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("dlq", "list", "--topic", "events"),
        ("dlq", "list", "--topic", "dlq-nothing"),
        ("dlq", "show", "events", "0", "0"),
        ("dlq", "redrive", "dlq-sms", "0"),
        ("dlq", "redrive", "dlq-sms", "0", "-1"),
        ("dlq", "redrive", "events", "0", "0"),
        ("dlq", "redrive", "--topic", "events"),
        ("dlq", "purge", "events", "--yes"),
        ("dlq", "redrive", "--topic", "dlq-sms", "--to-provider", "nobody"),
        ("dlq", "redrive", "dlq-events", "0", "0", "--to-provider", "outbox"),
        ("dlq", "redrive", "--topic", "dlq-events", "--to-provider", "outbox"),
    ],
    ids=spelt,
)
def test_a_place_that_is_none_of_dead_letters_is_wrong_use(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", NOBODY)
    assert run(*words).exit_code == 2


def test_an_unknown_provider_is_told_with_those_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", NOBODY)
    told = run("dlq", "redrive", "--reason", "refused", "--to-provider", "nobody").stderr
    assert "there is no provider 'nobody'" in told and "dlq-email outbox" in told


# -- what fails


CONFIGURED = [words for words in LEAVES if any(p.name == "config" for p in COMMANDS[words].params)]


def arguments(words: tuple[str, ...]) -> tuple[str, ...]:
    """A command with what it must be given."""
    given = {
        ("send",): ("-",),
        ("dlq", "show"): ("dlq-sms", "0", "0"),
        ("dlq", "redrive"): ("dlq-sms", "0", "0"),
        ("replay",): ("--group", "core", "--to", "earliest"),
        ("explain",): (ID,),
        ("cancel",): (ID,),
        ("config", "export"): ("rules",),
        ("config", "apply"): (str(RULES),),
    }
    return (*words, *given.get(words, ()))


ASKING = [
    ("topics",), ("send",), ("replay",), ("explain",), ("cancel",), ("config", "export"), ("config", "apply"),
    *(words for words in LEAVES if words[0] == "dlq"),
]  # fmt: skip
"""What asks a broker and ends."""


def failed(result: Result, *names: str) -> None:
    """Asserts that a command ended with 1 and one line that names these."""
    assert result.exit_code == 1, result.output
    assert not result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("carillon: ")
    for name in names:
        assert name in line


@pytest.mark.parametrize("words", CONFIGURED, ids=spelt)
def test_a_missing_file_of_settings_is_named(words: tuple[str, ...]) -> None:
    failed(run(*arguments(words), "--config", "none.toml"), "none.toml: no such file")


@pytest.mark.parametrize("words", CONFIGURED, ids=spelt)
def test_a_bad_setting_is_named(words: tuple[str, ...]) -> None:
    Path("carillon.toml").write_text("[kafka]\nbootstrap_server = 'x'\n")
    failed(run(*arguments(words)), "kafka.bootstrap_server: no such setting", "kafka.bootstrap_servers?")


@pytest.mark.parametrize("words", CONFIGURED, ids=spelt)
def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    monkeypatch.setenv("CARILLON_WEB__PROT", "1")
    failed(run(*arguments(words)), "CARILLON_WEB__PROT: no such setting", "CARILLON_WEB__PORT?")


def test_a_missing_file_of_events_is_named() -> None:
    failed(run("send", "none.jsonl"), "none.jsonl: No such file or directory")


def test_a_directory_is_no_file_of_events(tmp_path: Path) -> None:
    failed(run("send", str(tmp_path)), f"{tmp_path}: Is a directory")


@pytest.mark.parametrize("words", ASKING, ids=spelt)
def test_a_missing_broker_is_told_with_the_way_to_one(words: tuple[str, ...]) -> None:
    failed(
        run(*arguments(words)), "kafka.bootstrap_servers", "KAFKA_BOOTSTRAP_SERVERS", "carillon broker start"
    )


@pytest.mark.parametrize("words", ASKING, ids=spelt)
def test_a_broker_that_is_away_is_told_in_one_line(words: tuple[str, ...]) -> None:
    done = run_apart(*arguments(words), KAFKA_BOOTSTRAP_SERVERS=NOBODY)
    assert done.returncode == 1
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("carillon: kafka.bootstrap_servers: no broker answers")


@pytest.mark.parametrize("words", [*ASKING, ("doctor",), ("run",), ("config", "show")], ids=spelt)
def test_a_broker_that_cannot_be_one_is_told_with_the_variable(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:notaport")
    failed(run(*arguments(words)), "KAFKA_BOOTSTRAP_SERVERS: number 1 is not host:port")


def test_a_role_that_cannot_begin_ends_its_log_with_the_reason() -> None:
    done = run_apart("run", "--role", "core", KAFKA_BOOTSTRAP_SERVERS=NOBODY, CARILLON_STATE_DIR="state")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("carillon: kafka.bootstrap_servers: no broker answers")
    assert "Traceback" not in done.stderr


def test_an_unknown_role_is_wrong_use_and_told_with_those_that_there_are() -> None:
    found = run("run", "--role", "core,emial", "--config", "none.toml")
    assert found.exit_code == 2
    assert "--role: emial: no such role; there are core, email, sms, push, " in " ".join(found.stderr.split())


@pytest.mark.parametrize("section", ["", "[channels.push]\nwindow = 5\n"])
def test_a_role_that_has_no_provider_is_told_what_it_lacks(section: str) -> None:
    Path("carillon.toml").write_text(section)
    done = run_apart("run", "--role", "core,push", KAFKA_BOOTSTRAP_SERVERS=NOBODY)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("carillon: --role push: no provider is configured for it")
    assert "channels.push.providers" in line


def test_a_state_directory_that_cannot_be_is_named() -> None:
    Path("file").write_text("")
    done = run_apart("run", "--role", "core", KAFKA_BOOTSTRAP_SERVERS=NOBODY, CARILLON_STATE_DIR="file/state")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line == "carillon: file/state: Not a directory"


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (("config", "show", "--config", "none.toml"), {}),
        (("config", "show"), {"CARILLON_KAFKA": "words"}),
        (("config", "show"), {"CARILLON_KAFKA__PARTITIONS": "words"}),
        (("config", "show"), {"CARILLON_CHANNELS__EMAIL__ORDER": "nobody"}),
        (("topics", "--config", "."), {}),
    ],
)
def test_no_failure_shows_a_traceback(words: tuple[str, ...], environment: dict[str, str]) -> None:
    done = run_apart(*words, **environment)
    assert done.returncode == 1
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("carillon: ")


# -- carillon doctor


def test_the_doctor_finds_nothing_where_no_broker_is_set_and_says_what_it_did_not_check() -> None:
    result = run("doctor")
    assert result.exit_code == 0
    first, last = result.stdout.splitlines()
    assert first.startswith("not checked: the broker and its topics: none is set")
    assert last == "nothing is wrong"


def test_the_doctor_ends_with_1_and_a_line_a_finding() -> None:
    done = run_apart("doctor", KAFKA_BOOTSTRAP_SERVERS=NOBODY)
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"no broker answers at {NOBODY} (")
    assert "`carillon broker start`" in line
    assert not done.stderr


def test_the_doctor_tells_the_same_in_json() -> None:
    Path("file").write_text("")
    result = CliRunner(env={"CARILLON_STATE_DIR": "file/state"}).invoke(main, ["doctor", "--json"])
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    (finding,) = told["findings"]
    assert finding["what"] == "state_dir file/state cannot be written (file is no directory)"
    assert finding["mend"]
    assert len(told["skipped"]) == 1


# -- carillon topics --schemas


def schemas() -> dict[str, Any]:
    """What `carillon topics --schemas` prints."""
    result = run("topics", "--schemas")
    assert result.exit_code == 0
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("topic", CARRIED)
def test_the_schema_of_every_topic_that_carries_our_values_is_printed(topic: str) -> None:
    found = schemas()
    assert found["channels"][topic]["address"] == topic
    assert found["components"]["schemas"][topic]


def test_every_channel_has_the_schema_of_its_messages() -> None:
    assert {topics.MESSAGES[channel] for channel in Channel} <= schemas()["channels"].keys()


def references(value: Any) -> Iterator[str]:
    """Every $ref below a value."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_reference_among_the_schemas_leads_somewhere() -> None:
    whole = schemas()
    found = set(references(whole))
    assert found
    for reference in found:
        at: Any = whole
        root, *path = reference.split("/")
        assert root == "#"
        for name in path:
            at = at[name]
        assert isinstance(at, dict)


# -- carillon config show


def shown(*words: str) -> dict[str, Any]:
    """What `carillon config show` prints."""
    result = run("config", "show", *words)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("from_file", [False, True])
def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, from_file: bool) -> None:
    (tmp_path / "secret").write_text(SECRET)
    found = [setting for setting in pages.settings() if setting.is_secret]
    for kind in {setting.kind for setting in found} - {""}:
        monkeypatch.setenv(f"CARILLON_CHANNELS__EMAIL__PROVIDERS__{kind.upper()}__KIND", kind)
    secrets = [
        one.variable.replace("<CHANNEL>", "EMAIL").replace("<NAME>", one.kind.upper()) for one in found
    ]
    assert len(secrets) >= 4
    for variable in secrets:
        name, value = (f"{variable}_FILE", str(tmp_path / "secret")) if from_file else (variable, SECRET)
        monkeypatch.setenv(name, value)
    told = shown()
    assert SECRET not in json.dumps(told)
    assert json.dumps(told, ensure_ascii=False).count('"••••"') == len(secrets)


def test_a_secret_that_is_not_set_is_not_shown_as_set() -> None:
    found = shown()
    assert found["operator_token"] is None
    assert found["kafka"]["sasl_password"] == ""


def test_programs_may_ask_for_settings_as_for_any_report() -> None:
    one_line = run("config", "show", "--json").stdout
    assert one_line.count("\n") == 1
    assert json.loads(one_line) == shown()


def test_settings_are_shown_as_they_are_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("carillon.toml").write_text("[kafka]\ntopic_prefix = 'file.'\n[web]\nport = 1\n")
    monkeypatch.setenv("CARILLON_WEB__PORT", "2")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "somewhere:9092")
    found = shown()
    assert found["kafka"]["topic_prefix"] == "file."
    assert found["web"]["port"] == 2
    assert found["kafka"]["bootstrap_servers"] == "somewhere:9092"


def test_what_is_shown_bears_the_names_that_the_file_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARILLON_CHANNELS__EMAIL__PROVIDERS__MAIN__KIND", "smtp")
    text = json.dumps(shown()["channels"])
    assert '"from"' in text
    assert '"sender"' not in text


# -- carillon explain, cancel and config apply


class Server:
    """Answers as a running process would, and notes what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: httpx.Response) -> None:
        self.asked: list[tuple[str, str, dict[str, Any], str]] = []
        self.answers = list(answers)
        monkeypatch.setattr(httpx, "request", self.request)
        monkeypatch.setenv("CARILLON_OPERATOR_TOKEN", SECRET)

    def request(self, method: str, url: str, **more: Any) -> httpx.Response:
        self.asked.append((method, url, more["params"], more["headers"]["authorization"]))
        if not self.answers:
            raise httpx.ConnectError("nobody there")
        return self.answers.pop(0)


TOLD = {
    "found": True, "whole": True, "sentences": [],
    "stories": [{"notification_id": ID, "user_id": "u-1", "state": "sent", "sentences": ["u-1 \x1b[2J"]}],
}  # fmt: skip


def test_a_running_process_is_asked_first_and_its_words_give_no_orders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server(monkeypatch, httpx.Response(200, json=TOLD), httpx.Response(200, json=TOLD))
    result = run("explain", "--event", "s", "e", "--user", "u-1")
    assert (result.exit_code, result.stdout) == (0, "u-1 \\x1b[2J\n")
    (asked,) = server.asked
    assert asked[:2] == ("GET", "http://127.0.0.1:8080/api/v1/explain")
    assert asked[2] == {"source": "s", "event_id": "e", "user_id": "u-1"}
    assert asked[3] == f"Bearer {SECRET}"
    told = json.loads(run("explain", ID, "--json").stdout)
    assert told["found"] is True and told["stories"][0]["notification_id"] == ID


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(503, json={}), httpx.Response(401, json={}), httpx.Response(200, json={"found": True}),
        httpx.Response(200, text="<html>"), httpx.Response(200, json=TOLD | {"whole": False}), None,
    ],
)  # fmt: skip
def test_where_no_process_can_tell_it_is_read_from_kafka(
    monkeypatch: pytest.MonkeyPatch, answer: httpx.Response | None
) -> None:
    Server(monkeypatch, *([answer] if answer is not None else []))
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", NOBODY)
    result = run("explain", ID)
    assert result.exit_code == 1
    first, last = result.stderr.splitlines()
    assert first.startswith("no process answers (") and first.endswith("reading from Kafka")
    assert last.startswith("carillon: kafka.bootstrap_servers: no broker answers")
    assert SECRET not in result.output


def test_a_cancel_goes_to_a_running_process(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(monkeypatch, httpx.Response(202, json={"notification_id": ID}))
    result = run("cancel", ID, "--user", "u-1")
    assert result.exit_code == 0 and f"`carillon explain {ID}`" in result.stdout
    (asked,) = server.asked
    assert asked[:3] == ("DELETE", f"http://127.0.0.1:8080/api/v1/notifications/{ID}", {"user_id": "u-1"})


def test_a_broken_file_stops_an_apply_before_it_begins() -> None:
    folder = Path("rules/workflows")
    folder.mkdir(parents=True)
    (folder / "a.yaml").write_text("name: a\non: x\ntemplate: t\nchanels: [sms]\n")
    failed(run("config", "apply", "rules"), "rules/workflows/a.yaml:4: chanels: no such field")
