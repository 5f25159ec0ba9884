"""The limit of what a tenant has in progress."""

import pytest

from queue_engine.api.http.slots import TenantSlots
from queue_engine.domain.errors import TooManyRequests


def test_a_tenant_at_its_limit_is_refused_and_another_one_is_not() -> None:
    slots = TenantSlots(2, "things", "THE_SETTING")
    with slots.taken("a"), slots.taken("a"):
        with pytest.raises(TooManyRequests, match=r"at most 2 things of a tenant .*\(THE_SETTING\)") as caught:
            slots.taken("a").__enter__()
        assert (caught.value.scope, caught.value.retry_after_seconds) == ("tenant", 1)
        with slots.taken("b"):
            pass
    with slots.taken("a"):
        pass


def test_a_slot_is_free_again_after_an_error() -> None:
    slots = TenantSlots(1, "things", "THE_SETTING")
    with pytest.raises(ValueError, match="broken"), slots.taken("a"):
        raise ValueError("broken")
    with slots.taken("a"):
        pass


def test_zero_sets_no_limit() -> None:
    slots = TenantSlots(0, "things", "THE_SETTING")
    with slots.taken("a"), slots.taken("a"):
        pass
