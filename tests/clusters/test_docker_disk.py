"""`queue-engine up --backend docker` while the disk of a real container engine is full."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.clusters.cases import RecordCase
from tests.clusters.engine import IMAGE, ContainerEngine, missing, shell_image
from tests.clusters.image_registry import PASSWORD, USERNAME, ImageRegistry
from tests.clusters.python_image import AGENT_IMAGE, ENTRY_POINT, ENVIRONMENT, agent_image
from tests.clusters.test_docker_up import containers, logs
from tests.integration.parts import HttpServer
from tests.integration.test_up import Up, running_up
from tests.waiting import wait_until

DISK_MB = 512
"""Size of the engine's disk: the agent's image takes less than half of it."""
FULL_FOR_PULL = "the image cannot be pulled, because the disk is full: "
FULL_FOR_START = "cannot be started, because the disk is full: "
SERVE = "httpd -f -p 8000 -h /tmp"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[ContainerEngine]:
    """An engine whose images and containers have a small disk. The files of a download have another one."""
    if (reason := missing(own=True)) is not None:
        pytest.skip(reason)
    with ContainerEngine(disk_mb=DISK_MB) as made:
        made.load(IMAGE, shell_image(tmp_path), ["/bin/sh"], {"PATH": "/bin"})
        if (reason := made.unable()) is not None:
            pytest.skip(reason)
        made.load(AGENT_IMAGE, agent_image(tmp_path), ENTRY_POINT, ENVIRONMENT)
        yield made


@pytest.fixture
def small_registry(engine: ContainerEngine, tmp_path: Path) -> Iterator[ImageRegistry]:
    with ImageRegistry(engine.registry_port, shell_image(tmp_path)) as serving:
        yield serving


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Let the disk of a folder have no space."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        size = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        os.posix_fallocate(file.fileno(), 0, size)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            os.posix_fallocate(file.fileno(), size, 1 << 20)
    try:
        yield
    finally:
        ballast.unlink()


def endpoint_for(registry: ImageRegistry, webhook: str, credential_id: int) -> dict[str, Any]:
    return {
        "name": "on-a-full-disk",
        "image": registry.name,
        "containerRegistryAuthId": credential_id,
        "resources": [{"region": "here", "gpuType": "CPU", "gpuCount": 1}],
        "workers": 1,
        "serviceMode": "CUSTOM",
        "containerVolumeInGb": 20,
        "initializationCommand": SERVE,
        "webhook": webhook,
    }


def test_a_full_disk_is_told_and_the_worker_starts_when_there_is_space(
    engine: ContainerEngine, small_registry: ImageRegistry, tmp_path: Path, record_case: RecordCase
) -> None:
    options = {"DOCKER_HOST": engine.url, "QUEUE_ENGINE_AGENT_IMAGE": AGENT_IMAGE}
    with HttpServer() as receiver, running_up(tmp_path, "--backend", "docker", **options) as up:
        credential = {"name": "images", "type": "DOCKER_HUB", "username": USERNAME, "password": PASSWORD}
        credential_id = up.post("/v2/container-registry-auths", credential)["id"]
        small_registry.layer_may_go.clear()  # until the disk is full
        made = up.post("/v2/serverless", endpoint_for(small_registry, f"{receiver.url}/hook", credential_id))
        path = f"/v2/serverless/{made['id']}"
        assert small_registry.layer_was_asked.wait(120), logs(up)
        with filled(engine.storage):
            small_registry.layer_may_go.set()
            pull = wait_until(lambda: worker_with(up, path, FULL_FOR_PULL), message=logs(up))
            start = wait_until(lambda: worker_with(up, path, FULL_FOR_START), message=logs(up))
            failed = wait_until(lambda: event_with(receiver, "FAILED"), message=logs(up))
            assert "because the disk is full" in failed["reason"]
            wait_until(lambda: "because the disk is full" in str(up.get(path)["error"]), message=logs(up))
        wait_until(lambda: [one["status"] for one in up.get(f"{path}/workers")] == ["RUNNING"], message=logs(up))
        wait_until(lambda: up.get(path)["error"] is None, message=logs(up))
        wait_until(lambda: event_with(receiver, "RUNNING"), message=logs(up))
        assert list(containers(engine, made["id"]).values()) == ["running"] * 2
        record_case("no space on the disk: image", seen=pull, recovery="pulled again with backoff; runs with space")
        record_case("no space on the disk: start", seen=start, recovery="started again with backoff; runs with space")
    assert engine.objects()["containers"] == frozenset()


def worker_with(up: Up, path: str, words: str) -> str:
    """The first line of a worker's error, if it has these words."""
    for one in up.get(f"{path}/workers"):
        line = str(one["error"]).partition("\n")[0]
        if words in line:
            return line
    return ""


def event_with(receiver: HttpServer, status: str) -> Any:
    """The latest event of a worker with this status that the webhook has received."""
    events = [json.loads(request.body) for request in receiver.requests_of("POST")]
    return next((one for one in reversed(events) if one["status"] == status), None)
