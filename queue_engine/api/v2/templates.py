"""`/v2/templates`: bodies with which a first endpoint can be created and a first task submitted."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from starlette.requests import Request

from queue_engine.api.http.envelope import Success, View
from queue_engine.api.http.operations import Operation
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services
from queue_engine.domain.principals import Right

TAG = "endpoints"


class TemplateView(View):
    """Bodies of requests that work as they are."""

    id: str = Field(description="Name of the template", examples=["example-worker"])
    endpoint: dict[str, Any] = Field(description="Body of `POST /v2/serverless`")
    task: dict[str, Any] = Field(description="Body of `POST /v2/serverless/{id}/tasks` for this endpoint")


class TemplateRoutes:
    """List the templates. `example_worker` is the command of the example worker; None where it cannot run."""

    def __init__(self, services: Services, example_worker: str | None) -> None:
        self._services = services
        self._templates = [] if example_worker is None else [_example(services, example_worker)]

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET", "/v2/templates", self.list_templates, right=Right.VIEW, summary="List templates of endpoints",
                tag=TAG, response=Success[list[TemplateView]],
            ),
        ]  # fmt: skip

    async def list_templates(self, request: Request) -> Response:
        """With `up` and the process backend there is one: the example worker that queue-engine has."""
        await self._services.admit(request)
        return success(self._templates)


def _example(services: Services, command: str) -> dict[str, Any]:
    regions = services.catalogue.regions
    return {
        "id": "example-worker",
        "endpoint": {
            "name": "hello",
            "image": "queue-engine/example-worker",
            "resources": [{"region": regions[0] if regions else "local", "gpuType": "CPU", "gpuCount": 1}],
            "workers": 2,
            "containerVolumeInGb": 20,
            "initializationCommand": command,
            "expose": {"port": 8000, "protocol": "http"},
            "serviceMode": "QUEUE",
        },
        "task": {"workerPort": 8000, "processUri": "/run", "input": {"prompt": "hello", "seconds": 3}},
    }
