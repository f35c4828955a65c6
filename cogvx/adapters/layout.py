"""Names inside an adapter file: which modules an adapter has, and how their tensors are called."""

import json
from collections.abc import Mapping, Sequence

from cogvx.errors import IntegrityError
from cogvx.variants import BLOCK_LINEARS, OTHER_LINEARS

PREFIX = "transformer."
LORA_A = ".lora_A.weight"
LORA_B = ".lora_B.weight"
DIFFUSERS_KEY = "lora_adapter_metadata"

_PEFT_ALPHA = 8  # what peft takes when the metadata leaves alpha out


def adapted_modules(layers: int, targets: Sequence[str], *, patch_t: int | None) -> tuple[str, ...]:
    """Linear layers of a CogVideoX transformer that `targets` select, in the model's order.

    A target selects by the end of a name, at a dot, as peft does. With the usual four targets these
    are 120 modules at 30 layers and 168 at 42.
    """
    names = [
        f"transformer_blocks.{layer}.{end}" for layer in range(layers) for end in BLOCK_LINEARS
    ]
    names += OTHER_LINEARS if patch_t is None else ("patch_embed.proj", *OTHER_LINEARS)
    return tuple(
        name
        for name in names
        if any(name == target or name.endswith(f".{target}") for target in targets)
    )


def diffusers_metadata(rank: int, targets: Sequence[str]) -> dict[str, object]:
    """What diffusers hands to peft's `LoraConfig`, for a file with alpha baked in.

    Only fields that every peft knows: one that the loader's peft does not know is an error there.
    """
    return {
        f"{PREFIX}r": rank,
        f"{PREFIX}lora_alpha": rank,
        f"{PREFIX}target_modules": sorted(targets),
    }


def loaded_alpha(metadata: Mapping[str, str], rank: int) -> float:
    """The alpha that diffusers applies: what the metadata says, or the rank when there is none.

    Raises:
        IntegrityError: The metadata is there, but says nothing that can be read.

    Source: diffusers `get_peft_kwargs` and `_create_lora_config`.
    """
    text = metadata.get(DIFFUSERS_KEY)
    if text is None:
        return float(rank)
    try:
        return float(json.loads(text).get(f"{PREFIX}lora_alpha", _PEFT_ALPHA))
    except (ValueError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{DIFFUSERS_KEY} of the adapter cannot be read: {error}") from error
