"""Requests made up from the API's own description, by schemathesis, which takes a second to import."""

import json
import zlib
from contextlib import suppress
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.transport.requests import ManagedCookiesSession

from tests.api_server import ENDPOINT
from tests.examples import examples
from tests.integration.parts import Program
from tests.waiting import GIVE_UP_SECONDS, wait_until

Case = schemathesis.Case[Any]
Operation = schemathesis.APIOperation[Any, Any, Any, Any]
GenerationMode = schemathesis.GenerationMode

EXAMPLES = 15
"""Good and as many bad requests for each operation."""
REAL_OF_TEN = 8
"""How many of ten requests are about things that exist."""


def no_server_error(context: schemathesis.CheckContext, response: schemathesis.Response, case: Case) -> bool | None:
    """No 5xx, but for what the contract says of an ALB endpoint without workers: a made-up id may be that of one."""
    if case.path.startswith("/e/") and response.status_code == 503 and _reason(case, response) == "no worker runs":
        return None
    return not_a_server_error(context, response, case)


def _reason(case: Case, response: schemathesis.Response) -> str:
    """Return the message of an error. The response to a HEAD request has no body: the one reason that is allowed."""
    return "no worker runs" if case.method == "HEAD" else str(response.json()["message"])


CHECKS = [
    no_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


class Target:
    """The API that is being tried."""

    def __init__(self, program: Program) -> None:
        line = wait_until(lambda: _told(program), message="the API does not serve")
        told = json.loads(line)
        self.url: str = told["url"]
        self.headers = {"X-Api-Key": told["key"]}
        self._known: dict[str, str] = told["known"]
        self._client = httpx.Client(base_url=self.url, timeout=GIVE_UP_SECONDS)
        self.session = ManagedCookiesSession()
        """Session that all made-up requests share, so that not each of them opens a connection. It keeps no cookies."""
        self.session.trust_env = False  # the proxies and the passwords of this machine are read for each request
        self.operations = self._described()

    def aim(self, case: Case) -> None:
        """Let most requests be about things that exist: made-up ids get no further than a 404."""
        _make_likely(case.body)
        given = case.path_parameters or {}
        if zlib.crc32(repr(sorted(given.items())).encode("utf-8", "backslashreplace")) % 10 >= REAL_OF_TEN:
            return
        real = {name: self._existing(case, name) for name in given}
        case.path_parameters = given | {name: value for name, value in real.items() if value is not None}

    def _existing(self, case: Case, name: str) -> str | None:
        """A value for this parameter of the path; one of its own for a call that ends it."""
        if case.path.startswith("/e/"):
            return self._known["alb"] if name == "id" else None
        if case.path.startswith("/v2/container-registry-auths"):
            return self._new_credential() if case.method == "DELETE" else self._known["credential"]
        if name == "id" and (case.path.endswith("/stop") or case.method == "DELETE"):
            return self._new_endpoint()
        return self._known.get(name)

    def _new_endpoint(self) -> str:
        endpoint_id: str = self._post("/v2/serverless", ENDPOINT)["data"]["id"]
        return endpoint_id

    def _new_credential(self) -> str:
        body = {"name": "short-lived", "type": "GCR", "username": "me", "password": "a password"}
        return str(self._post("/v2/container-registry-auths", body)["data"]["id"])

    def _post(self, path: str, body: Any) -> Any:
        return self._client.post(path, json=body, headers=self.headers).json()

    def _described(self) -> list[Operation]:
        """Return all operations that the API describes."""
        schema = schemathesis.openapi.from_dict(self._client.get("/openapi.json").json())
        schema.config.update(base_url=self.url)
        results = list(schema.get_all_operations())
        operations = [result.ok() for result in results if isinstance(result, Ok)]
        assert len(operations) == len(results), "the description cannot be understood"
        # A stream of events does not end. Its requests are tested in test_api_events.py.
        return [one for one in operations if one.path != "/v2/events"]


def _make_likely(body: Any) -> None:
    """Put in what the description cannot say: which GPU types and which credentials there are."""
    if not isinstance(body, dict):
        return
    for name in ("containerRegistryAuthId", "credentialId"):
        body.pop(name, None)
    resources = body.get("resources")
    for resource in resources if isinstance(resources, list) else []:
        if isinstance(resource, dict) and isinstance(resource.get("gpuType"), str):
            resource["gpuType"] = "CPU"


def _told(program: Program) -> str:
    """What the process says once it serves; it ends when it cannot."""
    assert program.running, program.output()
    lines = program.output().splitlines(keepends=True)
    return next((line for line in lines if line.startswith('{"url"') and line.endswith("\n")), "")


def send_some(target: Target, operation: Operation, mode: GenerationMode) -> None:
    """Send requests to this operation, good or bad by `mode`. Raises when a response is not as described."""
    tried = _try(target, operation.as_strategy(generation_mode=mode))
    # Where there is no parameter and no body there is nothing to get wrong.
    assert tried or mode is GenerationMode.NEGATIVE


def _try(target: Target, cases: SearchStrategy[Case]) -> int:
    """Send some of these; returns how many. The same ones in every run."""
    tried = 0

    @given(case=cases)
    @examples(EXAMPLES, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def check(case: Case) -> None:
        nonlocal tried
        tried += 1
        target.aim(case)
        case.call_and_validate(headers=target.headers, session=target.session, checks=CHECKS, timeout=GIVE_UP_SECONDS)

    with suppress(Unsatisfiable):
        check()
    return tried
