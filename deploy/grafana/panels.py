"""Dashboards as values, and their form in Grafana's classic JSON model.

Panels flow from left to right into a grid of 24 columns. Links of users contain the ids of panels and the uids of
dashboards, so an id is never used again for another panel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

COLUMNS = 24
SCHEMA_VERSION = 39
"""Schema of Grafana 10.4. Later versions migrate it when they load it."""
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
TAG = "queue-engine"
_LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class Query:
    """A PromQL expression. `legend` may name labels, as in `{{code}}`."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A panel. `unit` is a unit id of Grafana. `thresholds` are the values from which on the colour changes."""

    id: int
    title: str
    text: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: Literal["timeseries", "stat", "table"] = "timeseries"
    thresholds: Sequence[tuple[float, str]] = ()
    base_color: str = "green"
    """Colour below the first threshold."""
    stacked: bool = False
    width: int = 8
    height: int = 8
    columns: Sequence[str] = ()
    """Labels that a table shows, in this order."""


@dataclass(frozen=True)
class Row:
    """A title and the panels below it."""

    id: int
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Variable:
    """A choice at the head of the dashboard: the values of `label` in the series of `selector`."""

    name: str
    title: str
    selector: str
    label: str


@dataclass(frozen=True)
class Dashboard:
    """A dashboard. Its file has the name of its `uid` without the tag."""

    uid: str
    title: str
    text: str
    rows: Sequence[Row]
    variables: Sequence[Variable] = ()

    @property
    def file_name(self) -> str:
        return f"{self.uid.removeprefix(f'{TAG}-')}.json"

    @property
    def panels(self) -> list[Panel]:
        return [panel for row in self.rows for panel in row.panels]


def classic_json(dashboard: Dashboard) -> dict[str, Any]:
    """Return the dashboard as Grafana imports and provisions it."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.text,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,  # one crosshair in all panels
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "links": [_links_to_the_others()],
        "templating": {"list": [_datasource_variable(), *map(_variable, dashboard.variables)]},
        "annotations": {"list": []},
        "panels": list(_placed(dashboard.rows)),
    }


def _placed(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    top = 0
    for row in rows:
        yield {
            "id": row.id, "type": "row", "title": row.title, "collapsed": False, "panels": [],
            "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1},
        }  # fmt: skip
        top, left, height = top + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                top, left, height = top + height, 0, 0
            yield _panel(panel) | {"gridPos": {"x": left, "y": top, "w": panel.width, "h": panel.height}}
            left, height = left + panel.width, max(height, panel.height)
        top += height


def _panel(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": _thresholds(panel)}
    form: dict[str, Any] = {"options": _OPTIONS[panel.kind]}
    if panel.kind == "timeseries":
        defaults |= {"min": 0, "custom": _line_style(panel)}
    elif panel.kind == "stat":
        defaults["color"] = {"mode": "thresholds"}
    else:
        form["transformations"] = _shown_columns(panel.columns)
    return {
        "id": panel.id,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": DATASOURCE,
        "targets": [_target(panel, query, ref_id) for query, ref_id in zip(panel.queries, _LETTERS, strict=False)],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        **form,
    }


def _target(panel: Panel, query: Query, ref_id: str) -> dict[str, Any]:
    is_range = panel.kind == "timeseries"
    return {
        "refId": ref_id,
        "datasource": DATASOURCE,
        "expr": query.expr,
        "legendFormat": query.legend,
        "range": is_range,
        "instant": not is_range,
        "format": "table" if panel.kind == "table" else "time_series",
    }


def _thresholds(panel: Panel) -> dict[str, Any]:
    steps = [{"color": color, "value": value} for value, color in panel.thresholds]
    return {"mode": "absolute", "steps": [{"color": panel.base_color, "value": None}, *steps]}


def _line_style(panel: Panel) -> dict[str, Any]:
    return {
        "lineWidth": 1,
        "fillOpacity": 25 if panel.stacked else 8,
        "showPoints": "never",
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line" if panel.thresholds else "off"},
    }


def _shown_columns(columns: Sequence[str]) -> list[dict[str, Any]]:
    places = {name: place for place, name in enumerate(columns)}
    return [
        {"id": "filterFieldsByName", "options": {"include": {"names": list(columns)}}},
        {"id": "organize", "options": {"indexByName": places, "excludeByName": {}, "renameByName": {}}},
    ]


_OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
    },
    "table": {"showHeader": True, "cellHeight": "sm", "footer": {"show": False}},
}


def _links_to_the_others() -> dict[str, Any]:
    return {
        "type": "dashboards", "title": "Queue engine", "tags": [TAG], "asDropdown": True, "includeVars": False,
        "keepTime": True, "targetBlank": False, "icon": "external link",
    }  # fmt: skip


def _datasource_variable() -> dict[str, Any]:
    return {
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "regex": "",
        "refresh": 1, "hide": 0, "multi": False, "includeAll": False, "current": {}, "options": [],
    }  # fmt: skip


def _variable(variable: Variable) -> dict[str, Any]:
    """Return a choice of any number of values. The choice of all also shows series without the label."""
    definition = f"label_values({variable.selector}, {variable.label})"
    return {
        "name": variable.name, "label": variable.title, "type": "query", "datasource": DATASOURCE,
        "definition": definition, "query": {"query": definition, "refId": "StandardVariableQuery"},
        "refresh": 2, "sort": 3, "regex": "", "hide": 0, "multi": True, "includeAll": True, "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]}, "options": [],
    }  # fmt: skip
