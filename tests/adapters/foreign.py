"""Adapters as other programs write them, each spelled out here by that program's own naming.

The truth is kept beside every one: what it adds to the weights, in NumPy and float64.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from cogvx.variants import BaseFacts

RANK, ALPHA = 6, 3.0
PARTS = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class Trained:
    """Matrices by layer and part, as training left them, and the scale they were trained at."""

    matrices: Mapping[tuple[int, str], tuple[Tensor, Tensor]]
    scale: float

    def deltas(self) -> dict[str, np.ndarray]:
        """scale x B A by the module's full name."""
        return {
            f"transformer_blocks.{layer}.attn1.{part}": self.scale
            * (b_or.double().numpy() @ a_ri.double().numpy())
            for (layer, part), (a_ri, b_or) in self.matrices.items()
        }


def matrices(
    facts: BaseFacts, *, rank: int = RANK, dtype: torch.dtype = torch.float32, seed: int = 0
) -> dict[tuple[int, str], tuple[Tensor, Tensor]]:
    """A and B for the four usual parts of every layer."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    return {
        (layer, part): (drawn(rank, facts.width), drawn(facts.width, rank))
        for layer in range(facts.layers)
        for part in PARTS
    }


def sat_state(trained: Trained, *, prefix: str = "model.diffusion_model.") -> dict[str, Tensor]:
    """As CogVideo's SAT trainer names them: query, key and value share a layer."""
    places = {
        "to_q": ("query_key_value", 0),
        "to_k": ("query_key_value", 1),
        "to_v": ("query_key_value", 2),
        "to_out.0": ("dense", 0),
    }
    state = {}
    for (layer, part), (a_ri, b_or) in trained.matrices.items():
        module, number = places[part]
        stem = f"{prefix}transformer.layers.{layer}.attention.{module}"
        state[f"{stem}.matrix_A.{number}"] = a_ri
        state[f"{stem}.matrix_B.{number}"] = b_or
    return state


def kohya_state(trained: Trained, *, alpha: float | None) -> dict[str, Tensor]:
    """As VideoX-Fun names them; alpha is a tensor beside each pair, or nowhere."""
    state = {}
    for (layer, part), (a_ri, b_or) in trained.matrices.items():
        stem = f"lora_unet__transformer_blocks_{layer}_attn1_{part.replace('.', '_')}"
        state[f"{stem}.lora_down.weight"] = a_ri
        state[f"{stem}.lora_up.weight"] = b_or
        if alpha is not None:
            state[f"{stem}.alpha"] = torch.tensor(alpha)
    return state


def peft_state(trained: Trained, *, prefix: str = "", adapter: str = "") -> dict[str, Tensor]:
    """As peft names them: `transformer.` before them is diffusers' own."""
    state = {}
    for (layer, part), (a_ri, b_or) in trained.matrices.items():
        stem = f"{prefix}transformer_blocks.{layer}.attn1.{part}"
        state[f"{stem}.lora_A{adapter}.weight"] = a_ri
        state[f"{stem}.lora_B{adapter}.weight"] = b_or
    return state


def written(
    folder: Path,
    state: Mapping[str, Tensor],
    *,
    name: str = "pytorch_lora_weights.safetensors",
    metadata: Mapping[str, str] | None = None,
    config: Mapping[str, object] | None = None,
) -> Path:
    """A safetensors file, with peft's configuration beside it if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(state), folder / name, metadata=dict(metadata or {"format": "pt"}))
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder / name
