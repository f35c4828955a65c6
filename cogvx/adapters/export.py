"""From the trained transformer to the adapter file.

alpha / rank is baked into B. The unbaked weights stay in the checkpoints, for resuming.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor

from cogvx.adapters.card import ADAPTER_FILE, AdapterCard, read_card
from cogvx.adapters.layout import LORA_A, LORA_B, adapted_modules
from cogvx.adapters.weights import LoraPair
from cogvx.adapters.write import write_adapter
from cogvx.model.lora import lora_state

__all__ = ["ADAPTER_FILE", "bake", "export_adapter", "read_card"]


def export_adapter(
    transformer: CogVideoXTransformer3DModel,
    folder: Path,
    *,
    card: AdapterCard,
    allow_zero: bool = False,
) -> Path:
    """Write the LoRA of `transformer` as `folder`/ADAPTER_FILE, whole or not at all.

    The same weights and card give the same bytes, so exporting again is harmless.

    Args:
        transformer: The trained transformer with one adapter, not wrapped for distribution.
        folder: Made if need be.
        card: Its rank, alpha and targets must be those of the adapter.
        allow_zero: Accept an adapter that was never trained and changes nothing.

    Raises:
        IntegrityError: Layers are missing, unexpected, of another rank, not finite, or all zero.
    """
    config = transformer.config
    modules = adapted_modules(config.num_layers, card.targets, patch_t=config.patch_size_t)
    baked = bake(lora_state(transformer), card.scale)
    adapted = [name.removesuffix(LORA_A) for name in baked if name.endswith(LORA_A)]
    pairs = {name: LoraPair(baked[name + LORA_A], baked[name + LORA_B]) for name in adapted}
    return write_adapter(pairs, folder, card=card, modules=modules, allow_zero=allow_zero)


def bake(raw: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Multiply every B with `scale`, in float32 on the CPU; every A stays as it is."""
    return {
        name: _plain(tensor) * scale if name.endswith(LORA_B) else _plain(tensor)
        for name, tensor in raw.items()
    }


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to(device="cpu", dtype=torch.float32).contiguous()
