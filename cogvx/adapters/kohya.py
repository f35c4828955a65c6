"""Kohya's names, which VideoX-Fun and loaders of ComfyUI use: a module's dots become underscores.

`lora_unet__transformer_blocks_0_attn1_to_q.lora_down.weight` is A of that module, `.lora_up.weight`
its B, and `.alpha` a number; where it stands, a loader multiplies with alpha over rank, where it
does not, with 1. What is written here has alpha equal to the rank, so that both give the same.

Source: VideoX-Fun's `lora_utils.py`; kohya-ss sd-scripts, which the names come from.
"""

from collections.abc import Iterable

import torch
from safetensors.torch import save

from cogvx.adapters.card import CARD_KEY, AdapterCard
from cogvx.adapters.container import with_metadata
from cogvx.adapters.layout import KOHYA_PREFIXES
from cogvx.adapters.weights import Pairs
from cogvx.adapters.write import padded
from cogvx.digest import canonical_json

KOHYA_FILE = "lora_kohya.safetensors"
"""What is written for such loaders; diffusers would look for another name."""

DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"


def kohya_stem(module: str) -> str:
    """A module's name as kohya writes it, after the prefix."""
    return module.replace(".", "_")


def kohya_prefix(names: Iterable[str]) -> str | None:
    """The prefix under which a file names blocks of the transformer; None when it does not."""
    for name in names:
        for prefix in KOHYA_PREFIXES:
            if name.startswith(f"{prefix}transformer_blocks_"):
                return prefix
    return None


def packed_kohya(pairs: Pairs, *, card: AdapterCard) -> bytes:
    """Pairs at strength 1 as such a file, every alpha equal to the card's rank.

    The trained rank and alpha stand in the card that goes with it.
    """
    tensors = {}
    for module, pair in padded(pairs, card.rank).items():
        stem = KOHYA_PREFIXES[0] + kohya_stem(module)
        tensors[stem + DOWN] = pair.a_ri
        tensors[stem + UP] = pair.b_or
        tensors[stem + ALPHA] = torch.tensor(float(card.rank))
    metadata = {"format": "pt", CARD_KEY: canonical_json(card).decode()}
    return with_metadata(save(tensors), metadata)
