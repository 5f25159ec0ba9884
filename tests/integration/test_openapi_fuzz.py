"""Requests made up from the API's own description, good and bad: nothing gets a 5xx or an undescribed response."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.integration.parts import programs_on
from tests.servers import StoreServer, valkey_binary

if TYPE_CHECKING:
    from tests.integration.made_up_requests import Target

PARTS = 12
"""Tests that share the operations, so that none of them takes long."""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Start one API for all parts, because that takes two seconds of processor time. No test empties its store."""
    # Imported here, because every process of a test run imports every test file.
    from tests.integration.made_up_requests import Target

    directory = tmp_path_factory.mktemp("fuzz")
    with (
        StoreServer(valkey_binary(), directory / "store") as server,
        programs_on(server.url, directory) as programs,
    ):
        yield Target(programs.start("api", "tests.integration.serve_api"))


@pytest.mark.parametrize("part", range(PARTS))
def test_every_response_is_described_and_none_is_a_5xx(target: Target, subtests: pytest.Subtests, part: int) -> None:
    from tests.integration.made_up_requests import GenerationMode, send_some

    operations = target.operations[part::PARTS]
    assert operations
    # Not by schemathesis' own pytest plugin, which does not know this pytest.
    for operation in operations:
        for mode in GenerationMode:
            with subtests.test(operation=operation.label, mode=mode.value):
                send_some(target, operation, mode)
