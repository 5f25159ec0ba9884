"""Ids that the engine makes."""

from uuid import RFC_4122, UUID

import pytest

from queue_engine.domain.ids import task_id_from


@pytest.mark.parametrize("random", [bytes(16), b"\xff" * 16, bytes(range(16)), bytes(range(240, 256))])
def test_a_task_without_an_id_gets_a_random_uuid_without_hyphens(random: bytes) -> None:
    made = UUID(task_id_from(random))
    assert (made.version, made.variant, made.hex) == (4, RFC_4122, task_id_from(random))
    free = ~(0xF << 76 | 0x3 << 62)
    assert made.int & free == int.from_bytes(random) & free
