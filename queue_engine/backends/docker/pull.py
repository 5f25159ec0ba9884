"""Make an image available on the host."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import aclosing
from enum import StrEnum

from queue_engine.backends.base import REASON_SECONDS, RegistryCredential
from queue_engine.backends.docker.engine import Engine, EngineError, EngineUnavailable
from queue_engine.backends.docker.explain import StartFailed, explain_failed_pull
from queue_engine.backends.docker.images import LATEST, Reference
from queue_engine.backends.docker.progress import Progress

log = logging.getLogger(__name__)


class PullPolicy(StrEnum):
    """When an image is pulled."""

    AUTO = "auto"
    """If it is missing. With the tag `latest` also if it is not; the image of the host is used if that fails."""
    ALWAYS = "always"
    """Before each start, so that the registry checks the credential each time."""
    MISSING = "missing"
    NEVER = "never"


async def ensure_image(
    engine: Engine,
    reference: Reference,
    credential: RegistryCredential | None,
    policy: PullPolicy,
    note: Callable[[str], None],
) -> str:
    """Return the name under which the host has the image, after pulling it if the policy says so.

    `note` is called with the progress in words, once in REASON_SECONDS. Raises StartFailed, and EngineUnavailable.
    """
    found = await local_name(engine, reference)
    if found is not None and not _is_pulled_again(found, reference, policy):
        return found
    if policy is PullPolicy.NEVER or reference.is_local:
        raise StartFailed(f"the image {reference} is not on this host", retry_helps=False)
    try:
        await _pull(engine, reference, credential, note)
    except StartFailed as error:
        if found is None or policy is PullPolicy.ALWAYS:
            raise
        # It may have been built here under a name that a registry could have.
        log.warning("using the image that is on this host: %s", error, extra={"image": found})
        return found
    return str(reference)


async def local_name(engine: Engine, reference: Reference) -> str | None:
    """Return the first of the image's names that the host has; None if it has none."""
    for name in reference.names:
        if await engine.image(name) is not None:
            return name
    return None


def _is_pulled_again(found: str, reference: Reference, policy: PullPolicy) -> bool:
    """Return True if a host that has the image must still ask the registry for it."""
    if found != str(reference) or reference.is_local:  # it was built on this host
        return False
    is_moving = reference.tag == LATEST and not reference.digest
    return policy is PullPolicy.ALWAYS or (policy is PullPolicy.AUTO and is_moving)


async def _pull(
    engine: Engine, reference: Reference, credential: RegistryCredential | None, note: Callable[[str], None]
) -> None:
    progress, noted_at = Progress(), time.monotonic()
    note(progress.text)
    try:
        async with aclosing(engine.pull(str(reference), credential)) as lines:
            async for line in lines:
                progress.note(line)
                if time.monotonic() - noted_at >= REASON_SECONDS:
                    noted_at = time.monotonic()
                    note(progress.text)
    except EngineUnavailable:
        raise
    except EngineError as error:
        raise explain_failed_pull(str(error), has_credential=credential is not None) from error
