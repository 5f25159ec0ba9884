"""What a backend is told to start: with the secrets of the endpoint, or not at all."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from queue_engine.backends.base import Observed, RegistryCredential, WorkerSpec
from queue_engine.controller.reconcile import Reconciler, ReconcilerConfig
from queue_engine.crypto.sealing import SealBroken, SecretKeyMissing
from queue_engine.domain.agent_tokens import TOKEN_VARIABLE, TokenHolder, holder_of
from queue_engine.domain.credentials import RegistryAuth
from queue_engine.domain.endpoints import DesiredState, Endpoint, EndpointConfig, Resource, ServiceMode
from queue_engine.domain.workers import Worker, WorkerStatus
from queue_engine.store.checks import Taken, TakenChecks
from queue_engine.store.keys import Partition

AUTH = RegistryAuth("robot", "a password")


class Backend:
    """Remembers what it was told to start."""

    def __init__(self, *, agents_over_https: bool = False) -> None:
        self.started: list[WorkerSpec] = []
        self.agents_over_https = agents_over_https

    def refusal(self, spec: WorkerSpec) -> str | None:
        return None

    async def start(self, spec: WorkerSpec) -> None:
        self.started.append(spec)

    async def stop(self, worker_id: str, grace_seconds: float) -> None: ...

    async def observe(self) -> Mapping[str, Observed]:
        return {}

    max_starting = 100
    outlives_controller = False

    async def kill(self, worker_id: str) -> None: ...

    async def aclose(self, grace_seconds: float) -> None: ...


class Endpoints:
    """Two endpoints, the first of them with a credential."""

    def __init__(self, unreadable: Exception | None = None) -> None:
        self._unreadable = unreadable

    async def read(self, endpoint_ids: Sequence[str]) -> dict[str, Endpoint]:
        return {"1": _endpoint("1", credential_id=7), "2": _endpoint("2", credential_id=None)}

    async def environment(self, endpoint_id: str) -> dict[str, str]:
        if self._unreadable is not None and endpoint_id == "1":
            raise self._unreadable
        return {"A": endpoint_id}

    async def set_failed(self, endpoint_id: str, failed: bool) -> None: ...


class Checks:
    """Both endpoints are due."""

    async def take(self) -> TakenChecks:
        return TakenChecks([Taken("1", 1), Taken("2", 1)])

    async def plan(self, taken: Taken, wait_seconds: float | None) -> None: ...

    async def hasten(self, endpoint_ids: Collection[str]) -> None: ...

    async def hasten_all(self, done: set[Partition]) -> None: ...


class Credentials:
    """One credential, or none, or one that cannot be opened."""

    def __init__(self, kept: RegistryAuth | Exception | None) -> None:
        self._kept = kept
        self.asked: list[tuple[str, int]] = []

    async def open(self, tenant: str, credential_id: int) -> RegistryAuth | None:
        self.asked.append((tenant, credential_id))
        if isinstance(self._kept, Exception):
            raise self._kept
        return self._kept


class Note:
    """The note why the platform does not respond."""

    async def write(self, problem: str | None) -> None: ...


class Workers:
    """Remembers why workers failed, and the tokens of their agents."""

    def __init__(self) -> None:
        self.errors: dict[str, str] = {}
        self.tokens: dict[str, str | None] = {}

    async def of_endpoints(self, endpoint_ids: Sequence[str]) -> dict[str, list[Worker]]:
        return {}

    async def put(self, endpoint_id: str, worker_id: str, *, managed: bool, revision: int = 1) -> None: ...

    async def begin_start(self, endpoint_id: str, worker_id: str, agent_token: str | None = None) -> int:
        self.tokens[worker_id] = agent_token
        return 1

    async def mark(
        self, endpoint_id: str, worker_id: str, status: WorkerStatus, *, reason: str, error: str = "", **_: Any
    ) -> None:
        self.errors[endpoint_id] = error

    async def remove(self, endpoint_id: str, worker_id: str, **_: Any) -> None: ...


async def _step(
    credentials: Credentials, endpoints: Endpoints, *, agents_over_https: bool = False
) -> tuple[Backend, Workers]:
    async def now_ms() -> int:
        return 1

    backend, workers = Backend(agents_over_https=agents_over_https), Workers()
    config = ReconcilerConfig(
        agent_environment=lambda endpoint_id: {"OF": endpoint_id}, grace_seconds=1, silence_seconds=1
    )
    reconciler = Reconciler(
        config,
        endpoints,
        workers,
        Checks(),
        credentials,
        Note(),
        backend,
        now_ms,
        leads=lambda: True,
        clock=lambda: 0.0,
    )
    await reconciler.step()
    await reconciler.aclose()
    return backend, workers


async def test_a_backend_gets_the_endpoints_environment_and_credential() -> None:
    credentials = Credentials(AUTH)
    backend, workers = await _step(credentials, Endpoints())
    first, second = backend.started
    assert (first.registry_credential, first.environment) == (RegistryCredential("robot", "a password"), {"A": "1"})
    assert (second.registry_credential, second.environment) == (None, {"A": "2"})
    assert credentials.asked == [("acme", 7)]
    assert workers.errors == {}
    assert "a password" not in repr(first)


async def test_agents_that_use_the_api_get_a_token_of_their_start() -> None:
    backend, workers = await _step(Credentials(AUTH), Endpoints(), agents_over_https=True)
    assert len(backend.started) == 2
    for spec in backend.started:
        token = spec.agent_environment[TOKEN_VARIABLE]
        assert holder_of(token) == TokenHolder(spec.endpoint_id, spec.worker_id)
        assert spec.agent_environment == {"OF": spec.endpoint_id, TOKEN_VARIABLE: token}
        assert workers.tokens[spec.worker_id] == token
        assert token not in repr(spec)
    assert len(set(workers.tokens.values())) == 2


async def test_agents_that_use_the_store_get_no_token() -> None:
    backend, workers = await _step(Credentials(AUTH), Endpoints())
    assert [spec.agent_environment for spec in backend.started] == [{"OF": "1"}, {"OF": "2"}]
    assert set(workers.tokens.values()) == {None}


async def test_a_backend_is_notified_when_a_worker_is_ready() -> None:
    backend, _ = await _step(Credentials(AUTH), Endpoints())
    assert {(spec.ready_path, spec.start_timeout_seconds) for spec in backend.started} == {("/healthz", 60)}


async def test_a_backend_is_given_the_variables_that_are_no_secrets() -> None:
    backend, _ = await _step(Credentials(AUTH), Endpoints())
    assert {spec.plain_variables for spec in backend.started} == {frozenset({"A"})}


@pytest.mark.parametrize(
    ("kept", "environment", "told"),
    [
        (None, None, "the registry credential 7 does not exist"),
        (SealBroken(), None, "cannot be opened"),
        (SecretKeyMissing(), None, "QUEUE_ENGINE_SECRET_KEY"),
        (AUTH, SealBroken(), "cannot be opened"),
        (AUTH, SecretKeyMissing(), "QUEUE_ENGINE_SECRET_KEY"),
    ],
)
async def test_an_endpoint_whose_secrets_cannot_be_had_says_so_and_disturbs_no_other(
    kept: RegistryAuth | Exception | None, environment: Exception | None, told: str
) -> None:
    backend, workers = await _step(Credentials(kept), Endpoints(environment))
    assert [spec.endpoint_id for spec in backend.started] == ["2"]
    assert list(workers.errors) == ["1"]
    assert told in workers.errors["1"]


def _endpoint(endpoint_id: str, *, credential_id: int | None) -> Endpoint:
    config = EndpointConfig(
        "a", "b", ServiceMode.QUEUE, (Resource("here", "CPU", 1),), 1, 20, credential_id=credential_id,
        ready_path="/healthz", start_timeout_seconds=60, plain_variables=frozenset({"A"}),
    )  # fmt: skip
    return Endpoint(endpoint_id, "acme", config, DesiredState.RUNNING, False, 1, 1)
