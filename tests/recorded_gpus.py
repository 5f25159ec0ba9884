"""Inventories of hosts with GPUs, in the form in which NVIDIA's management library reports them."""

from queue_engine.domain.gpus import Card


def cards(*kinds: tuple[str, int]) -> tuple[Card, ...]:
    """Cards with these products and sizes in MiB, in this order."""
    return tuple(Card(index, f"GPU-{index:08x}-5e1f", name, mib) for index, (name, mib) in enumerate(kinds))


L4 = ("NVIDIA L4", 23034)
L40S = ("NVIDIA L40S", 46068)
FOUR_L4 = cards(L4, L4, L4, L4)
MIXED = cards(L4, L40S, L4, ("NVIDIA A100-SXM4-80GB", 81920))


class RecordedInventory:
    """A host whose cards are always the same."""

    def __init__(self, *found: Card) -> None:
        self._found = found

    def cards(self) -> tuple[Card, ...]:
        return self._found
