"""docker-compose.yml and the image, held against the code. There is no Docker here: nothing is started."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import __version__
from pipeline.app import Roles
from pipeline.broker.artifacts import KAFKA_VERSION
from pipeline.broker.properties import Ports, broker_properties
from pipeline.cli import main
from pipeline.metrics import Metrics
from pipeline.providers import registry
from pipeline.providers.provider import Place
from pipeline.providers.smtp import is_loopback
from pipeline.settings import ENV_PREFIX, Settings, Web, given, load
from tests.meta import pages

ROOT = pages.ROOT
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
TARGETS = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8"))[
    "scrape_configs"
]
KAFKA = SERVICES["kafka"]["environment"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
#: of the image's start script, not of the broker
FOREIGN_KAFKA = {"KAFKA_HEAP_OPTS"}


def option(name: str, option: str) -> str:
    """The value of an option of a service's command."""
    command: list[str] = SERVICES[name]["command"]
    return command[command.index(option) + 1]


def mounts(name: str) -> dict[str, str]:
    """What a service mounts: the path inside -> the volume's name or the path here."""
    return {inside: here for here, inside in (each.split(":")[:2] for each in SERVICES[name]["volumes"])}


def published(name: str) -> list[tuple[str, int, int]]:
    """The ports of a service: host address, port outside, port inside."""
    parts = [port.split(":") for port in SERVICES[name].get("ports", ())]
    return [(host, int(outside), int(inside)) for host, outside, inside in parts]


def interpolated(value: Any) -> str:
    """A value as Compose would have it where the caller's environment is empty."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads the settings that a service would have."""

    def load_as(name: str) -> Settings:
        for variable in list(os.environ):
            if variable.startswith(ENV_PREFIX) or variable == "KAFKA_BOOTSTRAP_SERVERS":
                monkeypatch.delenv(variable)
        for variable, value in SERVICES[name].get("environment", {}).items():
            monkeypatch.setenv(variable, interpolated(value))
        return load(ROOT / mounts(name)[option(name, "--config")])

    return load_as


def roles(settings: Settings) -> Roles:
    """The roles that these settings make possible."""
    from agents.catalogue import Catalogue

    return Roles(settings, Catalogue(), Metrics())


# -- roles


def test_each_role_that_can_run_has_a_service_of_its_name(settings_of: Any) -> None:
    assert set(OURS) == set(roles(settings_of("core")).names())
    assert set(OURS) >= set(roles(given()).names())
    for name in OURS:
        assert option(name, "--role") == name


@pytest.mark.parametrize("name", OURS)
def test_the_settings_of_a_service_load_and_its_role_can_be_built(
    settings_of: Any, tmp_path: Path, name: str
) -> None:
    settings = settings_of(name)
    here = settings.model_copy(update={"state_dir": tmp_path})
    assert roles(here).build(name).reads


@pytest.mark.parametrize("name", OURS)
def test_a_service_runs_a_command_that_exists(name: str) -> None:
    command, *rest = SERVICES[name]["command"]
    known = {opt for parameter in main.commands[command].params for opt in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= known


@pytest.mark.parametrize("name", OURS)
def test_every_provider_can_be_made(settings_of: Any, tmp_path: Path, name: str) -> None:
    for found in settings_of(name).channels.values():
        for called, provider in found.providers.items():
            assert registry.make(called, provider, Place(tmp_path)).name == called


def test_a_provider_that_goes_without_tls_shares_the_network_of_its_server(settings_of: Any) -> None:
    (provider,) = settings_of("email").channels["email"].providers.values()
    assert is_loopback(provider.host)
    server = SERVICES["email"]["network_mode"].removeprefix("service:")
    assert SERVICES[server]["environment"]["MP_SMTP_BIND_ADDR"] == f"{provider.host}:{provider.port}"
    assert SERVICES["email"]["depends_on"][server] == {"condition": "service_healthy"}
    assert "email" in SERVICES[server]["networks"]["default"]["aliases"]


@pytest.mark.parametrize("name", OURS)
def test_a_service_is_asked_for_its_readiness_where_it_serves(settings_of: Any, name: str) -> None:
    web = settings_of(name).web
    assert web.host == "0.0.0.0"
    assert f"http://127.0.0.1:{web.port}/readyz" in SERVICES[name]["healthcheck"]["test"][-1]


@pytest.mark.parametrize("name", OURS)
def test_a_state_directory_is_a_volume(settings_of: Any, name: str) -> None:
    assert mounts(name)[str(settings_of(name).state_dir)] in COMPOSE["volumes"]


def test_the_roles_share_what_they_must(settings_of: Any) -> None:
    # the pages of status show the outbox that the channels write
    assert len({mounts(name)[str(settings_of(name).state_dir)] for name in OURS}) == 1
    assert len({settings_of(name).operator_token for name in OURS}) == 1


# -- Kafka


@pytest.mark.parametrize("name", OURS)
def test_a_service_uses_a_listener_that_the_broker_advertises(settings_of: Any, name: str) -> None:
    advertised = re.findall(r"\w+://([^,]+)", KAFKA["KAFKA_ADVERTISED_LISTENERS"])
    kafka = settings_of(name).kafka
    assert kafka.bootstrap_servers in advertised
    assert kafka.bootstrap_servers.startswith("kafka:")
    assert kafka.security_protocol == "PLAINTEXT"


def test_the_broker_is_reached_from_this_machine_where_it_says() -> None:
    ((host, outside, inside),) = published("kafka")
    assert f"OUTSIDE://{host}:{outside}" in KAFKA["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert f"OUTSIDE://:{inside}" in KAFKA["KAFKA_LISTENERS"].split(",")


def test_the_brokers_settings_are_spelt_as_the_embedded_brokers_are() -> None:
    known = broker_properties(1, [Ports(1, 2)], {})
    for variable, value in KAFKA.items():
        if variable in FOREIGN_KAFKA:
            continue
        name = variable.removeprefix("KAFKA_").lower().replace("_", ".")
        assert name in known
        if not name.endswith(("listeners", "voters", "dirs", "map", "listener.name", "listener.names")):
            assert str(value) == known[name]


def test_the_broker_is_the_version_that_is_embedded_elsewhere() -> None:
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"


def test_the_brokers_data_is_a_volume() -> None:
    assert mounts("kafka")[KAFKA["KAFKA_LOG_DIRS"]] in COMPOSE["volumes"]


# -- all services


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_pinned_by_its_version(name: str) -> None:
    image, _, tag = SERVICES[name]["image"].rpartition(":")
    assert image
    assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag)
    assert name not in OURS or tag == __version__


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_says_whether_it_is_well(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_until_those_that_it_needs_are_well(name: str) -> None:
    needed = SERVICES[name].get("depends_on", {})
    assert needed.keys() <= SERVICES.keys()
    assert all(needs == {"condition": "service_healthy"} for needs in needed.values())
    assert name not in OURS or "kafka" in needed


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_to_this_machine_alone(name: str) -> None:
    assert all(host == "127.0.0.1" for host, _, _ in published(name))


def test_no_two_services_want_the_same_port() -> None:
    ports = [outside for name in SERVICES for _, outside, _ in published(name)]
    assert len(set(ports)) == len(ports)


def test_the_pages_are_those_of_status(settings_of: Any) -> None:
    assert {name for name in OURS if published(name)} == {"status"}
    assert published("status") == [("127.0.0.1", Web().port, settings_of("status").web.port)]


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_exists(name: str) -> None:
    for here in mounts(name).values() if "volumes" in SERVICES[name] else ():
        assert here in COMPOSE["volumes"] or (here.startswith("./") and (ROOT / here).exists())


def test_every_volume_is_used() -> None:
    used = {here for name in SERVICES if "volumes" in SERVICES[name] for here in mounts(name).values()}
    assert COMPOSE["volumes"].keys() <= used


@pytest.mark.parametrize("name", SERVICES)
def test_no_password_is_written_down(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if re.search("PASSWORD|TOKEN|SECRET|CREDENTIALS", variable):
            assert interpolated(value) == ""


# -- Prometheus, Grafana


def test_prometheus_asks_every_role_where_it_serves(settings_of: Any) -> None:
    (job,) = [job for job in TARGETS if job["job_name"] == "carillon"]
    (group,) = job["static_configs"]
    assert set(group["targets"]) == {f"{name}:{settings_of(name).web.port}" for name in OURS}
    assert "metrics_path" not in job


def test_prometheus_finds_its_configuration() -> None:
    (flag,) = [word for word in SERVICES["prometheus"]["command"] if word.startswith("--config.file=")]
    folder, _, file = flag.removeprefix("--config.file=").rpartition("/")
    assert (ROOT / mounts("prometheus")[folder] / file).is_file()


def test_grafana_finds_prometheus_and_its_dashboards() -> None:
    provisioning = ROOT / mounts("grafana")["/etc/grafana/provisioning"]
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    ((_, _, port),) = published("prometheus")
    assert source["url"] == f"http://prometheus:{port}"
    (provider,) = yaml.safe_load((provisioning / "dashboards/carillon.yml").read_text())["providers"]
    dashboards = ROOT / mounts("grafana")[provider["options"]["path"]]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (dashboards / Path(home).name).is_file()
    assert str(Path(home).parent) == provider["options"]["path"]


# -- the image


def test_the_image_is_the_one_that_compose_builds() -> None:
    for service in OURS.values():
        assert service["build"] == {"context": ".", "dockerfile": "deploy/Dockerfile"}


def test_the_image_installs_from_the_lock_alone() -> None:
    installs = re.findall(r"pip install [^\n]*", DOCKERFILE)
    assert len(installs) == 1
    assert "--require-hashes -r /tmp/run.lock" in installs[0]
    assert "COPY locks/run.lock /tmp/run.lock" in DOCKERFILE


def test_the_images_python_is_one_that_we_support() -> None:
    bases = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.M))
    assert bases == {"python:3.12-slim"}
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert requires == ">=3.11"


def test_the_image_holds_every_package_of_ours_and_the_samples() -> None:
    copied = re.findall(r"^COPY (\w+) /srv/carillon/(\w+)$", DOCKERFILE, re.M)
    assert all(here == there for here, there in copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]
    assert {here for here, _ in copied} == {*packages["packages"], *packages["force-include"]}
    shown = (ROOT / "deploy/Dockerfile.dockerignore").read_text().split()
    assert {line[1:] for line in shown if line.startswith("!")} == {here for here, _ in copied} | {
        "locks/run.lock"
    }


def test_the_image_runs_as_nobody_in_particular_and_keeps_state_on_a_volume(settings_of: Any) -> None:
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    (user,) = re.findall(r"^USER (\d+)$", final, re.M)
    assert int(user) > 0
    assert f"--uid {user}" in final
    assert 'ENTRYPOINT ["carillon"]' in final
    assert f"VOLUME {settings_of('core').state_dir}\n" in final
    assert f"EXPOSE {Web().port}\n" in final


def test_the_image_finds_workflows_and_templates_where_the_settings_look() -> None:
    (folder,) = re.findall(r"^WORKDIR (\S+)$", DOCKERFILE, re.M)
    for looked in (given().workflows_dir, given().templates_dir):
        assert f"COPY {looked} {folder}/{looked}\n" in DOCKERFILE


def test_the_image_sets_only_settings_that_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = re.findall(rf"({ENV_PREFIX}\w+)=(\S+)", DOCKERFILE)
    assert found
    for variable, value in found:
        monkeypatch.setenv(variable, value)
    load()
