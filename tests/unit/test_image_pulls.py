"""Images on a host that several tenants share: who may use an image that is already there."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest

from queue_engine.backends.base import RegistryCredential
from queue_engine.backends.docker import pull
from queue_engine.backends.docker.engine import Document, EngineError
from queue_engine.backends.docker.explain import StartFailed
from queue_engine.backends.docker.pull import Grants, PullPolicy, ensure_image
from queue_engine.backends.images import parse_reference

OWNER = RegistryCredential("owner", "right")
IMAGE = "registry.example/team/private:1"
PULLED = {"RepoDigests": ["registry.example/team/private@sha256:" + "0" * 64]}
BUILT: dict[str, list[str]] = {"RepoDigests": []}


@dataclass
class Host:
    """An engine with images, and a registry that gives them to the owner only."""

    images: dict[str, Document] = field(default_factory=dict)
    problem: str | None = None
    """The failure of each pull; None if the registry responds."""
    is_silent: bool = False
    """True if pulls make no progress."""
    pulls: int = 0

    async def image(self, name: str) -> Document | None:
        return self.images.get(name)

    async def pull(self, name: str, credential: RegistryCredential | None) -> AsyncGenerator[Document, None]:
        self.pulls += 1
        if self.is_silent:
            await asyncio.Event().wait()
        if self.problem is not None:
            raise EngineError(500, self.problem)
        if credential != OWNER:
            raise EngineError(500, "pull access denied: unauthorized")
        yield {"status": "Pulling"}
        self.images[name] = PULLED


async def use(
    host: Host,
    grants: Grants,
    credential: RegistryCredential | None,
    policy: PullPolicy = PullPolicy.AUTO,
    image: str = IMAGE,
) -> str:
    return await ensure_image(host, parse_reference(image), credential, policy, grants, lambda _: None)


@pytest.mark.parametrize("other", [None, RegistryCredential("other", "wrong")])
@pytest.mark.parametrize("image", [IMAGE, "registry.example/team/private:latest"])
async def test_an_image_that_another_credential_has_pulled_is_refused(
    other: RegistryCredential | None, image: str
) -> None:
    host, grants = Host(), Grants()
    assert await use(host, grants, OWNER, image=image) == image
    with pytest.raises(StartFailed, match="the registry refuses"):
        await use(host, grants, other, image=image)


@pytest.mark.parametrize("problem", ["unauthorized", "manifest unknown"])
async def test_after_a_restart_the_registry_decides_again(problem: str) -> None:
    host = Host({IMAGE: PULLED}, problem=problem)
    with pytest.raises(StartFailed):
        await use(host, Grants(), OWNER)


async def test_a_pulled_image_is_asked_for_once_by_each_credential() -> None:
    host, grants = Host({IMAGE: PULLED}), Grants()
    for _ in range(3):
        assert await use(host, grants, OWNER) == IMAGE
    assert host.pulls == 1


async def test_a_registry_that_does_not_respond_stops_no_start() -> None:
    host = Host({IMAGE: PULLED}, problem="dial tcp: i/o timeout")
    assert await use(host, Grants(), OWNER) == IMAGE


@pytest.mark.parametrize("image", [IMAGE, "registry.example/team/private:latest"])
async def test_an_image_that_was_built_on_the_host_is_not_pulled(image: str) -> None:
    host = Host({image: BUILT})
    assert await use(host, Grants(), None, image=image) == image
    assert host.pulls == 0


@pytest.mark.parametrize(("policy", "pulls"), [(PullPolicy.MISSING, 0), (PullPolicy.NEVER, 0), (PullPolicy.ALWAYS, 1)])
async def test_other_policies_do_not_depend_on_the_credential(policy: PullPolicy, pulls: int) -> None:
    host = Host({IMAGE: PULLED})
    assert await use(host, Grants(), OWNER, policy) == IMAGE
    assert host.pulls == pulls


async def test_a_pull_without_progress_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "PULL_SILENCE_SECONDS", 0.01)
    async with asyncio.timeout(60):
        with pytest.raises(StartFailed, match="no progress"):
            await use(Host(is_silent=True), Grants(), OWNER)
