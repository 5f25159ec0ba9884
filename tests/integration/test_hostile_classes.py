"""Hostile requests of each class are refused, harmless ones beside them are not, and the page on them is up to date."""

from tests.api_server import running_api
from tests.integration.hostile_classes import CLASSES, PAGE, page_of, results_of
from tests.integration.test_api_hostile import INSIDE


async def test_hostile_requests_are_refused_and_harmless_ones_are_not(valkey_url: str) -> None:
    async with running_api(valkey_url, lookup=INSIDE) as api:
        results = await results_of(api)
    assert {one.of.name: one.accepted for one in results if one.accepted} == {}
    assert {one.of.name: one.falsely_refused for one in results if one.falsely_refused} == {}
    assert {one.of.name: one.stored for one in results if one.stored} == {}
    assert PAGE.read_text() == page_of(results), "run `make hostile`"


def test_every_class_has_hostile_and_harmless_requests() -> None:
    assert all(one.hostile and one.harmless for one in CLASSES)
