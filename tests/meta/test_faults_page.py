"""What docs/faults.md says is proven has its test, or its step of the loop."""

import re
from pathlib import Path

from tests.faults.__main__ import main
from tests.faults.crowd import ACTIONS
from tests.faults.delivery import FIGURES, PLAYED
from tests.faults.mutants import MUTANTS, OF_DELIVERY

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "faults.md").read_text()


def test_every_proof_is_there() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", PAGE)
    assert len(named) > 5
    assert [name for name in named if f"def {name}(" not in code] == []
    files = re.findall(r"`(tests/[\w/]+\.py)`", PAGE)
    assert files
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_every_step_of_the_loop_that_it_names_is_there() -> None:
    named = {
        step for group in re.findall(r"--workers 2\"` \(([\w, ]+)\)", PAGE) for step in group.split(", ")
    }
    assert named
    assert named <= set(ACTIONS)


def test_every_mutant_is_there_with_the_loop_that_catches_it() -> None:
    named = dict(re.findall(r"^\| `(\w+)`( \(`--workers 2`\))? \|", PAGE, re.MULTILINE))
    assert {name: bool(several) for name, several in named.items()} == {
        name: mutant.of_several for name, mutant in MUTANTS.items()
    }


def test_every_mutant_of_deliveries_is_there() -> None:
    named = re.findall(r"^\| `(\w+)` \(`--only delivery`\) \|", PAGE, re.MULTILINE)
    assert sorted(named) == sorted(OF_DELIVERY)


def test_every_provider_of_the_loop_on_deliveries_is_named() -> None:
    told = PAGE.partition("## What is promised towards a provider")[2].partition("\n## ")[0]
    assert [name for name in PLAYED if f"`{name}`" not in told] == []
    assert [name for name in FIGURES if f"`{name}`" not in told] == []


def test_every_part_that_it_names_is_there() -> None:
    named = set(re.findall(r"--only (\w+)", PAGE))
    (option,) = [param for param in main.params if param.name == "part"]
    assert named == set(option.type.choices)  # type: ignore[attr-defined]
