"""The names that a Python program may import, and that a new version therefore keeps."""

import re
from importlib import import_module
from importlib.metadata import version
from pkgutil import iter_modules
from types import ModuleType

import pytest

PUBLIC = {
    "queue_engine": ["__version__"],
    "queue_engine.client": [
        "ApiError",
        "AsyncClient",
        "AsyncEndpoint",
        "AsyncOperation",
        "AsyncTask",
        "Attempt",
        "Batch",
        "BatchItem",
        "Client",
        "ClientError",
        "Conflict",
        "Delivery",
        "Download",
        "Endpoint",
        "EndpointInfo",
        "Forbidden",
        "Head",
        "InvalidRequest",
        "InvalidWebhook",
        "LogLine",
        "MapItem",
        "NotFound",
        "NotSent",
        "Operation",
        "OperationInfo",
        "OperationTimeout",
        "PriorityCounts",
        "QueueFull",
        "Task",
        "TaskCancelled",
        "TaskCounts",
        "TaskExpired",
        "TaskFailed",
        "TaskInfo",
        "TaskTimedOut",
        "Unauthorized",
        "Unavailable",
        "WaitTimeout",
        "Waiting",
        "WebhookEvent",
        "WorkerInfo",
        "WorkerLost",
        "verify_webhook",
    ],
    "worker_agent": [],
}


@pytest.mark.parametrize("package", PUBLIC)
def test_a_package_has_no_public_names_but_these(package: str) -> None:
    module = import_module(package)
    assert module.__all__ == PUBLIC[package]
    assert _names_of(module) <= set(PUBLIC[package])


def test_the_version_is_the_installed_ones() -> None:
    from queue_engine import __version__

    assert __version__ == version("queue-engine")
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", __version__)


def _names_of(package: ModuleType) -> set[str]:
    """Return the names that the package defines, without its modules, which any import adds."""
    modules = {module.name for module in iter_modules(package.__path__)}
    return {name for name in vars(package) if not name.startswith("_")} - modules
