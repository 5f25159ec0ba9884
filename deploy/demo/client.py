"""The engine's HTTP API, as far as the demo needs it."""

from __future__ import annotations

from typing import Any

import httpx

TIMEOUT_SECONDS = 10.0


class ApiError(Exception):
    """The API did not answer as it should; the message says what it said."""


class ApiUnreachable(ApiError):
    """The API did not answer at all."""


class Api:
    """Calls with one API key. Use as an async context manager."""

    def __init__(self, base_url: str, api_key: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._client = httpx.AsyncClient(
            base_url=base_url,
            headers={"X-Api-Key": api_key},
            timeout=TIMEOUT_SECONDS,
            trust_env=False,  # a proxy has no way to this machine's loopback
            transport=transport,
        )

    async def __aenter__(self) -> Api:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._client.__aexit__(*error)

    async def is_ready(self) -> bool:
        """Whether the API answers and its store is writable. Never raises for an answer or for none."""
        try:
            return (await self._client.get("/readyz", timeout=2.0)).status_code == 200
        except httpx.TransportError:
            return False

    async def create_endpoint(self, wanted: dict[str, Any]) -> str:
        return str((await self._call("POST", "/v2/serverless", wanted))["id"])

    async def endpoint(self, endpoint_id: str) -> dict[str, Any]:
        return dict(await self._call("GET", f"/v2/serverless/{endpoint_id}"))

    async def workers(self, endpoint_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self._call("GET", f"/v2/serverless/{endpoint_id}/workers")
        return found

    async def webhook_secret(self, endpoint_id: str) -> str:
        """The `whsec_…` that the endpoint's webhooks are signed with."""
        return str((await self._call("GET", f"/v2/serverless/{endpoint_id}/webhook-secret"))["secret"])

    async def submit(self, endpoint_id: str, task: dict[str, Any]) -> None:
        await self._call("POST", f"/v2/serverless/{endpoint_id}/tasks", task)

    async def task(self, endpoint_id: str, task_id: str) -> dict[str, Any]:
        return dict(await self._call("GET", f"/v2/serverless/{endpoint_id}/tasks/{task_id}"))

    async def counts(self, endpoint_id: str) -> dict[str, int]:
        return dict(await self._call("GET", f"/v2/serverless/{endpoint_id}/tasks/count"))

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer's `data`. Raises ApiError, ApiUnreachable among them."""
        try:
            response = await self._client.request(method, path, json=body)
            answer = response.json()
        except httpx.TransportError as error:
            raise ApiUnreachable(f"{method} {path}: {str(error) or type(error).__name__}") from error
        except ValueError:
            raise ApiError(f"{method} {path}: HTTP {response.status_code}, not JSON") from None
        if response.status_code != 200:
            raise ApiError(f"{method} {path}: HTTP {response.status_code}: {answer.get('message')}")
        return answer["data"]
