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
_AGENT_COMMAND = (
    "WORKER_AGENT_TOKEN={token} worker-agent --server {url} --endpoint {endpointId} --container-url {containerUrl}"
)


class TemplateView(View):
    """Bodies of requests that work as they are."""

    id: str = Field(description="Name of the template", examples=["example-worker"])
    title: str = Field(description="The same in words", examples=["Example worker"])
    text: str = Field(description="Program that its workers run")
    endpoint: dict[str, Any] = Field(description="Body of `POST /v2/serverless`")
    task: dict[str, Any] = Field(description="Body of `POST /v2/serverless/{id}/tasks` for this endpoint")
    agent_command: str | None = Field(
        description="Command that starts an agent beside a server that runs already, with `{url}`, the URL of this "
        "API; `{endpointId}`; `{token}`, from `POST /v2/serverless/{id}/agent-tokens`; and `{containerUrl}`, the URL "
        "of that server. null: the engine starts the workers"
    )


class TemplateRoutes:
    """List the templates. `example_worker` is the command of the example worker; None where it cannot run."""

    def __init__(self, services: Services, example_worker: str | None) -> None:
        self._services = services
        regions = services.catalogue.regions
        region = regions[0] if regions else "local"
        own = [_own(region), _running(region)]
        self._templates = own if example_worker is None else [_example(region, example_worker), *own]

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET", "/v2/templates", self.list_templates, right=Right.VIEW, summary="List templates of endpoints",
                tag=TAG, response=Success[list[TemplateView]],
            ),
        ]  # fmt: skip

    async def list_templates(self, request: Request) -> Response:
        """`example-worker` is the example worker that queue-engine has, with `up` and the process backend only. `own`
        is a command or an image, and `running` a server that runs already, beside which an agent is started.
        """
        await self._services.admit(request)
        return success(self._templates)


def _example(region: str, command: str) -> dict[str, Any]:
    return {
        "id": "example-worker",
        "title": "Example worker",
        "text": "comes with queue-engine; waits a moment, logs, and echoes",
        "endpoint": {
            **_endpoint("hello", "queue-engine/example-worker", region, workers=2),
            "initializationCommand": command,
        },
        "task": _task({"prompt": "hello", "seconds": 3}),
        "agentCommand": None,
    }


def _own(region: str) -> dict[str, Any]:
    return {
        "id": "own",
        "title": "My command or image",
        "text": "any HTTP server: a command or a container",
        "endpoint": {
            **_endpoint("my-endpoint", "registry.example/my-worker:1", region, workers=1),
            "initializationCommand": "python serve.py",
        },
        "task": _task({"prompt": "hello"}),
        "agentCommand": None,
    }


def _running(region: str) -> dict[str, Any]:
    return {
        "id": "running",
        "title": "A server that runs already",
        "text": "an agent beside it takes the tasks",
        "endpoint": _endpoint("my-server", "none", region, workers=0),
        "task": _task({"prompt": "hello"}),
        "agentCommand": _AGENT_COMMAND,
    }


def _endpoint(name: str, image: str, region: str, *, workers: int) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "resources": [{"region": region, "gpuType": "CPU", "gpuCount": 1}],
        "workers": workers,
        "containerVolumeInGb": 20,
        "expose": {"port": 8000, "protocol": "http"},
        "serviceMode": "QUEUE",
    }


def _task(given: dict[str, Any]) -> dict[str, Any]:
    return {"workerPort": 8000, "processUri": "/run", "input": given}
