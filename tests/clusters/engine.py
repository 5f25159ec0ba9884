"""A container engine for tests: podman's service with Docker's API, and images made of files of this machine.

Each test session has a service of its own, on a socket, with containers and images in a folder of its own. With
DOCKER_HOST the tests use that engine instead, for example a Docker daemon, and load the images into it.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from queue_engine.backends.docker.names import MANAGER
from queue_engine.backends.docker.network import gateway_in
from tests.ports import free_port
from tests.waiting import wait_until

NEEDED = ("podman", "runc", "busybox")
WHERE = "apt-get install podman runc containernetworking-plugins iptables busybox-static"
CONFIGURATION = Path(__file__).parents[1] / "images" / "containers.conf"
IMAGE = "localhost/queue-engine-test/shell:1"
"""An image with a shell. Its entry point stands in for an agent."""
STUB_AGENT = """#!/bin/sh
# STUB_EXIT: end with this status at once. STUB_DRAIN: what SIGTERM does: `quick` ends, `never` does nothing.
[ -n "$STUB_EXIT" ] && exit "$STUB_EXIT"
trap '[ "$STUB_DRAIN" = never ] || exit 0' TERM
while :; do
    sleep 1000 &
    wait $!
done
"""
_APPLETS = ("sh", "sleep", "echo", "cat", "nc", "wget", "httpd", "id", "ls", "touch", "env", "true", "tail", "mkdir")
CALL_SECONDS = 120
DEFAULT_NETWORKS = ("bridge", "podman")
"""Names of the default network, in Docker and in podman."""


def missing(*, own: bool = False) -> str | None:
    """Return why no engine can be had here; None if one can. With `own`, DOCKER_HOST is none."""
    if os.environ.get("DOCKER_HOST") and not own:
        return None
    lacking = [name for name in NEEDED if shutil.which(name) is None]
    if lacking:
        return f"no container engine: {', '.join(lacking)} not here (set DOCKER_HOST, or {WHERE})"
    return None if os.getuid() == 0 else "no container engine: podman needs root here (or set DOCKER_HOST)"


class ContainerEngine:
    """An engine. `start` and `stop` also serve to restart it; containers of podman go on without its service."""

    def __init__(self, *, disk_mb: int | None = None) -> None:
        """With `disk_mb` it is one of the tests' own, whose containers and images have a disk of this size."""
        self.given = os.environ.get("DOCKER_HOST") if disk_mb is None else None
        # Short, because the path of a socket is limited.
        self._folder = Path(tempfile.mkdtemp(prefix="qe-engine-", dir="/tmp"))
        self.storage = self._folder / "root"
        """The folder of podman with the containers and the images."""
        if disk_mb is not None:
            self.storage.mkdir()
            mounting = ["mount", "-t", "tmpfs", "-o", f"size={disk_mb}m,mode=0700", "tmpfs", str(self.storage)]
            subprocess.run(mounting, check=True, capture_output=True)
        self._process: subprocess.Popen[bytes] | None = None
        self.registry_port = free_port()
        """The port of a registry without TLS that the engine may use."""
        self._registries = self._folder / "registries.conf"
        self._registries.write_text(f'[[registry]]\nlocation = "127.0.0.1:{self.registry_port}"\ninsecure = true\n')
        self.url = self.given or f"unix://{self._folder}/engine.sock"
        transport = httpx.HTTPTransport(uds=self.url.removeprefix("unix://")) if self.url.startswith("unix:") else None
        base_url = "http://engine" if transport else self.url.replace("tcp://", "http://")
        self._client = httpx.Client(base_url=base_url, transport=transport, timeout=CALL_SECONDS, trust_env=False)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the service and wait until it responds. Does nothing for an engine that was given."""
        if self.given or self._process is not None:
            return
        self._process = subprocess.Popen(
            self._podman("system", "service", "--time=0", self.url),
            env=self._environment(),
            cwd=self._folder,  # the runtime leaves files there
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self._folder / "service.log").open("ab"),
            start_new_session=True,
        )
        wait_until(self._responds, message=f"the engine does not respond: {self._folder}/service.log")

    def stop(self) -> None:
        """Kill the service. Containers go on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def suspend(self) -> None:
        """Let the service accept connections without a response. Containers go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a suspended service go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def crash(self, containers: Sequence[str]) -> None:
        """Kill the service, and these containers while it is down, and start it: as its host's restart does.

        An engine that was given continues, and only the containers end.
        """
        if self.given:
            for one in containers:
                self.kill(one)
            return
        self.stop()
        self.run("kill", "--signal", "KILL", *containers)
        self.start()

    def close(self) -> None:
        """Remove the containers of the session, end the service, and remove its folder."""
        if not self.given:
            self.stop()
            for _ in range(2):  # what has a network can only be removed after the containers that use it
                self.run("rm", "--all", "--force", "--time", "0", check=False)
            for mount in sorted(_mounts_below(self._folder), reverse=True):
                subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
        self._client.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, *words: str, check: bool = True) -> str:
        """Run a command of podman in the storage of this session; return its output."""
        ran = subprocess.run(
            self._podman(*words), env=self._environment(), capture_output=True, text=True, check=False, timeout=600
        )
        assert ran.returncode == 0 or not check, f"podman {words}: {ran.stderr}"
        return ran.stdout

    def unable(self) -> str | None:
        """Return why podman runs no containers here, for example because this machine is a container; None if it does.

        An engine that was given has to run them.
        """
        if self.given:
            return None
        ran = subprocess.run(
            self._podman("run", "--rm", "--entrypoint", "/bin/true", IMAGE),
            env=self._environment(),
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=CALL_SECONDS,
        )
        return None if ran.returncode == 0 else f"podman runs no containers here: {ran.stderr.strip()}"

    # Docker's API, for what the tests do beside the backend

    def call(self, method: str, path: str, *, good: Sequence[int] = (), **options: Any) -> Any:
        """Call the API; return the document in the response, or None. AssertionError unless the status is good."""
        response = self._client.request(method, path, **options)
        assert response.is_success or response.status_code in good, response.text
        return response.json() if response.headers.get("content-type", "").startswith("application/json") else None

    def containers(self, label: str) -> list[dict[str, Any]]:
        """Return the summaries of the containers with a label."""
        found: list[dict[str, Any]] = self.call(
            "GET", "/containers/json", params={"all": "1", "filters": json.dumps({"label": [label]})}
        )
        return found

    def gateway(self) -> str:
        """Return the gateway of the default network."""
        for name in DEFAULT_NETWORKS:
            if (found := self.call("GET", f"/networks/{name}", good=(404,))) and "IPAM" in found:
                return gateway_in(found)
        raise AssertionError("the engine has no default network")

    def objects(self) -> dict[str, frozenset[str]]:
        """Return the ids of all containers, and the names of all networks and volumes."""
        volumes = self.call("GET", "/volumes").get("Volumes") or []
        return {
            "containers": frozenset(one["Id"] for one in self.call("GET", "/containers/json", params={"all": "1"})),
            "networks": frozenset(one["Name"] for one in self.call("GET", "/networks")),
            "volumes": frozenset(one["Name"] for one in volumes),
        }

    def objects_of_backend(self) -> dict[str, frozenset[str]]:
        """Return `objects` without the networks of `up`, which the backend does not make.

        All services of podman on a machine have the same networks, so that they may be those of other tests.
        """
        found = self.objects()
        return found | {"networks": frozenset(one for one in found["networks"] if not one.startswith(f"{MANAGER}-"))}

    def folders(self) -> frozenset[str]:
        """Return the folders of containers and layers in the storage of podman; none of an engine that was given."""
        kinds = ("overlay", "overlay/l", "overlay-containers", "vfs/dir", "vfs-containers", "volumes")
        return frozenset(
            str(path) for kind in kinds if (self.storage / kind).is_dir() for path in (self.storage / kind).iterdir()
        )

    def inspect(self, container: str) -> dict[str, Any]:
        """Return the description of a container."""
        found: dict[str, Any] = self.call("GET", f"/containers/{container}/json")
        return found

    def output(self, container: str) -> str:
        """Return what a container has written so far, with the engine's marks of its pieces."""
        response = self._client.get(f"/containers/{container}/logs", params={"stdout": "1", "stderr": "1"})
        assert response.is_success, response.text
        return response.text

    def remove(self, container: str) -> None:
        """Remove a container, as somebody else would. Does nothing if that is in progress."""
        self.call("DELETE", f"/containers/{container}", params={"force": "1"}, good=(404, 409, 500))

    def kill(self, container: str, signal: str = "SIGKILL") -> None:
        """Send a signal to a container, as somebody else would."""
        self.call("POST", f"/containers/{container}/kill", params={"signal": signal})

    def load(self, name: str, archive: Path, entry_point: Sequence[str], environment: Mapping[str, str]) -> None:
        """Make an image of a tar archive of files, unless there is one of this name."""
        changes = [f"ENTRYPOINT {json.dumps(list(entry_point))}", *(f"ENV {k}={v}" for k, v in environment.items())]
        if not self.given:
            self.run("import", "--quiet", *(f"--change={one}" for one in changes), str(archive), name)
            return
        with archive.open("rb") as file:
            response = self._client.post(
                "/images/create",
                # The tag is in `repo`, as the command `docker import` sends it, because podman ignores `tag`.
                params={"fromSrc": "-", "repo": name, "changes": changes},
                content=file,
                headers={"Content-Type": "application/x-tar"},
            )
        assert response.is_success, response.text
        assert '"error"' not in response.text, response.text

    def uses_http(self, image: str) -> bool:
        """Return True if the engine asks the image's registry without TLS, if there is no TLS.

        Docker does so for addresses of loopback, podman for those that its file of registries names.
        """
        response = self._client.post("/images/create", params={"fromImage": image})
        refusals = ("server gave HTTP response to HTTPS client", "does not look like a TLS handshake")
        return not any(refusal in response.text for refusal in refusals)

    def _responds(self) -> bool:
        try:
            return self._client.get("/_ping").is_success
        except httpx.TransportError:
            return False

    def _podman(self, *words: str) -> list[str]:
        folder = self._folder
        places = ("--root", str(self.storage), "--runroot", f"{folder}/run", "--tmpdir", f"{folder}/tmp")
        return ["podman", *places, "--events-backend", "file", *words]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "CONTAINERS_CONF": str(CONFIGURATION), "TMPDIR": str(self._folder)} | {
            "CONTAINERS_REGISTRIES_CONF": str(self._registries)
        }


def shell_image(folder: Path) -> Path:
    """Return a tar archive of the files of IMAGE."""
    path = folder / "shell.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(os.path.realpath(shutil.which("busybox") or "/bin/busybox"), "bin/busybox")
        for name in _APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        script = tarfile.TarInfo("agent.sh")
        script.size, script.mode = len(STUB_AGENT), 0o755
        archive.addfile(script, io.BytesIO(STUB_AGENT.encode()))
        for name in ("tmp", "proc", "sys", "dev", "etc"):
            made = tarfile.TarInfo(name)
            made.type, made.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(made)
    return path


def _mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [place for place in (line.split()[1] for line in lines) if place.startswith(f"{folder}/")]
