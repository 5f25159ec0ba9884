"""The demo with workers in containers, as its page in the docs runs it."""

import subprocess
import sys
from pathlib import Path

from tests.clusters.cases import RecordCase
from tests.clusters.engine import ContainerEngine
from tests.clusters.python_image import AGENT_IMAGE
from tests.environment import inherited

DEMO = Path(__file__).parents[2] / "deploy/demo/run.py"
FILES = 12


def test_the_demo_checks_all_that_it_does_in_containers_and_leaves_nothing(
    with_agent: ContainerEngine, tmp_path: Path, record_case: RecordCase
) -> None:
    before = with_agent.objects()
    ran = subprocess.run(
        [sys.executable, str(DEMO), "--files", str(FILES), "--backend", "docker", "--image", AGENT_IMAGE],
        env={**inherited(), "DOCKER_HOST": with_agent.url, "QUEUE_ENGINE_AGENT_IMAGE": AGENT_IMAGE},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "done in" in ran.stdout
    assert with_agent.objects() == before
    record_case("demo", seen="each step as expected", recovery="no container, network or volume is left")
