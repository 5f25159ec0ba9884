"""References of images: parsed, completed and checked. Pure.

Engines complete short names in different ways, and podman refuses some of them, so a reference is complete before it
is used: `nginx` is `docker.io/library/nginx:latest`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

DOCKER_HUB = "docker.io"
_HUB_NAMES = (DOCKER_HUB, "index.docker.io", "registry-1.docker.io", "hub.docker.com", "registry.hub.docker.com")
LOCAL = "localhost"
"""The registry in the names of images that podman has built on this host."""
LATEST = "latest"
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}(?::[0-9]{1,5})?|\[[0-9A-Fa-f:]{2,39}\](?::[0-9]{1,5})?")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[+._-][A-Za-z][A-Za-z0-9]*)*:[0-9A-Fa-f]{32,}")


class InvalidReference(ValueError):
    """The text does not name an image; the message has the rule."""


@dataclass(frozen=True)
class Reference:
    """A complete reference of an image."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""
    is_short: bool = False
    """True if the text named no registry. Then it may also be an image that was built on this host."""

    def __str__(self) -> str:
        version = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"{self.registry}/{self.repository}{version}"

    @property
    def is_local(self) -> bool:
        """True if no registry has the image."""
        return self.registry == LOCAL

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the image may have on this host: the complete one first."""
        if not self.is_short:
            return (str(self),)
        repository = self.repository.removeprefix("library/")
        return str(self), str(replace(self, registry=LOCAL, repository=repository))


def parse_reference(text: str, registry: str | None = None) -> Reference:
    """Return the reference that an endpoint's `image` and `imageRegistry` state. Raises InvalidReference.

    A registry in `text` has precedence over `registry`, which may be a URL.
    """
    name, at, digest = text.partition("@")
    host, slash, rest = name.partition("/")
    names_host = bool(slash) and _is_like_host(host)
    path = rest if names_host else name
    given = "" if names_host else _host_and_path(registry or "")
    registry_host, _, folder = given.partition("/")
    repository, colon, tag = path.partition(":")
    if folder:
        repository = f"{folder}/{repository}"
    reference = Reference(
        registry=_canonical(host if names_host else registry_host),
        repository=repository,
        tag=tag if colon or at else LATEST,
        digest=digest,
        is_short=not names_host and not given,
    )
    _check(reference, text)
    if reference.registry == DOCKER_HUB and "/" not in repository:
        return replace(reference, repository=f"library/{repository}")
    return reference


def _host_and_path(registry: str) -> str:
    return registry.removeprefix("https://").removeprefix("http://").rstrip("/").removesuffix("/v1").removesuffix("/v2")


def _is_like_host(text: str) -> bool:
    """Return True if the first part of a name is a registry for all engines, instead of a part of the repository."""
    return "." in text or ":" in text or text == LOCAL


def _canonical(host: str) -> str:
    return DOCKER_HUB if not host or host.lower() in _HUB_NAMES else host


def _check(reference: Reference, text: str) -> None:
    if not (_is_like_host(reference.registry) and _HOST.fullmatch(reference.registry)):
        raise InvalidReference(f"{text!r} is not an image: {reference.registry!r} is not the host of a registry")
    if not _REPOSITORY.fullmatch(reference.repository):
        raise InvalidReference(f"{text!r} is not an image: the name must be lower-case letters, digits and . _ - /")
    if not (reference.tag or reference.digest):
        raise InvalidReference(f"{text!r} is not an image: the tag or digest is empty")
    if reference.tag and not _TAG.fullmatch(reference.tag):
        raise InvalidReference(f"{text!r} is not an image: the tag must be letters, digits and . _ -")
    if reference.digest and not _DIGEST.fullmatch(reference.digest):
        raise InvalidReference(f"{text!r} is not an image: the digest must be like sha256:<64 digits>")
