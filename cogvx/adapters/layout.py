"""Names inside an adapter: which modules its targets select, and how its tensors are called."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cogvx.errors import IntegrityError
from cogvx.variants import (
    BLOCK_LINEARS,
    BLOCK_OTHERS,
    OTHER_LINEARS,
    OTHER_OTHERS,
    PATCH_PROJECTION,
)

PREFIX = "transformer."
KOHYA_PREFIXES = ("lora_unet__", "lora_unet_", "lora_transformer__", "lora_transformer_")
TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
LORA_A = ".lora_A.weight"
LORA_B = ".lora_B.weight"
DIFFUSERS_KEY = "lora_adapter_metadata"

AdapterForm = Literal["diffusers", "unprefixed", "kohya", "sat", "unknown"]
"""Whose names a file gives its tensors; only diffusers' load into a pipeline."""

PEFT_ALPHA = 8  # what peft takes when the metadata leaves alpha out
_OTHER_STRENGTHS = (
    *("use_rslora", "use_dora", "use_qalora"),
    *("alpha_pattern", "lora_bias", "fan_in_fan_out"),
)
_MAX_ALPHA = 1_000_000
_SHOWN = 24


def adapted_modules(layers: int, targets: Sequence[str], *, patch_t: int | None) -> tuple[str, ...]:
    """Linear layers of a CogVideoX transformer that `targets` select, in the model's order.

    A target selects by the end of a name, at a dot, as peft does. With the usual four targets these
    are 120 modules at 30 layers and 168 at 42.
    """
    names = linear_modules(layers, patch_t=patch_t)
    return tuple(name for name in names if any(_selects(target, name) for target in targets))


def target_fault(target: str, *, layers: int, patch_t: int | None) -> str | None:
    """Why a target cannot be adapted, or None: it must select linear layers and nothing else.

    peft looks at all modules, so "2" means the third block as well as a linear layer in each.

    Returns:
        How the target is wrong, to go on after its value.
    """
    others = [name for name in _other_modules(layers, patch_t=patch_t) if _selects(target, name)]
    if others:
        return f"matches {others[0]}, which is no linear layer"
    if not adapted_modules(layers, (target,), patch_t=patch_t):
        return "matches no module"
    return None


def linear_modules(layers: int, *, patch_t: int | None) -> tuple[str, ...]:
    """Full names of a text-to-video transformer's linear layers, in the model's order by kind."""
    first = () if patch_t is None else (PATCH_PROJECTION,)
    return (*_in_blocks(layers, BLOCK_LINEARS), *first, *OTHER_LINEARS)


def _other_modules(layers: int, *, patch_t: int | None) -> tuple[str, ...]:
    first = (PATCH_PROJECTION,) if patch_t is None else ()
    return (*first, *OTHER_OTHERS, *_in_blocks(layers, BLOCK_OTHERS))


def _in_blocks(layers: int, ends: Sequence[str]) -> list[str]:
    return [
        f"transformer_blocks.{layer}.{end}".removesuffix(".")
        for layer in range(layers)
        for end in ends
    ]


def _selects(target: str, name: str) -> bool:
    return name == target or name.endswith(f".{target}")


def diffusers_metadata(rank: int, targets: Sequence[str]) -> dict[str, object]:
    """What diffusers hands to peft's `LoraConfig`, for a file with alpha baked in.

    Only fields that every peft knows: one that the loader's peft does not know is an error there.
    Up to 0.36 diffusers looks into `rank_pattern` without asking whether it is there.
    """
    return {
        f"{PREFIX}r": rank,
        f"{PREFIX}lora_alpha": rank,
        f"{PREFIX}rank_pattern": {},
        f"{PREFIX}target_modules": sorted(targets),
    }


def loaded_alpha(metadata: Mapping[str, str], rank: int) -> float:
    """The alpha that diffusers applies: what the metadata says, or the rank when there is none.

    Settings that change the strength in other ways are refused, as alpha over rank is not all then.

    Args:
        metadata: Of the file.
        rank: Of the matrices; what the metadata says must agree.

    Raises:
        IntegrityError: The metadata is there, but says nothing that can be relied on.

    Source: diffusers `get_peft_kwargs` and `_create_lora_config`; peft `LoraLayer.update_layer`.
    """
    text = metadata.get(DIFFUSERS_KEY)
    if text is None:
        return float(rank)
    told = _told(text)
    settings = [name for name in _OTHER_STRENGTHS if told.get(PREFIX + name)]
    if settings:
        wrong = (
            f"sets {', '.join(settings)}, which is not read here: its strength is not alpha/rank"
        )
        raise IntegrityError(f"{DIFFUSERS_KEY} of the adapter {wrong}")
    said = told.get(f"{PREFIX}r", rank)
    if said != rank and not told.get(f"{PREFIX}rank_pattern"):
        shown = _shown(said)
        raise IntegrityError(
            f"{DIFFUSERS_KEY} of the adapter says rank {shown}, but its matrices are of rank {rank}"
        )
    alpha = told.get(f"{PREFIX}lora_alpha", PEFT_ALPHA)
    is_number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not is_number or not 0 < alpha <= _MAX_ALPHA:
        raise IntegrityError(
            f"{DIFFUSERS_KEY} of the adapter says alpha {_shown(alpha)}, which is no number above 0"
            f" and up to {_MAX_ALPHA}"
        )
    return float(alpha)


def _told(text: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{DIFFUSERS_KEY} of the adapter cannot be read: no JSON") from error
    if not isinstance(told, dict):
        raise IntegrityError(f"{DIFFUSERS_KEY} of the adapter cannot be read: no JSON object")
    return told


def _shown(value: object) -> str:
    text = ascii(value) if isinstance(value, str | int | float | None) else "of another kind"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
