"""Which worker gets which GPU of a host."""

from dataclasses import replace

import pytest

from queue_engine.config.catalogue import load_catalogue
from queue_engine.domain.catalogue import Catalogue
from queue_engine.domain.endpoints import Resource
from queue_engine.domain.gpus import (
    Card,
    Decision,
    GpuMode,
    Gpus,
    GpuSetting,
    HandedOut,
    Refused,
    Waits,
    is_of_type,
    offered_cards,
    parse_gpu_setting,
    visible_cards,
)
from tests.recorded_gpus import FOUR_L4, MIXED, cards


def want(gpu_type: str = "NVIDIA_L4_24G", count: int = 1) -> Resource:
    return Resource("here", gpu_type, count)


def held(*indexes: int, of: tuple[Card, ...] = FOUR_L4) -> set[str]:
    return {of[index].uuid for index in indexes}


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("auto", GpuSetting(GpuMode.AUTO)),
        (" None ", GpuSetting(GpuMode.NONE)),
        ("shared", GpuSetting(GpuMode.SHARED)),
        ("0", GpuSetting(GpuMode.LISTED, (0,))),
        ("2, 0", GpuSetting(GpuMode.LISTED, (2, 0))),
    ],
)
def test_a_setting_is_a_word_or_a_list_of_cards(text: str, setting: GpuSetting) -> None:
    assert parse_gpu_setting(text) == setting


@pytest.mark.parametrize("text", ["", "all", "0,", "-1", "0;1", "1.5", "0,0", "²", "listed", "1000000"])
def test_another_setting_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_gpu_setting(text)


def test_a_listed_card_that_does_not_exist_is_named() -> None:
    setting = GpuSetting(GpuMode.LISTED, (3, 1))
    assert [card.index for card in offered_cards(setting, FOUR_L4)] == [1, 3]
    with pytest.raises(ValueError, match=r"there is no card 3: those of this host are 0, 1"):
        offered_cards(setting, FOUR_L4[:2])
    with pytest.raises(ValueError, match="this host has no GPU"):
        offered_cards(setting, ())


def test_the_controllers_own_variable_limits_auto() -> None:
    automatic, listed = GpuSetting(GpuMode.AUTO), GpuSetting(GpuMode.LISTED, (0,))
    assert offered_cards(automatic, FOUR_L4) == FOUR_L4
    assert offered_cards(automatic, FOUR_L4, "2") == (FOUR_L4[2],)
    assert offered_cards(listed, FOUR_L4, "2") == (FOUR_L4[0],)
    assert offered_cards(GpuSetting(GpuMode.NONE), FOUR_L4) == ()
    assert offered_cards(GpuSetting(GpuMode.SHARED), FOUR_L4) == ()


@pytest.mark.parametrize(
    ("text", "indexes"),
    [("", []), ("3,1", [1, 3]), ("GPU-00000002", [2]), ("0,9,1", [0]), ("-1", []), ("NoDevFiles", [])],
)
def test_visible_cards_are_read_as_cuda_does(text: str, indexes: list[int]) -> None:
    assert [card.index for card in visible_cards(FOUR_L4, text)] == indexes


TYPES = [
    ("NVIDIA_RTX_4090_24G", "NVIDIA GeForce RTX 4090", 24564),
    ("NVIDIA_RTX_5090_32G", "NVIDIA GeForce RTX 5090", 32607),
    ("NVIDIA_H100_80G", "NVIDIA H100 80GB HBM3", 81559),
    ("NVIDIA_H100_80G", "NVIDIA H100 PCIe", 81559),
    ("NVIDIA_A100_PCIe_80G", "NVIDIA A100 80GB PCIe", 81920),
    ("NVIDIA_A100_SXM_80G", "NVIDIA A100-SXM4-80GB", 81920),
    ("NVIDIA_RTX_A6000", "NVIDIA RTX A6000", 46068),
    ("NVIDIA_RTX_6000_ADA_48G", "NVIDIA RTX 6000 Ada Generation", 49140),
    ("NVIDIA_RTX_PRO_6000_96G", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 97887),
    ("NVIDIA_L4_24G", "NVIDIA L4", 23034),
    ("NVIDIA_L40S_48G", "NVIDIA L40S", 46068),
    ("NVIDIA_H200_141G", "NVIDIA H200", 143771),
    ("NVIDIA_B200_180G", "NVIDIA B200", 183359),
]


def test_each_type_of_the_catalogue_is_found_by_the_name_that_its_cards_report() -> None:
    assert {gpu_type for gpu_type, _, _ in TYPES} == set(load_catalogue(None).names) - {"CPU"}
    for gpu_type, _, _ in TYPES:
        for other, name, mib in TYPES:
            assert is_of_type(Card(0, "GPU-0", name, mib), gpu_type) == (gpu_type == other), (gpu_type, name)


def test_a_card_with_less_memory_is_of_another_type() -> None:
    assert not is_of_type(Card(0, "GPU-0", "NVIDIA A100-SXM4-40GB", 40960), "NVIDIA_A100_SXM_80G")


@pytest.mark.parametrize(
    ("resource", "taken", "decision"),
    [
        (want(), held(), HandedOut((FOUR_L4[0],))),
        (want(count=2), held(0, 2), HandedOut((FOUR_L4[1], FOUR_L4[3]))),
        (want(count=2), held(0, 1, 2), Waits("waits for 2 × NVIDIA L4: 1 of 4 free")),
        (want(count=5), held(), Refused("resources: gpuCount is 5, but this host has 4 × NVIDIA L4")),
        (want("CPU", 64), held(0, 1, 2, 3), HandedOut()),
        (
            want("NVIDIA_H100_80G"),
            held(0),
            HandedOut((FOUR_L4[1],), "this host has no NVIDIA_H100_80G: the worker runs with 1 × NVIDIA L4"),
        ),
    ],
)
def test_a_worker_gets_free_cards_or_waits_for_them(resource: Resource, taken: set[str], decision: Decision) -> None:
    assert Gpus(FOUR_L4).hand_out([resource], taken) == decision


def test_on_a_host_with_several_products_only_cards_of_the_type_are_handed_out() -> None:
    gpus = Gpus(MIXED)
    assert gpus.hand_out([want("NVIDIA_L40S_48G")], ()) == HandedOut((MIXED[1],))
    assert gpus.hand_out([want(count=2)], ()) == HandedOut((MIXED[0], MIXED[2]))
    assert gpus.hand_out([want(count=2)], held(0, of=MIXED)) == Waits("waits for 2 × NVIDIA L4: 1 of 2 free")
    assert gpus.hand_out([want(count=3)], ()) == Refused("resources: gpuCount is 3, but this host has 2 × NVIDIA L4")


def test_the_first_resource_with_free_cards_counts() -> None:
    choices = [want("NVIDIA_L40S_48G"), want("NVIDIA_A100_SXM_80G"), want()]
    assert Gpus(MIXED).hand_out(choices, held(1, of=MIXED)) == HandedOut((MIXED[3],))
    busy = held(0, 1, 2, 3, of=MIXED)
    assert Gpus(MIXED).hand_out([want(count=9), *choices], busy) == Waits("waits for 1 × NVIDIA L40S: 0 of 1 free")


def test_a_host_without_gpus_lets_workers_run_and_says_so() -> None:
    alone = Gpus()
    note = "this host has no GPU: the worker runs without the 2 × NVIDIA_L4_24G of its endpoint"
    assert alone.hand_out([want(count=2)], ()) == HandedOut((), note)
    assert not alone.are_assigned
    hidden = Gpus(mode=GpuMode.NONE)
    assert hidden.are_assigned
    assert "no GPU is handed out here" in _note(hidden)
    assert "cannot be listed" in _note(replace(alone, problem="the GPUs of this host cannot be listed (driver)"))


def _note(gpus: Gpus) -> str:
    decision = gpus.hand_out([want()], ())
    assert isinstance(decision, HandedOut)
    return decision.note


def test_shared_gpus_are_never_assigned() -> None:
    shared = Gpus(mode=GpuMode.SHARED)
    assert shared.hand_out([want(count=99)], ()) == HandedOut()
    assert not shared.are_assigned


def test_the_catalogue_marks_the_types_without_a_gpu() -> None:
    extra = Catalogue.parse('[[gpu]]\nname = "CPU_LARGE"\ncpu = true\n[[gpu]]\nname = "cpu"\nprice_per_hour = 1')
    types = load_catalogue(None).extended_by(extra).cpu_types
    assert types == {"CPU_LARGE", "cpu"}
    gpus = Gpus(cards(("NVIDIA L4", 23034)), cpu_types=types)
    assert gpus.hand_out([want("CPU_LARGE", 3)], ()) == HandedOut()
