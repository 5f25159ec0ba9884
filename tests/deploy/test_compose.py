"""deploy/compose: that the file is valid, that what it says is understood, and that it gives nothing away."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from queue_engine.config.agent import AgentSettings
from queue_engine.config.engine import ControllerSettings, DeliverySettings
from queue_engine.config.store_url import parse_store_url
from queue_engine.config.store_users import acl_lines
from queue_engine.crypto.sealing import parse_secret_key
from tests.deploy.programs import (
    DEPLOY,
    check_command,
    check_variables,
    process_of,
    read_env_file,
    read_settings,
)
from tests.promtool import check

COMPOSE = DEPLOY / "compose/compose.yaml"
OF_THE_ENGINE = ["api", "controller", "delivery", "agent-1", "agent-2"]


def resolved(text: str) -> Any:
    """Return the document with the defaults of its variables, as Compose reads it where none of them is set."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    return msgspec.yaml.decode(text.replace("$$", "$"))


DOCUMENT: dict[str, Any] = resolved(COMPOSE.read_text())
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]


def command_of(service: dict[str, Any]) -> list[str]:
    """Return the program and its words; the images' own entry point where the service has none."""
    entrypoint = service.get("entrypoint") or [service["image"].replace("queue-engine/engine:latest", "queue-engine")]
    entrypoint = [word.replace("queue-engine/agent:latest", "worker-agent") for word in entrypoint]
    return [*entrypoint, *service.get("command", [])]


def seconds(duration: str) -> float:
    assert re.fullmatch(r"\d+s", duration)
    return float(duration[:-1])


def schema_faults(path: Path) -> str:
    """Return what check-jsonschema says of a compose file; empty when it is valid."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if ran.returncode == 0 else ran.stdout + ran.stderr


def test_it_fits_the_schema_of_compose_files() -> None:
    assert schema_faults(COMPOSE) == ""


def test_a_misspelled_key_does_not_fit_the_schema(tmp_path: Path) -> None:
    broken = tmp_path / "compose.yaml"
    broken.write_text(COMPOSE.read_text().replace("stop_grace_period: 60s", "stop_grace: 60s"))
    assert "stop_grace" in schema_faults(broken)


@pytest.mark.parametrize("name", OF_THE_ENGINE)
def test_its_variables_are_settings_of_the_process(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    process = process_of(command_of(SERVICES[name]))
    own = SERVICES[name]["environment"]
    check_variables(process, own)
    shared = read_env_file(COMPOSE.with_name(*SERVICES[name]["env_file"]))
    read_settings(process, shared | own, monkeypatch, tmp_path)


@pytest.mark.parametrize("name", OF_THE_ENGINE)
def test_its_commands_are_commands(name: str) -> None:
    check_command(command_of(SERVICES[name]))


def test_the_example_endpoint_is_created_by_commands_that_exist() -> None:
    shell, script = command_of(SERVICES["example-endpoint"])[1:3]
    assert shell == "-c"
    commands = [re.sub(r">.*", "", part) for part in re.split(r"\|\||&& ", script)]
    assert len(commands) == 3
    for command in commands:
        check_command(shlex.split(command))


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened_bounded_and_checked(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[1-9]\d*:\d+", service["user"])
    assert service["logging"]["options"]["max-size"]
    assert "privileged" not in service
    if name == "example-endpoint":  # it ends by itself
        assert service["healthcheck"] == {"disable": True}
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"]


def test_ports_are_published_on_loopback_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == 3
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in published)


def test_only_those_who_use_the_store_can_reach_it() -> None:
    assert DOCUMENT["networks"]["store"]["internal"] is True
    in_store = {name for name, service in SERVICES.items() if "store" in service["networks"]}
    assert in_store == {"valkey", "example-endpoint", *OF_THE_ENGINE}
    assert SERVICES["valkey"]["networks"] == ["store"]
    assert SERVICES["worker-1"]["networks"] == SERVICES["worker-2"]["networks"] == ["workers"]


def test_no_secret_is_in_the_environment() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY|REDIS_URL", variable):
                assert variable.endswith("_FILE"), f"{name}: {variable}"
                folder, _, file = value.rpartition("/")
                volumes = [volume.split(":")[1] for volume in service.get("volumes", [])]
                assert folder in volumes or file in service["secrets"], f"{name}: {variable}"


def test_what_services_name_exists() -> None:
    for name, service in SERVICES.items():
        assert set(service.get("secrets", [])) <= set(DOCUMENT["secrets"]), name
        assert set(service["networks"]) <= set(DOCUMENT["networks"]), name
        assert set(service.get("depends_on", {})) <= set(SERVICES), name
        for source, *_ in (volume.split(":") for volume in service.get("volumes", [])):
            is_path = source.startswith(".")
            assert (COMPOSE.parent / source).exists() if is_path else source in DOCUMENT["volumes"], f"{name}: {source}"


def test_services_have_longer_to_stop_than_their_own_grace_periods() -> None:
    agent, controller, delivery = AgentSettings, ControllerSettings, DeliverySettings
    stop = {name: seconds(service.get("stop_grace_period", "10s")) for name, service in SERVICES.items()}
    assert stop["agent-1"] == stop["agent-2"] >= agent.model_fields["grace_seconds"].default + 5
    assert stop["controller"] >= controller.model_fields["worker_grace_seconds"].default + 20
    assert stop["delivery"] >= delivery.model_fields["delivery_timeout_seconds"].default + 5


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A copy of make-secrets.sh that was run once; its folder of secrets."""
    for name in ("compose/make-secrets.sh", "redis/users.acl"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(DEPLOY / name, tmp_path / name)
    subprocess.run(["sh", tmp_path / "compose/make-secrets.sh"], check=True, capture_output=True)
    return tmp_path / "compose/secrets"


def test_the_script_makes_every_secret_and_keeps_what_is_there(made: Path) -> None:
    first = {path.name: path.read_text() for path in made.iterdir()}
    assert {f"secrets/{name}" for name in first} == {secret["file"] for secret in DOCUMENT["secrets"].values()}
    (made / "api-key").unlink()
    subprocess.run(["sh", made.parent / "make-secrets.sh"], check=True, capture_output=True)
    second = {path.name: path.read_text() for path in made.iterdir()}
    assert {name for name in first if first[name] != second[name]} == {"api-key"}


def test_the_secrets_are_of_the_right_form_and_for_the_owner_only(made: Path) -> None:
    assert made.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in made.iterdir()} == {0o444}
    parse_secret_key((made / "secret-key").read_text().strip())
    urls = [parse_store_url((made / name).read_text().strip()) for name in ("store-url", "agent-store-url")]
    metrics = (made / "metrics-store-password").read_text().strip()
    passwords = {str(url.username): str(url.password) for url in urls} | {"metrics": metrics}
    assert {len(password) for password in passwords.values()} == {43}
    assert len(set(passwords.values())) == 3
    assert (made / "users.acl").read_text().splitlines() == acl_lines(passwords)
    assert re.fullmatch(r"qe_[A-Za-z0-9]{43}", (made / "api-key").read_text().strip())


def test_prometheus_gives_the_metrics_of_an_agent_its_endpoint_and_worker() -> None:
    jobs = msgspec.yaml.decode((DEPLOY / "compose/prometheus.yml").read_bytes())["scrape_configs"]
    [job] = [job for job in jobs if job["job_name"] == "worker-agents"]
    for name in job["dns_sd_configs"][0]["names"]:
        environment = SERVICES[name]["environment"]
        assert relabelled(name, job["relabel_configs"]) == {
            "endpoint": environment["WORKER_AGENT_ENDPOINT"],
            "worker": environment["WORKER_AGENT_WORKER_ID"],
        }


def relabelled(dns_name: str, rules: list[dict[str, Any]]) -> dict[str, str]:
    """Return the labels that these rules of Prometheus add to a target that was found by its name."""
    labels = {}
    for rule in rules:
        found = re.fullmatch(rule.get("regex", "(.*)"), dns_name if "source_labels" in rule else "")
        if found:
            labels[rule["target_label"]] = found.expand(rule["replacement"].replace("$", "\\"))
    return labels


def test_the_controller_has_metrics_of_single_endpoints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without them no alert names an endpoint."""
    service = SERVICES["controller"]
    shared = read_env_file(COMPOSE.with_name(*service["env_file"]))
    settings = read_settings("controller", shared | service["environment"], monkeypatch, tmp_path)
    assert isinstance(settings, ControllerSettings)
    assert settings.metrics_endpoint_limit > 0


@pytest.mark.promtool
def test_prometheus_scrapes_every_process_of_the_engine(promtool: str, tmp_path: Path) -> None:
    configuration = str(shutil.copy(DEPLOY / "compose/prometheus.yml", tmp_path))
    shutil.copy(DEPLOY / "prometheus/alerts.yml", tmp_path)
    check(promtool, "config", configuration)
    jobs = msgspec.yaml.decode(Path(configuration).read_text())["scrape_configs"]
    targets = {name: place["port"] for job in jobs for place in job["dns_sd_configs"] for name in place["names"]}
    assert targets == dict.fromkeys(OF_THE_ENGINE, 8000)
