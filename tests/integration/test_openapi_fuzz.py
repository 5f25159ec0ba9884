"""Requests made up from the API's own description, good and bad: nothing gets a 5xx or an undescribed answer."""

import pytest

from tests.integration.parts import Programs


def test_every_response_is_described_and_none_is_a_5xx(programs: Programs, subtests: pytest.Subtests) -> None:
    # Imported here, because every process of a test run imports every test file.
    from tests.integration.made_up_requests import GenerationMode, Target, operations_of, send_some

    target = Target(programs.start("api", "tests.integration.serve_api"))
    # Not by schemathesis' own pytest plugin, which does not know this pytest.
    for operation in operations_of(target):
        for mode in GenerationMode:
            with subtests.test(operation=operation.label, mode=mode.value):
                send_some(target, operation, mode)
