"""deploy/prometheus/docker.yml: that Prometheus finds agents in containers."""

import re

import msgspec
import pytest

from queue_engine.backends.container_words import AGENT_PORT
from queue_engine.backends.docker import names
from tests.deploy.programs import DEPLOY
from tests.promtool import check


@pytest.mark.promtool
def test_prometheus_finds_the_agents_in_containers(promtool: str) -> None:
    """By the labels that the Docker backend gives them, at the port of their metrics."""
    path = DEPLOY / "prometheus/docker.yml"
    check(promtool, "config", str(path))
    [job] = msgspec.yaml.decode(path.read_text())["scrape_configs"]
    assert job["docker_sd_configs"][0]["filters"] == [{"name": "label", "values": [f"{names.PART}={names.Part.AGENT}"]}]
    sources = {one["target_label"]: one for one in job["relabel_configs"]}
    assert sources["__address__"]["replacement"] == f"$1:{AGENT_PORT}"
    for target, label in (("endpoint", names.ENDPOINT), ("worker", names.WORKER), ("engine", names.INSTANCE)):
        written = re.sub("[^A-Za-z0-9_]", "_", label)
        assert sources[target]["source_labels"] == [f"__meta_docker_container_label_{written}"]
