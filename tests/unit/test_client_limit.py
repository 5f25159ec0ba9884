"""The controller names a store that accepts too few connections for the workers."""

import logging

import pytest

from queue_engine.cli.serve_controller import check_client_limit


@pytest.mark.parametrize(
    ("limit", "workers", "is_named"), [(10_000, 4900, False), (10_000, 4901, True), (None, 5000, False)]
)
def test_a_limit_of_connections_below_the_workers_need_is_named(
    caplog: pytest.LogCaptureFixture, limit: int | None, workers: int, is_named: bool
) -> None:
    with caplog.at_level(logging.WARNING):
        check_client_limit(limit, workers)
    assert [record.getMessage() for record in caplog.records] == (
        [
            f"the store accepts {limit} connections (maxclients), but {workers} workers need about "
            f"{2 * workers + 200}: raise maxclients, and the store's limit of open files"
        ]
        if is_named
        else []
    )
