"""The dashboards of deploy/grafana are made from their definitions, and complete."""

import json
from collections import Counter
from itertools import combinations

import msgspec
import pytest

from deploy.grafana.__main__ import FOLDER, text_of
from deploy.grafana.definitions import ALL
from deploy.grafana.panels import COLUMNS, Dashboard, classic_json
from tests.prometheus_names import exported_names, names_in
from tests.unit.test_alert_rules import RECORDED

PROVISIONING = FOLDER.parent / "provisioning"
of_each = pytest.mark.parametrize("dashboard", ALL, ids=lambda one: one.uid)


def test_the_folder_holds_these_dashboards_and_nothing_else() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {dashboard.file_name for dashboard in ALL}
    assert len({dashboard.uid for dashboard in ALL}) == len({dashboard.title for dashboard in ALL}) == len(ALL)


@of_each
def test_a_file_is_what_its_definition_makes(dashboard: Dashboard) -> None:
    assert (FOLDER / dashboard.file_name).read_text() == text_of(dashboard), "run `make docs`"


@of_each
def test_each_panel_has_an_id_of_its_own_a_text_a_unit_and_at_least_one_query(dashboard: Dashboard) -> None:
    ids = Counter(panel["id"] for panel in classic_json(dashboard)["panels"])
    assert {number for number, count in ids.items() if count > 1} == set()
    assert dashboard.text.endswith(".")
    for panel in dashboard.panels:
        assert panel.title
        assert panel.text.endswith("."), panel.title
        assert panel.queries, panel.title
        assert panel.kind != "table" or panel.columns, panel.title


@of_each
def test_the_queries_name_metrics_that_processes_export_and_figures_that_are_recorded(dashboard: Dashboard) -> None:
    named = {name for panel in dashboard.panels for query in panel.queries for name in names_in(query.expr)}
    assert named <= exported_names() | RECORDED


@of_each
def test_panels_fit_into_the_grid_and_do_not_overlap(dashboard: Dashboard) -> None:
    places = [panel["gridPos"] for panel in classic_json(dashboard)["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= COLUMNS for place in places)
    cells = [{(x, y) for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])} for p in places]
    assert not any(one & other for one, other in combinations(cells, 2))


@of_each
def test_every_target_uses_the_chosen_data_source_and_an_interval_that_fits_it(dashboard: Dashboard) -> None:
    targets = [target for panel in classic_json(dashboard)["panels"] for target in panel.get("targets", [])]
    assert {target["datasource"]["uid"] for target in targets} == {"${datasource}"}
    assert all("rate(" not in one["expr"] or "[$__rate_interval]" in one["expr"] for one in targets)
    chosen = {name for name in ("endpoint",) if any(f"${name}" in one["expr"] for one in targets)}
    assert chosen == {variable.name for variable in dashboard.variables}


def test_grafana_is_given_the_data_source_and_the_folder_of_the_dashboards() -> None:
    [source] = msgspec.yaml.decode((PROVISIONING / "datasources/prometheus.yml").read_bytes())["datasources"]
    assert (source["uid"], source["type"], source["isDefault"]) == ("prometheus", "prometheus", True)
    scraping = msgspec.yaml.decode((FOLDER.parents[1] / "prometheus/prometheus.yml").read_bytes())["global"]
    assert source["jsonData"]["timeInterval"] == scraping["scrape_interval"]
    [provider] = msgspec.yaml.decode((PROVISIONING / "dashboards/queue-engine.yml").read_bytes())["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"


def test_the_files_are_json_without_values_that_only_python_reads() -> None:
    for path in FOLDER.iterdir():
        json.loads(path.read_text(), parse_constant=pytest.fail)
