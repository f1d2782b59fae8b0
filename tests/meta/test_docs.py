"""The pages: those made from the code are current, and what the others point at exists."""

import re
from pathlib import Path

import pytest

from agents import topics as names
from pipeline import __version__
from pipeline.settings import given
from pipeline.topics import ROLES, all_topics
from tests.meta import pages

ROOT, DOCS = pages.ROOT, pages.DOCS
DECISIONS = sorted((DOCS / "decisions").glob("*.md"))
PROSE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
OURS = [
    *PROSE,
    ROOT / "docker-compose.yml",
    *(p for p in sorted((ROOT / "deploy").rglob("*")) if p.is_file()),
]
#: folders that a path in a page may begin with
TOPS = "schemas|tables|agents|pipeline|templates|workflows|tests|benchmarks|deploy|docs|locks"


def cells(page: str, column: int) -> list[str]:
    """What stands as code in a column of a page's tables."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]
    return [row[column].strip("`") for row in rows]


def short(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("page", pages.PAGES)
def test_a_page_that_is_made_from_the_code_is_current(page: str) -> None:
    assert (DOCS / page).read_text(encoding="utf-8") == pages.PAGES[page](), "say: python -m tests.meta.pages"


# -- topics


def test_every_topic_is_in_the_page_and_the_other_way_round() -> None:
    assert cells("topics.md", 0) == [topic.name for topic in all_topics(given())]


def test_every_topic_that_a_stage_names_is_created() -> None:
    created = {topic.name for topic in all_topics(given())}
    plain = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    of_channels = {*names.MESSAGES.values(), *names.DEAD_MESSAGES.values()}
    lanes = {lane for of in names._LANES.values() for lane in of.values()}
    assert (plain - {names.EXPRESS}) | of_channels | lanes <= created


def test_every_role_has_a_changelog() -> None:
    created = {topic.name for topic in all_topics(given())}
    assert {f"carillon-{role}-store-changelog" for role in ROLES} <= created


def test_what_travels_by_user_has_as_many_partitions_as_its_role() -> None:
    counts = {topic.name: topic.partitions for topic in all_topics(given(kafka={"partitions": {"core": 3}}))}
    core = (names.EVENTS, names.NOTIFICATIONS, names.USERS, names.PREFERENCES, names.DEVICES)
    assert {counts[name] for name in core} == {3}
    assert counts["carillon-core-store-changelog"] == 3


# -- settings and metrics


def test_every_setting_is_in_the_page_by_its_variable() -> None:
    assert cells("configuration.md", 3) == [setting.variable for setting in pages.settings()]


def test_every_metric_is_in_the_page() -> None:
    assert cells("metrics.md", 0) == [measure.name for measure in pages.measures()]


def test_every_metric_says_what_it_counts() -> None:
    for measure in pages.measures():
        assert measure.name.startswith("carillon_")
        assert measure.says.endswith(".")


# -- decisions and the changelog


def test_decisions_are_numbered_without_a_gap() -> None:
    assert DECISIONS
    numbers = [file.name[:4] for file in DECISIONS]
    assert numbers == [f"{n:04}" for n in range(1, len(DECISIONS) + 1)]


@pytest.mark.parametrize("file", DECISIONS, ids=short)
def test_a_decision_says_why_what_and_at_what_price(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert re.match(rf"# {int(file.name[:4])}\. \S", text)
    assert re.findall(r"^## (.*)$", text, re.M) == ["Why", "What we do", "What it costs"]
    assert len(text.split()) < 450


def test_the_changelog_names_this_version_or_has_it_still_to_come() -> None:
    found = re.findall(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert found[0] == "Unreleased"
    assert found[1:2] in ([], [__version__])


# -- what pages point at


@pytest.mark.parametrize("file", PROSE, ids=short)
def test_a_link_within_the_repository_leads_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", file.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            assert (file.parent / target).exists(), target


@pytest.mark.parametrize("file", PROSE, ids=short)
def test_a_path_that_is_named_exists(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for path in re.findall(rf"`((?:{TOPS})/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("file", OURS, ids=short)
def test_no_page_names_a_path_of_somebodys_machine(file: Path) -> None:
    assert not re.search(r"/(?:root|work|Users)/|/home/\w+/|/tmp/\w+/", file.read_text(encoding="utf-8"))
