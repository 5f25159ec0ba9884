"""Regions and their clusters: the operator's file, and the choice of a cluster and its nodes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from queue_engine.api.v2.endpoint_requests import CreateEndpoint, UpdateEndpoint
from queue_engine.backends.kubernetes.sites import MAX_WAITING, ClusterPlace, Load, Place, Sites
from queue_engine.backends.placement import Later, Refusal, Shortage
from queue_engine.config.catalogue import load_catalogue
from queue_engine.config.clusters import load_clusters
from queue_engine.domain.catalogue import Catalogue, InvalidCatalogue
from queue_engine.domain.clusters import Clusters, InvalidClusters, Region
from queue_engine.domain.endpoints import Resource, ServiceMode
from tests.api_server import ENDPOINT

EXAMPLE = Path(__file__).parents[2] / "deploy/examples/clusters.toml"
FILE = """
kubeconfig = "/etc/kubeconfig"

[regions.near]
maxWorkers = 3

[regions.far]
context = "prod"
namespace = "gpu"
nodeSelector = { "topology.kubernetes.io/region" = "us-west-1" }

[regions.flat]
context = "prod"
namespace = "gpu"
flatNetwork = true
"""
CLUSTERS = Clusters.parse(FILE)
CATALOGUE = load_catalogue(None)
SITES = Sites(CLUSTERS, CATALOGUE, ClusterPlace(None, "workers"))
NEAR, FAR, FLAT = (Resource(region, "CPU", 1) for region in ("near", "far", "flat"))
NOW = 1000.0


def test_the_file_names_the_cluster_of_each_region() -> None:
    assert CLUSTERS.kubeconfig == "/etc/kubeconfig"
    assert CLUSTERS.names == ("near", "far", "flat")
    assert CLUSTERS.region("FAR") == Region(
        "far", "prod", "gpu", {"topology.kubernetes.io/region": "us-west-1"}, is_reached=False
    )
    assert CLUSTERS.region("mars") is None


def test_the_api_reaches_its_own_cluster_and_those_with_a_flat_network() -> None:
    assert CLUSTERS.unreached == {"far"}


def test_without_a_file_each_region_means_the_same_cluster() -> None:
    assert load_clusters(None).region("anywhere") == Region("anywhere")
    place = ClusterPlace("ctx", "ns")
    sites = Sites(Clusters(), CATALOGUE, place)
    assert sites.clusters == {"ctx/ns": place}
    assert sites.at(Resource("anywhere", "CPU", 1)) == "ctx/ns"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a = 1\nb = [)\n", "line 2"),
        ("", "regions: "),
        ("[regions]", "regions: "),
        ("regions = []", "regions: "),
        ("x = 1\n[regions.a]", "x: "),
        ('kubeconfig = ""\n[regions.a]', "kubeconfig: "),
        ("[regions.a]\nzone = 1", "regions.a.zone: "),
        ('[regions."a b"]', "regions.a b: the name of a region must be"),
        ("[regions.a]\n[regions.A]", "regions: 'a' is given twice"),
        ("[regions.a]\ncontext = 5", "regions.a.context: "),
        ('[regions.a]\ncontext = ""', "regions.a.context: "),
        ('[regions.a]\nnamespace = "A"', "regions.a.namespace: must be up to 63 lower-case letters"),
        ('[regions.a]\nnodeSelector = { "a b" = "c" }', "regions.a.nodeSelector.a b: must be the key of a label"),
        ('[regions.a]\nnodeSelector = { a = "b c" }', "regions.a.nodeSelector.a: must be the value of a label"),
        ('[regions.a]\nflatNetwork = "yes"', "regions.a.flatNetwork: "),
        ("[regions.a]\nmaxWorkers = 0", "regions.a.maxWorkers: "),
        ("[regions.a]\nmaxWorkers = true", "regions.a.maxWorkers: "),
    ],
)
def test_a_broken_file_is_explained_with_its_place(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "clusters.toml"
    path.write_text(text)
    with pytest.raises(InvalidClusters) as refused:
        load_clusters(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert told in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidClusters, match=r"cannot read .*none\.toml: No such file"):
        load_clusters(tmp_path / "none.toml")


def test_the_example_file_names_clusters() -> None:
    assert load_clusters(EXAMPLE).names


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('resourceName = "gpu"', "gpu[0].kubernetes.resourceName: "),
        ('products = ["a b"]', "gpu[0].kubernetes.products[0]: "),
        ("selector = { a = 1 }", "gpu[0].kubernetes.selector.a: "),
        ('tolerations = [{ key = "a", effect = "Never" }]', "gpu[0].kubernetes.tolerations[0].effect: "),
        ("tolerations = [{}]", "gpu[0].kubernetes.tolerations[0]: key is required"),
        (
            'tolerations = [{ key = "a", operator = "Exists", value = "b" }]',
            "gpu[0].kubernetes.tolerations[0]: value must be absent",
        ),
        (
            'tolerations = [{ key = "a", tolerationSeconds = 5 }]',
            "gpu[0].kubernetes.tolerations[0]: tolerationSeconds requires",
        ),
        ('runtimeClass = "A"', "gpu[0].kubernetes.runtimeClass: "),
        ("nodes = 1", "gpu[0].kubernetes.nodes: "),
    ],
)
def test_broken_nodes_of_a_gpu_type_are_explained_with_their_place(text: str, told: str) -> None:
    with pytest.raises(InvalidCatalogue) as refused:
        Catalogue.parse(f'[[gpu]]\nname = "A"\n[gpu.kubernetes]\n{text}')
    assert str(refused.value).startswith(told)


def test_every_built_in_gpu_type_has_products_and_an_operator_may_replace_them() -> None:
    assert CATALOGUE.kubernetes.keys() == {*CATALOGUE.names} - CATALOGUE.cpu_types
    assert all(gpu.products for gpu in CATALOGUE.kubernetes.values())
    priced = Catalogue.parse('[[gpu]]\nname = "NVIDIA_L4_24G"\nprice_per_hour = 1')
    assert CATALOGUE.extended_by(priced).kubernetes == CATALOGUE.kubernetes
    mine = Catalogue.parse('[[gpu]]\nname = "L4"\naliases = ["NVIDIA_L4_24G"]\nkubernetes.products = ["L4"]')
    assert CATALOGUE.extended_by(mine).kubernetes["L4"].products == ("L4",)


# The choice


def test_the_regions_of_one_context_and_namespace_are_one_cluster() -> None:
    assert [*SITES.clusters] == ["default/workers", "prod/gpu"]
    assert (SITES.at(FAR), SITES.at(FLAT), SITES.at(replace(FAR, region="mars"))) == ("prod/gpu", "prod/gpu", None)


def test_the_first_resource_that_takes_workers_is_chosen() -> None:
    found = SITES.place((FAR, NEAR), {}, {}, NOW)
    assert isinstance(found, Place)
    assert (found.resource, found.cluster, found.region.name) == (FAR, "prod/gpu", "far")
    short = {FAR: Shortage("waits for a node", 1, NOW - 59)}
    assert _chosen((FAR, NEAR), recent=short) == NEAR
    assert _chosen((FAR, NEAR), recent={FAR: Shortage("waits for a node", 1, NOW - 60)}) == FAR


def test_a_cluster_at_its_limit_takes_no_further_worker() -> None:
    load = {"default/workers": Load(pods=3)}
    assert _chosen((NEAR, FAR), load=load) == FAR
    assert SITES.place((NEAR,), {}, load, NOW) == Later(
        "waits for its turn: the cluster of near has its limit of 3 workers"
    )
    assert _chosen((NEAR,), load={"default/workers": Load(pods=2)}) == NEAR


def test_a_cluster_in_which_many_wait_for_a_node_takes_one_start_a_second() -> None:
    for waiting, last_start, takes in (
        (MAX_WAITING, NOW - 0.9, False),
        (MAX_WAITING, NOW - 1.0, True),
        (MAX_WAITING - 1, NOW, True),
    ):
        load = {"prod/gpu": Load(pods=waiting, waiting=waiting, last_start=last_start)}
        assert isinstance(SITES.place((FAR,), {}, load, NOW), Place) is takes


def test_a_worker_whose_resources_are_all_short_waits_for_the_first() -> None:
    short = {one: Shortage(f"waits for {one.region}", 1, NOW) for one in (FAR, NEAR)}
    found = SITES.place((FAR, NEAR), short, {}, NOW)
    assert isinstance(found, Place)
    assert (found.resource, found.waits_for) == (FAR, "waits for far")


def test_a_cluster_that_does_not_respond_takes_no_worker() -> None:
    load = {"prod/gpu": Load(outage="does not respond")}
    assert _chosen((FAR, NEAR), load=load) == NEAR
    assert SITES.place((FAR,), {}, load, NOW) == Later("waits for the cluster of far, which does not respond")


SHARED = Clusters.parse("""
[regions.large]
context = "prod"
namespace = "large"
gpuTypes = ["nvidia_h100_80g", "CPU"]

[regions.small]
context = "prod"
namespace = "small"
gpuTypes = ["NVIDIA_L4_24G"]
""")
"""Two namespaces of one cluster with different GPU types."""


def test_a_gpu_type_of_one_namespace_is_not_placed_in_another_one_of_the_cluster() -> None:
    sites = Sites(SHARED, CATALOGUE, ClusterPlace(None, "workers"))
    large, small = (Resource(region, "NVIDIA_H100_80G", 1) for region in ("large", "small"))
    found = sites.place((small, large), {}, {}, NOW)
    assert isinstance(found, Place)
    assert (found.resource, found.cluster) == (large, "prod/large")
    reason = "resources: small has no GPU type NVIDIA_H100_80G: there are NVIDIA_L4_24G"
    assert sites.place((small,), {}, {}, NOW) == Refusal(reason)
    assert sites.refusal((small,), ServiceMode.QUEUE) == reason


def test_an_endpoint_may_name_the_gpu_types_of_its_region_only() -> None:
    catalogue = CATALOGUE.within(SHARED)

    def errors(region: str, gpu_type: str) -> list[tuple[str, str]]:
        body = ENDPOINT | {"resources": [{"region": region, "gpuType": gpu_type, "gpuCount": 1}]}
        made, found = CreateEndpoint.parse(body, catalogue)
        if not found:
            _, again = UpdateEndpoint.parse({"workers": 2}, catalogue, made.config())
            assert again == []
        return found

    assert errors("LARGE", "nvidia_h100_80g") == errors("small", "NVIDIA_L4_24G") == []
    told = "small has no GPU type NVIDIA_H100_80G: there are NVIDIA_L4_24G"
    assert errors("small", "NVIDIA_H100_80G") == [("resources[0].gpuType", told)]


def test_a_gpu_type_of_a_region_that_the_catalogue_does_not_have_is_named() -> None:
    clusters = Clusters.parse('[regions.here]\ngpuTypes = ["MI300X"]\n')
    told = r"regions\.here\.gpuTypes: the catalogue has no GPU type MI300X"
    with pytest.raises(InvalidClusters, match=told):
        CATALOGUE.within(clusters)
    with pytest.raises(InvalidClusters, match=told):
        Sites(clusters, CATALOGUE, ClusterPlace(None, "workers"))


def test_a_region_without_a_cluster_is_refused_with_those_that_there_are() -> None:
    refused = SITES.place((replace(NEAR, region="mars"),), {}, {}, NOW)
    assert refused == Refusal("resources: no cluster is configured for the region mars: there are near, far, flat")


def _chosen(
    resources: tuple[Resource, ...],
    recent: dict[Resource, Shortage] | None = None,
    load: dict[str, Load] | None = None,
) -> Resource:
    found = SITES.place(resources, recent or {}, load or {}, NOW)
    assert isinstance(found, Place)
    return found.resource


# The API


def test_an_endpoint_may_name_the_regions_of_the_clusters_only() -> None:
    regions = Catalogue.parse('regions = ["elsewhere"]')
    catalogue = CATALOGUE.extended_by(regions).within(CLUSTERS)
    assert _errors(catalogue, "NEAR", ServiceMode.QUEUE) == []
    assert _errors(catalogue, "mars", ServiceMode.QUEUE) == [("resources[0].region", "must be one of near, far, flat")]
    assert CATALOGUE.within(Clusters()) is CATALOGUE


@pytest.mark.parametrize("mode", ServiceMode)
@pytest.mark.parametrize("region", ["near", "FAR", "flat"])
def test_an_alb_endpoint_is_refused_where_the_api_does_not_reach_its_workers(region: str, mode: ServiceMode) -> None:
    errors = _errors(CATALOGUE.within(CLUSTERS), region, mode)
    refused = [("resources[0].region", UNREACHED)] if region == "FAR" and mode is ServiceMode.ALB else []
    assert errors == refused


UNREACHED = "ALB endpoints cannot have workers in far, because the API does not reach the network of its cluster"


def test_an_alb_endpoint_cannot_move_to_such_a_region() -> None:
    catalogue = CATALOGUE.within(CLUSTERS)
    made, _ = CreateEndpoint.parse(_body("near", ServiceMode.ALB), catalogue)
    moved = {"resources": _body("far", ServiceMode.ALB)["resources"]}
    _, errors = UpdateEndpoint.parse(moved, catalogue, made.config())
    assert errors == [("resources[0].region", UNREACHED)]
    _, errors = UpdateEndpoint.parse({"workers": 2}, catalogue, made.config())
    assert errors == []


def _errors(catalogue: Catalogue, region: str, mode: ServiceMode) -> list[tuple[str, str]]:
    _, errors = CreateEndpoint.parse(_body(region, mode), catalogue)
    return errors


def _body(region: str, mode: ServiceMode) -> dict[str, Any]:
    return ENDPOINT | {"resources": [ENDPOINT["resources"][0] | {"region": region}], "serviceMode": mode}
