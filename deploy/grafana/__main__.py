"""Write the dashboards: `python -m deploy.grafana` (`make docs`).

A test fails when a file differs from its definition.
"""

from __future__ import annotations

import json
from pathlib import Path

from deploy.grafana.definitions import ALL
from deploy.grafana.panels import Dashboard, classic_json

FOLDER = Path(__file__).parent / "dashboards"


def text_of(dashboard: Dashboard) -> str:
    """Return the contents of the dashboard's file."""
    return json.dumps(classic_json(dashboard), indent=2, ensure_ascii=False) + "\n"


def write(folder: Path = FOLDER) -> None:
    """Write all dashboards."""
    for dashboard in ALL:
        (folder / dashboard.file_name).write_text(text_of(dashboard))


if __name__ == "__main__":
    write()
