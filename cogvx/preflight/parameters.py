"""How many parameters a base model and an adapter have, from the base's configuration alone.

Letters: D is the transformer's width, T that of its time embedding.

Source: diffusers `CogVideoXTransformer3DModel`, `CogVideoXBlock`, `CogVideoXPatchEmbed`.
"""

from dataclasses import dataclass

from cogvx.adapters.layout import adapted_modules
from cogvx.adapters.linears import LinearSize, block_linears, local_name, other_linears
from cogvx.recipe_sections import LoraConfig
from cogvx.shapes import video_tokens
from cogvx.variants import BaseFacts


@dataclass(frozen=True)
class BaseParameters:
    """Numbers in a base's transformer.

    Attributes:
        linears: Weights of the linear layers inside the blocks, which may be stored in 8 bits.
        rest: All other parameters.
        positions: Numbers of the table of positions, a buffer; 0 where there is none.
    """

    linears: int
    rest: int
    positions: int

    @property
    def total(self) -> int:
        """Parameters, as people count them; a buffer is none."""
        return self.linears + self.rest


def adapted_linears(facts: BaseFacts, lora: LoraConfig) -> dict[str, LinearSize]:
    """The linear layers that get an adapter, by their full names."""
    inside, around = block_linears(facts), other_linears(facts)
    names = adapted_modules(facts.layers, lora.targets, patch_t=facts.patch_t)
    return {name: inside.get(local_name(name)) or around[name] for name in names}


def adapter_parameters(facts: BaseFacts, lora: LoraConfig) -> int:
    """Trainable parameters: 58.98 M for 2b and 132.12 M for 5b, at rank 128 and usual targets."""
    return sum(size.adapter(lora.rank) for size in adapted_linears(facts, lora).values())


def base_parameters(facts: BaseFacts) -> BaseParameters:
    """Parameters of the frozen transformer."""
    width = facts.width
    inside, around = block_linears(facts).values(), other_linears(facts).values()
    weights = sum(size.inputs * size.outputs for size in inside)
    biases = sum(size.outputs for size in inside)
    norms = 2 * (2 * width) + 2 * (2 * facts.head_dim)  # norm1 and norm2, norm_q and norm_k
    last_norms = 2 * (2 * width)  # norm_final, norm_out
    rest = facts.layers * (biases + norms) + sum(size.parameters for size in around) + last_norms
    return BaseParameters(
        linears=facts.layers * weights, rest=rest, positions=_position_numbers(facts)
    )


def _position_numbers(facts: BaseFacts) -> int:
    """A rotary model has no table, unless it has learned positions as well."""
    if facts.variant.rotary and not facts.variant.learned_positions:
        return 0
    latent = facts.compression.latent(facts.sample_size)
    return (facts.text_tokens + video_tokens(latent, facts.patch, None)) * facts.width
