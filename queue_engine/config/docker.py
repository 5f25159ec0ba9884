"""Settings of the Docker backend."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from queue_engine.config.base import ProcessSettings


class DockerSettings(ProcessSettings):
    """The container engine, and how workers run in it."""

    docker_host: str | None = Field(
        None,
        description="URL of the container engine of the Docker backend: `unix://<path>` or `tcp://<host>:<port>`. By "
        "default `DOCKER_HOST`, or the first socket of Docker or podman that exists",
    )
    docker_network: str | None = Field(
        None,
        description="Network of the engine that workers are in. By default the engine's own default network, and with "
        "`up` a network that it makes, whose containers do not reach each other",
    )
    docker_pull: Literal["auto", "always", "missing", "never"] = Field(
        "auto",
        description="When a worker's image is pulled. `missing`: if the host does not have it; `auto`: also if its tag "
        "is `latest`, and before the first use of a pulled image by each credential, so that the registry checks it; "
        "`always`: before each start; `never`",
    )
    docker_limits: bool = Field(
        False,
        description="Limit each container to `minSingleCardVcpu` and `minSingleCardRamInGb` of its endpoint, times its "
        "GPUs. By default they limit nothing",
    )
    agent_image: str | None = Field(
        None,
        description="Image of the agent in containers. By default `queue-engine/agent` of this version, which "
        "`make images` builds and which is never pulled",
    )

    @field_validator("docker_host")
    @classmethod
    def _check_docker_host(cls, value: str | None) -> str | None:
        if value is not None and value.partition("://")[0] not in ("unix", "tcp", "http", "https"):
            raise ValueError("must be unix://<path>, tcp://<host>:<port>, http://… or https://…")
        return value
