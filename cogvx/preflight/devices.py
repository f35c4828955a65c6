"""GPUs by name: how fast they multiply, how much memory they have, which numbers they know.

Speeds are those of dense matrix products in bfloat16, or float16 where there is no bfloat16, with
sums in float32; data sheets often print twice as much, for matrices of which half is zero. Memory
is what the driver lists in all.

Source: NVIDIA's data sheets of each card; the GA102, Ada and Blackwell whitepapers for GeForce.
"""

import difflib
import re
from dataclasses import dataclass

from cogvx.errors import ConfigError, Problem
from cogvx.variants import DType

# Cards that share another's name and not its numbers.
_LESSER = frozenset({"laptop", "max", "mig", "mobile", "d", "ti", "super"})


@dataclass(frozen=True)
class Device:
    """One kind of GPU.

    Attributes:
        name: As a person says it.
        tflops: Peak of dense half-precision matrix products, in 10^12 a second.
        gib: Memory in all.
        bfloat16: Whether it multiplies bfloat16.
        float8: Whether compiled kernels may read 8-bit floats; storing them, any GPU can.
    """

    name: str
    tflops: float
    gib: float
    bfloat16: bool = True
    float8: bool = False

    @property
    def words(self) -> frozenset[str]:
        """What a name must have in it to mean this one."""
        return _words(self.name)

    def peak_flops(self, dtype: DType) -> float | None:
        """Arithmetic a second in a precision; None where it has none, or none worth training in."""
        if dtype == "float32" or (dtype == "bfloat16" and not self.bfloat16):
            return None
        return self.tflops * 1e12


DEVICES = (
    Device("B200", 2250.0, 179.0, float8=True),
    Device("H200", 989.4, 140.4, float8=True),
    Device("H100", 989.4, 79.6, float8=True),
    Device("H100 PCIe", 756.0, 79.6, float8=True),
    Device("H100 NVL", 835.0, 93.6, float8=True),
    Device("A100-80", 312.0, 80.0),
    Device("A100-40", 312.0, 40.0),
    Device("L40S", 362.1, 45.0, float8=True),
    Device("L40", 181.0, 45.0, float8=True),
    Device("RTX 6000 Ada", 364.2, 48.0, float8=True),
    Device("A40", 149.7, 45.0),
    Device("RTX A6000", 154.8, 48.0),
    Device("RTX 5090", 209.5, 31.8, float8=True),
    Device("RTX 4090", 165.2, 24.0, float8=True),
    Device("RTX 3090", 71.0, 24.0),
    Device("A30", 165.0, 24.0),
    Device("A10", 125.0, 22.5),
    Device("A10G", 70.0, 22.5),
    Device("L4", 121.0, 22.5, float8=True),
    Device("V100-32", 125.0, 31.7, bfloat16=False),
    Device("V100-16", 125.0, 15.8, bfloat16=False),
    Device("T4", 65.0, 15.0, bfloat16=False),
)
COMMON = ("H200", "H100", "A100-80", "A100-40", "L40S", "RTX 4090", "RTX 3090", "L4", "T4")
"""Those that are compared when no one is named."""


def named_device(name: str, *, where: str = "--gpu") -> Device:
    """The GPU that a person means.

    Args:
        name: Such as H100, a100-80 or "RTX 4090".
        where: Where the name stands, for the sentence.

    Raises:
        ConfigError: The table has no such GPU, or several.
    """
    device = known_device(name)
    if device is not None:
        return device
    names = [device.name for device in DEVICES]
    of_family = [known.name for known in DEVICES if _words(name) and _words(name) <= known.words]
    closest = of_family or [
        names[[known.lower() for known in names].index(match)]
        for match in difflib.get_close_matches(
            name.lower()[:64], [known.lower() for known in names], n=3, cutoff=0.3
        )
    ]
    use = f"use {' or '.join(closest or names)}"
    wrong = "is no GPU that the table knows"
    raise ConfigError("GPU", [Problem(where, name[:64], wrong, use)])


def known_device(name: str) -> Device | None:
    """The GPU of a name that a person, or CUDA itself, gives it: "NVIDIA A100-SXM4-80GB"."""
    words = _words(name)
    fitting = [
        device
        for device in DEVICES
        if device.words <= words and not (words - device.words) & _LESSER
    ]
    return max(fitting, key=lambda device: len(device.words), default=None)


def _words(name: str) -> frozenset[str]:
    """The words that tell GPUs apart: 80GB is 80, and RTX says nothing."""
    plain = re.sub(r"(\d)\s*gi?b\b", r"\1", name.lower())
    plain = re.sub(r"\b(rtx|geforce|nvidia|tesla|quadro)", " ", plain)
    return frozenset(re.findall(r"[a-z]+\d*[a-z]*|\d+", plain))
