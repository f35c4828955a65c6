"""Writing the adapter file: the one form that every loader gives the trained strength.

alpha / rank is baked into B, so alpha equals rank: loaders that read the metadata and loaders that
do not both apply the file at 1.0. The unbaked weights stay in the checkpoints, for resuming.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import CogVideoXTransformer3DModel
from safetensors.torch import save
from torch import Tensor

from cogvx.adapters.card import ADAPTER_FILE, CARD_KEY, AdapterCard, read_card
from cogvx.adapters.container import with_metadata
from cogvx.adapters.layout import (
    DIFFUSERS_KEY,
    LORA_A,
    LORA_B,
    PREFIX,
    adapted_modules,
    diffusers_metadata,
)
from cogvx.digest import canonical_json
from cogvx.errors import IntegrityError
from cogvx.files import write_bytes
from cogvx.model.lora import lora_state

__all__ = ["ADAPTER_FILE", "bake", "export_adapter", "read_card"]

_SHOWN = 3


def export_adapter(
    transformer: CogVideoXTransformer3DModel,
    folder: Path,
    *,
    card: AdapterCard,
    allow_zero: bool = False,
) -> Path:
    """Write the LoRA of `transformer` as `folder`/ADAPTER_FILE, whole or not at all.

    The same weights and card give the same bytes, so exporting again is harmless. Tensors stay
    float32 whatever the base's precision: a loader casts to the precision it serves in, and fusing
    in float32 stays exact; the price is a file twice as long (504 MiB for 5b at rank 128).

    Args:
        transformer: The trained transformer with one adapter, not wrapped for distribution.
        folder: Made if need be.
        card: Its rank, alpha and targets must be those of the adapter.
        allow_zero: Accept an adapter that was never trained and changes nothing.

    Raises:
        IntegrityError: Tensors are missing, unexpected, of another rank, not finite, or all zero.

    Source: facts on diffusers' loader: `lora_adapter_metadata`, keys prefixed `transformer.`.
    """
    config = transformer.config
    modules = adapted_modules(config.num_layers, card.targets, patch_t=config.patch_size_t)
    raw = lora_state(transformer)
    problems = _problems(raw, modules, card.rank, allow_zero=allow_zero)
    if problems:
        raise IntegrityError(f"adapter {card.name} is not exported: " + "; ".join(problems))
    tensors = {PREFIX + name: tensor for name, tensor in bake(raw, card.scale).items()}
    metadata = {
        "format": "pt",
        DIFFUSERS_KEY: canonical_json(diffusers_metadata(card.rank, card.targets)).decode(),
        CARD_KEY: canonical_json(card).decode(),
    }
    path = folder / ADAPTER_FILE
    write_bytes(path, with_metadata(save(tensors), metadata))
    return path


def bake(raw: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Multiply every B with `scale`, in float32 on the CPU; every A stays as it is."""
    return {
        name: _plain(tensor) * scale if name.endswith(LORA_B) else _plain(tensor)
        for name, tensor in raw.items()
    }


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to(device="cpu", dtype=torch.float32).contiguous()


def _problems(
    raw: Mapping[str, Tensor], modules: tuple[str, ...], rank: int, *, allow_zero: bool
) -> list[str]:
    expected = {module + end for module in modules for end in (LORA_A, LORA_B)}
    problems = []
    if missing := sorted(expected - raw.keys()):
        problems.append(f"{len(missing)} of {len(expected)} tensors are missing: {_some(missing)}")
    if surplus := sorted(raw.keys() - expected):
        problems.append(f"{len(surplus)} tensors belong to no target: {_some(surplus)}")
    other = [name for name, tensor in raw.items() if _rank(name, tensor) != rank]
    if other:
        problems.append(f"{len(other)} tensors are not of rank {rank}: {_some(other)}")
    sums = {name: tensor.detach().double().abs().sum() for name, tensor in raw.items()}
    if broken := [name for name, total in sums.items() if not torch.isfinite(total)]:
        problems.append(f"{len(broken)} tensors are not finite: {_some(broken)}")
    effect = sum(float(total) for name, total in sums.items() if name.endswith(LORA_B))
    if effect == 0 and not allow_zero:
        problems.append("every B is zero, so the adapter has no effect; was it trained?")
    return problems


def _rank(name: str, tensor: Tensor) -> int:
    return tensor.shape[-1] if name.endswith(LORA_B) else tensor.shape[0]


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
