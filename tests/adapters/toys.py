"""Toy adapters for the tests of this room and of the registry: real classes, a few layers wide."""

from pathlib import Path

import torch
from diffusers import CogVideoXTransformer3DModel

from cogvx.adapters.card import AdapterCard, library_versions
from cogvx.adapters.export import export_adapter
from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.model.load import load_transformer
from cogvx.model.lora import attach_lora
from cogvx.recipe_sections import DEFAULT_TARGETS, LoraConfig
from cogvx.variants import DType


def toy_card(
    *, run: str = "run-1", rank: int = 8, alpha: int = 4, **changes: object
) -> AdapterCard:
    """A card with plausible lineage."""
    fields = {
        "name": "toy",
        "run": run,
        "rank": rank,
        "alpha": alpha,
        "targets": DEFAULT_TARGETS,
        "base_path": "base",
        "base_fingerprint": "f" * 64,
        "base_dtype": "float32",
        "recipe": "c" * 64,
        "manifest": "d" * 64,
        "steps": 7,
        "libraries": library_versions(),
    }
    return AdapterCard.model_validate({**fields, **changes})


def trained(
    base: Path, *, rank: int = 8, alpha: int = 4, seed: int = 1, dtype: DType = "float32"
) -> CogVideoXTransformer3DModel:
    """The base's transformer with an adapter whose B is not zero any more."""
    transformer = load_transformer(base, dtype=dtype)
    lora = LoraConfig(rank=rank, alpha=alpha, allow_unusual=True)
    attach_lora(transformer, lora, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return transformer


def toy_adapter(base: Path, folder: Path, *, run: str = "run-1", seed: int = 1) -> Path:
    """An exported adapter file at alpha = rank // 2."""
    card = toy_card(run=run, base_fingerprint=fingerprint(base, BASE_PARTS))
    return export_adapter(trained(base, seed=seed), folder, card=card)
