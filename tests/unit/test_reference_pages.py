"""The committed reference pages say what the definitions say."""

import pytest

from tests.reference_pages import FOLDER, pages


@pytest.mark.parametrize("name", pages())
def test_a_reference_page_is_as_the_definitions_are(name: str) -> None:
    assert (FOLDER / name).read_text() == pages()[name](), "run `make docs`"
