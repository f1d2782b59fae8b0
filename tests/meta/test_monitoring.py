"""Prometheus and Grafana: what deploy/ asks for exists, and every metric of ours is looked at somewhere."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from pipeline.settings import given
from pipeline.topics import ROLES, all_topics
from schemas.kinds import Channel, State
from tests.meta import pages
from tests.meta.promtool import promtool

DEPLOY = pages.ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
PROVISIONED = sorted((DEPLOY / "grafana" / "provisioning").rglob("*.yml"))

MEASURES = pages.measures()
SAMPLES = {sample: one for one in MEASURES for sample in one.samples}
#: of Prometheus itself, and of its client library for any process
FOREIGN = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"}
#: what Prometheus adds to every sample, and a histogram to its buckets
EVERYWHERE = {"job", "instance", "le"}
#: what the labels of our metrics may hold
VALUES = {
    "role": set(ROLES),
    "channel": {str(channel) for channel in Channel},
    "topic": {topic.name for topic in all_topics(given())},
    "kind": {"sent", "delivered", "refused", "deferred", "doubtful"},
    "state": {str(state) for state in State},
}
FUNCTIONS = {
    "rate", "increase", "sum", "min", "max", "count", "avg", "histogram_quantile", "label_replace", "vector",
}  # fmt: skip
GROUPINGS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
WORDS = {"or", "and", "unless", "offset", "bool"} | GROUPINGS


class Query(NamedTuple):
    """A PromQL expression, and where it stands."""

    where: str
    text: str


def alerts() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every alert rule by its name."""
    for group in read(PROMETHEUS / "alerts.yml")["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every panel that is no row, by its title."""
    for file in DASHBOARDS:
        for panel in json.loads(file.read_text())["panels"]:
            if panel["type"] != "row":
                yield f"{file.stem}: {panel['title']}", panel


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


ALERTS, PANELS = dict(alerts()), dict(panels())
QUERIES = [
    *(Query(name, rule["expr"]) for name, rule in ALERTS.items()),
    *(Query(name, target["expr"]) for name, panel in PANELS.items() for target in panel["targets"]),
]


class Asked(NamedTuple):
    """What an expression names."""

    metrics: set[str]
    labels: set[str]
    functions: set[str]


def asked(expression: str) -> Asked:
    """The metrics, labels and functions that a PromQL expression names."""
    text = re.sub(r'"[^"]*"', '""', expression)
    text = re.sub(r"\[[^]]*\]", "", text)
    text = re.sub(r"\boffset\s+\w+", "", text)
    labels: set[str] = set()
    for braces in re.findall(r"\{([^}]*)\}", text):
        labels |= set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", braces))
    text = re.sub(r"\{[^}]*\}", "", text)
    grouping = rf"\b({'|'.join(GROUPINGS)})\s*\(([^)]*)\)"
    for _, names in re.findall(grouping, text):
        labels |= set(re.findall(r"\w+", names))
    text = re.sub(grouping, "", text)
    functions = set(re.findall(r"\b([a-z_]\w*)\s*\(", text)) - WORDS
    metrics = set(re.findall(r"\b[a-zA-Z_]\w*\b", text)) - functions - WORDS
    return Asked(metrics, labels, functions)


def ids(query: Query) -> str:
    return query.where


def test_names_are_found_in_an_expression() -> None:
    found = asked('sum by (role) (rate(a_total{x=~"b|c", y!="z"}[5m])) > 0 unless on (q) d offset 15m')
    assert found == Asked({"a_total", "d"}, {"x", "y", "role", "q"}, {"sum", "rate"})


# -- expressions


@pytest.mark.parametrize("query", QUERIES, ids=ids)
def test_an_expression_asks_for_metrics_and_labels_that_exist(query: Query) -> None:
    found = asked(query.text)
    assert found.functions <= FUNCTIONS
    assert found.metrics
    assert found.metrics <= SAMPLES.keys() | FOREIGN
    known = {label for name in found.metrics & SAMPLES.keys() for label in SAMPLES[name].labels}
    # "role" may be made of "channel": a channel's role has its name
    made = {"role"} if "label_replace" in found.functions else set()
    assert found.labels <= known | EVERYWHERE | made


@pytest.mark.parametrize("query", QUERIES, ids=ids)
def test_only_counters_and_histograms_are_rated(query: Query) -> None:
    for name in re.findall(r"\b(?:rate|increase)\((\w+)", query.text):
        assert name in FOREIGN or SAMPLES[name].kind in ("counter", "histogram")


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_every_metric_is_on_a_dashboard(measure: pages.Measure) -> None:
    shown = {name for query in QUERIES if query.where in PANELS for name in asked(query.text).metrics}
    assert shown & set(measure.samples)


def test_every_expression_is_valid_promql(tmp_path: Path) -> None:
    rules = [
        {"record": f"checked:{n}", "expr": query.text.replace("$__rate_interval", "1m")}
        for n, query in enumerate(QUERIES)
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    run("check", "rules", str(tmp_path / "rules.yml"))


@pytest.mark.parametrize("label", VALUES)
def test_a_value_that_is_asked_for_or_tried_exists(label: str) -> None:
    written = "".join(file.read_text(encoding="utf-8") for file in (*DASHBOARDS, *PROMETHEUS.glob("*.yml")))
    found = set(re.findall(rf'\b{label}=\\?"([^"\\$]+)\\?"', written))
    assert found <= VALUES[label]


def test_values_that_are_asked_for_are_found() -> None:
    text = (PROMETHEUS / "alerts.test.yml").read_text(encoding="utf-8") + DASHBOARDS[0].read_text(
        encoding="utf-8"
    )
    assert 'topic="dlq-events"' in text
    assert 'role=\\"core\\"' in text


# -- Prometheus


def run(*arguments: str) -> None:
    done = subprocess.run(
        [promtool(), *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_its_configuration() -> None:
    run("check", "config", "--lint-fatal", "prometheus.yml")


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    run("test", "rules", "alerts.test.yml")


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_has_a_test_where_it_fires(name: str) -> None:
    tried = [
        case
        for test in read(PROMETHEUS / "alerts.test.yml")["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == name
    ]
    assert any(case["exp_alerts"] for case in tried)
    assert any(not case["exp_alerts"] for case in tried)


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_says_how_bad_it_is_and_what_it_means(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description"}


def test_prometheus_reads_the_rules_that_lie_beside_it() -> None:
    assert read(PROMETHEUS / "prometheus.yml")["rule_files"] == ["alerts.yml"]


# -- Grafana


def test_there_is_a_dashboard_and_its_provisioning() -> None:
    assert DASHBOARDS
    assert {file.parent.name for file in PROVISIONED} == {"datasources", "dashboards"}


@pytest.mark.parametrize("name", PANELS)
def test_a_panel_asks_the_provisioned_data_source(name: str) -> None:
    (source,) = read(DEPLOY / "grafana/provisioning/datasources/prometheus.yml")["datasources"]
    panel = PANELS[name]
    for asking in (panel, *panel["targets"]):
        assert asking["datasource"] == {"type": source["type"], "uid": source["uid"]}


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_panels_have_room_and_ids_of_their_own(file: Path) -> None:
    found = json.loads(file.read_text())["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    taken: set[tuple[int, int]] = set()
    for panel in found:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        taken |= cells


@pytest.mark.parametrize("name", PANELS)
def test_a_legend_names_labels_that_the_query_keeps(name: str) -> None:
    for target in PANELS[name]["targets"]:
        named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        kept = asked(target["expr"])
        of_metrics = {label for metric in kept.metrics & SAMPLES.keys() for label in SAMPLES[metric].labels}
        assert named <= (kept.labels or of_metrics) | {"instance"}
