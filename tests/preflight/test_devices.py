"""GPUs are known by the names that people and CUDA give them."""

import pytest

from cogvx.errors import ConfigError
from cogvx.preflight.devices import COMMON, DEVICES, known_device, named_device


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("h100", "H100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100-80"),
        ("NVIDIA A100 80GB PCIe", "A100-80"),
        ("NVIDIA A100-PCIE-40GB", "A100-40"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("Tesla V100-SXM2-16GB", "V100-16"),
        ("Tesla T4", "T4"),
    ],
)
def test_a_gpu_is_known_by_its_name(name: str, known: str) -> None:
    assert named_device(name).name == known


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA A100-SXM4-80GB MIG 3g.40gb",
        "NVIDIA GeForce GTX 1080",
        "",
    ],
)
def test_a_lesser_card_is_not_taken_for_its_namesake(name: str) -> None:
    assert known_device(name) is None


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("A100", "A100-80 or A100-40"),
        ("V100", "V100-32 or V100-16"),
        ("RTX 3080", "RTX 3090"),
        ("H10", "H100"),
    ],
)
def test_an_unknown_name_is_answered_with_the_closest(name: str, use: str) -> None:
    with pytest.raises(ConfigError, match=f"--gpu = .*is no GPU that the table knows; use .*{use}"):
        named_device(name)


@pytest.mark.parametrize("name", ["", "x" * 100_000, "\x00", "H100\n" * 3 + "A100-40"])
def test_a_hostile_name_is_a_short_sentence(name: str) -> None:
    found = known_device(name)
    if found is None:
        with pytest.raises(ConfigError) as caught:
            named_device(name)
        assert len(str(caught.value)) < 500


def test_every_name_in_the_table_means_its_own_gpu() -> None:
    assert [named_device(device.name) for device in DEVICES] == list(DEVICES)
    assert {named_device(name).name for name in COMMON} == set(COMMON)


def test_what_a_gpu_cannot_multiply_has_no_peak() -> None:
    old, new = named_device("T4"), named_device("H100")
    assert old.peak_flops("bfloat16") is None
    assert old.peak_flops("float16") == 65e12
    assert new.peak_flops("bfloat16") == 989.4e12
    assert new.peak_flops("float32") is None  # nobody trains a large base so
