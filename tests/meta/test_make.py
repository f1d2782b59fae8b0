"""One door: what `make help` lists is what there is, and what is written about commands is true."""

import importlib.util
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from pipeline.cli import main
from tests.meta import pages

ROOT = pages.ROOT
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
#: targets that people call; files such as .venv/ready are no door
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, re.M))
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
PROSE = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "docker-compose.yml",
    ROOT / ".ci" / "run",
    *sorted((ROOT / "docs").rglob("*.md")),
]
EVERYWHERE = {"--help", "--version"}


class Said(NamedTuple):
    """A command that a page names, from its first word on."""

    file: str
    words: tuple[str, ...]


def codes(file: Path) -> Iterator[str]:
    """The lines and spans of code of a Markdown page; every line of anything else."""
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".md":
        yield from text.splitlines()
        return
    fence = r"^```.*?^```"
    for block in re.findall(fence, text, re.M | re.S):
        yield from block.splitlines()[1:-1]
    yield from re.findall(r"`([^`\n]+)`", re.sub(fence, "", text, flags=re.M | re.S))


def said(program: str) -> Iterator[Said]:
    """Every use of a program that the pages show."""
    for file in PROSE:
        for line in codes(file):
            for rest in re.findall(rf"(?:^|[\s#(/]){program} +([^|#>)]+)", line):
                yield Said(file.name, tuple(shlex.split(rest.replace("'", " "))))


MAKES, CARILLONS = list(said("make")), list(said("carillon"))


def ids(found: Said) -> str:
    return f"{found.file}: {' '.join(found.words)}"


def listed() -> dict[str, str]:
    """What `make help` says of each target."""
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make", "help"], cwd=ROOT, env=alone, capture_output=True, text=True, check=True)
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert all(line[0] == "make" for line in lines)
    return {line[1]: line[2] for line in lines}


def test_help_lists_every_target_with_what_it_does() -> None:
    assert listed().keys() == TARGETS


def test_help_is_what_make_does_alone() -> None:
    alone = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    asked = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert alone.stdout == asked.stdout


def test_every_target_is_phony() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.M)
    assert set(phony.split()) == TARGETS


def test_the_doors_that_were_promised_are_there() -> None:
    assert {"help", "setup", "demo", "test", "check", "bench", "faults", "clean"} <= TARGETS


@pytest.mark.parametrize("module", re.findall(r"python -m ([a-z][\w.]*) \$\(ARGS\)", MAKEFILE))
def test_every_module_that_a_target_runs_is_there(module: str) -> None:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert importlib.util.find_spec(f"{module}.__main__") is not None


@pytest.mark.parametrize("name", re.findall(r"^\t@\$\(BIN\)/carillon (\w+)", MAKEFILE, re.M))
def test_every_command_that_a_target_runs_is_there(name: str) -> None:
    assert name in main.commands


# -- what is written


@pytest.mark.parametrize("found", MAKES, ids=ids)
def test_a_target_that_is_written_about_exists(found: Said) -> None:
    targets = [word for word in found.words if re.fullmatch(r"[a-z]+", word)]
    assert targets
    assert targets[0] in TARGETS


@pytest.mark.parametrize("found", CARILLONS, ids=ids)
def test_a_command_that_is_written_about_exists_with_its_options(found: Said) -> None:
    command: click.Command = main
    words = list(found.words)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        assert words[0] in command.commands
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts} | EVERYWHERE
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known


def test_ci_runs_the_checks_and_the_tests() -> None:
    assert re.findall(r"^make (\w+)$", CI, re.M) == ["check", "test"]


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md"])
def test_what_ci_runs_is_what_people_are_told_to_run(file: str) -> None:
    told = {found.words[0] for found in MAKES if found.file == file and found.words}
    assert {"check", "test"} <= told


def test_the_readme_shows_the_main_job() -> None:
    assert "demo" in {found.words[0] for found in MAKES if found.file == "README.md" and found.words}
