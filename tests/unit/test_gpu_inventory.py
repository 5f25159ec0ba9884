"""The inventory of NVIDIA's management library, with a library that reports a recorded host."""

import importlib
from types import ModuleType, SimpleNamespace

import pytest

from queue_engine.backends.gpus import InventoryError, NvmlInventory, host_gpus
from queue_engine.domain.gpus import Card, GpuMode, GpuSetting
from tests.recorded_gpus import FOUR_L4, RecordedInventory

CPU = frozenset({"CPU"})


class _Error(Exception):
    pass


class _LibraryNotFound(_Error):
    pass


class _DriverNotLoaded(_Error):
    pass


def library(*, failure: Exception | None = None, broken: int | None = None) -> ModuleType:
    """The functions of `pynvml` that the inventory calls. `broken` is a card that does not respond."""

    def init() -> None:
        if failure is not None:
            raise failure
        module.is_open = True  # type: ignore[attr-defined]

    def shutdown() -> None:
        module.is_open = False  # type: ignore[attr-defined]

    def handle_of(index: int) -> Card:
        if index == broken:
            raise _Error("GPU is lost")
        return FOUR_L4[index]

    def memory_of(handle: Card) -> SimpleNamespace:
        return SimpleNamespace(total=handle.memory_mib * 2**20)

    module = ModuleType("pynvml")
    vars(module).update(
        NVMLError=_Error,
        NVMLError_LibraryNotFound=_LibraryNotFound,
        NVMLError_DriverNotLoaded=_DriverNotLoaded,
        nvmlInit=init,
        nvmlShutdown=shutdown,
        nvmlDeviceGetCount=lambda: len(FOUR_L4),
        nvmlDeviceGetHandleByIndex=handle_of,
        nvmlDeviceGetUUID=lambda handle: handle.uuid,
        nvmlDeviceGetName=lambda handle: handle.name,
        nvmlDeviceGetMemoryInfo=memory_of,
    )
    return module


def test_cards_are_listed_and_the_library_is_closed() -> None:
    nvml = library()
    assert NvmlInventory(nvml).cards() == FOUR_L4
    assert not nvml.is_open


@pytest.mark.parametrize("failure", [_LibraryNotFound(), _DriverNotLoaded()])
def test_a_host_without_library_or_driver_has_no_cards(failure: Exception) -> None:
    assert NvmlInventory(library(failure=failure)).cards() == ()


def test_a_lost_card_is_left_out_and_the_others_keep_their_numbers() -> None:
    assert [card.index for card in NvmlInventory(library(broken=1)).cards()] == [0, 2, 3]


def test_the_installed_library_has_what_the_recorded_one_has() -> None:
    installed = importlib.import_module("pynvml")
    assert [name for name in vars(library()) if not name.startswith("_") and not hasattr(installed, name)] == []
    assert issubclass(installed.NVMLError_LibraryNotFound, installed.NVMLError)


async def test_the_setting_chooses_the_cards_of_the_host() -> None:
    async def chosen(setting: GpuSetting, visible: str | None = None) -> list[int]:
        gpus = await host_gpus(setting, RecordedInventory(*FOUR_L4), cpu_types=CPU, visible=visible)
        return [card.index for card in gpus.cards]

    assert await chosen(GpuSetting(GpuMode.AUTO)) == [0, 1, 2, 3]
    assert await chosen(GpuSetting(GpuMode.AUTO), "1,2") == [1, 2]
    assert await chosen(GpuSetting(GpuMode.LISTED, (0, 2))) == [0, 2]
    assert await chosen(GpuSetting(GpuMode.NONE)) == []
    assert await chosen(GpuSetting(GpuMode.SHARED)) == []


async def test_a_driver_that_fails_is_a_reason_and_an_error_for_listed_cards() -> None:
    broken = NvmlInventory(library(failure=_Error("Driver/library version mismatch")))
    with pytest.raises(InventoryError, match="version mismatch"):
        broken.cards()
    gpus = await host_gpus(GpuSetting(GpuMode.AUTO), broken, cpu_types=CPU, visible=None)
    assert gpus.cards == ()
    assert gpus.problem == "the GPUs of this host cannot be listed (Driver/library version mismatch)"
    with pytest.raises(ValueError, match="version mismatch"):
        await host_gpus(GpuSetting(GpuMode.LISTED, (0,)), broken, cpu_types=CPU, visible=None)
