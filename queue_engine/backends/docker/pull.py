"""Make an image available on the host.

The images of a host are shared by all tenants, so an image that was pulled with one credential must not be there for
the others. The registry is asked whether an endpoint may have such an image, before its first start with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from enum import StrEnum
from typing import Protocol

from queue_engine.backends.base import REASON_SECONDS, RegistryCredential
from queue_engine.backends.docker.engine import Document, EngineError, EngineUnavailable
from queue_engine.backends.docker.explain import StartFailed, explain_failed_pull
from queue_engine.backends.docker.progress import Progress
from queue_engine.backends.images import LATEST, Reference

log = logging.getLogger(__name__)

PULL_SILENCE_SECONDS = 1800.0
"""Maximum time between two lines of a pull. Engines are silent while they store a large layer on a slow disk."""
MAX_GRANTS = 10_000
"""Maximum number of images and credentials that are remembered. The oldest are asked about again."""


class PullPolicy(StrEnum):
    """When an image is pulled."""

    AUTO = "auto"
    """If it is missing, before the first use by each credential, and always with the tag `latest`.

    The image of the host is used if the registry does not respond, but not if the registry refuses it. An image that
    was built on the host is not pulled.
    """
    ALWAYS = "always"
    """Before each start, so that the registry checks the credential each time."""
    MISSING = "missing"
    """If it is missing. Each endpoint may use each image of the host."""
    NEVER = "never"


class PullEngine(Protocol):
    """The part of `Engine` that is used here."""

    async def image(self, name: str) -> Document | None: ...
    def pull(self, name: str, credential: RegistryCredential | None) -> AsyncGenerator[Document, None]: ...


class Grants:
    """The images that a registry has let a credential pull, since the start of this controller."""

    def __init__(self) -> None:
        self._granted: dict[tuple[str, RegistryCredential | None], None] = {}

    def add(self, reference: Reference, credential: RegistryCredential | None) -> None:
        """Note a pull."""
        self._granted[str(reference), credential] = None
        if len(self._granted) > MAX_GRANTS:
            del self._granted[next(iter(self._granted))]

    def has(self, reference: Reference, credential: RegistryCredential | None) -> bool:
        """Return True if the image was pulled with the credential."""
        return (str(reference), credential) in self._granted


async def ensure_image(
    engine: PullEngine,
    reference: Reference,
    credential: RegistryCredential | None,
    policy: PullPolicy,
    grants: Grants,
    note: Callable[[str], None],
) -> str:
    """Return the name under which the host has the image, after pulling it if the policy says so.

    `note` is called with the progress in words, once in REASON_SECONDS. Raises StartFailed, and EngineUnavailable.
    """
    found = await local_name(engine, reference)
    is_granted = grants.has(reference, credential)
    if found is not None and not await _is_pulled_again(engine, found, reference, policy, is_granted=is_granted):
        return found
    if policy is PullPolicy.NEVER or reference.is_local:
        raise StartFailed(f"the image {reference} is not on this host", retry_helps=False)
    try:
        await _pull(engine, reference, credential, note)
    except StartFailed as error:
        if found is None or policy is PullPolicy.ALWAYS or error.is_refusal:
            raise
        log.warning("using the image that is on this host: %s", error, extra={"image": found})
        return found
    grants.add(reference, credential)
    return str(reference)


async def local_name(engine: PullEngine, reference: Reference) -> str | None:
    """Return the first of the image's names that the host has; None if it has none."""
    for name in reference.names:
        if await engine.image(name) is not None:
            return name
    return None


async def _is_pulled_again(
    engine: PullEngine, found: str, reference: Reference, policy: PullPolicy, *, is_granted: bool
) -> bool:
    """Return True if a host that has the image must still ask the registry for it."""
    if found != str(reference) or reference.is_local:  # it was built on this host
        return False
    if policy is not PullPolicy.AUTO:
        return policy is PullPolicy.ALWAYS
    if is_granted and (reference.tag != LATEST or reference.digest):
        return False
    # An image that was built here under a name that a registry could have is of no registry.
    return bool((await engine.image(found) or {}).get("RepoDigests"))


async def _pull(
    engine: PullEngine, reference: Reference, credential: RegistryCredential | None, note: Callable[[str], None]
) -> None:
    progress, noted_at = Progress(), time.monotonic()
    note(progress.text)
    try:
        async with (
            asyncio.timeout(PULL_SILENCE_SECONDS) as silence,
            aclosing(engine.pull(str(reference), credential)) as lines,
        ):
            async for line in lines:
                silence.reschedule(asyncio.get_running_loop().time() + PULL_SILENCE_SECONDS)
                progress.note(line)
                if time.monotonic() - noted_at >= REASON_SECONDS:
                    noted_at = time.monotonic()
                    note(progress.text)
    except EngineUnavailable:
        raise
    except TimeoutError as error:
        reason = f"the image cannot be pulled: no progress for {PULL_SILENCE_SECONDS:g} s"
        raise StartFailed(reason, retry_helps=True) from error
    except EngineError as error:
        raise explain_failed_pull(str(error), has_credential=credential is not None) from error
