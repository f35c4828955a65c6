"""An adapter in memory: for each linear layer the two matrices whose product is added to it.

Whatever a file calls its tensors and however it keeps alpha, this is what comes out of reading it
and what goes into writing it: float32 on the CPU, at strength 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cogvx.adapters.container import REAL_NUMBERS, Header, TensorInfo, read_header
from cogvx.adapters.layout import DIFFUSERS_KEY, LORA_A, LORA_B, PREFIX, loaded_alpha
from cogvx.errors import IntegrityError

MAX_RANK = 4096
"""Above the width of any CogVideoX; what is made of a pair takes memory with its rank squared."""


@dataclass(frozen=True)
class LoraPair:
    """One layer's share: `W + B A` is the adapted weight at strength 1.

    Attributes:
        a_ri: `(rank, inputs)`, float32 on the CPU.
        b_or: `(outputs, rank)`, float32 on the CPU, alpha / rank multiplied into it.
    """

    a_ri: Tensor
    b_or: Tensor

    @property
    def rank(self) -> int:
        """Rows of A and columns of B."""
        return self.a_ri.shape[0]

    @property
    def is_finite(self) -> bool:
        """Whether every number is one."""
        return bool(self.a_ri.isfinite().all()) and bool(self.b_or.isfinite().all())


Pairs = Mapping[str, LoraPair]
"""By the module's full name inside the transformer, such as transformer_blocks.0.attn1.to_q."""


def stacked(parts: Sequence[tuple[float, LoraPair]]) -> LoraPair:
    """`sum of w B A` as one pair: the B side by side, each times its weight, and the A in a pile.

    So ranks add up, and nothing is lost but the rounding of `w B` in float32.

    Args:
        parts: At least one, all of the same outputs and inputs.
    """
    return LoraPair(
        a_ri=torch.cat([pair.a_ri for _, pair in parts], dim=0),
        b_or=torch.cat([weight * pair.b_or for weight, pair in parts], dim=1),
    )


def fused_weight(weight_oi: Tensor, parts: Sequence[tuple[float, LoraPair]]) -> Tensor:
    """`W + sum of w B A`, in float32 on the CPU and rounded once to W's own precision.

    On the CPU whatever the weight's device, so that the same adapters give the same bits on every
    machine; 42 layers of 5b take seconds.

    Args:
        weight_oi: `(outputs, inputs)`, on the CPU.
        parts: At least one.
    """
    pair = stacked(parts)
    return torch.addmm(weight_oi.float(), pair.b_or, pair.a_ri).to(weight_oi.dtype)


def read_pairs(path: Path) -> dict[str, LoraPair]:
    """Read a file in diffusers' form, as it acts when diffusers loads it at 1.

    Raises:
        IntegrityError: The file is damaged, not in that form, says nothing of its alpha, or holds
            one of two matrices, or numbers that are not finite.
    """
    header = read_header(path)
    names = _names(path, header)
    if DIFFUSERS_KEY not in header.metadata:
        raise IntegrityError(
            f"{path} does not record its alpha, so nobody can tell how strong it was trained; "
            "convert it first, saying the alpha: cogvx adapter convert"
        )
    pairs = {}
    try:
        with safe_open(path, framework="pt") as opened:
            for module, (first, second) in names.items():
                rank = _rank(path, module, header.tensors[first], header.tensors[second])
                scale = _scale(path, header, rank)
                a_ri, b_or = opened.get_tensor(first).float(), opened.get_tensor(second).float()
                pairs[module] = LoraPair(a_ri, b_or * scale)
    except (SafetensorError, RuntimeError) as error:
        raise IntegrityError(f"{path} cannot be read: {error}") from error
    broken = [name for name, pair in pairs.items() if not pair.is_finite]
    if broken:
        raise IntegrityError(f"{path}: {len(broken)} layers are not finite, such as {broken[0]}")
    return pairs


def _scale(path: Path, header: Header, rank: int) -> float:
    try:
        return loaded_alpha(header.metadata, rank) / rank
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error}; convert it: cogvx adapter convert") from error


def _names(path: Path, header: Header) -> dict[str, tuple[str, str]]:
    """Names of A and B by module.

    Raises:
        IntegrityError: A tensor is of another form, or has no partner.
    """
    found = {}
    for name in header.tensors:
        module = name.removesuffix(LORA_A).removesuffix(LORA_B)
        if module == name or not name.startswith(PREFIX):
            raise IntegrityError(
                f"{path} is not in diffusers' form: it holds {name}; convert it first: "
                "cogvx adapter convert"
            )
        first, second = module + LORA_A, module + LORA_B
        if first not in header.tensors or second not in header.tensors:
            raise IntegrityError(f"{path} holds one of two matrices of {module}")
        found[module.removeprefix(PREFIX)] = (first, second)
    if not found:
        raise IntegrityError(f"{path} holds no adapter")
    return found


def _rank(path: Path, module: str, first: TensorInfo, second: TensorInfo) -> int:
    """The rank of a pair.

    Raises:
        IntegrityError: The two are not matrices that can be multiplied, or not of real numbers.
    """
    shapes = f"A is {first.shape} and B is {second.shape}"
    if not len(first.shape) == len(second.shape) == 2 or first.shape[0] != second.shape[1]:
        raise IntegrityError(f"{path}: {shapes} for {module}, whose ranks must agree")
    if 0 in (*first.shape, *second.shape):
        raise IntegrityError(f"{path}: {shapes} for {module}, which is nothing")
    if first.shape[0] > MAX_RANK:
        raise IntegrityError(f"{path}: {module} is of rank {first.shape[0]}, above {MAX_RANK}")
    if other := {first.dtype, second.dtype} - REAL_NUMBERS:
        raise IntegrityError(f"{path}: {module} is of {min(other)}, which no adapter is")
    return first.shape[0]
