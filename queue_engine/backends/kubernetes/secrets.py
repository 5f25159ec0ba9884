"""The Secrets that a pod needs: the endpoint's variables, the credential of its image, and the agent's token. Pure.

A name never changes its content, so that a Secret that exists already is the right one. The names of the first two end
with a digest of the content, because a restored store may count the same revision again with other variables.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, Protocol

from queue_engine.backends.base import RegistryCredential, WorkerSpec
from queue_engine.backends.container_words import VISIBLE_DEVICES, main_environment
from queue_engine.backends.docker.names import ENDPOINT
from queue_engine.backends.images import DOCKER_HUB, parse_reference
from queue_engine.backends.kubernetes.names import REVISION, common_labels, identity_in
from queue_engine.domain.agent_tokens import TOKEN_VARIABLE

Document = dict[str, Any]

TOKEN_KEY = "token"  # noqa: S105 - the name of a member
CA_KEY = "ca.crt"
DIGEST_CHARACTERS = 16
PULL_MEMBER = ".dockerconfigjson"
PULL_TYPE = "kubernetes.io/dockerconfigjson"
_HUB_KEY = "https://index.docker.io/v1/"
"""The name of Docker Hub in the credentials of a pod."""


class Owner(Protocol):
    """The ConfigMap that owns all objects, so that they are removed with it."""

    @property
    def name(self) -> str: ...
    @property
    def uid(self) -> str: ...


class Secrets:
    """The Secrets of an installation's workers.

    `naming_key` is the key of the digests, without which a name would tell something about a password.
    """

    def __init__(self, instance: str, naming_key: bytes, agent_ca: str | None) -> None:
        self._instance = instance
        self._naming_key = naming_key
        self._agent_ca = agent_ca

    def documents(self, spec: WorkerSpec, owner: Owner | None) -> tuple[Document, ...]:
        """Return the Secrets that the pod needs, in the order of their creation. SECRET.

        That of the agent is left out if the specification has no token, because it exists already.
        """
        made: list[Document] = []
        if spec.registry_credential is not None:
            made.append(self._pull(spec, spec.registry_credential, owner))
        labels = {ENDPOINT: spec.endpoint_id, REVISION: str(spec.revision)}
        made.append(self._secret(self.environment_name(spec), labels, _variables(spec), owner))
        if TOKEN_VARIABLE in spec.agent_environment:
            made.append(self._agent(spec, owner))
        return tuple(made)

    def environment_name(self, spec: WorkerSpec) -> str:
        """Return the name of the Secret with the variables of the endpoint's container."""
        digest = self._digest(spec.endpoint_id, spec.revision, sorted(_variables(spec).items()))
        return f"qe-env-{spec.endpoint_id}-{spec.revision}-{digest}"

    def pull_name(self, spec: WorkerSpec) -> str | None:
        """Return the name of the Secret with the image's credential; None if it needs none."""
        if (credential := spec.registry_credential) is None:
            return None
        return f"qe-pull-{self._digest(_registry_key(spec), credential.username, credential.password)}"

    def _pull(self, spec: WorkerSpec, credential: RegistryCredential, owner: Owner | None) -> Document:
        login = _base64(f"{credential.username}:{credential.password}")
        auth = {"username": credential.username, "password": credential.password, "auth": login}
        config = json.dumps({"auths": {_registry_key(spec): auth}})
        return self._secret(self.pull_name(spec) or "", {}, {PULL_MEMBER: config}, owner, PULL_TYPE)

    def _agent(self, spec: WorkerSpec, owner: Owner | None) -> Document:
        identity = identity_in(spec)
        ca = {} if self._agent_ca is None else {CA_KEY: self._agent_ca}
        data = {TOKEN_KEY: spec.agent_environment[TOKEN_VARIABLE], **ca}
        return self._secret(identity.agent_secret, identity.labels(self._instance, spec.revision), data, owner)

    def _secret(
        self, name: str, labels: Mapping[str, str], data: Mapping[str, str], owner: Owner | None, kind: str = "Opaque"
    ) -> Document:
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "labels": {**common_labels(self._instance), **labels}, **owned(owner)},
            "type": kind,
            "immutable": True,
            "data": {key: _base64(value) for key, value in data.items()},
        }

    def _digest(self, *parts: object) -> str:
        text = json.dumps([self._instance, *parts])
        return hmac.new(self._naming_key, text.encode(), hashlib.sha256).hexdigest()[:DIGEST_CHARACTERS]


def owned(owner: Owner | None) -> Document:
    """Return the member of the metadata that names the owner; none without one."""
    if owner is None:
        return {}
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": owner.name, "uid": owner.uid}
    return {"ownerReferences": [{**reference, "controller": False, "blockOwnerDeletion": False}]}


def _variables(spec: WorkerSpec) -> dict[str, str]:
    """Return the variables of the endpoint's container. The choice of GPUs is the device plugin's."""
    return {name: value for name, value in main_environment(spec).items() if name != VISIBLE_DEVICES}


def _registry_key(spec: WorkerSpec) -> str:
    host = parse_reference(spec.image, spec.image_registry).registry
    return _HUB_KEY if host == DOCKER_HUB else host


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
