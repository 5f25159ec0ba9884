"""Podman for tests: images of Debian's packages, because no published image can be had, and services of a compose file.

Health checks are run by the tests, because podman leaves that to systemd, which a test machine may not have.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.deploy.programs import ROOT
from tests.servers import valkey_binary
from tests.waiting import wait_until

NEEDED = ("podman", "runc", "mmdebstrap", "prometheus")
PREFIX = "localhost/queue-engine-test"
BASE, STORE, PROMETHEUS = f"{PREFIX}/base", f"{PREFIX}/valkey", f"{PREFIX}/prometheus"
ENGINE, AGENT = f"{PREFIX}/engine", f"{PREFIX}/agent"
_BASE_PACKAGES = ("python3-venv", "ca-certificates", "redis-tools", "busybox")
# By these a machine reaches its package registry.
_OF_THIS_MACHINE = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")
_STORE_FILE = f"""
FROM {BASE}
COPY valkey-server /usr/local/bin/
RUN ln -s /usr/bin/redis-cli /usr/local/bin/valkey-cli && install --directory --owner=999 --group=1000 /data
"""
_PROMETHEUS_FILE = f"""
FROM {BASE}
COPY prometheus /usr/local/bin/
RUN ln -s /bin/busybox /usr/local/bin/wget && install --directory --owner=65534 --group=65534 /prometheus
ENTRYPOINT ["prometheus"]
"""


def missing_programs() -> list[str]:
    """Return which programs have to be installed before anything here works."""
    return [name for name in NEEDED if shutil.which(name) is None]


def run(*command: str | Path, environment: Mapping[str, str] | None = None, check: bool = True) -> str:
    """Run a program and return what it writes; AssertionError with its last words when it fails and `check` is set."""
    surroundings = {**os.environ, "CONTAINERS_CONF": str(Path(__file__).with_name("containers.conf"))}
    ran = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env=surroundings | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0 or not check, f"{command}: {ran.stdout[-3000:]}{ran.stderr[-3000:]}"
    return ran.stdout


def works(*command: str) -> bool:
    """Return whether a command of podman ends with status 0."""
    configuration = {**os.environ, "CONTAINERS_CONF": str(Path(__file__).with_name("containers.conf"))}
    return subprocess.run(["podman", *command], env=configuration, capture_output=True, check=False).returncode == 0


def build_images() -> None:
    """Build everything that compose.yaml needs, but Grafana. Layers that exist are used again."""
    if not works("image", "exists", BASE):
        _build_base()
    _build(STORE, _STORE_FILE, [valkey_binary()])
    _build(PROMETHEUS, _PROMETHEUS_FILE, [Path(shutil.which("prometheus") or "")])
    run(
        "make", "images", "CONTAINER_ENGINE=podman", f"IMAGES={PREFIX}", f"BASE={BASE}",
        "BUILD_OPTIONS=--format docker --network host",
    )  # fmt: skip


def _build_base() -> None:
    uploads = [f"--customize-hook=upload {path} {path}" for path in _OF_THIS_MACHINE if Path(path).exists()]
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "base.tar")
        packages = f"--include={','.join(_BASE_PACKAGES)}"
        run("mmdebstrap", "--quiet", "--variant=minbase", packages, *uploads, _suite(), archive)
        run("podman", "import", "--quiet", archive, BASE)


def _suite() -> str:
    facts = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return facts["VERSION_CODENAME"]


def _build(image: str, recipe: str, files: Sequence[Path]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            shutil.copy(file, folder)
        Path(folder, "Dockerfile").write_text(recipe)
        run("podman", "build", "--quiet", "--tag", image, folder)


class Services:
    """The services of a compose file, started one by one in a project of their own."""

    def __init__(self, compose_file: Path, project: str, environment: Mapping[str, str]) -> None:
        self._file = compose_file
        self._project = project
        self._environment = dict(environment)

    def start(self, name: str) -> None:
        """Create and start the container of a service, and not those of the services that it depends on."""
        self._compose("up", "--detach", "--no-deps", "--no-build", name)

    def wait_until_healthy(self, name: str) -> None:
        """Run the service's own health check until it succeeds."""
        wait_until(lambda: works("healthcheck", "run", self.container(name)), message=f"{name} is not healthy")

    def wait_until_completed(self, name: str) -> None:
        """Wait for a service that ends by itself. Raises AssertionError when it does not end with status 0."""
        assert run("podman", "wait", self.container(name)).strip() == "0", self.logs(name)

    def execute(self, name: str, *command: str) -> str:
        """Run a command in the container, as its user. Returns what it writes, even when it fails."""
        return run("podman", "exec", self.container(name), *command, check=False)

    def stop(self, name: str, seconds: int) -> int:
        """Stop the container with SIGTERM, after that time with SIGKILL; returns its exit status."""
        run("podman", "stop", "--time", str(seconds), self.container(name))
        return int(run("podman", "inspect", "--format", "{{.State.ExitCode}}", self.container(name)))

    def logs(self, name: str) -> str:
        return run("podman", "logs", "--tail", "50", self.container(name), check=False)

    def remove(self) -> None:
        """Remove the containers, networks and volumes. Safe to call twice."""
        self._compose("down", "--volumes", "--timeout", "5", check=False)

    def container(self, name: str) -> str:
        return f"{self._project}_{name}_1"

    def _compose(self, *words: str, check: bool = True) -> None:
        program = Path(sysconfig.get_path("scripts"), "podman-compose")
        run(
            program, "--project-name", self._project, "--file", self._file, "--profile", "examples", *words,
            environment=self._environment, check=check,
        )  # fmt: skip
