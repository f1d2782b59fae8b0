"""The folders at the top are ours: `agents` and `tables` are names of packages on PyPI too."""

import importlib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ["schemas", "tables", "agents", "pipeline"]


@pytest.mark.parametrize("name", OURS)
def test_the_package_that_is_imported_is_ours(name: str) -> None:
    found = importlib.import_module(name)
    assert found.__file__ is not None
    assert Path(found.__file__).parent == ROOT / name


@pytest.mark.parametrize("name", OURS)
def test_nobody_else_has_installed_one_of_that_name(name: str) -> None:
    assert set(packages_distributions().get(name, ["carillon"])) <= {"carillon"}
