"""Names inside an adapter file: which modules an adapter has, and how their tensors are called."""

from collections.abc import Sequence

from cogvx.variants import BLOCK_LINEARS, OTHER_LINEARS

PREFIX = "transformer."
LORA_A = ".lora_A.weight"
LORA_B = ".lora_B.weight"


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
