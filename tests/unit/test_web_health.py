"""What probes and Prometheus get."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.engine.observer import Observer
from pipeline.metrics import GAUGES, EngineMetrics, Metrics
from schemas.kinds import Channel, State
from tests.browser.desk import Office


async def get(office: Office, path: str) -> httpx.Response:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(office.app), base_url="http://localhost"
    ) as client:
        return await client.get(path)


async def test_alive_is_alive_whatever_the_roles_do() -> None:
    office = Office(ready={"core": False})
    assert (await get(office, "/healthz")).json() == {"alive": True}


@pytest.mark.parametrize(
    ("ready", "status", "away"),
    [
        ({"core": True, "email": True}, 200, []),
        ({"core": True, "email": False}, 503, ["email"]),
        ({"core": False, "email": False}, 503, ["core", "email"]),
        ({}, 503, []),
    ],
)
async def test_ready_only_when_every_role_is(ready: dict[str, bool], status: int, away: list[str]) -> None:
    found = await get(Office(ready=ready), "/readyz")
    assert found.status_code == status
    assert found.json() == {"ready": status == 200, "roles": ready, "waiting_for": away}


async def test_metrics_need_no_sign_in_and_name_nobody() -> None:
    office = Office()
    office.tell(State.SENT, user="ada lovelace", address="ada@example.com")
    office.metrics.told("email", "sent")
    found = await get(office, "/metrics")
    assert found.status_code == 200 and found.headers["content-type"].startswith("text/plain; version=")
    assert 'carillon_pairs{channel="email",state="sent"} 1.0' in found.text
    assert 'carillon_ready{role="core"} 1.0' in found.text
    assert "carillon_partitions_held 4.0" in found.text
    assert "ada" not in found.text


def documented(metrics: Metrics) -> dict[str, str]:
    return {family.name: family.documentation for family in metrics.registry.collect()}


async def test_every_metric_is_listed_with_what_it_means_before_anything_happened() -> None:
    office = Office()
    text = (await get(office, "/metrics")).text
    listed = {family.name: family.documentation for family in text_string_to_metric_families(text)}
    ours = {name for name in documented(office.metrics) if name.startswith("carillon_")}
    assert ours == {
        "carillon_swept_rows", "carillon_stage_stops",
        "carillon_units", "carillon_records", "carillon_unit_seconds", "carillon_commits",
        "carillon_committed_partitions", "carillon_abandonments", "carillon_zombie_rows",
        "carillon_restored_partitions", "carillon_revoked_partitions", "carillon_drain_seconds",
        "carillon_rejected", "carillon_statuses", "carillon_provider_calls",
        "carillon_provider_call_seconds", "carillon_calls_in_flight", "carillon_events_ignored",
        "carillon_dead_letters", "carillon_records_astray", "carillon_receipts", *GAUGES,
    }  # fmt: skip
    for name in ours:
        assert len(listed[name]) > 20 and listed[name].endswith("."), name


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_a_role_counts_what_its_engine_tells() -> None:
    metrics = Metrics()
    core, email = EngineMetrics(metrics, "core"), EngineMetrics(metrics, "email")
    core.unit_done("events", 10, 0.004)
    core.unit_done("events", 5, 0.002)
    email.unit_done("email-notifications", 1, 0.001)
    core.committed(3)
    core.abandoned("no heartbeat for 5.1 s")
    core.abandoned("no heartbeat for 7.3 s")
    core.zombie_rows(2)
    core.restored(12)
    core.revoked(6, 0.2)
    core.rejected("events", "Unreadable")
    of_core = {"role": "core", "topic": "events"}
    assert value(metrics, "carillon_units_total", **of_core) == 2
    assert value(metrics, "carillon_records_total", **of_core) == 15
    assert value(metrics, "carillon_unit_seconds_sum", **of_core) == pytest.approx(0.006)
    assert value(metrics, "carillon_units_total", role="email", topic="email-notifications") == 1
    assert value(metrics, "carillon_commits_total", role="core") == 1
    assert value(metrics, "carillon_committed_partitions_total", role="core") == 3
    assert value(metrics, "carillon_abandonments_total", role="core", reason="no heartbeat for") == 2
    assert value(metrics, "carillon_zombie_rows_total", role="core") == 2
    assert value(metrics, "carillon_restored_partitions_total", role="core") == 12
    assert value(metrics, "carillon_revoked_partitions_total", role="core") == 6
    assert value(metrics, "carillon_rejected_total", **of_core, error="Unreadable") == 1


def test_it_hears_everything_that_an_engine_tells() -> None:
    told = {name for name in vars(Observer) if not name.startswith("_")}
    assert told == told & set(vars(EngineMetrics))


def test_a_process_counts_what_its_stages_tell() -> None:
    metrics = Metrics()
    metrics.called("main", Channel.EMAIL, "sent", 0.02)
    with metrics.calling("main", Channel.EMAIL):
        assert value(metrics, "carillon_calls_in_flight", provider="main", channel="email") == 1
    metrics.ignored()
    metrics.dead_lettered("dlq-events")
    metrics.astray("users")
    metrics.told()
    of_main = {"provider": "main", "channel": "email"}
    assert value(metrics, "carillon_provider_calls_total", **of_main, kind="sent") == 1
    assert value(metrics, "carillon_provider_call_seconds_count", **of_main) == 1
    assert value(metrics, "carillon_calls_in_flight", **of_main) == 0
    assert value(metrics, "carillon_events_ignored_total") == 1
    assert value(metrics, "carillon_dead_letters_total", topic="dlq-events") == 1
    assert value(metrics, "carillon_records_astray_total", topic="users") == 1
    assert value(metrics, "carillon_statuses_total", channel="", state="") == 1


def test_several_processes_in_one_test_do_not_share_counts() -> None:
    one, other = Metrics(), Metrics()
    one.ignored()
    assert value(other, "carillon_events_ignored_total") == 0
