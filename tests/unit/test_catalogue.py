"""GPU types, regions and prices: what the operator's file says, and what an endpoint costs."""

from pathlib import Path
from typing import Any

import pytest

from queue_engine.api.v2.endpoint_requests import CreateEndpoint
from queue_engine.config.catalogue import load_catalogue
from queue_engine.domain.catalogue import Catalogue, InvalidCatalogue
from queue_engine.domain.endpoints import EndpointConfig, Resource, ServiceMode
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.field_errors import raise_for
from tests.api_server import ENDPOINT

BUILT_IN = load_catalogue(None)
EXAMPLE = Path(__file__).parents[2] / "deploy/examples/catalogue.toml"
PRICED = Catalogue.parse(
    """
    [storage]
    price_per_gb_hour = 0.0001
    [[gpu]]
    name = "FAST"
    aliases = ["QUICK"]
    price_per_hour = 2.49
    [[gpu]]
    name = "SLOW"
    price_per_hour = 1
    [[gpu]]
    name = "CPU"
    """
)


def config(*resources: Resource, workers: int = 1, storage: int = 20) -> EndpointConfig:
    return EndpointConfig("a", "b", ServiceMode.QUEUE, resources, workers, storage)


@pytest.mark.parametrize(
    ("wanted", "cost"),
    [
        (config(Resource("x", "FAST", 1)), 2.492),
        (config(Resource("x", "FAST", 8), workers=3, storage=100), 59.79),
        (config(Resource("x", "quick", 1)), 2.492),
        (config(Resource("x", "FAST", 1), Resource("x", "SLOW", 1)), 2.492),
        (config(Resource("x", "SLOW", 1), Resource("x", "FAST", 1)), 1.002),
        (config(Resource("x", "FAST", 1), workers=0), 0),
        (config(Resource("x", "CPU", 64)), 0.002),
        (config(Resource("x", "TAKEN_OUT", 1)), 0.002),
        (config(Resource("x", "FAST", 1), workers=1000, storage=1_000_000), 102_490),
    ],
)
def test_the_cost_is_that_of_the_desired_workers_and_their_storage(wanted: EndpointConfig, cost: float) -> None:
    assert PRICED.cost_per_hour(wanted) == cost


def test_a_cost_has_six_digits() -> None:
    thirds = Catalogue.parse('[[gpu]]\nname = "A"\nprice_per_hour = 0.3333333333')
    assert thirds.cost_per_hour(config(Resource("x", "A", 1))) == 0.333333
    tenths = Catalogue.parse('[[gpu]]\nname = "A"\nprice_per_hour = 0.1')
    assert tenths.cost_per_hour(config(Resource("x", "A", 3))) == 0.3


def test_without_prices_everything_is_free() -> None:
    for name in BUILT_IN.names:
        assert BUILT_IN.cost_per_hour(config(Resource("x", name, 8), workers=9)) == 0


def test_a_price_for_a_built_in_type_keeps_its_other_names() -> None:
    both = BUILT_IN.extended_by(Catalogue.parse('[[gpu]]\nname = "NVIDIA_H100_80G"\nprice_per_hour = 2'))
    assert both.names == BUILT_IN.names
    assert both.canonical("nvidia_h100") == "NVIDIA_H100_80G"
    assert both.cost_per_hour(config(Resource("x", "NVIDIA_H100", 1))) == 2


@pytest.mark.parametrize("entry", ['name = "nvidia_h100_80g"', 'name = "MINE"\naliases = ["NVIDIA_H100_80G"]'])
def test_a_renamed_built_in_type_is_listed_once(entry: str) -> None:
    both = BUILT_IN.extended_by(Catalogue.parse(f"[[gpu]]\n{entry}\nprice_per_hour = 2"))
    mine = both.canonical("NVIDIA_H100_80G")
    assert mine in both.names
    assert "NVIDIA_H100_80G" not in both.names
    assert len(both.names) == len(BUILT_IN.names)
    for spelling in ("NVIDIA_H100", "nvidia_h100_80g"):
        assert both.canonical(spelling) == mine
        assert both.cost_per_hour(config(Resource("x", spelling, 1))) == 2


def test_the_second_of_two_files_decides_where_both_say_something() -> None:
    first = Catalogue.parse(
        'regions = ["a"]\n[storage]\nprice_per_gb_hour = 1\n[[gpu]]\nname = "A"\nprice_per_hour = 1\n'
        '[[gpu]]\nname = "B"\nprice_per_hour = 5'
    )
    second = Catalogue.parse(
        'regions = ["b"]\n[storage]\nprice_per_gb_hour = 0\n[[gpu]]\nname = "A"\nprice_per_hour = 2'
    )
    both = first.extended_by(second)
    assert both.regions == ("b",)
    assert both.cost_per_hour(config(Resource("b", "A", 1))) == 2
    assert both.cost_per_hour(config(Resource("b", "B", 1))) == 5
    assert first.extended_by(Catalogue()) == first


def test_regions_are_matched_in_any_case_and_unknown_ones_refused() -> None:
    catalogue = BUILT_IN.extended_by(Catalogue.parse('regions = ["us-east-3", "eu-west-1"]'))
    assert _created(catalogue, region="US-EAST-3").resources[0].region == "us-east-3"
    with pytest.raises(InvalidRequest) as refused:
        _created(catalogue, region="mars")
    assert str(refused.value) == "resources[0].region: must be one of us-east-3, eu-west-1"
    assert _created(BUILT_IN, region="Mars").resources[0].region == "Mars"


def test_the_example_file_is_a_catalogue() -> None:
    catalogue = load_catalogue(EXAMPLE)
    assert set(BUILT_IN.names) < set(catalogue.names)
    assert catalogue.canonical("gh200") == "NVIDIA_GH200_96G"
    assert catalogue.cost_per_hour(config(Resource("here", "NVIDIA_H100_80G", 2), workers=2)) == 9.964


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a = 1\nb = [)\n", "line 2"),
        ('[[gpu]]\nname = "A"\n[[gpu]]\nname = "B"\nprice_per_hour = -1', "gpu[1].price_per_hour: "),
        ('[[gpu]]\nname = "A"\nprice_per_hour = nan', "gpu[0].price_per_hour: "),
        ('[[gpu]]\nname = "A"\nprice_per_hour = inf', "gpu[0].price_per_hour: "),
        ('[[gpu]]\nname = "A"\nprice_per_hour = "2"', "gpu[0].price_per_hour: "),
        ('[[gpu]]\nname = "A"\nprice_per_hour = true', "gpu[0].price_per_hour: "),
        ('[[gpu]]\nname = "A"\nprice = 1', "gpu[0].price: "),
        ('[[gpu]]\nname = "A"\naliases = ["a"]', "gpu[0]: 'a' is given twice"),
        ('[[gpu]]\nname = "A"\n[[gpu]]\nname = "B"\naliases = ["A"]', "gpu[1]: 'A' is given twice"),
        ("storage = 5", "storage: "),
        ("[storage]", "storage.price_per_gb_hour: "),
        ("[storage]\nprice_per_gb_hour = -0.1", "storage.price_per_gb_hour: "),
        ("regions = []", "regions: "),
        ('regions = "a"', "regions: "),
        ('regions = ["a", 5]', "regions[1]: "),
        ('regions = ["a", "A"]', "regions[1]: 'A' is given twice"),
        ('regions = ["a b"]', "regions[0]: 'a b' is not a name"),
    ],
)
def test_a_broken_file_is_explained_with_its_place(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InvalidCatalogue) as refused:
        load_catalogue(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert told in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidCatalogue, match=r"cannot read .*none\.toml: No such file"):
        load_catalogue(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidCatalogue, match=r"binary\.toml: "):
        load_catalogue(tmp_path / "binary.toml")


def _created(catalogue: Catalogue, **resource: Any) -> EndpointConfig:
    resources = [ENDPOINT["resources"][0] | resource]
    wanted, errors = CreateEndpoint.parse(ENDPOINT | {"resources": resources}, catalogue)
    raise_for(errors)
    return wanted.config()
