"""Load the regions and their Kubernetes clusters."""

from __future__ import annotations

from pathlib import Path

from queue_engine.domain.clusters import Clusters, InvalidClusters


def load_clusters(path: Path | None) -> Clusters:
    """Return the clusters of the operator's file; none without one. Raises InvalidClusters that names the file."""
    if path is None:
        return Clusters()
    try:
        return Clusters.parse(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidClusters(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or not clusters
        raise InvalidClusters(f"{path}: {error}") from None
