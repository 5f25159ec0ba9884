"""The GPUs of a host, and which worker gets which. Pure: the input is values, the output a decision.

A backend lists the cards of its host once. Before each start it asks `Gpus.hand_out`, with the cards that its workers
hold at this moment. It derives these from what runs (a variable of a process, a label of a container), so that a card
is not handed out twice after a restart of the controller.

    gpus = Gpus((Card(0, "GPU-5e1f…", "NVIDIA L4", 23034), Card(1, "GPU-9c02…", "NVIDIA L4", 23034)))
    gpus.hand_out([Resource("here", "NVIDIA_L4_24G", 1)], held={"GPU-5e1f…"})   # HandedOut: card 1
    gpus.hand_out([Resource("here", "NVIDIA_L4_24G", 2)], held={"GPU-5e1f…"})   # Waits: 1 of 2 free
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from queue_engine.domain.endpoints import Resource

_MEMORY = re.compile(r"(\d+)gb?")
_MEMORY_TOLERANCE = 0.1
"""Relative difference between the memory in a type's name and that of a card: NVIDIA L4 has 24 GB, and reports 22.5."""
_CPU_TYPES = frozenset({"CPU"})


class GpuMode(StrEnum):
    """The meaning of QUEUE_ENGINE_GPUS."""

    AUTO = "auto"
    """All cards of the host are handed out. A host without cards changes nothing in the environment of its workers."""
    NONE = "none"
    """No card is handed out, and workers see none."""
    SHARED = "shared"
    """Workers are not assigned cards: each sees all cards of the host."""
    LISTED = "listed"
    """The cards in the list are handed out."""


@dataclass(frozen=True)
class GpuSetting:
    """A parsed value of QUEUE_ENGINE_GPUS."""

    mode: GpuMode
    indexes: tuple[int, ...] = ()
    """The cards in the list, with the mode LISTED."""


@dataclass(frozen=True)
class Card:
    """A GPU of a host."""

    index: int
    """Its place in the order of PCI addresses, as `nvidia-smi` shows it. May differ after a restart of the machine."""
    uuid: str
    """Its permanent name, such as `GPU-5e1f…`."""
    name: str
    """Its product, such as `NVIDIA L4`."""
    memory_mib: int


@dataclass(frozen=True)
class HandedOut:
    """The worker gets these cards, and may start."""

    cards: tuple[Card, ...] = ()
    note: str = ""
    """A line for the worker's log, if the cards are not what the endpoint asks for."""


@dataclass(frozen=True)
class Waits:
    """The worker must wait until another one ends. `reason` is for the endpoint's owner."""

    reason: str


@dataclass(frozen=True)
class Refused:
    """The host can never run the worker. `reason` is for the endpoint's owner."""

    reason: str


Decision = HandedOut | Waits | Refused


@dataclass(frozen=True)
class Gpus:
    """The cards that a host hands out to its workers, each to one at a time."""

    cards: tuple[Card, ...] = ()
    mode: GpuMode = GpuMode.AUTO
    cpu_types: frozenset[str] = _CPU_TYPES
    """GPU types in the catalogue's spelling that take no card."""
    problem: str = ""
    """The reason why the cards cannot be listed."""

    @property
    def are_assigned(self) -> bool:
        """True if a worker must see only the cards that it was given. False if its environment stays as it is."""
        return bool(self.cards) or self.mode not in (GpuMode.SHARED, GpuMode.AUTO)

    def hand_out(self, resources: Sequence[Resource], held: Collection[str]) -> Decision:
        """Decide which free cards a worker gets. `held` are the UUIDs of the cards that others hold.

        The first of the resources counts for which cards are free. If there is none, the worker waits for the first
        one that this host can give at all.
        """
        decisions = [self._of_resource(resource, held) for resource in resources]
        for kind in (HandedOut, Waits, Refused):
            for decision in decisions:
                if isinstance(decision, kind):
                    return decision
        return HandedOut()

    def _of_resource(self, resource: Resource, held: Collection[str]) -> Decision:
        if resource.gpu_type in self.cpu_types or self.mode is GpuMode.SHARED:
            return HandedOut()
        if not self.cards:
            return HandedOut(note=self._no_card(resource))
        fitting = [card for card in self.cards if is_of_type(card, resource.gpu_type)]
        eligible = fitting or self.cards
        if resource.gpu_count > len(eligible):
            return Refused(f"resources: gpuCount is {resource.gpu_count}, but this host has {described(eligible)}")
        free = [card for card in eligible if card.uuid not in held]
        if len(free) < resource.gpu_count:
            names = " or ".join(_products(eligible))
            return Waits(f"waits for {resource.gpu_count} × {names}: {len(free)} of {len(eligible)} free")
        cards = tuple(free[: resource.gpu_count])
        return HandedOut(cards, "" if fitting else _other_type(resource, cards))

    def by_uuid(self, uuids: Iterable[str]) -> tuple[Card, ...]:
        """Return the cards with these UUIDs, in their order on the host. Unknown ones are left out."""
        wanted = set(uuids)
        return tuple(card for card in self.cards if card.uuid in wanted)

    def _no_card(self, resource: Resource) -> str:
        reason = self.problem or ("no GPU is handed out here" if self.mode is GpuMode.NONE else "this host has no GPU")
        return f"{reason}: the worker runs without the {resource.gpu_count} × {resource.gpu_type} of its endpoint"


def parse_gpu_setting(text: str) -> GpuSetting:
    """Parse `auto`, `none`, `shared`, or the numbers of cards such as `0,2`. Raises ValueError with the rule."""
    word = text.strip().lower()
    if word in (GpuMode.AUTO, GpuMode.NONE, GpuMode.SHARED):
        return GpuSetting(GpuMode(word))
    parts = [part.strip() for part in word.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) <= 3 for part in parts):
        raise ValueError("must be auto, none, shared, or the numbers of cards, separated by commas (0,2)")
    indexes = tuple(map(int, parts))
    if len(set(indexes)) < len(indexes):
        raise ValueError("must name each card once")
    return GpuSetting(GpuMode.LISTED, indexes)


def offered_cards(setting: GpuSetting, cards: Sequence[Card], visible: str | None = None) -> tuple[Card, ...]:
    """Return the cards that are handed out. Raises ValueError if the setting names a card that does not exist.

    `visible` is the controller's own CUDA_VISIBLE_DEVICES, which limits `auto`, because the operator has reserved the
    other cards for other programs.
    """
    if setting.mode in (GpuMode.NONE, GpuMode.SHARED):
        return ()
    if setting.mode is GpuMode.AUTO:
        return tuple(cards) if visible is None else visible_cards(cards, visible)
    by_index = {card.index: card for card in cards}
    for index in setting.indexes:
        if index not in by_index:
            found = f"those of this host are {', '.join(map(str, by_index))}" if by_index else "this host has no GPU"
            raise ValueError(f"there is no card {index}: {found}")
    return tuple(by_index[index] for index in sorted(setting.indexes))


def visible_cards(cards: Sequence[Card], text: str) -> tuple[Card, ...]:
    """Return the cards in a value of CUDA_VISIBLE_DEVICES: indexes, and UUIDs or their beginnings.

    As in CUDA, the first unknown element ends the list.
    """
    chosen: list[Card] = []
    for element in (part.strip() for part in text.split(",")):
        card = next((one for one in cards if _is_named(one, element)), None)
        if card is None:
            break
        chosen.append(card)
    return tuple(card for card in cards if card in chosen)


def is_of_type(card: Card, gpu_type: str) -> bool:
    """Return True if the card is of a type of the catalogue, as far as the names say.

    `NVIDIA_A100_SXM_80G` is `NVIDIA A100-SXM4-80GB`: each word of the type is one of the card's, and the memory fits.
    """
    words = _words(gpu_type)
    memory = [int(found[1]) for word in words if (found := _MEMORY.fullmatch(word))]
    fits = all(abs(card.memory_mib / 1024 / gb - 1) <= _MEMORY_TOLERANCE for gb in memory if gb)
    return fits and {word for word in words if not _MEMORY.fullmatch(word)} <= _words(card.name)


def described(cards: Sequence[Card]) -> str:
    """Return the cards in words: `3 × NVIDIA L4, 1 × NVIDIA L40S`."""
    return ", ".join(f"{count} × {name}" for name, count in Counter(card.name for card in cards).items())


def _is_named(card: Card, element: str) -> bool:
    if element.isascii() and element.isdecimal():
        return int(element) == card.index
    return element.startswith("GPU-") and card.uuid.startswith(element)


def _words(name: str) -> frozenset[str]:
    words = re.split(r"[^a-z0-9]+", name.lower())
    return frozenset("sxm" if re.fullmatch(r"sxm\d*", word) else word for word in words if word)


def _products(cards: Sequence[Card]) -> list[str]:
    return list(dict.fromkeys(card.name for card in cards))


def _other_type(resource: Resource, cards: Sequence[Card]) -> str:
    return f"this host has no {resource.gpu_type}: the worker runs with {described(cards)}"
