"""deploy/docker: the images' recipe. `make test-images` builds and runs them."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from queue_engine.config.base import variables_of
from queue_engine.config.variables import PROCESSES
from tests.deploy.programs import DEPLOY, ROOT
from tests.integration.parts import HttpServer, Reply
from tests.ports import free_port

DOCKERFILE = DEPLOY / "docker/Dockerfile"
HEALTHCHECK = DEPLOY / "docker/healthcheck.py"
HOST_OF_A_REGISTRY = re.compile(
    r"\b(docker\.(io|com)|(ghcr|quay|gcr|mcr|ecr|public\.ecr)\.\w+|pypi\.\w+|pythonhosted|npmjs|registry\.[\w-]+\.\w+)\b"
)


def instructions() -> Iterator[tuple[str, str]]:
    """Yield the Dockerfile's instructions, each with what follows its name."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(str.strip, text.splitlines()):
        name, _, rest = line.partition(" ")
        yield name, " ".join(rest.split())


def names(lock: Path) -> dict[str, str]:
    """Return the packages of a lock with their versions."""
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", lock.read_text(), re.MULTILINE))


@pytest.mark.skipif(sys.platform != "linux", reason="hadolint is packaged for Linux")
@pytest.mark.parametrize(
    ("text", "status"), [(DOCKERFILE.read_text(), 0), ("FROM python\nRUN cd / && pip install x\n", 1)]
)
def test_hadolint_finds_nothing_in_the_dockerfile(text: str, status: int) -> None:
    hadolint = Path(sysconfig.get_path("scripts"), "hadolint")
    ran = subprocess.run([hadolint, "-"], input=text, capture_output=True, text=True, check=False)
    assert (ran.returncode, bool(ran.stdout)) == (status, bool(status)), ran.stdout + ran.stderr


def test_every_stage_comes_from_the_base_that_is_an_argument() -> None:
    stages = [rest.split(" AS ") for name, rest in instructions() if name == "FROM"]
    named = {stage for _, stage in stages}
    assert {"engine", "agent"} <= named
    assert {source for source, _ in stages} - named == {"${BASE}"}
    assert [rest.split("=")[0] for name, rest in instructions() if name == "ARG"] == ["BASE"]


def test_packages_come_from_the_lock_by_their_hashes() -> None:
    installs = [
        part for name, rest in instructions() if name == "RUN" for part in rest.split("&&") if " install " in part
    ]
    from_outside = [part for part in installs if "pip" in part and "--no-index" not in part]
    assert len(from_outside) == 3
    assert all("--require-hashes" in part and "--only-binary :all:" in part for part in from_outside)


@pytest.mark.parametrize("lock", ["server.txt", "agent.txt", "build.txt"])
def test_the_locks_of_the_images_are_parts_of_the_lock_of_the_tests(lock: str) -> None:
    assert names(ROOT / "requirements" / lock).items() <= names(ROOT / "requirements/all.txt").items()


def test_the_lock_of_the_engine_has_what_the_server_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {*project["dependencies"], *extras["agent"], *extras["server"]} - {"queue-engine[agent]"}
    assert {re.split(r"[^a-z0-9-]", one)[0] for one in wanted} <= set(names(ROOT / "requirements/server.txt"))
    assert names(ROOT / "requirements/agent.txt").items() <= names(ROOT / "requirements/server.txt").items()


def test_the_images_do_not_run_as_root() -> None:
    users = [rest for name, rest in instructions() if name == "USER"]
    assert users == ["10001:10001"]


def test_the_variables_of_the_images_are_settings() -> None:
    given = {
        part.split("=")[0]
        for name, rest in instructions()
        if name == "ENV"
        for part in rest.split()
        if "QUEUE_ENGINE" in part
    }
    assert given
    assert given <= set().union(*(variables_of(settings) for settings in PROCESSES.values()))


def test_what_the_dockerfile_copies_is_sent_to_the_builder() -> None:
    sources = [
        source.rstrip("/")
        for name, rest in instructions()
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = [line.removeprefix("!") for line in lines if line.startswith("!")]
    kept_out = [line for line in lines if line and line[0] not in "!#*"]
    assert lines[1] == "*"
    for source in sources:
        assert (ROOT / source).exists()
        assert any(Path(source).match(one) or source.startswith(f"{one}/") for one in sent), source
        assert not any(source == one or source.startswith(f"{one}/") for one in kept_out), source


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (503, 1), (404, 1)])
def test_the_health_check_ends_with_0_only_on_200(status: int, expected: int) -> None:
    with HttpServer() as server:
        server.answer_get = lambda _: Reply(status)
        assert healthcheck(server.port, "/readyz") == expected
        assert server.requests[-1].path == "/readyz"


def test_the_health_check_fails_when_nothing_listens() -> None:
    assert healthcheck(free_port(), "/metrics") == 1


def healthcheck(port: int, path: str) -> int:
    environment = {"http_proxy": "http://127.0.0.1:9"}  # a proxy must not be asked
    return subprocess.run(
        [sys.executable, HEALTHCHECK, str(port), path], env=environment, capture_output=True, check=False
    ).returncode


def test_no_file_of_deploy_names_the_host_of_a_registry() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in (*DEPLOY.rglob("*"), ROOT / "Makefile", ROOT / ".dockerignore")
        if path.is_file() and path.suffix != ".pyc" and "secrets" not in path.parts
        if (match := HOST_OF_A_REGISTRY.search(path.read_text(errors="replace")))
    }
    assert found == set()
