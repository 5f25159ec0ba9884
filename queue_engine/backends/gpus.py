"""List the GPUs of this host: a narrow inventory, and NVIDIA's library as its implementation."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import ModuleType
from typing import Protocol

from queue_engine.domain.gpus import Card, GpuMode, Gpus, GpuSetting, described, offered_cards

log = logging.getLogger(__name__)


_TRACES_OF_A_DRIVER = (Path("/proc/driver/nvidia"), Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""Without any of them there is no driver, so that the library need not be loaded. The last one is of Windows' WSL."""


class InventoryError(Exception):
    """The host has GPUs that cannot be listed. The message is the reason."""


class Inventory(Protocol):
    """The GPUs of a host."""

    def cards(self) -> tuple[Card, ...]:
        """Return the cards, none on a host without GPUs. May take seconds. Raises InventoryError."""
        ...


class NvmlInventory:
    """NVIDIA's GPUs, as its management library lists them. A host without library or driver has none.

    `library` is the module `pynvml` of the package `nvidia-ml-py`. None: load it when it is needed.
    """

    def __init__(self, library: ModuleType | None = None) -> None:
        self._library = library

    def cards(self) -> tuple[Card, ...]:
        if self._library is None and not any(path.exists() for path in _TRACES_OF_A_DRIVER):
            return ()
        nvml = self._library or _loaded()
        try:
            nvml.nvmlInit()
        except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded):
            return ()
        except nvml.NVMLError as error:
            raise InventoryError(str(error)) from None
        try:
            found = [_card(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
        except nvml.NVMLError as error:
            raise InventoryError(str(error)) from None
        finally:
            nvml.nvmlShutdown()
        return tuple(card for card in found if card is not None)


async def host_gpus(
    setting: GpuSetting, inventory: Inventory, *, cpu_types: frozenset[str], visible: str | None
) -> Gpus:
    """Return the cards that this host hands out, and log them. Raises ValueError for a card that does not exist.

    `visible` is the controller's own CUDA_VISIBLE_DEVICES, or None.
    """
    cards: tuple[Card, ...] = ()
    problem = ""
    if setting.mode in (GpuMode.AUTO, GpuMode.LISTED):
        try:
            cards = await asyncio.to_thread(inventory.cards)
        except InventoryError as error:
            problem = f"the GPUs of this host cannot be listed ({error})"
            log.warning(problem)
            if setting.mode is GpuMode.LISTED:
                raise ValueError(problem) from None
    gpus = Gpus(offered_cards(setting, cards, visible), setting.mode, cpu_types, problem)
    if gpus.cards:
        log.info("GPUs are handed out to one worker each", extra={"gpus": described(gpus.cards), "of_host": len(cards)})
    return gpus


def _loaded() -> ModuleType:
    import pynvml  # here, because only hosts with a driver need it

    module: ModuleType = pynvml
    return module


def _card(nvml: ModuleType, index: int) -> Card | None:
    """Return the card, or None if it has fallen off the bus: the others stay usable."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid, name = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
        return Card(index, uuid, name, nvml.nvmlDeviceGetMemoryInfo(handle).total // 2**20)
    except nvml.NVMLError as error:
        log.warning("GPU %d is left out: %s", index, error)
        return None
