"""The model servers from PyPI, and the example in Flask, each tested end to end in a virtual environment of its own.

One environment for all of them cannot be made: they ask for versions of the same packages that exclude each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / ".venv-servers"
PROJECTS = Path(__file__).parent / "projects"
LOAD_SECONDS = 4


@dataclass(frozen=True)
class ModelServer:
    """One model server: how a user starts it, and one request with its output."""

    name: str
    """The package on PyPI."""
    command: str
    process_uri: str
    input: dict[str, Any]
    output: Any
    """The task's output, or the part of it below `output_at`."""
    output_at: tuple[str | int, ...] = ()
    ready_path: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    """Further settings of its endpoint."""
    folder: Path | None = None
    """The folder of its project, when it is not one of PROJECTS."""

    @property
    def project(self) -> Path:
        """The folder in which it is started."""
        return self.folder or PROJECTS / self.name

    @property
    def lock(self) -> Path:
        """The locked requirements of its environment."""
        return ROOT / "requirements" / "servers" / f"{self.name}.txt"

    @property
    def directory(self) -> Path:
        """Its virtual environment."""
        return ENVIRONMENTS / self.name

    @property
    def installed(self) -> Path:
        """A file that holds the lock from which the environment was made."""
        return self.directory / "installed.txt"

    @property
    def failure(self) -> Path:
        """A file that says why the environment could not be made."""
        return ENVIRONMENTS / f"{self.name}.failed"


SERVERS = (
    ModelServer(
        "cog",
        "exec python -m cog.server.http --host 127.0.0.1",
        "/predictions",
        {"input": {"prompt": "hello"}},
        "HELLO",
        ("output",),
        environment={"COG_PREDICT_TYPE_STUB": "predict.py:Predictor"},
        settings={"retryOn": ["no_connection", "connection_lost", "409", "429", "503"]},
    ),
    ModelServer(
        "mlserver",
        'MLSERVER_HTTP_PORT="$PORT" exec mlserver start .',
        "/v2/models/upper/infer",
        {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["hello"]}]},
        "HELLO",
        ("outputs", 0, "data", 0),
        ready_path="/v2/health/ready",
        environment={"MLSERVER_HOST": "127.0.0.1"},
    ),
    ModelServer("litserve", "exec python server.py", "/predict", {"prompt": "hello"}, "HELLO", ("output",)),
    ModelServer(
        "bentoml",
        'exec bentoml serve service:Upper --host 127.0.0.1 --port "$PORT"',
        "/predict",
        {"prompt": "hello"},
        "HELLO",
        ready_path="/readyz",
        environment={"BENTOML_DO_NOT_TRACK": "True"},
    ),
    ModelServer(
        "flask",
        "exec python worker_flask.py",
        "/run",
        {"text": "hello"},
        "HELLO",
        ("text",),
        ready_path="/ready",
        folder=ROOT / "deploy" / "examples",
    ),
)
