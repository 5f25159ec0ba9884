"""The tries of a hostile container beside the worker of another endpoint, as an `up` shows them."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

from queue_engine.local.embedded import read_store_url
from tests.integration.hostile_container import MARK
from tests.integration.test_up import Up
from tests.waiting import wait_until

COMMAND = '["python3", "-m", "tests.clusters.hostile_in_container"]'
VICTIM = '["python3", "-m", "tests.clusters.holding_server"]'
VICTIM_OUTPUT = {"text": "its own"}


def agents_api(server: str) -> dict[str, str]:
    """The variables that name the API for agents, of the URL that an agent has."""
    url = urlsplit(server)
    return {"GATEWAY": str(url.hostname), "AGENTS_PORT": str(url.port)}


def closed_ports(up: Up) -> str:
    """The ports of the API for clients, of the metrics and of the store, as a variable has them."""
    store = urlsplit(read_store_url(up.data_dir / "store") or "").port
    ports = [up.port, up.port + 1, up.port + 2, *([store] if store else [])]
    return ",".join(map(str, ports))


def tries_of(up: Up, endpoint_id: int, message: str) -> dict[str, bool]:
    """Wait for the tries of the endpoint's hostile container; return whether each has succeeded."""

    def said() -> str | None:
        for worker in up.get(f"/v2/serverless/{endpoint_id}/workers"):
            for line in up.get(f"/v2/serverless/{endpoint_id}/workers/{worker['workerId']}/logs")["logs"]:
                if line["log"].startswith(MARK):
                    return str(line["log"])
        return None

    found: dict[str, bool] = json.loads((wait_until(said, message=message) or "").removeprefix(MARK))
    return found


def start_with(up: Up, endpoint_id: int, variables: dict[str, Any]) -> None:
    """Start the worker of the hostile endpoint with these variables."""
    changes = {"workers": 1, "environmentVars": [{"key": key, "value": variables[key]} for key in variables]}
    up.client.patch(f"/v2/serverless/{endpoint_id}", json=changes).raise_for_status()
