"""`/metrics` for processes that have no web server of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, start_http_server


def serve_metrics(host: str, port: int, registry: CollectorRegistry) -> int:
    """Serve what `registry` has from a thread; return the port (a free one for 0).

    Raises OSError when the port is taken. The thread ends with the process.
    """
    server, _ = start_http_server(port, addr=host, registry=registry)
    return int(server.server_port)
